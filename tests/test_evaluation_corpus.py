"""`gencodec evaluate`: where pictures come from."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from gencodec.errors import UsageError
from gencodec.evaluation import corpus
from tests.photographs import photograph

SHAPES = {"a.png": (40, 48), "b.png": (56, 36)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small images and one that is broken."""
    made = tmp_path / "set"
    made.mkdir()
    for name, (height, width) in SHAPES.items():
        PillowImage.fromarray(photograph(1, height, width)).save(made / name)
    (made / "c.png").write_bytes((made / "a.png").read_bytes()[:200])
    return made


def test_pictures_are_found(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "notes.md").write_text("no image")
    (folder / "below").mkdir()
    (folder / "below/d.png").write_bytes((folder / "a.png").read_bytes())
    names = [picture.name for picture in corpus.find([str(folder)])]
    assert names == ["set/a.png", "set/b.png", "set/below/d.png", "set/c.png"]
    assert [picture.group for picture in corpus.find([str(folder)], every=2)] == ["set", "set"]
    assert len(corpus.find([str(folder), str(folder / "a.png")])) == 4
    assert len(corpus.find([f"{folder}/*.png"], limit=2)) == 2
    (tmp_path / "mine.txt").write_text("set/b.png\n\nset/a.png\n")
    assert [picture.name for picture in corpus.find([str(tmp_path / "mine.txt")])] == [
        "mine/set/b.png",
        "mine/set/a.png",
    ]


def test_sets_of_small_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar10").mkdir()
    pictures = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8)
    np.save(tmp_path / "cifar10/test_x.npy", pictures)
    monkeypatch.setenv(corpus.PLACE, str(tmp_path))
    monkeypatch.chdir(tmp_path / "cifar10")
    found = corpus.find(["cifar10"], limit=11)
    assert [found[0].name, found[-1].name] == ["cifar10/00", "cifar10/10"]
    assert np.array_equal(found[3].read().pixels, pictures[3])
    assert found[3].digest() != found[4].digest()
    assert len(corpus.find([str(tmp_path / "cifar10")])) == len(corpus.find(["test_x.npy"])) == 12
    np.save(tmp_path / "other.npy", np.zeros(3))
    with pytest.raises(UsageError, match="pictures are an array of uint8"):
        corpus.find([str(tmp_path / "other.npy")])
    monkeypatch.delenv(corpus.PLACE)
    with pytest.raises(UsageError, match=r"there is no file or folder mnist, nor one in \$GENCODEC_DATA"):
        corpus.find(["mnist"])


def test_arrays_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "pics.npy", np.zeros((11, 4, 4), np.uint8))
    found = corpus.find([str(tmp_path / "a/pics.npy"), str(tmp_path / "b/pics.npy")])
    assert len({picture.name for picture in found}) == 22
    assert found[12].name == f"{tmp_path.as_posix()}/b/pics.npy/01"


def test_folders_with_the_suffix_of_an_image_are_none(folder: Path) -> None:
    (folder / "d.png").mkdir()
    (folder / "d.png/e.png").write_bytes((folder / "a.png").read_bytes())
    names = [picture.name for picture in corpus.find([str(folder)])]
    assert names == ["set/a.png", "set/b.png", "set/c.png", "set/d.png/e.png"]
    assert len(corpus.find([f"{folder}/*.png"])) == 3


def test_sources_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no images \(.png, "):
        corpus.find([str(tmp_path)])
    with pytest.raises(UsageError, match="there is no file or folder"):
        corpus.find([str(tmp_path / "nowhere")])


def damaged_header() -> bytes:
    """An array whose header ends within a bracket."""
    file = BytesIO()
    np.save(file, np.zeros((2, 4, 4), np.uint8))
    return file.getvalue().replace(b"(2, 4, 4)", b"(2, 4, 4 ")


def zipped() -> bytes:
    """An .npz file."""
    file = BytesIO()
    np.savez(file, np.zeros((2, 4, 4), np.uint8))
    return file.getvalue()


@pytest.mark.parametrize("data", [b"", b"junk", b"PK\x03\x04junk", damaged_header(), zipped()])
def test_files_that_are_no_arrays_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(UsageError, match=r"a\.npy: not an array of numpy's: "):
        corpus.find([str(tmp_path / "a.npy")])


@pytest.mark.parametrize("data", [b"a.png\nb\0.png\n", b"\xff.png\n"])
def test_files_that_are_no_lists_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UsageError, match=r"a\.txt is not a list of files, one a line"):
        corpus.find([str(tmp_path / "a.txt")])


def test_lists_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    (folder / "mine.txt").write_text("a.png\nb.png\n", "utf-8-sig")
    assert [picture.path for picture in corpus.find([str(folder / "mine.txt")])] == [folder / "a.png", folder / "b.png"]


def test_folders_give_pictures_of_formats_that_are_only_read(tmp_path: Path) -> None:
    names = ["a.gif", "b.PCX", "c.qoi"]
    for name in names:
        PillowImage.fromarray(photograph(1, 20, 24)).save(tmp_path / name)
    found = corpus.find([str(tmp_path)])
    assert [picture.path.name for picture in found] == names
    assert [picture.read().pixels.shape[:2] for picture in found] == [(20, 24)] * 3

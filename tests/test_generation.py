"""`gencodec generate`: samples and passages between pictures, of a codec small enough to know the answer."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage
from typer.testing import CliRunner, Result

from gencodec import runtime
from gencodec.cli import app
from gencodec.codec import codecs, generation
from gencodec.codec.coder import Stack
from gencodec.codec.image import Image
from gencodec.errors import UsageError

TILE = 8
Pixels = NDArray[np.uint8]


class Codec:
    """Tiles whose symbols are uniform, and whose latents are their samples and the sums of those."""

    tile = TILE

    def __init__(self, model: Any, temperature: float = 1.0):
        self.most = round(255 * temperature)

    def pop(self, stack: Stack, count: int) -> Pixels:
        symbols = stack.pop_uniform(self.most + 1, count * 3 * TILE * TILE)
        return symbols.reshape(count, 3, TILE, TILE).astype(np.uint8)

    def latents(self, tiles: Pixels) -> list[NDArray[np.int64]]:
        return [tiles.astype(np.int64), tiles.sum((1, 2, 3), dtype=np.int64)]

    def decoded(self, latents: list[NDArray[np.int64]]) -> Pixels:
        samples, sums = latents
        assert len(samples) == len(sums) <= codecs.BATCH
        return samples.astype(np.uint8)


def model_of(family: str) -> Any:
    return SimpleNamespace(family=family, card=SimpleNamespace(name=f"{family}-tiny"))


@pytest.fixture
def glow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model of a family with latents, which the command finds too."""
    model = model_of("glow")
    monkeypatch.setattr(codecs, "tile_codec", Codec)
    monkeypatch.setattr(runtime, "load", lambda name, *, threads, device: model, raising=False)
    return model


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["generate", "--model", "glow", *map(str, arguments)])


def pixels_in(file: Path | io.BytesIO) -> Pixels:
    return np.asarray(PillowImage.open(file))


def flat(level: int, side: int = TILE) -> Image:
    return Image.from_array(np.full((side, side, 3), level, np.uint8))


# the library


def test_samples_are_what_the_decoder_makes_of_random_bits(glow: Any) -> None:
    made = generation.samples(glow, 40, seed=3)
    assert (made.shape, made.dtype) == ((40, TILE, TILE, 3), np.uint8)
    assert len({tile.tobytes() for tile in made}) == 40
    np.testing.assert_array_equal(made, generation.samples(glow, 40, seed=3))
    assert not np.array_equal(made, generation.samples(glow, 40, seed=4))
    assert generation.samples(glow, 40, seed=3, temperature=0.5).max() <= 128 < made.max()


def test_colors_are_in_the_order_of_pictures(glow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    planes = np.arange(3, dtype=np.uint8)[None, :, None, None] * np.ones((5, 1, TILE, TILE), np.uint8)
    monkeypatch.setattr(Codec, "pop", lambda self, stack, count: planes[:count])
    assert generation.samples(glow, 5, seed=0)[4, 0, 0].tolist() == [1, 0, 2]
    pictures = generation.pixels_of(planes)
    assert pictures[0, 0, 0].tolist() == [1, 0, 2]
    np.testing.assert_array_equal(generation.planes_of(pictures), planes)


@pytest.mark.parametrize(
    ("count", "seed", "temperature", "reason"),
    [
        (0, 0, 1.0, "at least 1"),
        (5000, 0, 1.0, "at most 4096"),
        (1, -1, 1.0, "not negative"),
        (1, 0, 0.0, "a number above 0"),
        (1, 0, -1.0, "a number above 0"),
        (1, 0, float("nan"), "a number above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(count: int, seed: int, temperature: float, reason: str, glow: Any) -> None:
    with pytest.raises(UsageError, match=reason):
        generation.samples(glow, count, seed, temperature)


def test_a_passage_is_a_straight_line(glow: Any) -> None:
    made = generation.between(glow, flat(10), flat(51), 5)
    assert made.shape == (5, TILE, TILE, 3)
    assert made[:, 0, 0, 0].tolist() == [10, 20, 30, 41, 51]  # 20.25, 30.5 and 40.75, rounded
    assert (made == made[:, :1, :1, :1]).all()
    assert len(generation.between(glow, flat(0), flat(255), 70)) == 70  # more than the codec takes at once
    with pytest.raises(UsageError, match="at least 2"):
        generation.between(glow, flat(0), flat(1), 1)
    with pytest.raises(UsageError, match="at most 4096"):
        generation.between(glow, flat(0), flat(1), 5000)


@pytest.mark.parametrize("family", ["photo", "pixelcnn"])
def test_families_without_latents_say_so(family: str) -> None:
    with pytest.raises(UsageError, match=f"the family {family} of the model {family}-tiny has no latents"):
        generation.between(model_of(family), flat(0), flat(1), 3)


def test_the_photo_codec_does_not_generate() -> None:
    with pytest.raises(UsageError, match="does not generate"):
        generation.samples(model_of("photo"), 1, 0)


def test_pictures_are_the_middle_square_scaled() -> None:
    """Of grey, with alpha and of more than 8 bits too."""
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = (200, 100, 50)
    assert (generation.picture(Image.from_array(wide), TILE) == (200, 100, 50)).all()
    same = np.random.default_rng(0).integers(0, 256, (TILE, TILE, 3), np.uint8)
    np.testing.assert_array_equal(generation.picture(Image.from_array(same), TILE), same)
    for channels, expected in ((1, [80, 80, 80]), (2, [80, 80, 80]), (4, [80, 90, 100])):
        pixels = np.array([80, 90, 100, 7][:channels] if channels > 2 else [80, 7][:channels], np.uint8)
        image = Image.from_array(np.tile(pixels, (3, 5, 1)))
        assert generation.picture(image, TILE)[0, 0].tolist() == expected
    deep = Image.from_array(np.full((9, 9, 1), 1023, np.uint16), bit_depth=10)
    assert (generation.picture(deep, TILE) == 255).all()


@pytest.mark.parametrize(
    ("count", "columns", "size"), [(1, None, (8, 8)), (4, None, (18, 18)), (5, None, (18, 28)), (3, 3, (8, 28))]
)
def test_grids_hold_every_picture(count: int, columns: int | None, size: tuple[int, int]) -> None:
    pictures = np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None] * np.ones((1, TILE, TILE, 3), np.uint8)
    found = generation.grid(pictures, columns)
    assert found.shape == (*size, 3)
    levels, counts = np.unique(found, return_counts=True)
    assert [int(counts[levels == i][0]) for i in range(1, count + 1)] == [TILE * TILE * 3] * count
    assert found[0, 0, 0] == 1


# the command


def test_a_grid_is_written_as_the_suffix_says(glow: Any, tmp_path: Path) -> None:
    for name in ("grid.png", "grid.bmp"):
        done = command("-n", 6, "--seed", 5, "-o", tmp_path / name)
        assert done.exit_code == 0, done.output
        assert "6 pictures of 8 x 8 pixels" in done.stderr
        np.testing.assert_array_equal(pixels_in(tmp_path / name), generation.grid(generation.samples(glow, 6, 5)))
    assert command("-n", 6, "-o", tmp_path / "grid.xyz").exit_code == 2


def test_nothing_is_overwritten_unless_asked(glow: Any, tmp_path: Path) -> None:
    (tmp_path / "grid.png").write_bytes(b"mine")
    done = command("-n", 2, "-o", tmp_path / "grid.png")
    assert done.exit_code == 1
    assert "use -f to overwrite" in done.stderr
    assert (tmp_path / "grid.png").read_bytes() == b"mine"
    assert command("-n", 2, "-o", tmp_path / "grid.png", "-f", "-q").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png"]


def test_single_files_go_to_a_folder(glow: Any, tmp_path: Path) -> None:
    done = command("-n", 11, "--output-dir", tmp_path / "made", "--json")
    assert done.exit_code == 0, done.output
    names = [f"sample-{i:02}.png" for i in range(11)]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == names
    expected = generation.samples(glow, 11, 0)
    for name, pixels in zip(names, expected, strict=True):
        np.testing.assert_array_equal(pixels_in(tmp_path / "made" / name), pixels)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["output"] for record in records] == [str(tmp_path / "made" / name) for name in names]
    assert {(r["model"], r["pictures"], r["width"], r["height"]) for r in records} == {("glow-tiny", 1, TILE, TILE)}


def test_standard_output_takes_a_grid(glow: Any) -> None:
    done = command("-n", 4, "-o", "-", "-q")
    assert done.exit_code == 0
    assert pixels_in(io.BytesIO(done.stdout_bytes)).shape == (18, 18, 3)
    assert command("-n", 4, "-o", "-", "--json").exit_code == 2


def test_a_passage_is_one_row(glow: Any, tmp_path: Path) -> None:
    for name, level in (("a", 0), ("b", 100)):
        PillowImage.fromarray(np.full((20, 30, 3), level, np.uint8)).save(tmp_path / f"{name}.png")
    ends = ("--between", tmp_path / "a.png", tmp_path / "b.png")
    done = command(*ends, "--steps", 3, "-o", tmp_path / "row.png")
    assert done.exit_code == 0, done.output
    assert pixels_in(tmp_path / "row.png")[0, ::10, 0].tolist() == [0, 50, 100]
    assert command(*ends, "--output-dir", tmp_path).exit_code == 0
    assert len(list(tmp_path.glob("between-*.png"))) == 9


def test_a_passage_never_replaces_its_ends(glow: Any, tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    PillowImage.fromarray(np.zeros((20, 30, 3), np.uint8)).save(source)
    before = source.read_bytes()
    done = command("--between", source, source, "-f", "-o", source)
    assert (done.exit_code, source.read_bytes()) == (2, before)
    assert "would replace the file itself" in done.stderr


def test_pictures_that_exist_are_named(glow: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    done = command("-n", 1, "-o", tmp_path / "a.png")
    assert (done.exit_code, done.stderr) == (1, f"gencodec: {tmp_path / 'a.png'} exists; use -f to overwrite it\n")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("-n", "3"), 2, "name one output"),
        (("-n", "3", "-o", "a.png", "--output-dir", "b"), 2, "name one output"),
        (("-n", "3", "--between", "a.png", "b.png", "-o", "c.png"), 2, "exclude each other"),
        (("-n", "5000", "--output-dir", "b"), 2, "at most 4096"),
        (("--between", "no.png", "no.png", "--steps", "5000", "--output-dir", "b"), 2, "at most 4096"),
        (("--temperature", "0", "-o", "c.png"), 2, "a number above 0"),
        (("--between", "nowhere.png", "b.png", "-o", "c.png"), 1, "nowhere.png"),
        (("--between", "no.png", "no.png", "-o", "c.png"), 3, "no.png: "),
    ],
)
def test_failures_are_one_sentence(
    arguments: tuple[str, ...], code: int, reason: str, glow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("no.png").write_bytes(b"no picture at all")
    done = command(*arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (code, 1), done.output
    assert done.stderr.startswith("gencodec: ")
    assert reason in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["no.png"]


def test_an_unknown_model_is_wrong_usage(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["generate", "--model", "phot", "-o", str(tmp_path / "a.png")])
    assert (done.exit_code, "did you mean photo?" in done.stderr) == (2, True)


def test_the_model_in_the_package_refuses(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["generate", "--model", "photo", "-o", str(tmp_path / "a.png")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "does not generate" in done.stderr

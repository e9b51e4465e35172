"""What trainings are fed: pictures that the seed and the step determine, of photographs and of small sets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from gencodec.errors import UsageError
from gencodec.models import augment, data
from gencodec.models.data import BLOCK, COLOR_ORDER, Draw, Small, Tiles, batches
from tests.photographs import PHOTOS, photograph

Pixels = NDArray[np.uint8]


# photographs


@pytest.mark.parametrize("size", [16, 64, 128])
@pytest.mark.parametrize(("make", "count"), [(augment.augmented, 60), (augment.coded, 40)])
def test_made_pictures_are_reproducible_and_of_the_right_kind(
    size: int, make: Callable[[Pixels, int, np.random.Generator], Pixels], count: int
) -> None:
    photo = photograph(9, 140, 128)
    made = [make(photo, size, np.random.default_rng(seed)) for seed in range(count)]
    for seed, pixels in enumerate(made):
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, make(photo, size, np.random.default_rng(seed)))
    assert len({pixels.tobytes() for pixels in made}) == len(made)


PARTS: list[Callable[[augment.Picture, np.random.Generator], NDArray[np.floating]]] = [
    augment.toned,
    augment.refocused,
    augment.noisy,
    augment.chroma_subsampled,
]


@pytest.mark.parametrize("part", PARTS)
def test_every_augmentation_changes_the_picture_and_keeps_its_shape(
    part: Callable[[augment.Picture, np.random.Generator], NDArray[np.floating]],
) -> None:
    picture = photograph(2, 62, 64).astype(np.float32)
    kept = picture.copy()
    for seed in range(20):
        found = part(picture, np.random.default_rng(seed))
        assert found.shape == picture.shape
        assert np.isfinite(found).all()
        assert np.abs(found - picture).max() > 0.2
        np.testing.assert_array_equal(found, part(picture, np.random.default_rng(seed)))
    np.testing.assert_array_equal(picture, kept)


def test_codes_are_red_chroma_luma_blue_chroma() -> None:
    """Made colors again by the formulas' matrices, they are those of the picture."""
    color = np.array([200, 90, 40], np.uint8)
    picture = np.broadcast_to(color, (64, 64, 3))
    kept = augment.Chances(toned=0, refocused=0, noisy=0)
    units = np.array([[1.402, 1, 1.772], augment.PHOTO_CD])
    seen = set()
    for seed in range(30):
        red, luma, blue = augment.coded(picture, 32, np.random.default_rng(seed), kept).mean((0, 1))
        colors = [((red - 128) * r + luma * y, luma * y + (blue - 128) * b) for r, y, b in units]
        right = [i for i, found in enumerate(colors) if np.abs(np.array(found) - (200, 40)).max() < 4]
        assert right
        seen.update(right)
    assert seen == {0, 1}


@pytest.mark.parametrize("between", [0, 1, 2])
def test_codes_between_are_whole_means_of_their_neighbors(between: int) -> None:
    plane = np.random.default_rng(0).uniform(0, 255, (12, 16)).astype(np.float32)
    found = augment.interpolated(plane, between)
    assert (found.dtype, found.shape) == (np.float32, plane.shape)
    kept = found[::2, ::2]
    np.testing.assert_array_equal(kept, np.rint(augment.smooth(plane[..., None], 0.6)[..., 0])[::2, ::2])
    east, south = np.roll(kept, -1, 1), np.roll(kept, -1, 0)
    far = np.roll(east, -1, 0)
    up = int(between == 1)
    along, down = (kept + east + up) // 2, (kept + south + up) // 2
    np.testing.assert_array_equal(found[::2, 1::2], along)
    np.testing.assert_array_equal(found[1::2, ::2], down)
    middle = (kept + east + south + far + 2) // 4 if between == 2 else (down + np.roll(down, -1, 1) + up) // 2
    np.testing.assert_array_equal(found[1::2, 1::2], middle)


def test_subsampled_chroma_keeps_the_luma() -> None:
    picture = photograph(2, 62, 64).astype(np.float32)
    for seed in range(10):
        found = augment.chroma_subsampled(picture, np.random.default_rng(seed))
        np.testing.assert_allclose(found @ augment.LUMA, picture @ augment.LUMA, atol=0.01)


def test_smoothing_keeps_flat_pictures_and_spreads_points() -> None:
    flat = np.full((12, 15, 3), 77, np.float32)
    np.testing.assert_allclose(augment.smooth(flat, 1.0), flat, rtol=1e-5)
    point = np.zeros((15, 15, 2), np.float32)
    point[7, 7] = 1
    found = augment.smooth(point, 0.8)
    np.testing.assert_allclose(found.sum((0, 1)), 1, rtol=1e-5)
    np.testing.assert_allclose(found, found.transpose(1, 0, 2)[::-1], atol=1e-6)
    assert found.max() < 0.5


def test_rounding_stays_among_the_gray_levels() -> None:
    found = augment.quantized(np.array([-300.0, -0.4, 0.6, 254.5, 256.0, 1e9]))
    assert found.tolist() == [0, 0, 1, 254, 255, 255]


def test_batches_are_reproducible_and_in_coding_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "POOL", 6)
    colored = [np.broadcast_to(np.array([10, 100, 200], np.uint8), (BLOCK, BLOCK, 3))]
    monkeypatch.setattr(data, "augmented", lambda photo, *_: photo)
    (batch,) = islice(Tiles(colored, Draw(batch=5, size=24, seed=0)), 1)
    assert batch.shape == (3, 5, 24, 24)
    assert batch.dtype == torch.uint8
    assert batch[:, 0, 0, 0].tolist() == [100, 10, 200]
    monkeypatch.undo()
    monkeypatch.setattr(data, "POOL", 6)
    a, b, other = (list(islice(Tiles(PHOTOS, Draw(batch=3, size=32, seed=seed)), 4)) for seed in (5, 5, 6))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(a, other, strict=True))


def test_batches_of_codes_are_reproducible_and_in_coding_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "POOL", 6)
    a, b = (list(islice(Tiles(PHOTOS, Draw(batch=3, size=32, seed=5), codes=True), 3)) for _ in range(2))
    colors = list(islice(Tiles(PHOTOS, Draw(batch=3, size=32, seed=5)), 3))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(a, colors, strict=True))
    monkeypatch.setattr(data, "coded", lambda *_: np.full((BLOCK, BLOCK, 3), (1, 2, 3), np.uint8))
    (batch,) = islice(Tiles(PHOTOS, Draw(batch=5, size=24, seed=0), codes=True), 1)
    assert batch[:, 0, 0, 0].tolist() == [2, 1, 3]  # luma first


def test_tiles_keep_the_phase_of_chroma(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:BLOCK, :BLOCK]
    parity = np.stack([y % 2, x % 2, y % 2], -1).astype(np.uint8)
    monkeypatch.setattr(data, "POOL", 2)
    monkeypatch.setattr(data, "augmented", lambda photo, *_: photo)
    for batch in islice(Tiles([parity], Draw(batch=2, size=10, seed=0)), 8):
        assert (batch[:, :, 0, 0] == 0).all()


def test_another_process_makes_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "POOL", 6)
    tiles = Tiles(PHOTOS, Draw(batch=3, size=32, seed=5))
    for found, expected in zip(islice(batches(tiles), 3), tiles, strict=False):
        assert torch.equal(found, expected)


def test_held_out_tiles_are_fixed() -> None:
    tiles = data.held_out_tiles(PHOTOS[:2])
    assert tiles.shape == (3, 4, BLOCK, BLOCK)
    assert torch.equal(tiles, data.held_out_tiles(PHOTOS[:2]))
    for i in range(2):
        expected = PHOTOS[i][:BLOCK, :BLOCK, COLOR_ORDER].transpose(2, 0, 1)
        np.testing.assert_array_equal(tiles[:, i].numpy(), expected)


def test_held_out_codes_are_fixed() -> None:
    tiles = data.held_out_tiles(PHOTOS[:2], codes=True)
    assert (tiles.shape, tiles.dtype) == ((3, 4, BLOCK, BLOCK), torch.uint8)
    assert torch.equal(tiles, data.held_out_tiles(PHOTOS[:2], codes=True))
    assert not torch.equal(tiles, data.held_out_tiles(PHOTOS[:2]))


def test_photographs_are_loaded_by_name_and_split(tmp_path: Path) -> None:
    for name, pixels in (("b.png", PHOTOS[0]), ("a.PPM", PHOTOS[1]), ("c.png", PHOTOS[2][:100])):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = data.load_photos(tmp_path)
    assert len(found) == 2  # the third is too small
    np.testing.assert_array_equal(found[0], PHOTOS[1])
    np.testing.assert_array_equal(found[1], PHOTOS[0])
    train, held_out = data.split([np.full((1, 1, 3), i, np.uint8) for i in range(50)])
    assert [int(p[0, 0, 0]) for p in held_out] == [0, 24, 48]
    assert [int(p[0, 0, 0]) for p in train] == [i for i in range(50) if i % 24]


# steps


@pytest.mark.parametrize("first", [1, 5, 40])
def test_batches_of_a_later_step_are_those_of_an_unbroken_run(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "POOL", 6)
    for source in (lambda draw: Tiles(PHOTOS, draw), lambda draw: Small(np.stack([p[:40, :40] for p in PHOTOS]), draw)):
        whole = islice(source(Draw(batch=3, size=16, seed=5)), first, first + 2)
        rest = islice(source(Draw(batch=3, size=16, seed=5, first=first)), 2)
        assert all(torch.equal(a, b) for a, b in zip(whole, rest, strict=True))


def test_processes_and_seeds_draw_different_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "POOL", 6)
    found = [next(iter(Tiles(PHOTOS, Draw(3, 16, seed, rank)))) for seed, rank in ((1, 0), (1, 1), (2, 0), (0, 1))]
    assert len({batch.numpy().tobytes() for batch in found}) == 4


def test_the_pool_is_renewed_a_few_blocks_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "POOL", 6)
    made: list[int] = []
    block = Tiles.block
    monkeypatch.setattr(Tiles, "block", lambda self, number: made.append(number) or block(self, number))
    counts = []
    for _ in islice(Tiles(PHOTOS, Draw(3, 16, 1, first=10), renewed=2), 3):
        counts.append(list(made))
    assert counts == [list(range(20, 26)), list(range(20, 28)), list(range(20, 30))]


# sets of small pictures


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    """A folder like CIFAR-10's, of pictures whose left half is dark."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    for name, count in (("train", 7), ("test", 4)):
        x = np.zeros((count, 32, 32, 3), np.uint8)
        x[:, :, 16:] = (10, 100, 200)
        x[:, 0, 0, 0] = range(count)
        np.save(folder / f"{name}_x.npy", x)
    return folder


def test_small_pictures_in_color_are_mirrored_at_most(colors: Path) -> None:
    known, held_out = data.load_set(colors)
    assert isinstance(known, np.ndarray)
    assert (known.shape, held_out.shape) == ((7, 32, 32, 3), (4, 32, 32, 3))
    batch = next(iter(Small(known, Draw(batch=64, size=32, seed=0)))).numpy()
    assert (batch.shape, batch.dtype) == ((3, 64, 32, 32), np.uint8)
    mirrored = batch[0, :, 5, 0] == 100
    assert 16 < mirrored.sum() < 48
    batch = np.where(mirrored[None, :, None, None], batch[..., ::-1], batch)
    assert set(map(tuple, batch[:, :, 5, 20].T)) == {(100, 10, 200)}
    assert not batch[:, :, 5:, :16].any()
    assert set(batch[1, :, 0, 0]) <= set(range(7))
    assert len(set(batch[1, :, 0, 0])) > 3


def test_grey_pictures_become_three_equal_planes_amid_zeros(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(1, 256, (9, 28, 28), np.uint8)
    for name in ("train", "test"):
        np.save(tmp_path / f"{name}_x.npy", x)
    known, held_out = data.load_set(tmp_path)
    tiles = data.held_out_pictures(held_out, 32).numpy()
    assert tiles.shape == (3, 9, 32, 32)
    for plane in tiles:
        np.testing.assert_array_equal(plane[:, 2:30, 2:30], x)
        assert plane.astype(int).sum() == x.astype(int).sum()
    batch = next(iter(Small(known, Draw(batch=20, size=32, seed=0)))).numpy()
    whole = {plane.tobytes() for plane in tiles[0]}
    assert all(tile.tobytes() in whole for plane in batch for tile in plane)  # never mirrored


def test_small_pictures_are_cut_where_tiles_are_smaller(colors: Path) -> None:
    known, held_out = data.load_set(colors)
    assert next(iter(Small(known, Draw(batch=5, size=16, seed=0)))).shape == (3, 5, 16, 16)
    assert data.held_out_pictures(held_out, 16).shape == (3, 4, 16, 16)


def test_no_more_than_a_thousand_test_pictures_are_held_out(tmp_path: Path) -> None:
    np.save(tmp_path / "train_x.npy", np.zeros((1, 8, 8), np.uint8))
    np.save(tmp_path / "test_x.npy", np.zeros((1100, 8, 8), np.uint8))
    assert len(data.load_set(tmp_path)[1]) == 1000


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 8, 8)), "holds float64"),
        (np.zeros((3, 8, 8, 4), np.uint8), "not uint8"),
        (np.zeros((3, 8), np.uint8), "not uint8"),
        (np.zeros((0, 8, 8), np.uint8), "not uint8"),
        (None, "is not a readable array"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray | None, reason: str, tmp_path: Path) -> None:
    np.save(tmp_path / "train_x.npy", np.zeros((3, 8, 8), np.uint8))
    assert data.is_set(tmp_path)
    if array is not None:
        np.save(tmp_path / "test_x.npy", array)
    with pytest.raises(UsageError, match=reason):
        data.load_set(tmp_path)


def test_sets_are_found_by_name(colors: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("GENCODEC_DATA", raising=False)
    with pytest.raises(UsageError, match=r"no folder cifar10, nor one in \$GENCODEC_DATA"):
        data.find_data("cifar10")
    monkeypatch.setenv("GENCODEC_DATA", str(tmp_path))
    assert data.find_data("cifar10") == colors
    with pytest.raises(UsageError, match="no folder mnist"):
        data.find_data("mnist")
    with pytest.raises(UsageError, match=r"no folder work$"):
        data.find_data("work")  # only the sets' names are looked for there
    (tmp_path / "work" / "cifar10").mkdir()
    assert data.find_data("cifar10") == Path("cifar10")


# held-out tiles


def test_held_out_blocks_are_cut_into_all_their_tiles() -> None:
    tiles = data.held_out_tiles(PHOTOS[:1])
    cut = data.cut_up(tiles, 32)
    assert cut.shape == (3, 2 * 16, 32, 32)
    assert torch.equal(cut[:, 6], tiles[:, 0, 32:64, 64:96])
    assert torch.equal(cut[:, 16], tiles[:, 1, :32, :32])
    assert data.cut_up(tiles, 48).shape == (3, 2 * 4, 48, 48)


def test_held_out_tiles_are_thinned_evenly() -> None:
    tiles = torch.arange(10)[None, :, None, None].expand(3, 10, 4, 4)
    for pixels, kept in ((160, list(range(10))), (159, [0, 2, 4, 6, 8]), (50, [0, 4, 8]), (3, [0])):
        assert data.thinned(tiles, pixels)[0, :, 0, 0].tolist() == kept

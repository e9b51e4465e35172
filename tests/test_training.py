"""Training: it learns, goes on where it stopped, and is fed pictures that its seed determines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from gencodec.models import augment, data
from gencodec.models.data import BLOCK, COLOR_ORDER, Tiles, batches, held_out_tiles, load_photos, split
from gencodec.models.photo import Photo, PhotoConfig
from gencodec.models.quantize import ExactLinear
from gencodec.models.training import Schedule, Trainer

Pixels = NDArray[np.uint8]
SIZES = PhotoConfig(hidden=8, layers=2, inner=6, color_hidden=8, bank=2, energies=3, drifts=2)
AT_FULL_RATE = Schedule(minutes=1e6, rate=1e-2, warmup=0.0, half=False, average=0.9)


def photograph(seed: int, height: int = 150, width: int = 170) -> Pixels:
    """Smooth shading, an edge and grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    a, b, c = rng.uniform(-0.5, 0.5, 3)
    plane = 120 + a * x + b * y + 60 * np.sin(x / 30 + c) * (x + c * y > width / 2)
    grain = rng.normal(0, 3, (height, width, 1)) + rng.normal(0, 1, (height, width, 3))
    return np.clip(plane[..., None] + 20 * rng.uniform(-1, 1, 3) + grain, 0, 255).astype(np.uint8)


PHOTOS = [photograph(seed) for seed in range(4)]


@pytest.fixture
def tile_batches(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """A few batches of training tiles."""
    monkeypatch.setattr(data, "POOL", 8)
    return list(islice(Tiles(PHOTOS[1:], batch=4, size=32, seed=3), 60))


def fresh(checkpoint: Path, schedule: Schedule = AT_FULL_RATE) -> Trainer:
    torch.manual_seed(1)
    return Trainer(Photo(SIZES), schedule, checkpoint)


def held_out_bits(model: nn.Module) -> float:
    tiles = held_out_tiles(PHOTOS[:1]).float()
    with torch.no_grad():
        return float(model(tiles).mean())


def states(trainer: Trainer) -> dict[str, Tensor]:
    """All that a training consists of, by name."""
    found = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    found |= {f"averaged.{k}": v for k, v in trainer.averaged.state_dict().items()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            for i, part in enumerate(value if isinstance(value, list) else [value]):
                found[f"optimizer.{number}.{name}.{i}"] = torch.as_tensor(part)
    return found


def assert_same(a: Trainer, b: Trainer) -> None:
    first, second = states(a), states(b)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# learning


@pytest.mark.parametrize(
    "schedule", [AT_FULL_RATE, replace(AT_FULL_RATE, exact=True), replace(AT_FULL_RATE, half=True)]
)
def test_training_lowers_the_held_out_bits(schedule: Schedule, tile_batches: list[Tensor], tmp_path: Path) -> None:
    trainer = fresh(tmp_path / "new.pt", schedule)
    before = held_out_bits(trainer.averaged)
    for batch in tile_batches:
        trainer.step(batch)
    after = held_out_bits(trainer.averaged)
    assert after < before - 0.3
    # and the integer network, which is what codes, is about as good
    for layer in trainer.averaged.modules():
        if hasattr(layer, "exact"):
            layer.exact = True  # type: ignore[assignment]
    assert held_out_bits(trainer.averaged) < after * 1.1


def test_exact_schedules_train_exact_layers(tmp_path: Path) -> None:
    for exact in (True, False):
        trainer = fresh(tmp_path / "new.pt", replace(AT_FULL_RATE, exact=exact))
        for network in (trainer.model, trainer.averaged):
            layers = [m for m in network.modules() if isinstance(m, ExactLinear)]
            assert layers
            assert all(layer.exact == exact for layer in layers)


def test_the_rate_rises_and_falls() -> None:
    schedule = Schedule(rate=1.0, warmup=0.1)
    rates = [schedule.rate_at(progress) for progress in (0, 0.05, 0.1, 0.5, 1, 2)]
    assert rates[0] == 0
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4] == rates[5] == pytest.approx(0.01)


# checkpoints


def test_a_resumed_training_goes_on_as_if_never_interrupted(tile_batches: list[Tensor], tmp_path: Path) -> None:
    whole, first = fresh(tmp_path / "whole.pt"), fresh(tmp_path / "part.pt")
    for batch in tile_batches[:12]:
        whole.step(batch)
        first.step(batch)
    first.seconds = 17.5
    first.history.append({"steps": 12})
    first.save()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part.pt"]
    second = Trainer(Photo(SIZES), AT_FULL_RATE, tmp_path / "part.pt")
    second.resume()
    assert_same(second, first)
    assert (second.steps, second.seconds, second.history) == (12, 17.5, [{"steps": 12}])
    for batch in tile_batches[12:24]:
        whole.step(batch)
        second.step(batch)
    assert_same(second, whole)


def test_a_run_spends_its_budget_reports_and_saves(tile_batches: list[Tensor], tmp_path: Path) -> None:
    trainer = fresh(tmp_path / "folder" / "run.pt", replace(AT_FULL_RATE, minutes=1e-3, every=1e-6))
    lines: list[str] = []
    trainer.run(_forever(tile_batches), lambda model: 4.25, lines.append)
    assert trainer.seconds >= 0.06
    assert len(lines) == len(trainer.history) >= 1
    assert trainer.history[-1]["held_out"] == 4.25
    assert trainer.history[-1]["steps"] == trainer.steps
    assert "held_out 4.25" in lines[-1]
    saved = torch.load(trainer.checkpoint, weights_only=True)
    assert saved["steps"] == trainer.steps


def _forever(tensors: list[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from tensors


def test_another_training_can_start_from_the_averaged_weights(tile_batches: list[Tensor], tmp_path: Path) -> None:
    first = fresh(tmp_path / "first.pt")
    for batch in tile_batches[:5]:
        first.step(batch)
    first.save()
    second = Trainer(Photo(SIZES), AT_FULL_RATE, tmp_path / "second.pt")
    second.start_from(tmp_path / "first.pt")
    assert second.steps == 0
    for name, value in first.averaged.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value)
        assert torch.equal(second.averaged.state_dict()[name], value)
    assert any(not torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


# pictures


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
    (batch,) = islice(Tiles(colored, batch=5, size=24, seed=0), 1)
    assert batch.shape == (3, 5, 24, 24)
    assert batch.dtype == torch.uint8
    assert batch[:, 0, 0, 0].tolist() == [100, 10, 200]
    monkeypatch.undo()
    monkeypatch.setattr(data, "POOL", 6)
    a, b, other = (list(islice(Tiles(PHOTOS, batch=3, size=32, seed=seed), 4)) for seed in (5, 5, 6))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(a, other, strict=True))


def test_batches_of_codes_are_reproducible_and_in_coding_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "POOL", 6)
    a, b = (list(islice(Tiles(PHOTOS, batch=3, size=32, seed=5, codes=True), 3)) for _ in range(2))
    colors = list(islice(Tiles(PHOTOS, batch=3, size=32, seed=5), 3))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(a, colors, strict=True))
    monkeypatch.setattr(data, "coded", lambda *_: np.full((BLOCK, BLOCK, 3), (1, 2, 3), np.uint8))
    (batch,) = islice(Tiles(PHOTOS, batch=5, size=24, seed=0, codes=True), 1)
    assert batch[:, 0, 0, 0].tolist() == [2, 1, 3]  # luma first


def test_tiles_keep_the_phase_of_chroma(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:BLOCK, :BLOCK]
    parity = np.stack([y % 2, x % 2, y % 2], -1).astype(np.uint8)
    monkeypatch.setattr(data, "POOL", 2)
    monkeypatch.setattr(data, "augmented", lambda photo, *_: photo)
    for batch in islice(Tiles([parity], batch=2, size=10, seed=0), 8):
        assert (batch[:, :, 0, 0] == 0).all()


def test_another_process_makes_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "POOL", 6)
    tiles = Tiles(PHOTOS, batch=3, size=32, seed=5)
    for found, expected in zip(islice(batches(tiles), 3), tiles, strict=False):
        assert torch.equal(found, expected)


def test_held_out_tiles_are_fixed() -> None:
    tiles = held_out_tiles(PHOTOS[:2])
    assert tiles.shape == (3, 4, BLOCK, BLOCK)
    assert torch.equal(tiles, held_out_tiles(PHOTOS[:2]))
    for i in range(2):
        expected = PHOTOS[i][:BLOCK, :BLOCK, COLOR_ORDER].transpose(2, 0, 1)
        np.testing.assert_array_equal(tiles[:, i].numpy(), expected)


def test_held_out_codes_are_fixed() -> None:
    tiles = held_out_tiles(PHOTOS[:2], codes=True)
    assert (tiles.shape, tiles.dtype) == ((3, 4, BLOCK, BLOCK), torch.uint8)
    assert torch.equal(tiles, held_out_tiles(PHOTOS[:2], codes=True))
    assert not torch.equal(tiles, held_out_tiles(PHOTOS[:2]))


def test_photographs_are_loaded_by_name_and_split(tmp_path: Path) -> None:
    for name, pixels in (("b.png", PHOTOS[0]), ("a.PPM", PHOTOS[1]), ("c.png", PHOTOS[2][:100])):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = load_photos(tmp_path)
    assert len(found) == 2  # the third is too small
    np.testing.assert_array_equal(found[0], PHOTOS[1])
    np.testing.assert_array_equal(found[1], PHOTOS[0])
    train, held_out = split([np.full((1, 1, 3), i, np.uint8) for i in range(50)])
    assert [int(p[0, 0, 0]) for p in held_out] == [0, 24, 48]
    assert [int(p[0, 0, 0]) for p in train] == [i for i in range(50) if i % 24]

"""The codec of PixelCNN and PixelRNN: step by step the network that was trained, and the same bytes however it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gencodec.codec import autoregressive, causal, groups
from gencodec.codec.autoregressive import AutoregressiveCodec, tiling_of
from gencodec.codec.coder import IntervalCoder
from gencodec.codec.tiling import Box
from gencodec.errors import InvalidFile
from gencodec.runtime import Model, load

if TYPE_CHECKING:
    from gencodec.models.autoregressive import Autoregressive

Pixels = NDArray[np.uint8]
KINDS = ("pixelcnn", "row", "diagonal")
SIZES: dict[str, Any] = {"tile": 12, "hidden": 6, "layers": 2, "output": 8, "color_hidden": 8, "bank": 2}


def untrained(kind: str) -> Autoregressive:
    """A network of a few thousand weights whose distributions differ from pixel to pixel."""
    import torch

    from gencodec.models.pixelcnn import PixelCNN, PixelCNNConfig
    from gencodec.models.pixelrnn import PixelRNN, PixelRNNConfig

    torch.manual_seed(7)
    if kind == "pixelcnn":
        return PixelCNN(PixelCNNConfig(**{**SIZES, "layers": 3})).eval()
    return PixelRNN(PixelRNNConfig(**SIZES, diagonal=int(kind == "diagonal"))).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An exported file of each kind."""
    from gencodec.export.autoregressive import export_autoregressive

    folder = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        export_autoregressive(untrained(kind), folder / f"{kind}.onnx", {"licence": "none"})
    return {kind: folder / f"{kind}.onnx" for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(files: dict[str, Path], kind: str) -> Model:
    """A model of each kind, on one thread."""
    return load(files[kind], threads=1, device="cpu")


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups so small that little pictures have several."""
    monkeypatch.setattr(autoregressive, "GROUP", 2)


def picture(height: int, width: int, colors: int = 3, seed: int = 0) -> Pixels:
    """A gradient with an edge and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    plane = 60 + 0.8 * x + 0.5 * y + 70 * (2 * x + y > width)
    noise = rng.normal(0, 4, (height, width, colors))
    return np.clip(plane[..., None] + 9 * np.arange(colors) + noise, 0, 255).astype(np.uint8)


def assert_round_trip(pixels: Pixels, model: Model) -> None:
    payload = autoregressive.encode(pixels, model).payload
    decoded = autoregressive.decode(payload, pixels.shape, model)  # type: ignore[arg-type]
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


# the network


def test_step_by_step_it_is_the_network_that_was_trained(model: Model, kind: str) -> None:
    import torch

    from gencodec.models.quantize import set_exact

    pixels = np.stack([picture(14, 16, seed=i)[..., [1, 0, 2]] for i in range(3)], -1)
    pixels[:, :, :, 2] = np.random.default_rng(4).integers(0, 256, (14, 16, 3))
    network = untrained(kind)
    set_exact(network, True)
    with torch.no_grad():
        whole = network.distributions(torch.from_numpy(pixels.transpose(2, 3, 0, 1).astype(np.float32)))
    codec = AutoregressiveCodec(model)
    tiles, found = pixels.astype(np.float32), np.full((3, 3, *pixels.shape[:2], 3), -1)
    for rows, known in codec.network.known_rows(tiles):
        part = tiles[rows].transpose(2, 1, 0, 3)
        for color, d in enumerate(codec.distributions(known, part.reshape(3, -1), 3)):
            for i, values in enumerate((d.mean, d.scale, d.shape)):
                found[i, color, rows] = values.reshape(part.shape[1:]).swapaxes(0, 1)
    for values, expected, unit in zip(found, whole, (16, 1, 1), strict=True):
        np.testing.assert_array_equal(values.transpose(0, 3, 1, 2), expected.numpy() * unit)
    assert len(np.unique(found[0])) > 100
    assert len(np.unique(found[1])) > 3


def test_a_pixel_takes_as_many_calls_in_every_tile(model: Model, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int, int]] = []
    whole = Model.call

    def call(self: Model, stage: str, *arrays: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        calls.append((stage, arrays[0].shape[1], len(arrays[0])))
        return whole(self, stage, *arrays)

    payloads = {side: autoregressive.encode(picture(side, side), model).payload for side in (6, 12)}
    monkeypatch.setattr(Model, "call", call)
    for side, payload in payloads.items():
        calls.clear()
        autoregressive.decode(payload, (side, side, 3), model)
        of_pixels = [positions for stage, positions, _ in calls if stage in ("pixel", "red", "blue")]
        assert of_pixels == [1] * (3 * side * side)
        others = [stage for stage, _, _ in calls if stage not in ("pixel", "red", "blue")]
        assert len(others) == {"pixelcnn": 3 * side, "row": side, "diagonal": side * side}[kind]
    assert len({(stage, features) for stage, _, features in calls}) == len({stage for stage, _, _ in calls})


def test_other_families_and_formats_are_refused(tiny: Model, files: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    with pytest.raises(InvalidFile, match="is not autoregressive"):
        AutoregressiveCodec(tiny)
    for entry, value, said in (("format", "9", "format 9"), ("config", "{}", "how it is built")):
        changed = onnx.load(files["row"])
        next(p for p in changed.metadata_props if p.key == f"gencodec.{entry}").value = value
        onnx.save(changed, tmp_path / f"{entry}.onnx")
        with pytest.raises(InvalidFile, match=said):
            AutoregressiveCodec(load(tmp_path / f"{entry}.onnx", threads=1, device="cpu"))


# pictures


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 21), (21, 1), (33, 34), (17, 40)])
def test_any_size_round_trips(model: Model, height: int, width: int, colors: int) -> None:
    assert_round_trip(picture(height, width, colors), model)


def test_65_by_67_pixels_round_trip_in_several_groups(model: Model, small_groups: None) -> None:
    assert_round_trip(picture(65, 67), model)


@pytest.mark.parametrize("fill", [0, 255])
def test_flat_pictures_round_trip(model: Model, fill: int) -> None:
    assert_round_trip(np.full((9, 20, 3), fill, np.uint8), model)


def test_noise_round_trips(model: Model) -> None:
    assert_round_trip(np.random.default_rng(5).integers(0, 256, (20, 18, 3), dtype=np.uint8), model)


def test_pixels_need_not_be_contiguous(files: dict[str, Path]) -> None:
    model = load(files["pixelcnn"], threads=1, device="cpu")
    turned = picture(20, 24).transpose(1, 0, 2)[::-1]
    plain = autoregressive.encode(np.ascontiguousarray(turned), model)
    assert autoregressive.encode(turned, model).payload == plain.payload


EVEN = [(15, 16), (16, 16), (17, 16), (64, 64), (65, 64), (1000, 64), (4097, 64)]
ODD = [(33, 33), (34, 33), (400, 25), (5, 3), (9, 1)]


@pytest.mark.parametrize(("side", "most"), EVEN + ODD)
def test_tiles_are_even_and_of_about_one_size(side: int, most: int) -> None:
    tiling = tiling_of(side, 1, most)
    assert tiling.tile_width <= most
    assert tiling.tile_width in (1, side) or tiling.tile_width % 2 == 0
    autoregressive.check(tiling, most)
    assert sum(tile.width for group in tiling.groups() for tile in tiling.tiles(group)) == side


def test_the_payload_is_as_long_as_estimated(kind: str, tmp_path: Path) -> None:
    import torch

    from gencodec.export.autoregressive import export_autoregressive
    from gencodec.models.soap import Soap

    network, pixels = untrained(kind), picture(64, 64)
    tile = torch.from_numpy(pixels[:16, :24, [1, 0, 2]].astype(np.float32)).permute(2, 0, 1)[:, None]
    optimizer = Soap(network.parameters(), lr=1e-2)
    for _ in range(6):
        optimizer.zero_grad()
        network(tile).mean().backward()
        optimizer.step()
    export_autoregressive(network, tmp_path / "barely.onnx", {"licence": "none"})
    model = load(tmp_path / "barely.onnx", threads=1, device="cpu")
    encoded = autoregressive.encode(pixels, model)
    assert encoded.estimate_bits < 8 * len(encoded.payload) < 1.02 * encoded.estimate_bits
    assert encoded.estimate_bits < 6 * pixels.size


def test_progress_rises_to_one(model: Model, small_groups: None) -> None:
    pixels, seen = picture(10, 50), [[], []]
    payload = autoregressive.encode(pixels, model, progress=seen[0].append).payload
    autoregressive.decode(payload, pixels.shape, model, progress=seen[1].append)  # type: ignore[arg-type]
    for values in seen:
        assert len(values) > 1
        assert values == sorted(values)
        assert values[-1] == 1


# exactness

Setting = Callable[[pytest.MonkeyPatch], dict[str, object]]


def _one_group_a_time(patch: pytest.MonkeyPatch) -> dict[str, object]:
    patch.setattr(groups, "LOCKSTEP", 1)
    patch.setattr(causal.GatedNetwork, "chunk", 3)
    patch.setattr(causal.Network, "chunk", 1)
    return {"threads": 2}


def _in_small_calls(patch: pytest.MonkeyPatch) -> dict[str, object]:
    """Every call of the network is split into parts of 5 positions."""
    whole = Model.call

    def call(self: Model, stage: str, *arrays: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        cuts = range(0, arrays[0].shape[1], 5)
        parts = [whole(self, stage, *(a[:, first : first + 5] for a in arrays)) for first in cuts]
        return [np.concatenate(part, 1) for part in zip(*parts, strict=True)]

    patch.setattr(Model, "call", call)
    return {"threads": 1}


SETTINGS: dict[str, Setting] = {
    "one thread": lambda patch: {"threads": 1},
    "two threads, unoptimized": lambda patch: {"threads": 2, "optimize": False},
    "one group a time": _one_group_a_time,
    "in small calls": _in_small_calls,
}


@pytest.mark.parametrize("colors", [1, 3])
def test_every_setting_writes_the_same_bytes_and_reads_them(
    files: dict[str, Path], kind: str, colors: int, small_groups: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, payloads = picture(13, 38, colors), set()
    for setting in SETTINGS.values():
        with monkeypatch.context() as patch:
            coder = load(files[kind], device="cpu", **setting(patch))  # type: ignore[arg-type]
            payloads.add(autoregressive.encode(pixels, coder).payload)
            decoded = autoregressive.decode(max(payloads), pixels.shape, coder)  # type: ignore[arg-type]
        np.testing.assert_array_equal(decoded, pixels)
    assert len(payloads) == 1


# regions


@pytest.mark.parametrize("region", [(0, 0, 1, 1), (40, 17, 1, 1), (0, 0, 41, 18), (13, 3, 3, 15), (30, 9, 11, 2)])
def test_a_region_is_the_crop_and_needs_only_its_groups(
    model: Model, region: tuple[int, int, int, int], small_groups: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(18, 41)
    payload = autoregressive.encode(pixels, model).payload
    read: list[bytes] = []
    whole = IntervalCoder.from_bytes

    def counted(data: bytes) -> IntervalCoder:
        read.append(data)
        return whole(data)

    monkeypatch.setattr(IntervalCoder, "from_bytes", counted)
    x, y, width, height = region
    found = autoregressive.decode(payload, (18, 41, 3), model, region=region)
    np.testing.assert_array_equal(found, pixels[y : y + height, x : x + width])
    assert found.flags.c_contiguous
    groups = list(tiling_of(41, 18, 12).groups())
    assert len(groups) == 2
    assert len(read) == sum(Box(x, y, width, height).overlaps(group) for group in groups)


def test_damage_elsewhere_does_not_reach_a_region(model: Model, small_groups: None) -> None:
    pixels = picture(10, 60)
    payload = bytearray(autoregressive.encode(pixels, model).payload)
    payload[-20] ^= 4
    found = autoregressive.decode(bytes(payload), (10, 60, 3), model, region=(0, 0, 20, 10))
    np.testing.assert_array_equal(found, pixels[:, :20])


# damage


def outcome(payload: bytes, shape: tuple[int, int, int], model: Model) -> Pixels | None:
    """The pixels that a damaged payload gives, or None where it is refused."""
    try:
        return autoregressive.decode(payload, shape, model)
    except InvalidFile:
        return None


def test_truncation_is_refused_wherever_it_is(model: Model, small_groups: None) -> None:
    pixels = picture(6, 40)
    payload = autoregressive.encode(pixels, model).payload
    for length in [*range(12), 13, 30, len(payload) // 2, len(payload) - 4, len(payload) - 1]:
        assert outcome(payload[:length], pixels.shape, model) is None, length  # type: ignore[arg-type]
    for more in (b"\0", b"\0\0\0\0", b"\1\0\0\0"):
        assert outcome(payload + more, pixels.shape, model) is None  # type: ignore[arg-type]


def test_flipped_bits_never_give_the_right_picture_or_another_error(model: Model, small_groups: None) -> None:
    pixels = picture(6, 40)
    payload = autoregressive.encode(pixels, model).payload
    rng = np.random.default_rng(1)
    for bit in [*range(0, 80, 7), *rng.integers(0, 8 * len(payload), 8).tolist()]:
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        decoded = outcome(bytes(damaged), pixels.shape, model)  # type: ignore[arg-type]
        assert decoded is None or not np.array_equal(decoded, pixels), bit


@pytest.mark.parametrize("shape", [(6, 41, 3), (7, 40, 3), (6, 40, 1), (1, 1, 3), (3000, 40, 3)])
def test_another_shape_than_was_coded_is_refused(model: Model, shape: tuple[int, int, int]) -> None:
    payload = autoregressive.encode(picture(6, 40), model).payload
    assert outcome(payload, shape, model) is None


@pytest.mark.parametrize("sides", [(13, 6), (5, 6), (10, 2), (64, 64), (1, 1)])
def test_tiles_that_no_encoder_makes_are_refused(model: Model, sides: tuple[int, int]) -> None:
    payload = autoregressive.encode(picture(6, 40), model).payload
    damaged = groups.HEADER.pack(*sides, 1, 1) + payload[groups.HEADER.size :]
    with pytest.raises(InvalidFile, match=r"tiles of|truncated"):
        autoregressive.decode(damaged, (6, 40, 3), model)


# samples


def test_samples_are_tiles_that_differ(model: Model) -> None:
    pictures = autoregressive.sample(model, 3, seed=1)
    assert pictures.shape == (3, 12, 12, 3)
    assert pictures.dtype == np.uint8
    assert len({p.tobytes() for p in pictures}) == 3
    assert all(p.std() > 1 for p in pictures)


def test_samples_depend_on_the_seed_and_the_temperature(model: Model) -> None:
    first = autoregressive.sample(model, 2, seed=1)
    np.testing.assert_array_equal(autoregressive.sample(model, 2, seed=1), first)
    assert (autoregressive.sample(model, 2, seed=2) != first).any()
    cold = autoregressive.sample(model, 2, seed=1, temperature=0.25).astype(float)
    assert np.abs(np.diff(cold, axis=2)).mean() < np.abs(np.diff(first.astype(float), axis=2)).mean()


def test_samples_are_drawn_in_batches(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoregressive, "LOCKSTEP", 2)
    pictures = autoregressive.sample(model, 3, seed=1)
    assert pictures.shape == (3, 12, 12, 3)
    assert len({p.tobytes() for p in pictures}) == 3

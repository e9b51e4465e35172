"""The photo codec: the same bytes and the same pixels however the work is divided, or no pixels at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from gencodec.codec import photo, tiling
from gencodec.codec.groups import HEADER, LOCKSTEP, Group, in_batches, parsed
from gencodec.codec.network import FirstNetwork, Network, Seen
from gencodec.codec.steps import Decoded, Steps
from gencodec.codec.tiling import Tiling
from gencodec.errors import InvalidFile
from gencodec.runtime import Model, list_models, load
from gencodec.runtime.session import PROVIDERS, has_gpu

Pixels = NDArray[np.uint8]
TAIL = photo.TAIL
"""What encoders and decoders have, here it is less."""


def picture(height: int, width: int, colors: int = 3, seed: int = 0) -> Pixels:
    """Gradients, an edge, flat and noisy parts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    plane = 60 + 0.8 * x + 0.5 * y + 70 * (2 * x + y > width) + 6 * np.sin(x * y / 40)
    noise = rng.normal(0, 4, (height, width, colors)) * (x > width // 3)[..., None]
    return np.clip(plane[..., None] + 9 * np.arange(colors) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def short_tail() -> Iterator[None]:
    """Few steps whose colors are blocks, so that little pictures have whole ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photo, "TAIL", 8)
        yield


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles and groups so small that little pictures have several."""
    monkeypatch.setattr(tiling, "TILE", 16)
    monkeypatch.setattr(tiling, "GROUP", 2)
    monkeypatch.setattr(tiling, "SMALL", 2**10)


@pytest.fixture(scope="module")
def first() -> Model:
    """The model of format 1, on one thread of the CPU."""
    return load("photo-base.1", threads=1, device="cpu")


def assert_round_trip(pixels: Pixels, model: Model) -> None:
    encoded = photo.encode(pixels, model)
    decoded = photo.decode(encoded.payload, pixels.shape, model)  # type: ignore[arg-type]
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


# any size and content


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 2), (2, 1), (1, 90), (90, 1), (70, 2), (3, 70), (127, 129), (129, 20)],
)
def test_any_size_round_trips(tiny: Model, height: int, width: int, colors: int) -> None:
    assert_round_trip(picture(height, width, colors), tiny)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("height", "width"), [(33, 65), (50, 81), (100, 17), (17, 18), (64, 64)])
def test_any_number_of_tiles_and_groups_round_trips(tiny: Model, height: int, width: int) -> None:
    assert_round_trip(picture(height, width), tiny)


@settings(max_examples=40)
@given(
    hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3])),
        elements=st.one_of(st.sampled_from([0, 255]), st.integers(0, 255)),
    )
)
def test_any_content_round_trips(tiny: Model, pixels: Pixels) -> None:
    assert_round_trip(pixels, tiny)


@pytest.mark.parametrize("fill", [0, 255, 77])
def test_flat_pictures_round_trip(tiny: Model, fill: int) -> None:
    assert_round_trip(np.full((40, 50, 3), fill, np.uint8), tiny)


def test_noise_round_trips(tiny: Model) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    assert_round_trip(pixels, tiny)


def test_pixels_need_not_be_contiguous(tiny: Model) -> None:
    pixels = picture(40, 60)
    turned = pixels.transpose(1, 0, 2)[::-1]
    assert photo.encode(turned, tiny).payload == photo.encode(np.ascontiguousarray(turned), tiny).payload


def test_the_payload_is_as_long_as_estimated(tiny: Model) -> None:
    pixels = picture(128, 128)  # a third of it flat
    encoded = photo.encode(pixels, tiny)
    size = 8 * len(encoded.payload)
    assert encoded.estimate_bits < size < encoded.estimate_bits * 1.005 + 8 * 24


def test_progress_rises_to_one(tiny: Model, small_tiles: None) -> None:
    pixels, seen = picture(60, 70), [[], []]
    payload = photo.encode(pixels, tiny, progress=seen[0].append).payload
    photo.decode(payload, pixels.shape, tiny, progress=seen[1].append)  # type: ignore[arg-type]
    for values in seen:
        assert len(values) > 1
        assert values == sorted(values)
        assert values[-1] == 1


# bit-exactness

Setting = Callable[[pytest.MonkeyPatch], dict[str, object]]


def _bands_of(pixels: int) -> Setting:
    def setting(patch: pytest.MonkeyPatch) -> dict[str, object]:
        patch.setattr(photo, "BAND", pixels)
        return {"threads": 1}

    return setting


def _whole_tiles_at_once(patch: pytest.MonkeyPatch) -> dict[str, object]:
    patch.setattr(photo, "BAND", 1 << 20)
    return {"threads": 4, "optimize": False}


def _in_small_calls(patch: pytest.MonkeyPatch) -> dict[str, object]:
    """Every call of the network is split into parts of 37 positions."""
    whole, step = Network._run, Steps.run

    def run(self: Network, stage: int, *arrays: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        positions = arrays[0].shape[1]
        parts = [whole(self, stage, *(a[:, first : first + 37] for a in arrays)) for first in range(0, positions, 37)]
        return [np.concatenate(part, 1) for part in zip(*parts, strict=True)]

    def run_step(self: Steps, seen: Seen, quantiles: NDArray[np.float32]) -> Decoded:
        cuts = [slice(first, first + 37) for first in range(0, quantiles.shape[1], 37)]
        parts = [step(self, Seen(*(a[:, cut] for a in seen)), quantiles[:, cut]) for cut in cuts]
        return Decoded(*(np.concatenate(part, 1) for part in zip(*parts, strict=True)))

    patch.setattr(Network, "_run", run)
    patch.setattr(Steps, "run", run_step)
    return {"threads": 1}


SETTINGS: dict[str, Setting] = {
    "one thread": lambda patch: {"threads": 1},
    "three threads": lambda patch: {"threads": 3},
    "unoptimized": lambda patch: {"threads": 1, "optimize": False},
    "a row at a time": _bands_of(1),
    "tiles at once, unoptimized, four threads": _whole_tiles_at_once,
    "in small calls": _in_small_calls,
}


def written_and_read(
    model: Path | str, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> tuple[set[bytes], list[str]]:
    """What all settings write, and the settings that read another picture than was written."""
    payloads: set[bytes] = set()
    for setting in SETTINGS.values():
        with monkeypatch.context() as patch:
            options = setting(patch)
            payloads.add(photo.encode(pixels, load(model, device="cpu", **options)).payload)  # type: ignore[arg-type]
    wrong = []
    for name, setting in SETTINGS.items():
        with monkeypatch.context() as patch:
            reader = load(model, device="cpu", **setting(patch))  # type: ignore[arg-type]
            for payload in payloads:
                if not np.array_equal(photo.decode(payload, pixels.shape, reader), pixels):  # type: ignore[arg-type]
                    wrong.append(name)
    return payloads, wrong


@pytest.mark.parametrize(("height", "width", "colors"), [(61, 75, 3), (40, 33, 1)])
@pytest.mark.usefixtures("small_tiles")
def test_every_setting_writes_the_same_bytes_and_reads_them(
    tiny_file: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int, colors: int
) -> None:
    payloads, wrong = written_and_read(tiny_file, picture(height, width, colors), monkeypatch)
    assert len(payloads) == 1
    assert not wrong


@pytest.mark.parametrize("name", [card.name for card in list_models() if card.family == "photo"])
def test_models_that_ship_are_exact_in_every_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads, wrong = written_and_read(name, picture(70, 140), monkeypatch)
    assert len(payloads) == 1
    assert not wrong


@pytest.mark.cuda
@pytest.mark.skipif(not has_gpu(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", ["tiny", *(card.name for card in list_models() if card.family == "photo")])
def test_cuda_and_cpu_write_the_same_bytes_and_read_each_other(name: str, tiny_file: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    model = tiny_file if name == "tiny" else name
    cpu, cuda = load(model, threads=1, device="cpu"), load(model, device="cuda")
    for pixels in (picture(150, 260), picture(64, 50, 1), picture(40, 40, seed=3)):
        payload = photo.encode(pixels, cpu).payload
        assert photo.encode(pixels, cuda).payload == payload
        for reader in (cpu, cuda):
            np.testing.assert_array_equal(photo.decode(payload, pixels.shape, reader), pixels)  # type: ignore[arg-type]


# regions

REGIONS = [
    (0, 0, 1, 1),
    (80, 49, 1, 1),
    (0, 0, 81, 50),
    (30, 20, 10, 10),
    (31, 31, 2, 2),
    (5, 0, 3, 50),
    (70, 3, 11, 30),
]


@pytest.mark.parametrize("counts", [[1], [3, 3, 200, 1, 1, 1], [64] * 9, [1] * 700])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_batches_are_runs_of_the_groups(counts: list[int], threads: int) -> None:
    groups = [Group([tiling.Box(0, 0, 1, 1)] * count, bytes(i % 7)) for i, count in enumerate(counts)]
    batches = in_batches(groups, threads)
    assert [id(group) for batch in batches for group in batch] == list(map(id, groups))
    assert len(batches) >= min(threads, len(groups)) or max(counts) > sum(counts) / 2
    sizes = [sum(len(group.tiles) for group in batch) for batch in batches if len(batch) > 1]
    assert all(size <= LOCKSTEP + max(counts) for size in sizes)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("region", REGIONS)
def test_a_region_is_the_crop(tiny: Model, region: tuple[int, int, int, int]) -> None:
    pixels = picture(50, 81)
    payload = photo.encode(pixels, tiny).payload
    x, y, width, height = region
    found = photo.decode(payload, (50, 81, 3), tiny, region=region)
    np.testing.assert_array_equal(found, pixels[y : y + height, x : x + width])
    assert found.flags.c_contiguous


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("region", REGIONS)
def test_a_region_needs_only_its_groups(
    tiny: Model, region: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(50, 81)
    payload = photo.encode(pixels, tiny).payload
    x, y, width, height = region
    groups = list(Tiling.of(81, 50).groups())
    assert len(groups) == 6
    needed = sum(tiling.Box(x, y, width, height).overlaps(group) for group in groups)
    read: list[bytes] = []
    whole = photo.FineCoder.from_bytes

    def counted(data: bytes) -> photo.IntervalCoder:
        read.append(data)
        return whole(data)

    monkeypatch.setattr(photo.FineCoder, "from_bytes", counted)
    photo.decode(payload, (50, 81, 3), tiny, region=region)
    assert len(read) == needed


@pytest.mark.usefixtures("small_tiles")
def test_damage_elsewhere_does_not_reach_a_region(tiny: Model) -> None:
    pixels = picture(50, 81)
    payload = bytearray(photo.encode(pixels, tiny).payload)
    payload[-20] ^= 4
    found = photo.decode(bytes(payload), (50, 81, 3), tiny, region=(0, 0, 30, 20))
    np.testing.assert_array_equal(found, pixels[:20, :30])


# blocks of symbols


@pytest.mark.parametrize(("height", "width", "colors"), [(90, 70, 3), (60, 131, 1), (1, 90, 3), (20, 5, 3)])
@pytest.mark.parametrize("name", ["tiny", "first"])
def test_files_whose_blocks_are_of_a_color_are_read(
    name: str, height: int, width: int, colors: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All were so once."""
    pixels, model = picture(height, width, colors), request.getfixturevalue(name)
    whole = photo.encode(pixels, model).payload
    assert bool(whole[photo.WHOLE_AT] & photo.WHOLE) == (width + 3 * (height - 1) > photo.TAIL)
    with monkeypatch.context() as patch:
        patch.setattr(photo, "TAIL", 1 << 20)
        before = photo.encode(pixels, model).payload
    assert not before[photo.WHOLE_AT] & photo.WHOLE
    assert (before == whole) == (not whole[photo.WHOLE_AT] & photo.WHOLE)
    for payload in (whole, before):
        np.testing.assert_array_equal(photo.decode(payload, pixels.shape, model), pixels)  # type: ignore[arg-type]


def test_whole_steps_cost_no_bytes(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would where the encoder begins, which is why the last steps are none."""
    pixels = picture(200, 200)
    sizes = []
    for tail in (TAIL, 1 << 20, 0):
        monkeypatch.setattr(photo, "TAIL", tail)
        sizes.append(len(photo.encode(pixels, tiny).payload))
    assert sizes[0] <= sizes[1] + 8 < sizes[2]


def test_small_tiles_do_not_claim_whole_steps(tiny: Model) -> None:
    pixels = picture(2, 5)
    payload = bytearray(photo.encode(pixels, tiny).payload)
    payload[photo.WHOLE_AT] |= photo.WHOLE
    with pytest.raises(InvalidFile, match="too small for whole steps"):
        photo.decode(bytes(payload), (2, 5, 3), tiny)


# damage


def outcome(payload: bytes, shape: tuple[int, int, int], model: Model) -> Pixels | None:
    """The pixels that a damaged payload gives, or None where it is refused."""
    try:
        return photo.decode(payload, shape, model)
    except InvalidFile:
        return None


@pytest.fixture(scope="module")
def valid(tiny: Model) -> bytes:
    """A payload of 24 x 40 pixels in several groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "TILE", 8)
        patch.setattr(tiling, "GROUP", 2)
        patch.setattr(tiling, "SMALL", 2**8)
        return photo.encode(picture(24, 40), tiny).payload


def test_truncation_is_refused_wherever_it_is(tiny: Model, valid: bytes) -> None:
    for length in [*range(40), *range(40, len(valid), 61), len(valid) - 1]:
        assert outcome(valid[:length], (24, 40, 3), tiny) is None, length


def test_words_too_many_are_refused(tiny: Model, valid: bytes) -> None:
    for more in (b"\0", b"\0\0\0\0", b"\1\0\0\0", b"\1\2\3\4\5\6\7\x08"):
        assert outcome(valid + more, (24, 40, 3), tiny) is None


@pytest.mark.parametrize("shape", [(24, 41, 3), (25, 40, 3), (24, 40, 1), (1, 1, 3), (24, 39, 3), (3000, 40, 3)])
def test_another_shape_than_was_coded_is_refused(tiny: Model, valid: bytes, shape: tuple[int, int, int]) -> None:
    assert outcome(valid, shape, tiny) is None


@settings(max_examples=60)
@given(st.data())
def test_flipped_bits_never_give_the_right_picture_or_another_error(
    tiny: Model, valid: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(valid)
    for bit in data.draw(st.sets(st.integers(0, 8 * len(valid) - 1), min_size=1, max_size=4)):
        damaged[bit // 8] ^= 1 << bit % 8
    found = outcome(bytes(damaged), (24, 40, 3), tiny)
    assert found is None or not np.array_equal(found, picture(24, 40))


@settings(max_examples=60)
@given(st.binary(max_size=300), st.tuples(st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 3])))
def test_any_bytes_are_pixels_or_refused(tiny: Model, data: bytes, shape: tuple[int, int, int]) -> None:
    for mark in (0, photo.WHOLE):
        found = outcome(HEADER.pack(16, 16, 1, 2 | mark) + data, shape, tiny)
        assert found is None or found.shape == shape
    outcome(data, shape, tiny)


def test_models_of_other_families_and_formats_are_refused(
    tiny: Model, first: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (tiny, first):
        assert Network.of(model).geometry.lag == 3  # and the model keeps the configuration that is put back below
        for name, text, words in (
            ("family", "flow", "not one of the photo family"),
            ("format", "4", "of format 4, which is not known"),
            ("format", "", "of format"),
            ("config", "{}", "how it is built"),
            ("config", "{", "how it is built"),
        ):
            with monkeypatch.context() as patch:
                metadata = {**model.file.metadata, f"gencodec.{name}": text}
                patch.setattr(model, "file", replace(model.file, metadata=metadata))
                patch.delitem(vars(model), "config", raising=False)
                with pytest.raises(InvalidFile, match=words):
                    Network.of(model)
        assert Network.of(model).geometry.lag == 3


def test_models_with_rows_too_close_behind_each_other_are_refused(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiny.config, "lag", 1)
    with pytest.raises(InvalidFile, match="rows too close behind each other"):
        photo.encode(picture(40, 40), tiny)


# format 1


def test_the_networks_format_tells_its_stages(tiny: Model, first: Model) -> None:
    assert type(Network.of(tiny)) is Network
    assert Network.of(tiny).geometry.repeats_edge
    assert type(Network.of(first)) is FirstNetwork
    assert not Network.of(first).geometry.repeats_edge


@pytest.mark.parametrize(("height", "width", "colors"), [(1, 1, 3), (33, 1, 1), (2, 50, 3), (40, 37, 1), (37, 70, 3)])
def test_any_size_round_trips_by_format_1(first: Model, height: int, width: int, colors: int) -> None:
    assert_round_trip(picture(height, width, colors), first)


@pytest.mark.usefixtures("small_tiles")
def test_a_region_is_the_crop_by_format_1(first: Model) -> None:
    pixels = picture(50, 81)
    payload = photo.encode(pixels, first).payload
    np.testing.assert_array_equal(photo.decode(payload, pixels.shape, first), pixels)  # type: ignore[arg-type]
    found = photo.decode(payload, (50, 81, 3), first, region=(30, 3, 41, 30))
    np.testing.assert_array_equal(found, pixels[3:33, 30:71])


@pytest.mark.parametrize("wide", [False, True])
def test_wide_networks_take_larger_tiles_for_patient_decoders(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    pixels = np.random.default_rng(0).integers(90, 99, (200, 290, 3), np.uint8)
    monkeypatch.setattr("gencodec.codec.network.WIDE", 0 if wide else 1 << 10)
    hurried, patient = (photo.encode(pixels, tiny, patient=patient).payload for patient in (False, True))
    assert (hurried == patient) != wide
    if wide:
        assert parsed(photo.unmarked(patient)[2], 290, 200)[0].tile_width == 290
    np.testing.assert_array_equal(photo.decode(patient, pixels.shape, tiny), pixels)

"""Changes of weights: what is packed is unpacked, and models that they make are exact or refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gencodec import InvalidFile
from gencodec.codec import adaptation, photo
from gencodec.codec.adaptation import Changes, Layer
from gencodec.codec.coder import TOTAL, IntervalCoder
from gencodec.errors import InexactGraph
from gencodec.runtime import Model, load, proof

Index = NDArray[np.int64]
LARGEST = 1 << 15
"""The largest magnitude that a bucket holds."""
EXTREMES = [0, 1, 2, 3, 4, 5, 8, 9, LARGEST // 2, LARGEST // 2 + 1, LARGEST - 1, LARGEST]
several = settings(max_examples=60)


def picture(height: int, width: int, colors: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Stripes and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    plane = 120 + 60 * np.sin(x * 1.3) + 0.3 * y
    return np.clip(plane[..., None] + rng.normal(0, 12, (height, width, colors)), 0, 255).astype(np.uint8)


def no_changes(model: Model) -> Changes:
    return {layer.name: np.zeros_like(layer.weight) for layer in adaptation.layers(model)}


def random_changes(model: Model, seed: int, density: float, largest: int) -> Changes:
    """Some changes of both signs, most of them small."""
    rng = np.random.default_rng(seed)
    changes = no_changes(model)
    for values in changes.values():
        magnitude = np.floor(np.exp2(rng.uniform(0, np.log2(largest + 1), values.shape))).astype(np.int64)
        values += magnitude * rng.choice([-1, 1], values.shape) * (rng.random(values.shape) < density)
    return changes


def small_changes(model: Model, seed: int = 0) -> tuple[Changes, int]:
    """A few changes that every layer has room for, and their coarseness."""
    changes = random_changes(model, seed, 0.1, 2)
    return {layer.name: layer.allowed(changes[layer.name], 0) for layer in adaptation.layers(model)}, 0


def assert_same(found: Changes, expected: Changes) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == np.int64


# packing


@several
@given(st.integers(0, 999), st.floats(0, 1), st.sampled_from([1, 2, 3, 40, LARGEST]), st.integers(-128, 127))
@example(seed=0, density=0.0, largest=1, coarseness=0)
@example(seed=0, density=1.0, largest=LARGEST, coarseness=-128)
def test_what_is_packed_is_unpacked(adaptive: Model, seed: int, density: float, largest: int, coarseness: int) -> None:
    changes = random_changes(adaptive, seed, density, largest)
    found, coarse = adaptation.unpack(adaptation.pack(changes, coarseness), adaptive)
    assert_same(found, changes)
    assert coarse == coarseness


@several
@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(EXTREMES), st.booleans()), max_size=80))
def test_extreme_changes_anywhere_are_unpacked(adaptive: Model, placed: list[tuple[int, int, bool]]) -> None:
    changes = no_changes(adaptive)
    parts = [values.ravel() for values in changes.values()]
    for place, magnitude, negative in placed:
        part = parts[place % len(parts)]
        part[place // len(parts) % part.size] = -magnitude if negative else magnitude
    assert_same(adaptation.unpack(adaptation.pack(changes, 3), adaptive)[0], changes)


@pytest.mark.parametrize("value", [v for e in EXTREMES for v in (e, -e)])
def test_all_changes_alike(adaptive: Model, value: int) -> None:
    changes = {name: np.full_like(values, value) for name, values in no_changes(adaptive).items()}
    assert_same(adaptation.unpack(adaptation.pack(changes, 0), adaptive)[0], changes)


def test_few_changes_take_few_bytes(adaptive: Model) -> None:
    weights = sum(layer.weight.size for layer in adaptation.layers(adaptive))
    sizes = [len(adaptation.pack(random_changes(adaptive, 0, density, 2), 0)) for density in (0, 0.02, 0.2, 0.9)]
    assert sizes[0] < sizes[1] < weights / 20 + 2 * adaptation.LONGEST_BLOCK
    assert sizes[1] < sizes[2] < sizes[3] < weights / 2


def test_buckets_hold_every_magnitude_once() -> None:
    magnitude = np.arange(LARGEST + 1)
    bucket = np.searchsorted(adaptation.FIRST, magnitude, "right") - 1
    assert (bucket[-1], len(adaptation.FIRST)) == (adaptation.BUCKETS - 1, adaptation.BUCKETS)
    place = magnitude - adaptation.FIRST[bucket]
    assert (place < 1 << adaptation.EXTRA[bucket]).all()
    np.testing.assert_array_equal(np.bincount(bucket), 1 << adaptation.EXTRA)


@several
@given(st.lists(st.lists(st.integers(0, adaptation.BUCKETS - 1), max_size=64), max_size=30))
def test_chances_are_intervals_of_all_numbers(blocks: list[list[int]]) -> None:
    chances = adaptation.Chances()
    for block in [*blocks, []]:
        left, length = chances.interval(np.arange(adaptation.BUCKETS))
        assert (length > 0).all()
        assert (left[0], length.sum()) == (0, TOTAL)
        np.testing.assert_array_equal(left[1:], left[:-1] + length[:-1])
        np.testing.assert_array_equal(chances.found(left), np.arange(adaptation.BUCKETS))
        np.testing.assert_array_equal(chances.found(left + length - 1), np.arange(adaptation.BUCKETS))
        chances.learn(np.array(block, np.int64))


@pytest.mark.parametrize("size", [1, 15, 16, 17, 32, 33, 64, 65, 127, 128, 129, 1000])
def test_blocks_cover_a_layer_and_grow(size: int) -> None:
    slices = list(adaptation.blocks(size))
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(size))
    assert [part.stop - part.start for part in slices[:-1]] == [16, 16, 32, *[64] * size][: len(slices) - 1]
    assert slices[-1].stop - slices[-1].start <= adaptation.LONGEST_BLOCK


def test_the_layout_is_the_documented_one(adaptive: Model) -> None:
    """An independent reader, written from docs/format.md, finds the changes."""
    changes, coarseness = random_changes(adaptive, 4, 0.3, LARGEST), -5
    payload = adaptation.pack(changes, coarseness)
    assert struct.unpack("<b", payload[:1]) == (coarseness,)
    stack = IntervalCoder.from_bytes(payload[1:])

    def pop(intervals: Callable[[int], tuple[int, int, int]], count: int) -> list[int]:
        """`intervals` gives value, beginning and length of the interval that holds a number."""
        quantiles = stack.pop_quantiles(count)
        found = [intervals(int(q)) for q in quantiles]
        left, length = (np.array([f[i] for f in found], np.int64) for i in (1, 2))
        if count:
            stack.restore(quantiles - left, length)
        return [f[0] for f in found]

    def bits(counts: list[int]) -> list[int]:
        """Numbers of so many bits each."""
        widths = iter(counts)

        def interval(quantile: int) -> tuple[int, int, int]:
            size = 65536 >> next(widths)
            return quantile // size, quantile // size * size, size

        return pop(interval, len(counts))

    for values in changes.values():
        counts, expected, begin, length = [48, 16, 8, 6, 4, 2, *[1] * 11], values.ravel().tolist(), 0, 16
        while begin < len(expected):
            block = expected[begin : begin + length]
            sizes = [count * 65519 // sum(counts) + 1 for count in counts]
            sizes[0] += 65536 - sum(sizes)

            def bucket(quantile: int, sizes: list[int] = sizes) -> tuple[int, int, int]:
                left = 0
                for k, size in enumerate(sizes):
                    if quantile < left + size:
                        return k, left, size
                    left += size
                raise AssertionError

            buckets = pop(bucket, len(block))
            places = iter(bits([k - 2 for k in buckets if k > 2]))
            magnitudes = [k if k < 3 else 2 ** (k - 2) + 1 + next(places) for k in buckets]
            signs = iter(bits([1 for m in magnitudes if m]))
            assert [m * (1 - 2 * next(signs)) if m else 0 for m in magnitudes] == block
            for k in buckets:
                counts[k] += 8
            begin += length
            length = min(begin, 64)
    assert stack.empty


# damage


def outcome(payload: bytes, model: Model) -> Changes | None:
    """The changes that a damaged payload gives, or None where it, or the model that it makes, is refused."""
    try:
        changes, coarseness = adaptation.unpack(payload, model)
        adaptation.applied(model, changes, coarseness)
    except InvalidFile:
        return None
    for layer in adaptation.layers(model):
        assert changes[layer.name].shape == layer.weight.shape
    return changes


def test_truncation_is_refused_wherever_it_is(adaptive: Model) -> None:
    payload = adaptation.pack(*small_changes(adaptive))
    for length in (0, *range(2, len(payload))):
        with pytest.raises(InvalidFile):
            adaptation.unpack(payload[:length], adaptive)


def test_an_empty_section_is_refused(adaptive: Model) -> None:
    with pytest.raises(InvalidFile, match="truncated"):
        adaptation.unpack(b"", adaptive)


def test_an_empty_stack_is_no_changes(adaptive: Model) -> None:
    assert adaptation.pack(no_changes(adaptive), -3) == b"\xfd"
    found, coarseness = adaptation.unpack(b"\xfd", adaptive)
    assert_same(found, no_changes(adaptive))
    assert coarseness == -3


def test_words_too_many_are_refused(adaptive: Model) -> None:
    payload = adaptation.pack(*small_changes(adaptive))
    for more in (b"\0", b"\0\0\0\0", b"\1\0\0\0", b"\1\2\3\4\5\6\7\x08"):
        with pytest.raises(InvalidFile):
            adaptation.unpack(payload + more, adaptive)


@several
@given(st.data())
def test_flipped_bits_give_other_changes_or_none(adaptive: Model, data: st.DataObject) -> None:
    changes, coarseness = small_changes(adaptive)
    payload = adaptation.pack(changes, coarseness)
    damaged = bytearray(payload)
    for bit in data.draw(st.sets(st.integers(8, 8 * len(payload) - 1), min_size=1, max_size=4)):
        damaged[bit // 8] ^= 1 << bit % 8
    found = outcome(bytes(damaged), adaptive)
    assert found is None or any((found[name] != values).any() for name, values in changes.items())


@several
@given(st.binary(max_size=400))
def test_any_bytes_are_changes_or_refused(adaptive: Model, data: bytes) -> None:
    outcome(data, adaptive)


@pytest.mark.parametrize("name", ["tiny", "photo-base.1"])
def test_changes_of_a_model_that_does_not_adapt_are_refused(name: str, tiny: Model, adaptive: Model) -> None:
    model = tiny if name == "tiny" else load(name, threads=1, device="cpu")
    assert adaptation.layers(model) == []
    for payload in (b"", b"\0", adaptation.pack({}, 0), adaptation.pack(*small_changes(adaptive))):
        with pytest.raises(InvalidFile):
            adaptation.unpack(payload, model)


def test_a_model_that_does_not_say_what_adapts_is_refused(adaptive: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("", "[", "nothing", "7", '["elsewhere"]', "[7]", "null", '["trunk.photo.bank", "trace.photo.inner"]')
    for text in (*texts, "[" * 200_000):
        with monkeypatch.context() as patch:
            metadata = {**adaptive.file.metadata, "gencodec.adapts": text}
            patch.setattr(adaptive, "file", replace(adaptive.file, metadata=metadata))
            with pytest.raises(InvalidFile, match=r"which of its layers adapt|no table"):
                adaptation.layers(adaptive)


# bounds


def assert_bounded(layer: Layer, integers: Index) -> None:
    assert (np.abs(integers) @ layer.reach < 1 << 24).all()
    assert (np.abs(integers[:, :-1]) < 1 << 15).all()


@several
@given(st.integers(0, 999), st.sampled_from([1, 20, 3000, 1 << 20, 1 << 40]), st.integers(-8, 4))
def test_allowed_changes_keep_every_rows_bound(adaptive: Model, seed: int, largest: int, coarseness: int) -> None:
    asked = random_changes(adaptive, seed, 0.5, largest)
    for layer in adaptation.layers(adaptive):
        wanted = asked[layer.name]
        before, found = wanted.copy(), layer.allowed(wanted, coarseness)
        np.testing.assert_array_equal(wanted, before)
        assert_bounded(layer, layer.changed(found, coarseness))
        # a change is as asked, or less of it
        assert (np.abs(found) <= np.abs(wanted)).all()
        assert (found * wanted >= 0).all()
        integers = layer.changed(wanted, coarseness)
        fits = (np.abs(integers[:, :-1]) < 1 << 15).all(1) & (np.abs(integers) @ layer.reach < 1 << 24)
        as_asked = fits & (np.abs(wanted) <= LARGEST).all(1)
        np.testing.assert_array_equal(found[as_asked], wanted[as_asked])
        assert (np.abs(found[~fits]).sum(1) < np.abs(wanted[~fits]).sum(1)).all()


@pytest.mark.parametrize("coarseness", [-8, 0, 3])
def test_allowed_changes_can_be_packed(adaptive: Model, coarseness: int) -> None:
    for value in (1 << 40, -(1 << 40), LARGEST + 1):
        for column in (slice(None), slice(-1, None), slice(0, 1)):
            changes = no_changes(adaptive)
            for layer in adaptation.layers(adaptive):
                changes[layer.name][:, column] = value
                changes[layer.name] = layer.allowed(changes[layer.name], coarseness)
            assert_same(adaptation.unpack(adaptation.pack(changes, coarseness), adaptive)[0], changes)


def layer_of(weight: list[list[int]], reach: list[int], shift: list[int]) -> Layer:
    """A layer of integers, the last column biases, whose columns change in steps of 1 << shift."""
    integers = np.array(weight, np.int64)
    shifts = np.broadcast_to(np.array(shift, np.int64), integers.shape)
    return Layer("made", integers, np.ones(integers.shape, np.float32), shifts, np.array([*reach, 1], np.int64))


def test_the_bound_is_reached_and_not_passed() -> None:
    room = (1 << 24) - 1 - (100 * 1000 + 200 * 100)
    layer = layer_of([[100, -200, room - (30001 << 9)], [1, 2, 3]], [1000, 100], [0, 0, 9])
    just = np.array([[0, 0, 30001], [0, 0, 0]])
    np.testing.assert_array_equal(layer.allowed(just, 0), just)
    np.testing.assert_array_equal(np.abs(layer.changed(just, 0))[0] @ layer.reach, (1 << 24) - 1)
    found = layer.allowed(just + np.array([[0, 0, 1], [5, 5, 5]]), 0)
    np.testing.assert_array_equal(found, [[0, 0, 15001], [5, 5, 5]])


@pytest.mark.parametrize("sign", [-1, 1])
def test_weights_keep_their_type(sign: int) -> None:
    layer = layer_of([[7 * sign, 0]], [1], [0, 0])
    widest = np.array([[sign * ((1 << 15) - 8), 0]])
    np.testing.assert_array_equal(layer.allowed(widest, 0), widest)
    np.testing.assert_array_equal(layer.allowed(widest + np.array([[sign, 0]]), 0), [[sign * ((1 << 15) - 7 >> 1), 0]])


def test_steps_are_powers_of_two_within_reach(adaptive: Model) -> None:
    for layer in adaptation.layers(adaptive):
        for coarseness in (-128, -3, 0, 5, 127):
            steps = layer.steps(coarseness)
            np.testing.assert_array_equal(np.log2(steps), np.clip(layer.shift + coarseness, 0, 15))


# models


def test_layers_are_those_of_the_proof(adaptive: Model) -> None:
    layers = adaptation.layers(adaptive)
    stated = proof.reaches(adaptive.file)
    assert {"trunk.photo.bank", "trunk.photo.layers.0", "red.layer", "blue.head.linear"} < {one.name for one in layers}
    assert not any("inner" in layer.name or "errors" in layer.name for layer in layers)  # the decoder's past is fixed
    for layer in layers:
        np.testing.assert_array_equal(layer.reach[:-1], stated[layer.name])
        assert layer.reach[-1] == 1
        assert_bounded(layer, layer.weight)


def test_a_changed_model_has_a_sound_proof_and_other_outputs(adaptive: Model) -> None:
    changes, coarseness = small_changes(adaptive)
    changed = adaptation.applied(adaptive, changes, coarseness)
    assert changed.adapted
    assert not adaptive.adapted
    assert changed.card == adaptive.card
    assert changed.worst_sum == proof.check(changed.file, adapted=True) < proof.EXACT_LIMIT
    with pytest.raises(InexactGraph, match="other weights than its proof"):
        proof.check(changed.file)
    for before, after in zip(adaptation.layers(adaptive), adaptation.layers(changed), strict=True):
        np.testing.assert_array_equal(after.weight, before.changed(changes[before.name], coarseness))
    pixels = picture(40, 50)
    payload = photo.encode(pixels, changed).payload
    assert payload != photo.encode(pixels, adaptive).payload
    np.testing.assert_array_equal(photo.decode(payload, pixels.shape, changed), pixels)  # type: ignore[arg-type]
    with suppress(InvalidFile):
        assert not np.array_equal(photo.decode(payload, pixels.shape, adaptive), pixels)  # type: ignore[arg-type]


def test_no_changes_give_the_same_model(adaptive: Model) -> None:
    same = adaptation.applied(adaptive, no_changes(adaptive), 0)
    assert same.file.data == adaptive.file.data
    assert not same.adapted


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_changes_beyond_the_models_range_are_refused(adaptive: Model, part: str) -> None:
    for name, value in ((name, value) for name in no_changes(adaptive) for value in (LARGEST, -LARGEST)):
        changes = no_changes(adaptive)
        changes[name][0, 0 if part == "weight" else -1] = value
        with pytest.raises(InvalidFile, match="they leave the model's range"):
            adaptation.applied(adaptive, changes, 15)


def test_changes_that_break_the_bound_are_refused(adaptive: Model) -> None:
    """Every weight fits its type, but not their sum."""
    for layer in adaptation.layers(adaptive):
        steps = layer.steps(0)[0, :-1]
        changes = no_changes(adaptive)
        integers = layer.weight[0, :-1]
        room = ((1 << 15) - 1 - np.abs(integers)) // steps
        changes[layer.name][0, :-1] = np.where(integers < 0, -room, room)
        assert np.abs(layer.changed(changes[layer.name], 0)[0, :-1]).max() < 1 << 15
        with pytest.raises(InvalidFile, match=rf"damaged: layer {layer.name} is not exact"):
            adaptation.applied(adaptive, changes, 0)
        found, coarseness = adaptation.unpack(adaptation.pack(changes, 0), adaptive)
        with pytest.raises(InvalidFile):
            adaptation.applied(adaptive, found, coarseness)


def test_changed_models_stay_apart_from_the_warm_one(adaptive_file: Path, adaptive: Model) -> None:
    two = load(adaptive_file, threads=2, device="cpu")
    changed = adaptation.applied(two, *small_changes(two))
    assert changed.given_threads == 2
    assert changed.serial.given_threads == 1
    assert changed.serial.file.data == changed.file.data
    assert changed.serial is changed.serial
    assert two.serial is adaptive
    assert load(adaptive_file, threads=2, device="cpu") is two

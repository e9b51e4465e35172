"""Chains of tiles on a stack: with a stand-in for a family's codec that draws bits and gives them back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gencodec.codec import bitsback
from gencodec.codec.bitsback import Grid
from gencodec.codec.coder import IntervalCoder, MiddleCoder, RandomCoder, Stack
from gencodec.errors import InvalidFile

SIDE = 8
DRAWN = 16


class Drawing:
    """Draws four bits a sample, and pushes them with the sample."""

    tile = SIDE
    demand = 4.0 * 3 * SIDE * SIDE

    def push(self, stack: Stack, tiles: NDArray[np.uint8]) -> None:
        drawn = stack.pop_uniform(DRAWN, tiles.size)
        stack.push_uniform(drawn * 256 + tiles.ravel(), DRAWN * 256)

    def pop(self, stack: Stack, count: int) -> NDArray[np.uint8]:
        both = stack.pop_uniform(DRAWN * 256, count * 3 * SIDE * SIDE)
        stack.push_uniform(both // 256, DRAWN)
        return (both % 256).astype(np.uint8).reshape(count, 3, SIDE, SIDE)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(bitsback, "tile_codec", lambda model: Drawing())
    monkeypatch.setattr(bitsback, "CHAIN_TILES", 40)
    serial = SimpleNamespace(threads=1)
    return SimpleNamespace(threads=2, serial=serial)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 70, 1), (8, 8, 3), (9, 17, 3), (64, 72, 3), (90, 41, 1)])
def test_pictures_come_back(model: Any, shape: tuple[int, int, int]) -> None:
    pixels = noise(*shape)
    payload = bitsback.encode(pixels, model).payload
    assert np.array_equal(bitsback.decode(payload, shape, model), pixels)


def test_threads_change_nothing(model: Any) -> None:
    pixels = noise(80, 88, 3)
    payload = bitsback.encode(pixels, model).payload
    model.threads = 1
    assert bitsback.encode(pixels, model).payload == payload
    assert np.array_equal(bitsback.decode(payload, pixels.shape, model), pixels)


def test_drawn_bits_are_not_paid(model: Any) -> None:
    pixels = noise(64, 64, 3)
    coded = bitsback.encode(pixels, model)
    assert coded.estimate_bits == pytest.approx(8 * pixels.size, rel=1e-3)
    assert len(coded.payload) < 1.01 * pixels.size + 200
    assert bitsback.initial_bits(coded.payload, 64, 64) >= Drawing.demand


def test_a_region_decodes_alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(120, 64, 3)
    payload = bitsback.encode(pixels, model).payload
    _, chains = bitsback.parsed(payload, 64, 120)
    decoded = []
    original = bitsback.decode_chain
    monkeypatch.setattr(bitsback, "decode_chain", lambda chain, *rest: decoded.append(chain) or original(chain, *rest))
    part = bitsback.decode(payload, pixels.shape, model, region=(5, 100, 20, 11))
    assert np.array_equal(part, pixels[100:111, 5:25])
    assert len(decoded) < len(chains)


def test_chains_share_a_codec(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(bitsback, "tile_codec", lambda model: made.append(model) or Drawing())
    pixels = noise(120, 64, 3)
    payload = bitsback.encode(pixels, model).payload
    bitsback.decode(payload, pixels.shape, model)
    assert len(bitsback.parsed(payload, 64, 120)[1]) == 3
    assert made == 2 * [model, model.serial]


def test_chains_are_not_more_than_a_file_can_count(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitsback, "MOST_CHAINS", 2)
    payload = bitsback.encode(noise(120, 64, 3), model).payload
    assert len(bitsback.parsed(payload, 64, 120)[1]) == 2


def test_a_seed_of_many_tiles_takes_few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    whole = bitsback.ordinary.encode
    monkeypatch.setattr(bitsback.ordinary, "encode", lambda strip: sizes.append(len(strip)) or whole(strip))
    count, seed = bitsback.seeded(np.zeros((64, 64, 3), np.uint8), Grid(64, 64, SIDE), range(64), Drawing.demand)
    assert (count, len(seed.payload)) == (64, 3)
    assert sizes == [SIDE << i for i in range(7)]
    pixels = noise(64, 64, 3)
    count, seed = bitsback.seeded(pixels, Grid(64, 64, SIDE), range(64), 20 * Drawing.demand)
    assert 8 * len(seed.payload) > bitsback.RESERVE * 20 * Drawing.demand
    assert 11 <= count <= 13


def test_the_grid_covers_a_picture_once() -> None:
    grid = Grid(21, 17, SIDE)
    seen = np.zeros((17, 21), int)
    for index in range(grid.count):
        seen[grid.place(index)] += 1
    assert (seen == 1).all()
    parts = grid.chains(4)
    assert [i for part in parts for i in part] == list(range(grid.count))


def test_every_cut_is_refused(model: Any) -> None:
    pixels = noise(24, 24, 3)
    payload = bitsback.encode(pixels, model).payload
    for length in [0, 1, 3, 4, 10, 16, 20, len(payload) // 2, len(payload) - 1]:
        with pytest.raises(InvalidFile):
            bitsback.decode(payload[:length], pixels.shape, model)
    with pytest.raises(InvalidFile):
        bitsback.decode(payload + b"\0\0\0\0", pixels.shape, model)


def test_flipped_bytes_never_pass_for_the_picture(model: Any) -> None:
    pixels = noise(24, 24, 3)
    payload = bitsback.encode(pixels, model).payload
    rng = np.random.default_rng(5)
    for at in rng.integers(0, len(payload), 60):
        damaged = bytearray(payload)
        damaged[at] ^= 1 << rng.integers(8)
        try:
            result = bitsback.decode(bytes(damaged), pixels.shape, model)
        except InvalidFile:
            continue
        assert not np.array_equal(result, pixels)


@pytest.mark.parametrize("length", range(9))
def test_seeds_survive_the_stack(length: int) -> None:
    seed = bytes(range(length - 1)) + b"\0" if length else b""
    stack = IntervalCoder(bitsback.words_of(seed))
    stack.push_uniform(np.arange(5), 7)
    assert (stack.pop_uniform(7, 5) == np.arange(5)).all()
    assert bitsback.seed_of(stack.to_bytes(), len(seed)) == seed
    with pytest.raises(InvalidFile):
        bitsback.seed_of(stack.to_bytes(), len(seed) + 4)


def test_uniform_numbers_of_many_sizes_come_back_and_take_their_bits() -> None:
    rng = np.random.default_rng(1)
    size = rng.integers(1, 1 << 16, 20000) + 1
    value = (rng.random(size.size) * size).astype(np.int64)
    stack = IntervalCoder()
    stack.push_uniform(value, size)
    assert stack.bits == pytest.approx(np.log2(size).sum())
    assert 8 * len(stack.to_bytes()) < stack.bits * 1.002 + 64
    assert np.array_equal(stack.pop_uniform(size, size.size), value)
    assert stack.empty
    assert stack.bits == pytest.approx(0, abs=1e-6)


def test_random_and_middle_choices() -> None:
    one, other = RandomCoder(1), RandomCoder(1)
    assert np.array_equal(one.pop_quantiles(50), other.pop_quantiles(50))
    assert not np.array_equal(one.pop_quantiles(50), RandomCoder(2).pop_quantiles(50))
    size = np.array([1, 2, 9, 65536])
    assert (one.pop_uniform(size, 4) < size).all()
    assert MiddleCoder().pop_uniform(size, 4).tolist() == [0, 1, 4, 32768]
    assert set(MiddleCoder().pop_quantiles(3).tolist()) == {32768}

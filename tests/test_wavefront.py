"""The wavefront: an order in which nothing is seen before it is known, the same on both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gencodec.codec.features import TileFeatures
from gencodec.codec.network import Array, Geometry
from gencodec.codec.tiling import Box
from gencodec.codec.wavefront import History, Ring, Schedule, Wavefront

NARROW = Geometry(
    lag=3,
    reach=((-4, -1), (-4, 2), (-3, 3), (-1, 2)),
    trace_at=((0, -1), (0, -2), (1, 0), (1, 1), (1, -1), (2, 0)),
    energies=3,
    drifts=2,
    row_pool=6,
    pool_rows=8,
    pool_columns=12,
    repeats_edge=False,
)
SECOND = replace(
    NARROW,
    reach=((-4, -1), (-3, 2), (-2, 3), (-1, 1)),
    trace_at=((0, -1), (0, -2), (1, 0), (1, 1), (1, -1)),
    repeats_edge=True,
)
GEOMETRIES = {
    "format 1": NARROW,
    "format 2": SECOND,
    "repeating far": replace(SECOND, lag=5, reach=((-2, -1), (-3, 4), (-6, 5), (-7, 2)), trace_at=((0, -1), (3, -2))),
    "repeating wide": replace(SECOND, lag=5, reach=((-2, -1), (-3, 4), (-6, 6)), trace_at=((0, -1), (1, 4), (3, -2))),
    "repeating a row": replace(SECOND, lag=2, reach=((-1, -1), (-1, 1)), trace_at=((1, 0),)),
    "wide": replace(NARROW, lag=5, reach=((-2, -1), (-3, 4), (-6, 6)), trace_at=((0, -1), (1, 4), (3, -2))),
    "small": replace(NARROW, lag=2, reach=((-1, -1), (-1, 1)), trace_at=((1, 0),), row_pool=1, pool_rows=1),
    "few": replace(NARROW, pool_rows=2, pool_columns=3, row_pool=2, energies=1, drifts=0),
}


@st.composite
def tile_sets(draw: st.DrawFn) -> list[Box]:
    """Tiles of one group: all alike, or the last ones smaller."""
    width, height = draw(st.integers(1, 24)), draw(st.integers(1, 16))
    tiles = [Box(0, 0, width, height)] * draw(st.integers(1, 3))
    for _ in range(draw(st.integers(0, 2))):
        tiles.append(Box(0, 0, draw(st.integers(1, width)), draw(st.integers(1, height))))
    return tiles


def steps_of(schedule: Schedule) -> NDArray[np.int64]:
    """The step of every pixel, (tiles, height, width); -1 where a tile has none."""
    order, begins = schedule.order
    steps = np.full(len(schedule.tiles) * schedule.height * schedule.width, -1, np.int64)
    steps[order] = np.repeat(np.arange(schedule.steps), np.diff(begins))
    return steps.reshape(len(schedule.tiles), schedule.height, schedule.width)


@settings(max_examples=80)
@given(tile_sets(), st.integers(1, 5))
def test_every_pixel_has_one_turn(tiles: list[Box], lag: int) -> None:
    schedule = Schedule.of(tiles, lag)
    order, begins = schedule.order
    assert len(begins) == schedule.steps + 1
    assert (begins[0], begins[-1]) == (0, len(order))
    assert len(set(order.tolist())) == len(order) == sum(t.width * t.height for t in tiles)
    steps = steps_of(schedule)
    for tile, box in zip(steps, tiles, strict=True):
        y, x = np.indices((box.height, box.width))
        np.testing.assert_array_equal(tile[: box.height, : box.width], x + lag * y)
        assert (tile[box.height :] == -1).all()
        assert (tile[:, box.width :] == -1).all()


@settings(max_examples=80)
@given(tile_sets(), st.integers(1, 5))
def test_the_order_is_the_decoders_walk(tiles: list[Box], lag: int) -> None:
    schedule = Schedule.of(tiles, lag)
    walked: list[tuple[int, int, int]] = []
    begins = [0]
    for step in range(schedule.steps):
        lanes = schedule.lanes(step)
        if lanes.stop > lanes.start:
            valid = schedule.valid(step, lanes)
            assert schedule.complete(step, lanes) == valid.all()
            for tile, lane in zip(*np.nonzero(valid), strict=True):
                row = lanes.start + int(lane)
                walked.append((int(tile), row, step - lag * row))
        begins.append(len(walked))
    extent = (len(tiles), schedule.height, schedule.width)
    order, expected = schedule.order
    np.testing.assert_array_equal(expected, begins)
    np.testing.assert_array_equal(np.stack(np.unravel_index(order, extent), 1), walked)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_nothing_is_seen_before_it_is_coded(name: str) -> None:
    """All neighbors inside the tile come at earlier steps; so do the pixels that stand in for those outside."""
    g = GEOMETRIES[name]
    schedule = Schedule.of([Box(0, 0, 40, 30)], g.lag)
    step = steps_of(schedule)[0]
    offsets = [(up, dx) for up, (first, last) in enumerate(g.reach) for dx in range(first, last + 1)]
    pooled = [(0, -k) for k in range(1, g.row_pool + 1)]
    pooled += [(1 + k, g.lag - 1 + k - i) for k in range(g.pool_rows) for i in range(g.pool_columns)]
    for up, dx in (*offsets, *g.trace_at, *pooled):
        for y in range(up, 30):
            for x in range(40):
                if up or dx < 0:
                    near = min(max(x + dx, 0), 39)
                    assert step[y - up, near] < step[y, x] or not 0 <= x + dx < 40
        if (up, dx) in offsets:
            for y in range(up, 30):  # beyond the right end stands the row's last pixel
                for x in range(max(40 - dx, 0), 40):
                    assert step[y - up, 39] < step[y, x]


def random_tiles(tiles: list[Box], seed: int, traces: int) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Gray levels and traces of tiles, and which pixels are theirs, as the encoder holds them."""
    rng = np.random.default_rng(seed)
    height, width = max(t.height for t in tiles), max(t.width for t in tiles)
    pixels = rng.integers(0, 256, (3, len(tiles), height, width)).astype(np.float32)
    valid = np.zeros((len(tiles), height, width), bool)
    for i, box in enumerate(tiles):
        pixels[:, i, :, box.width :] = pixels[:, i, :, box.width - 1 : box.width]
        pixels[:, i, box.height :] = 0
        valid[i, : box.height, : box.width] = True
    return pixels, rng.integers(-128, 256, (traces, *valid.shape)).astype(np.float32) * valid, valid


def features_of(
    pixels: Array, traces: Array, valid: NDArray[np.bool_], geometry: Geometry, band_rows: int
) -> list[Array]:
    """Context, near, sums and counts of whole tiles, (rows, tiles, height, width), made in bands of so many rows."""
    count, height, width = valid.shape
    seen = TileFeatures(pixels, valid, geometry)
    bands = [slice(top, min(top + band_rows, height)) for top in range(0, height, band_rows)]
    contexts = [seen.context(band) for band in bands]
    for band in bands:  # what the network says of places outside a tile is of no consequence
        seen.put_traces(band, np.where(valid, traces, 55)[:, :, band].reshape(len(traces), -1))
    parts = [(c, seen.near(band), *seen.pools(band)) for c, band in zip(contexts, bands, strict=True)]
    return [
        np.concatenate([part.reshape(len(part), count, -1, width) for part in kind], 2)
        for kind in zip(*parts, strict=True)
    ]


@pytest.mark.parametrize("name", GEOMETRIES)
@settings(max_examples=25)
@given(tiles=tile_sets(), seed=st.integers(0, 999), band_rows=st.integers(1, 20))
def test_full_image_and_stepwise_features_are_the_same(name: str, tiles: list[Box], seed: int, band_rows: int) -> None:
    pixels, traces, valid = random_tiles(tiles, seed, GEOMETRIES[name].traces)
    assert_alike(tiles, pixels, traces, valid, GEOMETRIES[name], band_rows)


@pytest.mark.parametrize("pool_rows", [8, 12])
def test_sums_of_large_windows_are_held(pool_rows: int) -> None:
    """Also those that 16 bits do not hold."""
    geometry, tiles = replace(NARROW, pool_rows=pool_rows), [Box(0, 0, 60, 20)]
    pixels, traces, valid = random_tiles(tiles, 1, geometry.traces)
    traces[...] = 255
    sums = features_of(pixels, traces, valid, geometry, 20)[2]
    assert sums.max() == 255 * 12 * pool_rows
    assert_alike(tiles, pixels, traces, valid, geometry, 20)


def assert_alike(
    tiles: list[Box], pixels: Array, traces: Array, valid: NDArray[np.bool_], geometry: Geometry, band_rows: int
) -> None:
    """The decoder, step by step, sees of every pixel what the encoder sees of whole tiles."""
    whole = features_of(pixels, traces, valid, geometry, band_rows)
    schedule = Schedule.of(tiles, geometry.lag)
    wavefront = Wavefront(schedule, geometry)
    seen = 0
    for step in range(schedule.steps):
        lanes = schedule.lanes(step)
        wavefront.begin(step)
        row = np.arange(lanes.start, max(lanes.stop, lanes.start))
        column = step - geometry.lag * row
        if len(row):
            stepwise = [wavefront.context(step, lanes), wavefront.near(step, lanes), *wavefront.pools(step, lanes)]
            inside = schedule.valid(step, lanes).ravel()
            for expected, found in zip(whole, stepwise, strict=True):
                here = expected[:, :, row, column].reshape(len(expected), -1)
                np.testing.assert_array_equal(found[:, inside], here[:, inside])
            seen += int(inside.sum())
        # what the decoder finds where a tile has no pixel is of no consequence
        pixel = np.where(valid, pixels, 77)[:, :, row, column].reshape(3, -1)
        trace = np.where(valid, traces, 55)[:, :, row, column].reshape(geometry.traces, -1)
        wavefront.put(step, lanes, pixel.astype(np.float32), trace.astype(np.float32))
    assert seen == valid.sum()


def test_edges_are_continued_by_the_documented_rules_of_format_1() -> None:
    """Left of a row the first pixel of the row above, 128 left of the first; right the last; -1 above."""
    geometry = replace(NARROW, reach=((-2, -1), (-1, 1)))
    pixels = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4).repeat(3, 0)
    whole = TileFeatures(pixels, np.ones((1, 3, 4), bool), geometry).context(slice(0, 3))
    found = whole[::3].reshape(5, 3, 4)
    assert found[:, 0, 0].tolist() == [128, 128, -1, -1, -1]
    assert found[:, 1, 0].tolist() == [0, 0, 128, 0, 1]
    assert found[:, 2, 0].tolist() == [4, 4, 0, 4, 5]
    assert found[:, 2, 3].tolist() == [9, 10, 6, 7, 7]


def test_edges_are_continued_by_the_documented_rules_of_format_2() -> None:
    """As in format 1, but above a tile its first row, `lag` columns later a row, and 128 where that begins."""
    geometry = replace(SECOND, lag=2, reach=((-2, -1), (-1, 1), (0, 2)))
    pixels = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4).repeat(3, 0)
    whole = TileFeatures(pixels, np.ones((1, 3, 4), bool), geometry).context(slice(0, 3))
    found = whole[::3].reshape(8, 3, 4)
    assert found[:, 0, 0].tolist() == [128, 128, 128, 128, 128, 128, 128, 128]
    assert found[:, 0, 3].tolist() == [1, 2, 0, 1, 2, 128, 0, 1]
    assert found[:, 1, 0].tolist() == [0, 0, 128, 0, 1, 128, 128, 0]
    assert found[:, 1, 3].tolist() == [5, 6, 2, 3, 3, 1, 2, 3]
    assert found[:, 2, 3].tolist() == [9, 10, 6, 7, 7, 3, 3, 3]


@settings(max_examples=60)
@given(past=st.integers(0, 5), future=st.integers(0, 4), above=st.integers(0, 3), count=st.integers(1, 200))
def test_a_history_keeps_what_was_written(past: int, future: int, above: int, count: int) -> None:
    tiles, rows = 2, 4
    history = History(1, tiles, rows, above=above, past=past, future=future)
    history.buffer[:, :, :, :above] = -5
    lanes = slice(1, 3)
    for step in range(count):
        if step and step % History.SPARE == 0:
            history.advance()
        assert (history.at(step + future, slice(0, rows)) == 0).all()
        ahead = step + future
        history.at(ahead, slice(0, rows))[...] = 10 * ahead + np.arange(rows)
        for earlier in range(max(step - past, future), ahead + 1):
            assert history.at(earlier, lanes)[0, 1].tolist() == [10 * earlier + 1, 10 * earlier + 2]
        for up in range(1, above + 2):
            expected = [10 * ahead + lane - up if lane >= up else -5 for lane in (1, 2)]
            assert history.at(ahead, lanes, up)[0, 0].tolist() == expected
    last = history.steps(max(count - 1 - past, 0), count - 1, slice(0, rows))
    assert last.shape == (min(past + 1, count), 1, tiles, rows)


@settings(max_examples=60)
@given(past=st.integers(0, 5), above=st.integers(0, 3), lag=st.integers(1, 4), width=st.integers(1, 30))
def test_a_ring_keeps_what_was_written_and_no_more(past: int, above: int, lag: int, width: int) -> None:
    """Lanes that have no place at a step are zero there, whatever an earlier step left."""
    tiles, rows = 2, 7
    schedule = Schedule.of([Box(0, 0, width, rows)] * tiles, lag)
    ring = Ring(1, tiles, rows, np.int16, above=above, past=past)
    for step in range(schedule.steps):
        ring.begin(step, schedule.lanes(step))[...] = step + 1
        for earlier in range(max(step - past, 0), step + 1):
            lanes = schedule.lanes(earlier)
            expected = np.zeros(above + rows)
            expected[above + lanes.start : above + max(lanes.start, lanes.stop)] = earlier + 1
            for up in range(above + 1):
                found = ring.at(earlier, slice(0, rows), up)
                np.testing.assert_array_equal(found, np.broadcast_to(expected[above - up :][:rows], found.shape))

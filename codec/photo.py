"""The photo codec: pixels <-> bytes, by the pixel network's distributions along a wavefront.

Encoder and decoder mirror each other. The decoder walks the steps forward; at each it pops the quantiles of all pixels
on the diagonals, finds greens, reds and blues by them, every color's distribution depending on the colors before, and
gives back where in their intervals the quantiles lay. The encoder knows all pixels: it computes all distributions in
large batches, then walks the steps backward and pushes their symbols. In the last steps, and in older files, each color
is popped by itself. The byte layout is in docs/format.md, chapter "Neural color section".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from gencodec.codec import features, symmetry
from gencodec.codec.coder import FineCoder, IntervalCoder, information
from gencodec.codec.groups import (
    CODING_ORDER,
    HEADER,
    Encoded,
    Group,
    GroupCoders,
    Pixels,
    Progress,
    decoded,
    packed,
    parsed,
)
from gencodec.codec.network import Array, Hidden, Index, Neighborhood, Network, Seen
from gencodec.codec.steps import Steps
from gencodec.codec.tables import FINE_BITS, Tables
from gencodec.codec.tiling import Box, Tiling
from gencodec.codec.wavefront import Schedule, Wavefront
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

T = TypeVar("T")
Intervals = NDArray[np.uint32] | NDArray[np.uint64]
"""Intervals out of 2**16 or 2**20, shorter than that: beginnings in the upper bits, lengths in that many lower ones."""

TURN_AT, TURN_SHIFT = 4, 5
"""The byte of HEADER whose upper bits, from TURN_SHIFT on, hold the symmetry that the picture was turned by."""
WHOLE_AT, WHOLE = 5, 1 << 7
"""The byte of HEADER with the bit that tells that steps are blocks, but for the last TAIL ones."""
TAIL = 64
"""Steps at the end of which each color is a block of its own. The encoder begins there, with a stack that holds less
than whole steps draw: that would take 0.1 % of a Kodak picture."""
BAND = 1 << 14
"""Pixels that the encoder puts through the network at a time: few enough for the processor's caches."""


@dataclass(frozen=True)
class Distribution:
    """Mean (sixteenths), scale and shape indices of symbols, each (n,) int64."""

    mean: Index
    scale: Index
    shape: Index

    @classmethod
    def of(cls, rows: Array) -> Distribution:
        """From a network's output (3, n)."""
        return cls(*rows.astype(np.int64))


@dataclass(frozen=True)
class Surroundings:
    """What the network sees of a band of rows: its arguments, (rows, positions) each."""

    band: slice
    pixel: Array
    around: Neighborhood
    near: Array
    sums: Array
    counts: Array


class PhotoCodec:
    """The two directions, for one model."""

    def __init__(self, model: Model, *, alone: bool = False):
        """`alone`: one thread calls it."""
        self.network = Network.of(model, alone=alone)
        constants = (model.constant(f"shapes.{name}") for name in ("cdf", "rate"))
        bits = self.network.total_bits
        self.tables = Tables(*constants, bits)  # type: ignore[arg-type]
        self.coder: type[IntervalCoder] = FineCoder if bits == FINE_BITS else IntervalCoder
        self.steps = Steps(self.network, self.tables)

    # encoding

    def put_intervals(self, pixels: Pixels, box: Box, result: Intervals) -> None:
        """Find the intervals of all symbols of one tile: `result` is (colors, height, width) of the largest tile."""
        extent = (result.shape[1], result.shape[2])
        tile, valid = gathered(pixels, box, extent)
        for band, distributions in self.bands(tile, valid, pixels.shape[2]):
            for color, d in enumerate(distributions):
                level = tile[color, 0, band].ravel().astype(np.int64)
                left, length = self.tables.interval(level, d.mean, d.scale, d.shape)
                result[color, band] = (left << self.tables.bits | length).reshape(-1, extent[1])

    def bits(self, pixels: Pixels) -> float:
        """Code length of `pixels` (height, width, 1 or 3) as one tile, by the model's own probabilities."""
        height, width, colors = pixels.shape
        found = np.zeros((colors, height, width), self.coder.PACKED)
        self.put_intervals(pixels, Box(0, 0, width, height), found)
        lengths = (found & ((1 << self.tables.bits) - 1)).astype(np.int64)
        return information(lengths, self.tables.bits)

    def bands(
        self, tile: Array, valid: NDArray[np.bool_], colors: int
    ) -> Iterator[tuple[slice, Iterator[Distribution]]]:
        """Bands of rows of a tile (3, 1, height, width), each with its colors' distributions."""
        for seen in self.surroundings(tile, valid):
            hidden, green = self.network.trunk(seen.around, seen.near, seen.sums, seen.counts)
            yield seen.band, self.distributions(seen.pixel, seen.around, hidden, green, colors)

    def surroundings(self, tile: Array, valid: NDArray[np.bool_]) -> Iterator[Surroundings]:
        """What the network sees of a tile (3, 1, height, width), by bands of rows."""
        _, _, height, width = tile.shape
        seen = features.TileFeatures(tile, valid, self.network.geometry)
        size = max(1, BAND // width)
        bands = [slice(top, min(top + size, height)) for top in range(0, height, size)]
        around = []
        for band in bands:
            around.append(self.network.neighborhood(seen.context(band)))
            seen.put_traces(band, self.network.trace(around[-1], tile[:, 0, band].reshape(3, -1)))
        for band, neighborhood in zip(bands, around, strict=True):
            pixel = tile[:, 0, band].reshape(3, -1)
            yield Surroundings(band, pixel, neighborhood, seen.near(band), *seen.pools(band))

    def distributions(
        self, pixel: Array, around: Neighborhood, hidden: Hidden, rows: Array, colors: int
    ) -> Iterator[Distribution]:
        """Each color's distributions for known pixels (3, n); `rows` are green's."""
        innovations = np.empty((2, pixel.shape[1]), np.float32)
        for color in range(colors):
            if color:
                rows = self.network.color(color, hidden, innovations[:color], around)
            yield Distribution.of(rows)
            if color < 2:
                innovations[color] = 16 * pixel[color] - rows[0]

    def push(self, schedule: Schedule, intervals: Intervals, whole: int) -> tuple[bytes, float]:
        """The stream of a group's symbols, and its length in bits by the model's own probabilities.

        `intervals`: (colors, tiles, height, width). `whole`: as `decode_groups` takes it.
        """
        order, begins = schedule.order
        symbols = intervals.reshape(len(intervals), -1).take(order, 1)
        coder = self.coder()
        for end, begin in pairwise(begins[whole:][::-1].tolist()):
            for color in range(len(symbols))[::-1]:
                coder.push_blocks(symbols[color : color + 1, begin:end], np.array([0, end - begin]))
        begins = begins[: whole + 1]
        coder.push_blocks(symbols[:, : begins[-1]], begins)
        return coder.to_bytes(), coder.bits

    # decoding

    def decode_groups(self, groups: list[Group], pixels: Pixels, origin: Box, report: Progress, *, whole: int) -> None:
        """Decode groups in lockstep into `pixels` (height, width, 1 or 3), whose first pixel is that of `origin`.

        `whole`: how many steps, the first ones, are a block of symbols each; of the others each color is one. Raises
        `InvalidFile` when a stream does not end where its pixels do.
        """
        tiles = [tile for group in groups for tile in group.tiles]
        schedule = Schedule.of(tiles, self.network.geometry.lag)
        wavefront = Wavefront(schedule, self.network.geometry)
        coders = GroupCoders(groups, self.coder)
        place = Placement(schedule, pixels, origin)
        for step in range(schedule.steps):
            lanes = schedule.lanes(step)
            wavefront.begin(step)
            if lanes.stop > lanes.start:
                coded = None if schedule.complete(step, lanes) else np.flatnonzero(schedule.valid(step, lanes))
                coders.begin(lanes.stop - lanes.start, coded)
                decode = self.decode_step if step < whole else self.decode_colors
                pixel, trace = decode(coders, wavefront.seen(step, lanes), place.colors, coded)
                place.put(step, lanes, pixel, coded)
                wavefront.put(step, lanes, pixel, trace)
            else:  # tiles narrower than the lag
                wavefront.put_nothing(step, lanes)
            if step % 32 == 0:
                report(step / schedule.steps)
        coders.finish()

    def decode_step(self, coders: GroupCoders, seen: Seen, colors: int, coded: Index | None) -> tuple[Array, Array]:
        """Pixels (3, n) of a step, and their traces; only those that `coded` lists are coded, unless it is None."""
        every = slice(None) if coded is None else coded
        quantiles = np.zeros((colors, seen.context.shape[1]), np.float32)
        quantiles[:, every] = coders.pop_quantiles(colors)
        found = self.steps.run(seen, quantiles)
        coders.give_back(found.rest[:, every], found.length[:, every])
        return found.pixel, found.trace

    def decode_colors(self, coders: GroupCoders, seen: Seen, colors: int, coded: Index | None) -> tuple[Array, Array]:
        """What `decode_step` does, where each color's symbols are a block."""
        around = self.network.neighborhood(seen.context)
        hidden, rows = self.network.trunk(around, seen.near, seen.sums, seen.counts)
        pixel = np.empty((3, rows.shape[1]), np.float32)
        innovations = np.empty((2, rows.shape[1]), np.float32)
        for color in range(colors):
            if color:
                rows = self.network.color(color, hidden, innovations[:color], around)
            pixel[color] = self.pop(coders, rows, coded)
            if color < 2:
                innovations[color] = 16 * pixel[color] - rows[0]
        if colors == 1:
            pixel[1:] = pixel[0]
        return pixel, self.network.trace(around, pixel)

    def pop(self, coders: GroupCoders, rows: Array, coded: Index | None) -> Index:
        """Gray levels (n,) with distributions `rows` (3, n); zero where `coded` does not list the position."""
        d = Distribution.of(rows if coded is None else rows[:, coded])
        quantile = coders.pop_quantiles()
        level, left, length = self.tables.find(quantile, d.mean, d.scale, d.shape)
        coders.give_back(quantile - left, length)
        if coded is None:
            return level
        result = np.zeros(rows.shape[1], np.int64)
        result[coded] = level
        return result


class Placement:
    """Where a group's decoded pixels go."""

    def __init__(self, schedule: Schedule, pixels: Pixels, origin: Box):
        self.schedule, self.colors = schedule, pixels.shape[2]
        self.flat = pixels.reshape(-1, self.colors)
        rows = np.arange(schedule.height)
        corners = np.array([[(t.y - origin.y) * origin.width + t.x - origin.x] for t in schedule.tiles])
        # position of a lane's pixel at step 0, were there one
        self.starts = corners + rows * (origin.width - schedule.lag)

    def put(self, step: int, lanes: slice, pixel: Array, coded: Index | None) -> None:
        """Store the pixels (3, positions) of a step; only those that `coded` lists, unless None."""
        at = (self.starts[:, lanes] + step).ravel()
        if coded is not None:
            at, pixel = at[coded], pixel[:, coded]
        for channel, values in zip(CODING_ORDER if self.colors == 3 else (0,), pixel, strict=False):
            self.flat[at, channel] = values


def gathered(pixels: Pixels, box: Box, extent: tuple[int, int]) -> tuple[Array, NDArray[np.bool_]]:
    """A tile (3, 1, *extent) in coding order, continued to the right, and which pixels are its own (1, *extent)."""
    tile = np.zeros((3, 1, *extent), np.float32)
    valid = np.zeros((1, *extent), bool)
    own = pixels[box.y : box.y + box.height, box.x : box.x + box.width]
    for color, channel in enumerate(CODING_ORDER if pixels.shape[2] == 3 else (0, 0, 0)):
        tile[color, 0, : box.height, : box.width] = own[..., channel]
    tile[..., box.width :] = tile[..., box.width - 1 : box.width]
    valid[0, : box.height, : box.width] = True
    return tile, valid


def encode(
    pixels: Pixels, model: Model, *, turn: int = 0, patient: bool = False, progress: Progress | None = None
) -> Encoded:
    """Code `pixels` (height, width, 1 or 3) uint8 without loss.

    `turn`: the symmetry that they have been turned by (`gencodec.codec.symmetry`), for the decoder to turn them back.
    `patient`: decoding may take longer; small networks, which are for speed, stay fast.
    """
    height, width, _ = pixels.shape
    codec = PhotoCodec(model)
    wide = codec.network.wide
    tiling = Tiling.of(width, height, patient=patient and wide, low=not wide)
    groups, whole = list(tiling.groups()), whole_steps(tiling, codec.network.geometry.lag)
    streams, bits = [], 0.0
    with ThreadPoolExecutor(model.threads) as pool:

        def begun(group: Box) -> tuple[Schedule, Intervals, list[Future[None]]]:
            schedule = Schedule.of(list(tiling.tiles(group)), codec.network.geometry.lag)
            extent = (pixels.shape[2], len(schedule.tiles), schedule.height, schedule.width)
            found = np.zeros(extent, codec.coder.PACKED)
            jobs = [
                pool.submit(codec.put_intervals, pixels, tile, found[:, i]) for i, tile in enumerate(schedule.tiles)
            ]
            return schedule, found, jobs

        def pushes() -> Iterator[Future[tuple[bytes, float]]]:
            for schedule, found, jobs in one_ahead(map(begun, groups)):
                for job in jobs:
                    job.result()
                yield pool.submit(codec.push, schedule, found, whole)

        try:
            # while a group is pushed, tiles of those after it are computed
            for push in one_ahead(pushes()):
                stream, estimate = push.result()
                streams.append(stream)
                bits += estimate
                if progress:
                    progress(len(streams) / len(groups))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    payload = bytearray(packed(tiling, streams))
    payload[TURN_AT] |= turn << TURN_SHIFT
    payload[WHOLE_AT] |= WHOLE if whole else 0
    return Encoded(bytes(payload), bits)


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, each taken from its source one turn before it is given."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def decode(
    payload: bytes,
    shape: tuple[int, int, int],
    model: Model,
    *,
    region: tuple[int, int, int, int] | None = None,
    progress: Progress | None = None,
) -> Pixels:
    """The pixels that `encode` coded: all of `shape` (height, width, 1 or 3), or those of `region`.

    `region` is (x, y, width, height); only groups of tiles that overlap it are decoded. Raises `InvalidFile`
    for damaged payloads.
    """
    turn, in_steps, payload = unmarked(payload)
    all_of_it = Box(0, 0, shape[1], shape[0])
    extent = symmetry.turned_box(all_of_it, turn, shape[1], shape[0])
    part = symmetry.turned_box(Box(*region), turn, shape[1], shape[0]) if region else None
    tiling, streams = parsed(payload, extent.width, extent.height)
    codec = PhotoCodec(model, alone=len(streams) == 1)
    whole = whole_steps(tiling, codec.network.geometry.lag) if in_steps else 0
    if in_steps and not whole:
        raise InvalidFile("the coded pixels are damaged: their tiles are too small for whole steps")
    pixels = decoded(
        partial(codec.decode_groups, whole=whole),
        tiling,
        streams,
        (extent.height, extent.width, shape[2]),
        model.threads,
        (part.x, part.y, part.width, part.height) if part else None,
        progress,
    )
    return cast(Pixels, symmetry.turned_back(pixels, turn))


def whole_steps(tiling: Tiling, lag: int) -> int:
    """How many steps are a block each: all but the last ones of the largest tiles."""
    return max(0, Schedule((), tiling.tile_height, tiling.tile_width, lag).steps - TAIL)


def unmarked(payload: bytes) -> tuple[int, bool, bytes]:
    """The symmetry that a picture was turned by, whether steps are blocks, and the payload without these marks.

    Raises `InvalidFile`.
    """
    if len(payload) < HEADER.size:
        raise InvalidFile("the coded pixels are truncated")
    plain = bytearray(payload)
    plain[TURN_AT] &= (1 << TURN_SHIFT) - 1
    plain[WHOLE_AT] &= ~WHOLE
    return payload[TURN_AT] >> TURN_SHIFT, bool(payload[WHOLE_AT] & WHOLE), bytes(plain)

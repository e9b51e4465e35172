"""The photo codec: pixels <-> bytes, by the pixel network's distributions along a wavefront.

Encoder and decoder mirror each other. The decoder walks the steps forward; at each it pops green, red and blue
of all pixels on the diagonals, every color's distribution depending on what was popped before. The encoder knows
all pixels: it computes all distributions in large batches, then walks the steps backward and pushes blue, red
and green. The byte layout is in docs/format.md, chapter "Neural color section".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gencodec.codec import features
from gencodec.codec.coder import IntervalCoder
from gencodec.codec.network import BLUE, RED, Array, Network
from gencodec.codec.tables import Tables
from gencodec.codec.tiling import Box, Tiling
from gencodec.codec.wavefront import Schedule, Wavefront
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

Pixels = NDArray[np.uint8]
Index = NDArray[np.int64]
Progress = Callable[[float], None]

HEADER = struct.Struct("<HHBB")
LENGTH = struct.Struct("<I")
CODING_ORDER = (1, 0, 2)
"""Channel numbers of green, red, blue."""
BATCH = 1 << 15
"""Pixels that the encoder puts through the network at a time, whole tiles at least."""


@dataclass(frozen=True)
class Encoded:
    """A coded picture."""

    payload: bytes
    estimate_bits: float
    """Code length by the exact model's own probabilities."""


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


class PhotoCodec:
    """The two directions, for one model."""

    def __init__(self, model: Model):
        self.network = Network(model)
        self.tables = Tables(model.constant("shapes.cdf"), model.constant("shapes.rate"))  # type: ignore[arg-type]

    # encoding

    def encode_group(self, pixels: Pixels, tiles: list[Box]) -> tuple[bytes, float]:
        """The stream of one group of tiles of `pixels` (height, width, 1 or 3), and its estimated bits."""
        schedule = Schedule.of(tiles, self.network.geometry.lag)
        colors = pixels.shape[2]
        order, begins = schedule.order
        intervals = self.intervals(pixels, schedule, order)
        coder = IntervalCoder()
        for step in reversed(range(schedule.steps)):
            part = slice(begins[step], begins[step + 1])
            if part.start == part.stop:
                continue
            for color in reversed(range(colors)):
                coder.push(intervals[color][0][part], intervals[color][1][part])
        estimate = sum(float(16 * len(order) - np.log2(length).sum()) for _, length in intervals)
        return coder.to_bytes(), estimate

    def intervals(self, pixels: Pixels, schedule: Schedule, order: Index) -> list[tuple[Index, Index]]:
        """Beginnings and lengths of all symbols' intervals in coding order, a pair for each color."""
        colors = pixels.shape[2]
        area = schedule.height * schedule.width
        count = max(1, BATCH // area)
        found: list[list[Array]] = [[] for _ in range(colors)]
        levels: list[list[Array]] = [[] for _ in range(colors)]
        for first in range(0, len(schedule.tiles), count):
            tiles, valid = gathered(pixels, schedule, slice(first, first + count))
            for color, rows in enumerate(self.distributions(tiles, valid, colors)):
                found[color].append(rows)
                levels[color].append(tiles[color].reshape(-1))
        result = []
        for color in range(colors):
            rows = np.concatenate(found[color], 1)[:, order]
            level = np.concatenate(levels[color])[order].astype(np.int64)
            d = Distribution.of(rows)
            result.append(self.tables.interval(level, d.mean, d.scale, d.shape))
        return result

    def distributions(self, tiles: Array, valid: NDArray[np.bool_], colors: int) -> Iterator[Array]:
        """Each color's parameters (3, positions) for whole tiles (3, tiles, height, width)."""
        geometry = self.network.geometry
        context = features.context(tiles, geometry).reshape(geometry.context_rows, -1)
        pixel = tiles.reshape(3, -1)
        traces = self.network.trace(context, pixel).reshape(-1, *valid.shape) * valid
        near = features.near(traces, geometry).reshape(geometry.near_rows, -1)
        sums, counts = features.pools(traces, valid, geometry)
        hidden = self.network.trunk(context, near, sums.reshape(len(sums), -1), counts.reshape(2, -1))
        yield hidden.green
        innovations = np.empty((2, pixel.shape[1]), np.float32)
        innovations[0] = 16 * pixel[0] - hidden.green[0]
        for stage in range(RED, colors):
            rows = self.network.color(stage, hidden, innovations[:stage])
            yield rows
            if stage < BLUE:
                innovations[stage] = 16 * pixel[stage] - rows[0]

    # decoding

    def decode_group(
        self, stream: bytes, tiles: list[Box], pixels: Pixels, origin: Box, report: Progress
    ) -> None:
        """Decode one group into `pixels` (height, width, 1 or 3), whose first pixel is that of `origin`.

        Raises `InvalidFile` when the stream does not end where the pixels do.
        """
        schedule = Schedule.of(tiles, self.network.geometry.lag)
        wavefront = Wavefront(schedule, self.network.geometry)
        coder = IntervalCoder.from_bytes(stream)
        place = Placement(schedule, pixels, origin)
        for step in range(schedule.steps):
            lanes = schedule.lanes(step)
            wavefront.begin(step)
            if lanes.stop > lanes.start:
                self.decode_step(coder, wavefront, step, lanes, place)
            else:
                wavefront.put(
                    step,
                    lanes,
                    np.empty((3, 0), np.float32),
                    np.empty((wavefront.geometry.traces, 0), np.float32),
                )
            if step % 32 == 0:
                report(step / schedule.steps)
        if not coder.empty:
            raise InvalidFile("the coded pixels are damaged: their stream does not end with the last pixel")

    def decode_step(
        self, coder: IntervalCoder, wavefront: Wavefront, step: int, lanes: slice, place: Placement
    ) -> None:
        """Decode the pixels of one step."""
        context = wavefront.context(step, lanes)
        hidden = self.network.trunk(context, wavefront.near(step, lanes), *wavefront.pools(step, lanes))
        schedule = wavefront.schedule
        coded = None if schedule.uniform else np.flatnonzero(schedule.valid(step, lanes))
        pixel = np.empty((3, context.shape[1]), np.float32)
        innovations = np.empty((2, context.shape[1]), np.float32)
        rows = hidden.green
        for stage in range(place.colors):
            if stage:
                rows = self.network.color(stage, hidden, innovations[:stage])
            pixel[stage] = self.pop(coder, rows, coded)
            if stage < BLUE:
                innovations[stage] = 16 * pixel[stage] - rows[0]
        if place.colors == 1:
            pixel[1:] = pixel[0]
        place.put(step, lanes, pixel, coded)
        wavefront.put(step, lanes, pixel, self.network.trace(context, pixel))

    def pop(self, coder: IntervalCoder, rows: Array, coded: Index | None) -> Index:
        """Gray levels (n,) with distributions `rows` (3, n); zero where `coded` does not list the position."""
        d = Distribution.of(rows if coded is None else rows[:, coded])
        quantile = coder.pop_quantiles(len(d.mean))
        level, left, length = self.tables.find(quantile, d.mean, d.scale, d.shape)
        coder.restore(quantile - left, length)
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


def gathered(pixels: Pixels, schedule: Schedule, part: slice) -> tuple[Array, NDArray[np.bool_]]:
    """Tiles (3, tiles, height, width) in coding order, continued to the right, and which pixels are theirs."""
    boxes = schedule.tiles[part]
    tiles = np.zeros((3, len(boxes), schedule.height, schedule.width), np.float32)
    valid = np.zeros(tiles.shape[1:], bool)
    channels = CODING_ORDER if pixels.shape[2] == 3 else (0, 0, 0)
    for i, box in enumerate(boxes):
        own = pixels[box.y : box.y + box.height, box.x : box.x + box.width]
        for color, channel in enumerate(channels):
            tiles[color, i, : box.height, : box.width] = own[..., channel]
        tiles[:, i, :, box.width :] = tiles[:, i, :, box.width - 1 : box.width]
        valid[i, : box.height, : box.width] = True
    return tiles, valid


def encode(pixels: Pixels, model: Model, *, progress: Progress | None = None) -> Encoded:
    """Code `pixels` (height, width, 1 or 3) uint8 without loss."""
    height, width, _ = pixels.shape
    codec, tiling = PhotoCodec(model), Tiling.of(width, height)
    groups = list(tiling.groups())
    streams, bits = [], 0.0
    for i, group in enumerate(groups):
        stream, estimate = codec.encode_group(pixels, list(tiling.tiles(group)))
        streams.append(stream)
        bits += estimate
        if progress:
            progress((i + 1) / len(groups))
    header = HEADER.pack(tiling.tile_width, tiling.tile_height, tiling.group_columns, tiling.group_rows)
    # the last stream ends where the section does
    lengths = b"".join(LENGTH.pack(len(stream)) for stream in streams[:-1])
    return Encoded(header + lengths + b"".join(streams), bits)


def decode(
    payload: bytes,
    shape: tuple[int, int, int],
    model: Model,
    *,
    region: tuple[int, int, int, int] | None = None,
    progress: Progress | None = None,
) -> Pixels:
    """The pixels that `encode` coded: all of `shape` (height, width, 1 or 3), or those of `region` (x, y, width, height).

    Only groups of tiles that overlap the region are decoded. Raises `InvalidFile` for damaged payloads.
    """
    height, width, colors = shape
    tiling, streams = parsed(payload, width, height)
    wanted = Box(*region) if region else Box(0, 0, width, height)
    codec = PhotoCodec(model)
    chosen = [
        (group, stream)
        for group, stream in zip(tiling.groups(), streams, strict=True)
        if group.overlaps(wanted)
    ]
    area = _hull([group for group, _ in chosen])
    pixels = np.empty((area.height, area.width, colors), np.uint8)
    for i, (group, stream) in enumerate(chosen):

        def report(share: float, done: int = i) -> None:
            if progress:
                progress((done + share) / len(chosen))

        codec.decode_group(stream, list(tiling.tiles(group)), pixels, area, report)
    if progress:
        progress(1.0)
    top, left = wanted.y - area.y, wanted.x - area.x
    return np.ascontiguousarray(pixels[top : top + wanted.height, left : left + wanted.width])


def parsed(payload: bytes, width: int, height: int) -> tuple[Tiling, list[bytes]]:
    """The tiling and the groups' streams of a payload. Raises `InvalidFile`."""
    if len(payload) < HEADER.size:
        raise InvalidFile("the coded pixels are truncated")
    tiling = Tiling(width, height, *HEADER.unpack_from(payload))
    across = -(-width // (tiling.tile_width * tiling.group_columns))
    count = across * -(-height // (tiling.tile_height * tiling.group_rows))
    at = HEADER.size + LENGTH.size * (count - 1)
    if at > len(payload):
        raise InvalidFile("the coded pixels are truncated")
    lengths = np.frombuffer(payload, "<u4", count - 1, HEADER.size).tolist()
    ends = np.cumsum([at, *lengths]).tolist()
    if ends[-1] > len(payload):
        raise InvalidFile("the coded pixels are truncated")
    bounds = [*ends, len(payload)]
    return tiling, [payload[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _hull(boxes: list[Box]) -> Box:
    x, y = min(b.x for b in boxes), min(b.y for b in boxes)
    return Box(x, y, max(b.x + b.width for b in boxes) - x, max(b.y + b.height for b in boxes) - y)

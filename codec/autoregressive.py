"""The codec of PixelCNN and PixelRNN: pixels <-> bytes, in raster order, all tiles of a group in lockstep.

Encoder and decoder mirror each other, as those of `photo`. The decoder pops green, red and blue of one pixel of every
tile at a time; the encoder finds all distributions first, then pushes the pixels from the last to the first. A sample
of the model is what the decoder makes of random numbers. The byte layout is in docs/format-autoregressive.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.causal import Known, Network
from gencodec.codec.coder import IntervalCoder, RandomCoder
from gencodec.codec.groups import (
    CODING_ORDER,
    LOCKSTEP,
    Encoded,
    Group,
    GroupCoders,
    Pixels,
    Progress,
    Tracker,
    decoded,
    packed,
    parsed,
    run_all,
)
from gencodec.codec.network import Array, Index
from gencodec.codec.photo import Distribution
from gencodec.codec.rows import Row
from gencodec.codec.tables import Tables, scale_shift
from gencodec.codec.tiling import Box, Tiling
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

GROUP = 8
"""Greatest number of tiles, across and down, that share a stream."""


@dataclass(frozen=True)
class Lanes:
    """Tiles that are coded in lockstep, (height, width) of each; `width` is the columns that all of them are given."""

    sizes: Index
    width: int

    @classmethod
    def of(cls, tiles: list[Box], tiling: Tiling) -> Lanes:
        """Those of a picture's tiles."""
        return cls(np.array([[tile.height, tile.width] for tile in tiles]), tiling.tile_width)

    @cached_property
    def height(self) -> int:
        """The rows of the highest."""
        return int(self.sizes[:, 0].max())

    @cached_property
    def within(self) -> tuple[int, int]:
        """The rows and columns that all tiles have."""
        height, width = self.sizes.min(0).tolist()
        return height, width

    def coded(self, y: int, x: int) -> Index | None:
        """The tiles that have a pixel (y, x); None: all."""
        if y < self.within[0] and x < self.within[1]:
            return None
        return np.flatnonzero((self.sizes > (y, x)).all(1))


class AutoregressiveCodec:
    """The two directions, for one model."""

    def __init__(self, model: Model, temperature: float = 1.0):
        """At a `temperature` other than 1 the distributions are that much wider, to the next of the scales."""
        self.network = Network.of(model)
        self.tables = Tables(model.constant("shapes.cdf"), model.constant("shapes.rate"))  # type: ignore[arg-type]
        self.wider = scale_shift(temperature)

    def distribution(self, rows: Array) -> Distribution:
        """From a network's output (3, n)."""
        d = Distribution.of(rows)
        if not self.wider:
            return d
        return Distribution(d.mean, np.clip(d.scale + self.wider, 0, len(self.tables.rate) - 1), d.shape)

    # encoding

    def intervals(self, tiles: Array, colors: int) -> NDArray[np.int32]:
        """Beginnings and lengths of all symbols of `tiles` (height, width, 3, n): (2, colors, height, width, n)."""
        height, width, _, count = tiles.shape
        result = np.empty((2, colors, height, width, count), np.int32)
        for first in range(0, count, self.network.chunk):
            lanes = slice(first, first + self.network.chunk)
            for rows, known in self.network.known_rows(tiles[..., lanes]):
                part = tiles[rows, ..., lanes].transpose(2, 1, 0, 3)  # as the network's positions: columns, rows, tiles
                places = result[:, :, rows, :, lanes].transpose(0, 1, 3, 2, 4)
                pixel = part.reshape(3, -1)
                for color, d in enumerate(self.distributions(known, pixel, colors)):
                    found = self.tables.interval(pixel[color].astype(np.int64), d.mean, d.scale, d.shape)
                    places[:, color] = np.stack(found).reshape(2, *part.shape[1:])
        return result

    def distributions(self, known: Known, pixel: Array, colors: int) -> Iterator[Distribution]:
        """Each color's distributions for known pixels (3, n)."""
        innovations = np.empty((2, pixel.shape[1]), np.float32)
        rows = known.green
        for color in range(colors):
            if color:
                rows = self.network.color(color, known, innovations[:color])
            yield self.distribution(rows)
            if color < 2:
                innovations[color] = 16 * pixel[color] - rows[0]

    def encode_group(self, pixels: Pixels, tiles: list[Box], tiling: Tiling) -> tuple[bytes, float]:
        """The stream of a group of tiles, and its length in bits by the model's own probabilities."""
        lanes = Lanes.of(tiles, tiling)
        left, length = self.intervals(gathered(pixels, tiles, lanes), pixels.shape[2])
        coder = IntervalCoder()
        for y in reversed(range(lanes.height)):
            for x in reversed(range(lanes.width)):
                coded = lanes.coded(y, x)
                for color in reversed(range(len(left))):
                    symbols = (left[color, y, x], length[color, y, x])
                    coder.push(*(a.astype(np.int64) if coded is None else a[coded].astype(np.int64) for a in symbols))
        return coder.to_bytes(), coder.bits

    # decoding

    def decode_rows(self, coders: GroupCoders, lanes: Lanes, colors: int) -> Iterator[Array]:
        """The rows of tiles, from the top: (width, 3, tiles) gray levels in coding order."""
        count = len(lanes.sizes)
        walk = self.network.walk(lanes.width, count)
        row = Row.first(self.network.geometry, self.network.energy, lanes.width, count)
        for y in range(lanes.height):
            if y:
                row = row.below()
            walk.begin()
            for x in range(lanes.width):
                surroundings, base = row.surroundings(x)
                known = walk.pixel(x, surroundings, base)
                coded = lanes.coded(y, x)
                pixel = row.west(x).copy()
                coders.begin(1, coded)
                if coded is None or len(coded):
                    self.pop_pixel(coders, known, pixel, coded, colors)
                row.put(x, pixel, base)
            walk.end(row)
            yield row.own

    def pop_pixel(self, coders: GroupCoders, known: Known, pixel: Array, coded: Index | None, colors: int) -> None:
        """Decode a pixel of each tile into `pixel` (3, tiles), of those that `coded` lists unless it is None."""
        innovations = np.empty((2, pixel.shape[1]), np.float32)
        rows = known.green
        for color in range(colors):
            if color:
                rows = self.network.color(color, known, innovations[:color])
            if coded is None:
                pixel[color] = self.pop(coders, rows)
            else:
                pixel[color, coded] = self.pop(coders, rows[:, coded])
            if color < 2:
                innovations[color] = 16 * pixel[color] - rows[0]
        if colors == 1:
            pixel[1:] = pixel[0]

    def pop(self, coders: GroupCoders, rows: Array) -> Index:
        """Gray levels (n,) with distributions `rows` (3, n)."""
        d = self.distribution(rows)
        quantile = coders.pop_quantiles()
        level, left, length = self.tables.find(quantile, d.mean, d.scale, d.shape)
        coders.give_back(quantile - left, length)
        return level

    def decode_groups(self, tiling: Tiling, groups: list[Group], pixels: Pixels, origin: Box, report: Progress) -> None:
        """Decode groups in lockstep into `pixels` (height, width, 1 or 3), whose first pixel is that of `origin`.

        Raises `InvalidFile` when a stream does not end where its pixels do.
        """
        tiles = [tile for group in groups for tile in group.tiles]
        coders, lanes, colors = GroupCoders(groups), Lanes.of(tiles, tiling), pixels.shape[2]
        channels = CODING_ORDER if colors == 3 else (0,)
        for y, row in enumerate(self.decode_rows(coders, lanes, colors)):
            for i, tile in enumerate(tiles):
                if y < tile.height:
                    left = tile.x - origin.x
                    place = pixels[tile.y - origin.y + y, left : left + tile.width]
                    place[:, channels] = row[: tile.width, :colors, i]
            report(y / lanes.height)
        coders.finish()


class SampleCoders(GroupCoders):
    """In the place of a file's streams, random numbers for so many tiles."""

    def __init__(self, coder: RandomCoder, tiles: int):
        self.coders = [coder]  # type: ignore[assignment]
        self.tiles, self.ends = np.array([0, tiles]), []


def gathered(pixels: Pixels, tiles: list[Box], lanes: Lanes) -> Array:
    """Tiles (height, width, 3, n) in coding order, each row continued by its last pixel, and zeros beneath."""
    result = np.zeros((lanes.height, lanes.width, 3, len(tiles)), np.float32)
    channels = CODING_ORDER if pixels.shape[2] == 3 else (0, 0, 0)
    for i, tile in enumerate(tiles):
        own = pixels[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width, channels]
        result[: tile.height, : tile.width, :, i] = own
        result[: tile.height, tile.width :, :, i] = own[:, -1:]
    return result


def tiling_of(width: int, height: int, side: int) -> Tiling:
    """Tiles of at most `side` pixels, and groups, as even as can be; sides are even, for chroma grids to keep phase."""
    most = max(1, side - side % 2)

    def divided(length: int) -> tuple[int, int]:
        tiles = 1 if length <= side else -(-length // most)
        groups = -(-tiles // GROUP)
        return min(2 * -(-length // (2 * tiles)), length, side), -(-tiles // groups)

    (tile_width, columns), (tile_height, rows) = divided(width), divided(height)
    return Tiling(width, height, tile_width, tile_height, columns, rows)


def check(tiling: Tiling, side: int) -> None:
    """Refuse tiles that no encoder makes for a model of tiles of `side` pixels. Raises `InvalidFile`."""
    for tile, length in ((tiling.tile_width, tiling.width), (tiling.tile_height, tiling.height)):
        if tile > side or 2 * tile < min(side, length):
            raise InvalidFile(f"the coded pixels are damaged: tiles of {tiling.tile_width} x {tiling.tile_height}")


def encode(pixels: Pixels, model: Model, *, progress: Progress | None = None) -> Encoded:
    """Code `pixels` (height, width, 1 or 3) uint8 without loss."""
    codec = AutoregressiveCodec(model)
    height, width, _ = pixels.shape
    tiling = tiling_of(width, height, codec.network.tile)
    groups = list(tiling.groups())
    tracker = Tracker(len(groups), progress)

    def encode_group(index: int) -> tuple[bytes, float]:
        result = codec.encode_group(pixels, list(tiling.tiles(groups[index])), tiling)
        tracker.report(index, 1.0)
        return result

    coded = run_all(encode_group, len(groups), model.threads, tracker)
    return Encoded(packed(tiling, [stream for stream, _ in coded]), sum(bits for _, bits in coded))


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
    codec = AutoregressiveCodec(model)
    tiling, streams = parsed(payload, shape[1], shape[0])
    check(tiling, codec.network.tile)
    decode_groups = partial(codec.decode_groups, tiling)
    return decoded(decode_groups, tiling, streams, shape, model.threads, region, progress)


def sample(model: Model, count: int, seed: int, temperature: float = 1.0) -> NDArray[np.uint8]:
    """What the decoder makes of random numbers: `count` tiles (count, tile, tile, 3), red, green, blue."""
    codec, coder = AutoregressiveCodec(model, temperature), RandomCoder(seed)
    side = codec.network.tile
    result = np.empty((count, side, side, 3), np.uint8)
    for first in range(0, count, LOCKSTEP):
        part = result[first : first + LOCKSTEP]
        lanes = Lanes(np.full((len(part), 2), side), side)
        for y, row in enumerate(codec.decode_rows(SampleCoders(coder, len(part)), lanes, 3)):
            part[:, y][..., CODING_ORDER] = row.transpose(2, 0, 1)
    return result

"""Tiles <-> bytes for models that code by bits-back: chains of groups of tiles on one stack each.

Pushing a group of tiles draws random choices from the stack first: latents from their posterior (Townsend et al.
2019, arXiv 1901.04866), or the fractions of dequantised gray levels (Ho et al. 2019, Flow++, arXiv 1902.00275, section
3.1; Hoogeboom et al. 2019, IDF). The choices of the first group are the bytes of a few tiles that an ordinary coder has
coded, so that no bits are spent on them. The byte layout is in docs/format.md, chapter "Chains of tiles".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gencodec.codec import ordinary
from gencodec.codec.codecs import LARGEST_TILE, pixels_of, planes_of, tile_codec
from gencodec.codec.coder import IntervalCoder, Stack
from gencodec.codec.container import Coder
from gencodec.codec.groups import CODING_ORDER, Encoded, Progress, Tracker, run_all
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

Pixels = NDArray[np.uint8]

HEADER = struct.Struct("<HH")
CHAIN = struct.Struct("<IHBIH")
CHAIN_TILES = 192
"""Tiles of a chain, about: chains are independent of each other and run at once."""
MOST_CHAINS = (1 << 16) - 1
GROUP = 32
"""Most tiles that go through the networks at a time."""
RESERVE = 1.1
"""The stack holds so many times what a group is expected to draw."""


class TileCodec(Protocol):
    """What a family's codec gives: tiles to a stack and back."""

    tile: int
    """Side of the square tiles."""
    demand: float
    """Bits that pushing a tile draws from the stack before it gives any, about."""

    def push(self, stack: Stack, tiles: Pixels) -> None:
        """Code tiles (n, 3, tile, tile) of green, red, blue."""
        ...

    def pop(self, stack: Stack, count: int) -> Pixels:
        """The `count` tiles that `push` coded at once."""
        ...

    def latents(self, tiles: Pixels) -> list[NDArray[np.int64]]:
        """What the model makes of tiles when no choice is random; the first axis is that of the tiles."""
        ...

    def decoded(self, latents: list[NDArray[np.int64]]) -> Pixels:
        """The likeliest tiles of such latents, also of means between those of several tiles."""
        ...


@dataclass(frozen=True)
class Chain:
    """Tiles that share a stack: `direct` ones coded by an ordinary `coder` in `seed` bytes, then groups."""

    direct: int
    coder: int
    seed: int
    groups: tuple[int, ...]
    stream: bytes

    def pack(self) -> bytes:
        """The chain's entry in the table of chains."""
        entry = CHAIN.pack(len(self.stream), self.direct, self.coder, self.seed, len(self.groups))
        return entry + bytes(self.groups)


@dataclass(frozen=True)
class Grid:
    """A picture's tiles, row by row; those at the right and lower edges go on with the picture's last pixels."""

    width: int
    height: int
    tile: int

    @property
    def columns(self) -> int:
        """Tiles across."""
        return -(-self.width // self.tile)

    @property
    def count(self) -> int:
        """All tiles."""
        return self.columns * -(-self.height // self.tile)

    def chains(self, count: int) -> list[range]:
        """The tiles of each of `count` chains."""
        ends = [i * self.count // count for i in range(count + 1)]
        return [range(a, b) for a, b in pairwise(ends)]

    def place(self, index: int) -> tuple[slice, slice]:
        """Rows and columns of a tile in the picture."""
        y, x = (self.tile * i for i in divmod(index, self.columns))
        return slice(y, min(y + self.tile, self.height)), slice(x, min(x + self.tile, self.width))

    def cut(self, pixels: Pixels, tiles: range) -> Pixels:
        """Tiles (n, 3, tile, tile) in coding order of a picture (height, width, 1 or 3)."""
        result = np.empty((len(tiles), self.tile, self.tile, pixels.shape[2]), np.uint8)
        for target, index in zip(result, tiles, strict=True):
            own = pixels[self.place(index)]
            rest = [(0, self.tile - own.shape[0]), (0, self.tile - own.shape[1]), (0, 0)]
            target[...] = np.pad(own, rest, mode="edge")
        order = CODING_ORDER if pixels.shape[2] == 3 else (0, 0, 0)
        return np.ascontiguousarray(result.transpose(0, 3, 1, 2)[:, order])

    def paste(self, pixels: Pixels, tiles: range, content: Pixels) -> None:
        """Put tiles where they belong in a picture (height, width, 1 or 3)."""
        for index, tile in zip(tiles, content, strict=True):
            rows, columns = self.place(index)
            own = tile[:, : rows.stop - rows.start, : columns.stop - columns.start]
            if pixels.shape[2] == 1:
                pixels[rows, columns, 0] = own[0]
            else:
                pixels[rows, columns, CODING_ORDER] = own.transpose(1, 2, 0)


def encode(pixels: Pixels, model: Model, *, progress: Progress | None = None) -> Encoded:
    """Code `pixels` (height, width, 1 or 3) uint8 without loss."""
    codec = tile_codec(model)
    grid = Grid(pixels.shape[1], pixels.shape[0], codec.tile)
    parts = grid.chains(min(MOST_CHAINS, max(1, round(grid.count / CHAIN_TILES))))
    tracker = Tracker(len(parts), progress)
    shared = codec if len(parts) == 1 else tile_codec(model.serial)

    def work(index: int) -> tuple[Chain, float]:
        return encode_chain(pixels, grid, parts[index], shared, lambda share: tracker.report(index, share))

    coded = run_all(work, len(parts), model.threads, tracker)
    chains = [chain for chain, _ in coded]
    header = HEADER.pack(grid.tile, len(chains)) + b"".join(chain.pack() for chain in chains)
    return Encoded(header + b"".join(chain.stream for chain in chains), sum(bits for _, bits in coded))


def encode_chain(pixels: Pixels, grid: Grid, tiles: range, codec: TileCodec, report: Progress) -> tuple[Chain, float]:
    """One chain, and the bits that the model itself expects its tiles to take."""
    direct, seed = seeded(pixels, grid, tiles, codec.demand)
    held = 8 * len(seed.payload)
    stack = IntervalCoder(words_of(seed.payload))
    groups, at = [], direct
    while at < len(tiles):
        size = int(min(GROUP, len(tiles) - at, max(1, (held + stack.bits) / (RESERVE * codec.demand))))
        codec.push(stack, grid.cut(pixels, tiles[at : at + size]))
        groups.append(size)
        at += size
        report(at / len(tiles))
    coded = len(tiles) - direct
    estimate = stack.bits * len(tiles) / coded if coded else held
    return Chain(direct, seed.coder, len(seed.payload), tuple(groups), stack.to_bytes()), estimate


def seeded(pixels: Pixels, grid: Grid, tiles: range, demand: float) -> tuple[int, ordinary.Coded]:
    """How many tiles are coded directly, and how: about as few as hold what the first group draws."""
    count, need = 1, RESERVE * demand
    while True:
        strip = pixels_of(grid.cut(pixels, tiles[:count])).reshape(-1, grid.tile, 3)
        coded = ordinary.encode(np.ascontiguousarray(strip[..., : pixels.shape[2]]))
        held = 8 * len(coded.payload)
        if held > need or count == len(tiles):
            return count, coded
        # one more at a time would code the whole strip anew for each
        count = min(len(tiles), max(count + 1, min(2 * count, math.ceil(count * need / held))))


def decode(
    payload: bytes,
    shape: tuple[int, int, int],
    model: Model,
    *,
    region: tuple[int, int, int, int] | None = None,
    progress: Progress | None = None,
) -> Pixels:
    """The pixels that `encode` coded: all of `shape` (height, width, 1 or 3), or those of `region`.

    `region` is (x, y, width, height); chains without a part of it are left out. Raises `InvalidFile` for damaged
    payloads.
    """
    codec = tile_codec(model)
    grid, chains = parsed(payload, shape[1], shape[0])
    if grid.tile != codec.tile:
        raise InvalidFile(f"the coded pixels are damaged: tiles of {grid.tile} pixels, not of the model's {codec.tile}")
    x, y, width, height = region or (0, 0, shape[1], shape[0])
    rows = range(y // grid.tile * grid.columns, (-(-(y + height) // grid.tile)) * grid.columns)
    parts = grid.chains(len(chains))
    wanted = [i for i, tiles in enumerate(parts) if tiles.start < rows.stop and rows.start < tiles.stop]
    pixels = np.zeros(shape, np.uint8)
    tracker = Tracker(len(wanted), progress)
    shared = codec if len(wanted) == 1 else tile_codec(model.serial)

    def work(index: int) -> None:
        chain, tiles = chains[wanted[index]], parts[wanted[index]]
        decode_chain(chain, pixels, grid, tiles, shared, lambda share: tracker.report(index, share))

    run_all(work, len(wanted), model.threads, tracker)
    return np.ascontiguousarray(pixels[y : y + height, x : x + width])


def decode_chain(chain: Chain, pixels: Pixels, grid: Grid, tiles: range, codec: TileCodec, report: Progress) -> None:
    """Decode a chain into its places in `pixels`. Raises `InvalidFile` when its seed is not what remains."""
    stack = IntervalCoder.from_bytes(chain.stream)
    end = len(tiles)
    for size in reversed(chain.groups):
        grid.paste(pixels, tiles[end - size : end], codec.pop(stack, size))
        end -= size
        report(1 - end / len(tiles))
    seed = seed_of(stack.to_bytes(), chain.seed)
    colors = pixels.shape[2]
    strip = ordinary.decode(Coder(chain.coder), seed, ordinary.Shape(end * grid.tile, grid.tile, colors, 1))
    content = strip.astype(np.uint8).reshape(end, grid.tile, grid.tile, colors)
    grid.paste(pixels, tiles[:end], planes_of(content) if colors == 3 else content.transpose(0, 3, 1, 2))


def initial_bits(payload: bytes, width: int, height: int) -> int:
    """Bits of the tiles that are coded directly, from which the first groups draw. Raises `InvalidFile`."""
    return 8 * sum(chain.seed for chain in parsed(payload, width, height)[1])


def words_of(seed: bytes) -> NDArray[np.uint32]:
    """A seed as words of a stack: filled up with zeros and a one, as a stack's last word is not zero."""
    filled = seed + bytes(-(len(seed) + 1) % 4) + b"\1"
    return np.frombuffer(filled, "<u4").astype(np.uint32)


def seed_of(data: bytes, length: int) -> bytes:
    """The seed that is left of a stack. Raises `InvalidFile` if it is none of `length` bytes."""
    if len(data) != length + -(length + 1) % 4 + 1 or data[length:].strip(b"\0") != b"\1":
        raise InvalidFile("the coded pixels are damaged: their stack does not end where it began")
    return data[:length]


def parsed(payload: bytes, width: int, height: int) -> tuple[Grid, list[Chain]]:
    """The tiles and chains of a payload. Raises `InvalidFile`."""
    try:
        return _parsed(payload, width, height)
    except struct.error as error:
        raise InvalidFile("the coded pixels are truncated") from error


def _parsed(payload: bytes, width: int, height: int) -> tuple[Grid, list[Chain]]:
    tile, count = HEADER.unpack_from(payload)
    grid = Grid(width, height, tile) if 1 <= tile <= LARGEST_TILE else None
    if grid is None or not 1 <= count <= grid.count:
        raise InvalidFile(f"the coded pixels are damaged: {count} chains of tiles of {tile} pixels")
    at, entries = HEADER.size, []
    for tiles in grid.chains(count):
        length, direct, coder, seed, groups = CHAIN.unpack_from(payload, at)
        sizes = payload[at + CHAIN.size : at + CHAIN.size + groups]
        at += CHAIN.size + groups
        if direct < 1 or 0 in sizes or direct + sum(sizes) != len(tiles) or coder not in list(Coder):
            raise InvalidFile("the coded pixels are damaged: a chain does not hold the tiles that it must")
        entries.append((length, direct, coder, seed, tuple(sizes)))
    if len(payload) != at + sum(length for length, *_ in entries):
        raise InvalidFile("the coded pixels are truncated")
    return grid, list(_chains(entries, payload, at))


def _chains(entries: list[tuple[int, int, int, int, tuple[int, ...]]], payload: bytes, at: int) -> Iterator[Chain]:
    for length, direct, coder, seed, groups in entries:
        yield Chain(direct, coder, seed, groups, payload[at : at + length])
        at += length

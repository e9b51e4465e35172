"""Groups of tiles that share a stream: their payload, their streams in lockstep, and the work on them by threads.

What the codecs of several families have in common that go through tiles; the layout is in docs/format.md, chapter
"Neural color section".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.coder import IntervalCoder
from gencodec.codec.network import Index
from gencodec.codec.tiling import Box, Tiling
from gencodec.errors import InvalidFile

T = TypeVar("T")
Pixels = NDArray[np.uint8]
Progress = Callable[[float], None]

HEADER = struct.Struct("<HHBB")
LENGTH = struct.Struct("<I")
CODING_ORDER = (1, 0, 2)
"""Channel numbers of green, red, blue."""
LOCKSTEP = 128
"""Tiles that a thread of the decoder goes through at a time: a step's overhead is shared, at a megabyte a tile."""


@dataclass(frozen=True)
class Encoded:
    """A coded picture."""

    payload: bytes
    estimate_bits: float
    """Code length by the exact model's own probabilities."""


@dataclass(frozen=True)
class Group:
    """Tiles that share a stream."""

    tiles: list[Box]
    stream: bytes


class GroupCoders:
    """The streams of groups that are decoded in lockstep, each of which holds its own tiles' part of a step."""

    def __init__(self, groups: list[Group], kind: type[IntervalCoder] = IntervalCoder):
        self.coders = [kind.from_bytes(group.stream) for group in groups]
        self.tiles = np.cumsum([0, *(len(group.tiles) for group in groups)])
        self.ends: list[int] = []

    def begin(self, rows: int, coded: Index | None) -> None:
        """Find each group's share of a step's symbols: `rows` positions a tile, or those of them that `coded` lists."""
        ends = self.tiles * rows
        self.ends = (ends if coded is None else np.searchsorted(coded, ends)).tolist()

    def pop_quantiles(self, colors: int | None = None) -> Index:
        """Numbers within the intervals of the step's symbols; `give_back` must follow.

        They are (n,), or of so many colors (colors, n), each group's as one block.
        """
        shape = (-1,) if colors is None else (colors, -1)
        spans = zip(self.coders, pairwise(self.ends), strict=True)
        parts = [coder.pop_quantiles((colors or 1) * (b - a)).reshape(shape) for coder, (a, b) in spans]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)

    def give_back(self, rest: Index, length: Index) -> None:
        """Finish popping: give back where within their intervals the quantiles lay, shaped as these."""
        for coder, (a, b) in zip(self.coders, pairwise(self.ends), strict=True):
            coder.give_back(rest[..., a:b].ravel(), length[..., a:b].ravel())

    def finish(self) -> None:
        """Check that the streams have ended. Raises `InvalidFile`."""
        if not all(coder.empty for coder in self.coders):
            raise InvalidFile("the coded pixels are damaged: their stream does not end with the last pixel")


def decoded(
    decode_groups: Callable[[list[Group], Pixels, Box, Progress], None],
    tiling: Tiling,
    streams: list[bytes],
    shape: tuple[int, int, int],
    threads: int,
    region: tuple[int, int, int, int] | None,
    progress: Progress | None,
) -> Pixels:
    """The pixels of `shape`, or of `region`, of groups that `decode_groups` decodes batch by batch, on so many threads.

    It takes groups, the pixels to fill, the box whose first pixel theirs is, and whom to tell the share done.
    """
    height, width, colors = shape
    wanted = Box(*region) if region else Box(0, 0, width, height)
    boxes = [(box, stream) for box, stream in zip(tiling.groups(), streams, strict=True) if box.overlaps(wanted)]
    area = _hull([box for box, _ in boxes])
    groups = [Group(list(tiling.tiles(box)), stream) for box, stream in boxes]
    pixels = np.empty((area.height, area.width, colors), np.uint8)
    batches = in_batches(groups, threads)
    tracker = Tracker(len(batches), progress)

    def decode_batch(index: int) -> None:
        decode_groups(batches[index], pixels, area, partial(tracker.report, index))
        tracker.report(index, 1.0)

    run_all(decode_batch, len(batches), threads, tracker)
    top, left = wanted.y - area.y, wanted.x - area.x
    return np.ascontiguousarray(pixels[top : top + wanted.height, left : left + wanted.width])


def in_batches(groups: list[Group], threads: int) -> list[list[Group]]:
    """The groups in runs of about equally many tiles, at most LOCKSTEP or one group, as many for every thread."""
    tiles = [len(group.tiles) for group in groups]
    rounds = -(-sum(tiles) // (LOCKSTEP * threads))
    count = min(len(groups), rounds * threads)
    middles = np.cumsum(tiles) - np.array(tiles) / 2
    batch = np.minimum((middles * count / sum(tiles)).astype(int), count - 1)
    ends = np.searchsorted(batch, np.arange(count + 1)).tolist()
    return [groups[a:b] for a, b in pairwise(ends) if a < b]


class Tracker:
    """Adds up the progress of parts that run at once, and stops them when one has failed."""

    def __init__(self, parts: int, progress: Progress | None):
        self.shares = [0.0] * parts
        self.progress = progress
        self.stopped = False
        self.lock = Lock()

    def report(self, part: int, share: float) -> None:
        """Note that `share` of a part is done. Raises `CancelledError` once stopped."""
        if self.stopped:
            raise CancelledError
        with self.lock:
            self.shares[part] = share
            if self.progress:
                self.progress(sum(self.shares) / len(self.shares))


def run_all(work: Callable[[int], T], count: int, threads: int, tracker: Tracker) -> list[T]:
    """What `work` gives for 0 to `count` - 1, on so many threads; when one fails, `tracker` stops the others."""
    if count == 1:
        return [work(0)]
    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(work, range(count)))
        except BaseException:
            tracker.stopped = True
            pool.shutdown(cancel_futures=True)
            raise


def packed(tiling: Tiling, streams: list[bytes]) -> bytes:
    """The payload of a tiling's groups, whose streams these are."""
    header = HEADER.pack(tiling.tile_width, tiling.tile_height, tiling.group_columns, tiling.group_rows)
    # the last stream ends where the section does
    lengths = b"".join(LENGTH.pack(len(stream)) for stream in streams[:-1])
    return header + lengths + b"".join(streams)


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
    return tiling, [payload[a:b] for a, b in pairwise(bounds)]


def _hull(boxes: list[Box]) -> Box:
    x, y = min(b.x for b in boxes), min(b.y for b in boxes)
    return Box(x, y, max(b.x + b.width for b in boxes) - x, max(b.y + b.height for b in boxes) - y)

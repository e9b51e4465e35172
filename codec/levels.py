"""Gray levels that a picture leaves out, and the numbers of those that it uses (docs/format.md, chapter 14).

Who stretches the tones of an 8-bit picture leaves gaps between its levels: of a picture stretched by 1.25 every fifth
level is empty. A network that knows photographs would spend bits on what never comes. Without the gaps the picture is
again what it was before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.tables import LEVELS
from gencodec.errors import InvalidFile

BITMAP = LEVELS // 8
BAND = 1 << 18
"""Pixels that are counted at a time."""
INNER = 0.005
"""Share of a channel's samples on either side of those among which gaps are looked for: few samples leave gaps."""
WINDOW = 4
"""Neighbors on either side whose mean tells how many samples of a level a picture without gaps would have."""
LEAST_GAPS = 4
"""A channel has gaps if it leaves out so many levels more than twice what its samples would by chance."""
WORTH = 2
"""Bits that leaving out the gaps must save, for every bit that saying so takes."""
SHARED, HIGH = 1 << 7, 1
"""Bits of the payload's first byte: all channels use the same levels; of each channel, from bit 0 on, whether the
highest level is its own number, or else the lowest one."""

Pixels = NDArray[np.uint8]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels that a picture uses, (channels, 256), at least one of each channel, and how they are numbered.

    `high` says of each channel whether its highest level is its own number, or else the lowest one.
    """

    used: Flags
    high: tuple[bool, ...]

    @cached_property
    def numbers(self) -> Pixels:
        """Each level's number, (channels, 256); of levels that are not used, that of the next lower one, if any."""
        ranks = np.maximum(np.cumsum(self.used, 1) - 1, 0)
        return (ranks + self._firsts[:, None]).astype(np.uint8)

    @cached_property
    def levels(self) -> Pixels:
        """The level of each number, (channels, 256); beyond the used ones' numbers, the lowest or highest of them."""
        found = []
        for used, first in zip(self.used, self._firsts.tolist(), strict=True):
            own = np.flatnonzero(used)
            found.append(own[np.clip(np.arange(LEVELS) - first, 0, len(own) - 1)])
        return np.stack(found).astype(np.uint8)

    @property
    def _firsts(self) -> NDArray[np.int64]:
        """The number of each channel's lowest level."""
        lowest, highest = self.used.argmax(1), LEVELS - 1 - self.used[:, ::-1].argmax(1)
        return np.where(self.high, highest + 1 - self.used.sum(1), lowest)

    def pack(self) -> bytes:
        """The payload of a section LEVELS."""
        shared = bool((self.used == self.used[0]).all())
        flags = sum(HIGH << channel for channel, high in enumerate(self.high) if high) | SHARED * shared
        return bytes((flags,)) + np.packbits(self.used[:1] if shared else self.used, axis=1).tobytes()


def unpack(payload: bytes, channels: int) -> Levels:
    """The levels of a picture of so many channels, by the payload of a section LEVELS. Raises `InvalidFile`."""
    bitmaps = 1 if payload and payload[0] & SHARED else channels
    if len(payload) != 1 + BITMAP * bitmaps or payload[0] & ~(SHARED | (1 << channels) - 1):
        raise InvalidFile("the file's list of gray levels is damaged")
    used = np.unpackbits(np.frombuffer(payload, np.uint8, offset=1).reshape(bitmaps, BITMAP), axis=1).astype(bool)
    if not used.any(1).all():
        raise InvalidFile("the file's list of gray levels is empty")
    high = tuple(bool(payload[0] >> channel & HIGH) for channel in range(channels))
    return Levels(np.broadcast_to(used, (channels, LEVELS)), high)


def find(pixels: Pixels) -> Levels | None:
    """The levels that `pixels` (height, width, channels) use, where they leave out enough to be worth saying so."""
    counts = counted(pixels)
    shares = [gaps(each) for each in counts]
    used = np.stack([each > 0 if share else np.ones(LEVELS, bool) for each, share in zip(counts, shares, strict=True)])
    found = Levels(used, tuple(bool(each[-1] > each[0]) for each in counts))
    saved = pixels.shape[0] * pixels.shape[1] * sum(-np.log2(1 - share) for share in shares)
    return found if saved > WORTH * 8 * len(found.pack()) else None


def counted(pixels: Pixels) -> NDArray[np.int64]:
    """How many samples of `pixels` (height, width, channels) each level has, (channels, 256)."""
    flat = pixels.reshape(-1, pixels.shape[2])
    counts = np.zeros((pixels.shape[2], LEVELS), np.int64)
    for first in range(0, len(flat), BAND):  # bincount widens what it counts to 64 bits
        for channel, row in enumerate(counts):
            row += np.bincount(flat[first : first + BAND, channel], minlength=LEVELS)
    return counts


def gaps(counts: NDArray[np.int64]) -> float:
    """Share of empty levels among the inner ones of a channel with so many samples a level; 0 if chance makes them."""
    total = np.cumsum(counts)
    low, high = np.searchsorted(total, total[-1] * np.array([INNER, 1 - INNER])).tolist()
    if high - low < 2 * WINDOW:
        return 0.0
    kernel = np.full(2 * WINDOW + 1, 1 / (2 * WINDOW + 1))
    expected = np.exp(-np.convolve(counts, kernel, "same"))[low : high + 1].sum()
    empty = int((counts[low : high + 1] == 0).sum())
    return empty / (high + 1 - low) if empty > 2 * expected + LEAST_GAPS else 0.0


def mapped(pixels: Pixels, tables: Pixels) -> Pixels:
    """`pixels` (height, width, channels) with each channel looked up in its table, (channels, 256)."""
    result = np.empty_like(pixels)
    for channel, table in enumerate(tables):
        np.take(table, pixels[..., channel], out=result[..., channel])
    return result

"""Integer probability tables: a gray level's interval out of 2**16 or 2**20, for any mean, scale and tail shape.

A model ships the distribution functions of its shapes as rising integers over a grid of the standardized
variable. The interval of a gray level x begins at

    edge(x) = 2**(bits - 16) cdf[shape][(16 x - 8 - mean) * rate[scale] >> 8] + x,   edge(0) = 0,   edge(256) = 2**bits

with the mean in sixteenths of a gray level, so that every gray level has at least one unit, and all mass beyond
0..255 belongs to the end levels (Salimans et al. 2017, arXiv 1701.05517, section 2.1).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencodec.errors import InvalidFile

TOTAL_BITS = 16
FINE_BITS = 20
LEVELS = 256
RATE_BITS = 8
GUESS_BITS = 4
"""Lower bits of quantiles that first candidates are found without: more would make more of them wrong."""
FEW_WRONG = 4
"""Up to so many wrong candidates are looked up one by one."""
FAR = 1 << 20
SCALES_PER_OCTAVE = 6
COLDEST = 2.0**-10
"""Temperature below which nothing gets narrower."""

Index = NDArray[np.int64]


def scale_shift(temperature: float) -> int:
    """By how many of the scale indices a temperature widens distributions."""
    return round(SCALES_PER_OCTAVE * math.log2(temperature))


def check(cdf: NDArray[np.uint16], rate: NDArray[np.int32], bits: int) -> None:
    """Raise `InvalidFile` unless these are tables as `Tables` takes them, whose ends the first and last edge reach."""
    total = ((1 << bits) - LEVELS) >> (bits - TOTAL_BITS)
    sound = (cdf.ndim, cdf.dtype, rate.ndim, rate.dtype) == (2, np.uint16, 1, np.int32) and cdf.size and rate.size
    if sound:
        rises = (cdf[:, 1:] >= cdf[:, :-1]).all() and (cdf[:, 0] == 0).all() and (cdf[:, -1] == total).all()
        half = cdf.shape[1] // 2
        far = (FAR - 16 * LEVELS) * int(rate.min()) >> RATE_BITS
        # places in the tables are whole numbers in floating point too (`gencodec.codec.steps`)
        exact = half <= 1 << 16 and cdf.size <= 1 << 24
        sound = rises and cdf.shape[1] % 2 and far >= half and exact
    if not sound:
        raise InvalidFile("the model's tables of distributions are damaged")


class Tables:
    """The distribution functions of one model, ready for lookups in both directions."""

    def __init__(self, cdf: NDArray[np.uint16], rate: NDArray[np.int32], bits: int = TOTAL_BITS):
        """Rows sum to 2**`bits`, 16 or more.

        `cdf`: (shapes, points) from 0 to (2**bits - 256) / 2**(bits - 16), rising; `rate`: (scales,) points per
        sixteenth times 256. Raises `InvalidFile` for others.
        """
        check(cdf, rate, bits)
        self.bits = bits
        self.half = (cdf.shape[1] - 1) // 2
        self.points = cdf.shape[1]
        # a copy, for constants of files are not aligned; of a small type, for tables and network share the caches
        self.cdf = cdf.ravel().astype(np.uint16 if bits == TOTAL_BITS else np.uint32) << (bits - TOTAL_BITS)
        self.rate = rate.astype(np.int64)
        self.position = 16 * np.arange(LEVELS + 1, dtype=np.int64) - 8
        self.position[0], self.position[-1] = -FAR, FAR  # beyond every table's ends
        self.levels = np.arange(LEVELS + 1, dtype=np.int64)
        self.ends = np.array([[0], [1]], np.int64)
        self.centers = np.arange(len(cdf), dtype=np.int64) * self.points + self.half
        ticks = (np.arange(1 << (TOTAL_BITS - GUESS_BITS)) << GUESS_BITS) + (1 << GUESS_BITS - 1)
        guesses = [np.searchsorted(row, ticks, "right") - 1 - self.half for row in cdf]
        self.guess = np.concatenate(guesses).astype(np.int16)
        self.guess_rows = np.arange(len(cdf), dtype=np.int64) << (TOTAL_BITS - GUESS_BITS)
        self.sixteenths = (1 << RATE_BITS) / self.rate.astype(np.float32)

    def edge(self, level: Index, mean: Index, rate: Index, row: Index) -> Index:
        """Where the interval of `level` (0..256) begins; `rate` and `row` as `rows` gives them."""
        at = self.position.take(level)
        at = at - mean
        at *= rate
        at >>= RATE_BITS
        np.maximum(at, -self.half, out=at)
        np.minimum(at, self.half, out=at)
        at += row
        return self.begin(self.cdf.take(at), level)

    def begin(self, mass: Any, level: Any) -> Any:
        """Where the intervals of levels begin, by what the distribution function has below them; numbers or arrays."""
        return mass + level

    def rows(self, scale: Index, shape: Index) -> tuple[Index, Index]:
        """Rates and table centers of scale and shape indices."""
        return self.rate.take(scale), self.centers.take(shape)

    def interval(self, level: Index, mean: Index, scale: Index, shape: Index) -> tuple[Index, Index]:
        """Beginning and length of the intervals of gray levels; all arguments have the same shape."""
        left, right = self.edge(np.stack([level, level + 1]), mean, *self.rows(scale, shape))
        return left, right - left

    def find(self, quantile: Index, mean: Index, scale: Index, shape: Index) -> tuple[Index, Index, Index]:
        """Gray levels whose intervals hold `quantile` (0..2**bits - 1), and the intervals' beginnings and lengths."""
        rate, row = self.rows(scale, shape)
        level = self.guessed(quantile, mean, scale, shape)
        left, length = self.edge(level + self.ends, mean, rate, row)
        length -= left
        outside = _outside(quantile, left, length)
        if outside.any():
            wrong = np.flatnonzero(outside)
            if len(wrong) <= FEW_WRONG:
                for i in wrong.tolist():
                    level[i], left[i], length[i] = self.sought(level[i], quantile[i], mean[i], rate[i], row[i])
            else:
                found = self.searched(quantile[wrong], mean[wrong], rate[wrong], row[wrong])
                level[wrong], left[wrong], length[wrong] = found
        return level, left, length

    def guessed(self, quantile: Index, mean: Index, scale: Index, shape: Index) -> Index:
        """A first candidate, nearly always right or a neighbor (floats may err here: the integers decide)."""
        at = quantile - (mean >> 4)  # without the units given to all levels below beforehand
        np.maximum(at, 0, out=at)
        at >>= GUESS_BITS + self.bits - TOTAL_BITS
        at += self.guess_rows.take(shape)
        offset = self.guess.take(at) * self.sixteenths.take(scale)
        offset += mean.astype(np.float32)
        level = offset.astype(np.int64)
        level += 8
        level >>= 4
        np.maximum(level, 0, out=level)
        return np.minimum(level, LEVELS - 1, out=level)

    def sought(
        self, candidate: np.int64, quantile: np.int64, mean: np.int64, rate: np.int64, row: np.int64
    ) -> tuple[int, int, int]:
        """The level of one quantile (0..2**bits - 1), and its interval: for a few of them the quickest.

        `candidate` is mostly a neighbor of the level, which is found step by step from there.
        """
        level, middle, points, center = int(candidate), int(mean), int(rate), int(row)
        half, cdf = self.half, self.cdf.data

        def edge(level: int) -> int:
            if not 0 < level < LEVELS:
                return (level > 0) << self.bits
            at = (16 * level - 8 - middle) * points >> RATE_BITS
            return int(self.begin(cdf[center + max(-half, min(half, at))], level))

        left = edge(level)
        while quantile < left:
            level -= 1
            left = edge(level)
        right = edge(level + 1)
        while right <= quantile:
            level += 1
            left, right = right, edge(level + 1)
        return level, left, right - left

    def searched(self, quantile: Index, mean: Index, rate: Index, row: Index) -> tuple[Index, Index, Index]:
        """The levels of a few quantiles, and their intervals, by looking at all 257 edges of each."""
        edges = self.edge(self.levels, mean[:, None], rate[:, None], row[:, None])
        level = (edges <= quantile[:, None]).sum(1) - 1
        at = np.arange(len(level))
        left = edges[at, level]
        return level, left, edges[at, level + 1] - left


def _outside(quantile: Index, left: Index, length: Index) -> NDArray[np.bool_]:
    """Which quantiles lie below an interval, whose distance is then a very large number without a sign, or above."""
    return (quantile - left).view(np.uint64) >= length.view(np.uint64)

"""Blocks of symbols that are mostly the likeliest one, as quantised latents are, on a stack.

A symbol whose middle has more than half of its distribution is coded in two parts: a flag that says whether it is the
middle, at the cost of its information alone, and the other symbols among themselves. The uniform coder of other
symbols would cost more than a likely symbol is worth (`gencodec.codec.coder.NARROWED`), and take longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.coder import RUN, TOTAL, Stack
from gencodec.codec.tables import LEVELS, TOTAL_BITS, Tables

Index = NDArray[np.int64]
ZERO = 128
"""The middle symbol: that of the difference 0."""
STEPS = 16
LIKELY = TOTAL // 2
FIRST = 8
"""Symbols of a block's first cut."""


class SparseTables:
    """Distributions of differences by scale and shape, around 0."""

    def __init__(self, tables: Tables):
        self.tables = tables
        scales, shapes = len(tables.rate), len(tables.centers)
        self.shapes = shapes
        rows = np.arange(scales * shapes)
        middle = np.full(len(rows), ZERO)
        self.left, self.length = tables.interval(middle, STEPS * middle, rows // shapes, rows % shapes)

    def rows(self, scale: Index, shape: Index) -> Index:
        """One number for each pair of a scale and a shape."""
        return scale * self.shapes + shape

    @cached_property
    def bits(self) -> NDArray[np.float32]:
        """Code lengths of the differences from -128 to 127 of every pair of a scale and a shape, (rows, 256)."""
        rows = np.arange(len(self.length))[:, None]
        symbols = np.broadcast_to(np.arange(LEVELS), (len(rows), LEVELS))
        middle = np.full(symbols.shape, STEPS * ZERO)
        scale, shape = np.broadcast_arrays(rows // self.shapes, rows % self.shapes, symbols)[:2]
        _, length = self.tables.interval(symbols, middle, scale, shape)
        return (TOTAL_BITS - np.log2(length)).astype(np.float32)

    def push(self, coder: Stack, difference: Index, scale: Index, shape: Index) -> None:
        """Push differences (n,), each from -127 to 127, of distributions with these scale and shape indices."""
        row = self.rows(scale, shape)
        sparse = self.length[row] > LIKELY
        some, rows = difference[sparse], row[sparse]
        flags = (some == 0).astype(np.int64)
        others = flags == 0
        # flags draw nothing from the stack: they fill it for what comes after
        self.push_others(coder, some[others], rows[others])
        for number, places in reversed(list(parts(rows))):
            coder.push_flags(flags[places], int(self.length[number]))
        self.push_all(coder, difference[~sparse], scale[~sparse], shape[~sparse])

    def pop(self, coder: Stack, scale: Index, shape: Index) -> Index:
        """The inverse of `push`: differences (n,)."""
        row = self.rows(scale, shape)
        sparse = self.length[row] > LIKELY
        result = np.empty(len(row), np.int64)
        result[~sparse] = self.pop_all(coder, scale[~sparse], shape[~sparse])
        some = row[sparse]
        flags = np.empty(len(some), np.int64)
        for number, places in parts(some):
            flags[places] = coder.pop_flags(int(self.length[number]), len(places))
        found = np.zeros(len(some), np.int64)
        others = flags == 0
        found[others] = self.pop_others(coder, some[others])
        result[sparse] = found
        return result

    def push_others(self, coder: Stack, difference: Index, row: Index) -> None:
        """Push differences that are not 0: intervals close up over that of 0."""
        scale, shape = row // self.shapes, row % self.shapes
        for run in rising(len(row)):
            middle = np.full(len(row[run]), STEPS * ZERO)
            left, length = self.tables.interval(difference[run] + ZERO, middle, scale[run], shape[run])
            left = left - np.where(difference[run] > 0, self.length[row[run]], 0)
            rest = coder.pop_uniform(length, len(length))
            coder.push_uniform(left + rest, TOTAL - self.length[row[run]])

    def pop_others(self, coder: Stack, row: Index) -> Index:
        """The inverse of `push_others`."""
        scale, shape = row // self.shapes, row % self.shapes
        found = np.empty(len(row), np.int64)
        for run in reversed(rising(len(row))):
            hole = self.length[row[run]]
            quantile = coder.pop_uniform(TOTAL - hole, len(hole))
            quantile = quantile + np.where(quantile >= self.left[row[run]], hole, 0)
            middle = np.full(len(hole), STEPS * ZERO)
            symbol, left, length = self.tables.find(quantile, middle, scale[run], shape[run])
            coder.push_uniform(quantile - left, length)
            found[run] = symbol - ZERO
        return found

    def push_all(self, coder: Stack, difference: Index, scale: Index, shape: Index) -> None:
        """Push differences whose 0 is not so likely."""
        for run in rising(len(difference)):
            middle = np.full(len(difference[run]), STEPS * ZERO)
            coder.push(*self.tables.interval(difference[run] + ZERO, middle, scale[run], shape[run]))

    def pop_all(self, coder: Stack, scale: Index, shape: Index) -> Index:
        """The inverse of `push_all`."""
        found = np.empty(len(scale), np.int64)
        for run in reversed(rising(len(scale))):
            quantile = coder.pop_quantiles(len(scale[run]))
            middle = np.full(len(scale[run]), STEPS * ZERO)
            symbol, left, length = self.tables.find(quantile, middle, scale[run], shape[run])
            coder.restore(quantile - left, length)
            found[run] = symbol - ZERO
        return found


def rising(count: int) -> list[slice]:
    """Cuts of a block of symbols, in the order of pushing: small ones first.

    A cut draws some 12 bits a symbol before it gives 16, and what it draws of an empty stack is lost: cuts grow as
    slowly as the stack does.
    """
    cuts, at, size = [], 0, FIRST
    while at < count:
        cuts.append(slice(at, min(at + size, count)))
        at, size = at + size, min(size + size // 8, RUN)
    return cuts


def parts(row: Index) -> Iterator[tuple[int, Index]]:
    """Every number that occurs in `row` (n,), and its places, in order."""
    order = np.argsort(row, kind="stable")
    if not len(row):
        return
    numbers, first = np.unique(row[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(order, first[1:]), strict=True)

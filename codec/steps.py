"""A step of photo's decoder as one graph: the network's stages one after another, and the lookups in tables between.

A step has a few hundred pixels, for which much of the time goes to calls, not to what they compute. That all colors are
decoded in one call needs the quantiles of all of them beforehand, which files have whose steps are blocks of symbols
(docs/format.md, chapter 8). All values are float32, and exact: numbers of at most 24 bits, but for what leads to first
candidates, which need not be right, and for places so far beyond a table that they are clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.network import Array, FirstNetwork, Index, Network, Seen, floored_means
from gencodec.codec.tables import FAR, GUESS_BITS, LEVELS, RATE_BITS, TOTAL_BITS, Tables
from gencodec.runtime.branches import Branches
from gencodec.runtime.composing import FLOAT, INT64, Composer

CANDIDATES = (-1, 0, 1, 2)
"""Levels, relative to a first candidate, whose intervals' beginnings are looked up: so it is found if it is the
candidate, the one below or the one above."""
BEYOND = 1 << 22
"""More than any interval's end."""


class Decoded(NamedTuple):
    """Pixels (3, n) and their traces; and where in their intervals the quantiles lay, and how long these are."""

    pixel: Array
    trace: Array
    rest: Index
    length: Index


class Found(NamedTuple):
    """Gray levels, where in their intervals the quantiles lay, and how long these are: values of a graph, (1, n)."""

    level: str
    rest: str
    length: str


class Steps:
    """The steps of one network."""

    def __init__(self, network: Network, tables: Tables):
        self.network, self.tables = network, tables

    def run(self, seen: Seen, quantiles: Array) -> Decoded:
        """Decode a step by what is seen and the quantiles (colors, n) of its symbols."""
        given = {"context": seen.context, "near": seen.near, "quantiles": quantiles}
        if isinstance(self.network, FirstNetwork):
            given |= {"sums": seen.sums, "counts": seen.counts}
        else:
            given["means"] = floored_means(seen.sums, seen.counts)
        colors = len(quantiles)
        compose = partial(self.composed, colors)
        return Decoded(*self.network.trunk_model.run_composed(f"step of {colors}", compose, given))

    def composed(self, colors: int, branches: Branches) -> bytes:
        """The model of a step of so many colors."""
        c = Composer(branches)
        stages = FirstStages(c, self.network) if isinstance(self.network, FirstNetwork) else Stages(c, self.network)
        lookups = Lookups(c, self.tables)
        quantiles = c.input("quantiles", colors)
        found: list[Found] = []
        innovations: list[str] = []
        for color in range(colors):
            rows = stages.color(color, innovations)
            found.append(lookups.find(c.rows(quantiles, color, color + 1), rows))
            if color + 1 < colors:
                innovations.append(c.node("Sub", c.node("Mul", found[-1].level, 16), c.rows(rows, 0, 1)))
        levels, rest, length = ([f[i] for f in found] for i in range(3))
        pixel = c.node("Concat", *levels * (3 // colors), axis=0)
        return c.model(
            {
                "pixel": (pixel, FLOAT),
                "trace": (stages.trace(pixel), FLOAT),
                "rest": (c.node("Concat", *rest, axis=0), INT64),
                "length": (c.node("Concat", *length, axis=0), INT64),
            }
        )


class Stages:
    """What `Network` computes of arrays, on values of a graph."""

    def __init__(self, composer: Composer, network: Network):
        self.c, self.network = composer, network
        self.hidden, self.green, self.banks, self.base, self.kept = self.begun()

    def begun(self) -> tuple[str, str, Sequence[str], str, str]:
        """Hidden features, green's distribution, banks of all colors, base, and what traces are made of."""
        c, n = self.c, self.network
        rows = n.geometry.context_rows
        context = c.input("context", rows)
        west, north, northwest = (c.rows(context, place.start, place.stop) for place in n.nearest)
        plane = c.node("Sub", c.node("Add", west, north), northwest)
        base = c.node("Max", c.node("Min", plane, c.node("Max", west, north)), c.node("Min", west, north))
        relative = c.node("Sub", c.node("Reshape", context, [rows // 3, 3, -1]), base)
        relative = c.node("Reshape", relative, [rows, -1])
        near, means = c.input("near", n.geometry.near_rows), c.input("means", 2 * n.geometry.energies)
        given = {"a": relative, "b": near, "c": means, "d": c.rows(base, 0, 1)}
        hidden, rest = c.stage(n.TRUNK, given, "yz")
        banks = ("", c.rows(rest, 3, 3 + n.bank), c.rows(rest, 3 + n.bank))
        return hidden, c.rows(rest, 0, 3), banks, base, relative

    def color(self, color: int, innovations: Sequence[str]) -> str:
        """Mean, scale and shape (3, n) of a color, given the innovations of those before."""
        if color == 0:
            return self.green
        c = self.c
        before, base = c.node("Concat", *innovations, axis=0), c.rows(self.base, color, color + 1)
        given = {"a": self.hidden, "b": before, "c": self.banks[color], "d": base}
        return c.stage(self.network.COLORS[color], given, "y")[0]

    def trace(self, pixel: str) -> str:
        """What decoded pixels (3, n) leave for later ones."""
        given = {"a": self.kept, "b": self.c.node("Sub", pixel, self.base)}
        return self.c.stage(self.network.TRACE, given, "y")[0]


class FirstStages(Stages):
    """What `FirstNetwork` computes of arrays, on values of a graph."""

    network: FirstNetwork

    def begun(self) -> tuple[str, str, Sequence[str], str, str]:
        c, n = self.c, self.network
        g = n.geometry
        relative, kept = c.stage(n.CONTEXT, {"a": c.input("context", g.context_rows)}, "yz")
        rest = c.rows(kept, n.inner)
        near, sums, counts = c.input("near", g.near_rows), c.input("sums", 2 * g.energies), c.input("counts", 2)
        hidden, green = c.stage(n.TRUNK, {"a": relative, "b": near, "c": sums, "d": counts, "e": rest}, "yz")
        banks = [c.rows(rest, 3 + i * n.bank, 3 + (i + 1) * n.bank) for i in range(3)]
        return hidden, green, banks, c.rows(rest, 0, 3), c.rows(kept, 0, n.inner)

    def trace(self, pixel: str) -> str:
        return self.c.stage(self.network.TRACE, {"a": self.kept, "b": pixel, "c": self.base}, "y")[0]


class Lookups:
    """What `Tables` does to find levels, on values of a graph."""

    def __init__(self, composer: Composer, tables: Tables):
        def row(values: NDArray[np.generic]) -> str:
            return composer.constant(values.astype(np.float32)[None])

        self.c, self.tables = composer, tables
        self.cdf, self.guess, self.sixteenths = map(row, (tables.cdf, tables.guess, tables.sixteenths))
        self.rate = row(tables.rate / (1 << RATE_BITS))

    def find(self, quantile: str, rows: str) -> Found:
        """The levels whose intervals hold quantiles (1, n), with distributions (3, n)."""
        c = self.c
        mean, scale, shape = (c.rows(rows, row, row + 1) for row in range(3))
        low = c.node("Add", mean, 8)  # a level's interval begins half a level below it
        candidate = self.guessed(quantile, mean, low, scale, shape)
        center = c.node("Add", c.node("Mul", shape, self.tables.points), self.tables.half)
        known = (quantile, low, c.looked_up(self.rate, scale), center)
        count, left, right = self.around(c.node("Add", candidate, c.constant(_column(CANDIDATES))), *known)
        level = c.node("Add", candidate, c.node("Add", count, CANDIDATES[0] - 1))
        # of a few in ten thousand none or all of the levels begin below: then all that there are are looked at
        middle = len(CANDIDATES) / 2
        off = c.node("Abs", c.node("Sub", count, middle))
        lost = c.node("GreaterOrEqual", c.node("ReduceMax", off, keepdims=0), middle)
        found = (level, left, right)
        level, left, right = c.choice(
            lost, lambda: self.searched(c.node("GreaterOrEqual", off, middle), known, found), found
        )
        return Found(level, c.node("Sub", quantile, left), c.node("Sub", right, left))

    def guessed(self, quantile: str, mean: str, low: str, scale: str, shape: str) -> str:
        """A first candidate, as `Tables.guessed` has it."""
        c = self.c
        below = c.node("Max", c.node("Sub", quantile, c.node("Floor", c.node("Mul", mean, 1 / 16))), 0)
        tick = c.node("Floor", c.node("Mul", below, 2.0 ** (TOTAL_BITS - GUESS_BITS - self.tables.bits)))
        at = c.node("Add", tick, c.node("Mul", shape, 1 << (TOTAL_BITS - GUESS_BITS)))
        offset = c.node("Mul", c.looked_up(self.guess, at), c.looked_up(self.sixteenths, scale))
        level = c.node("Floor", c.node("Mul", c.node("Add", offset, low), 1 / 16))
        return c.node("Clip", level, 0, LEVELS - 1)

    def around(self, levels: str, quantile: str, low: str, rate: str, center: str) -> tuple[str, str, str]:
        """How many of `levels` begin at or below quantiles, the last of these beginnings, and the first of the others.

        `levels` are (k, n) or (k, 1), all else is (1, n). Where there is no such beginning it is -1, or BEYOND. Levels
        beyond the range count as its ends.
        """
        c, half = self.c, self.tables.half
        level = c.node("Clip", levels, 0, LEVELS)
        at = c.node("Floor", c.node("Mul", c.node("Sub", c.node("Mul", level, 16), low), rate))
        at = c.node("Where", c.node("LessOrEqual", level, 0), -FAR, at)
        at = c.node("Where", c.node("GreaterOrEqual", level, LEVELS), FAR, at)
        at = c.node("Add", c.node("Clip", at, -half, half), center)
        mass = c.looked_up(self.cdf, c.node("Reshape", at, [1, -1]))
        edge = c.node("Add", c.node("Reshape", mass, c.node("Shape", at)), level)
        below = c.node("LessOrEqual", edge, quantile)
        count = c.node("ReduceSum", c.node("Cast", below, to=FLOAT), [0])
        left = c.node("ReduceMax", c.node("Where", below, edge, -1), axes=[0])
        right = c.node("ReduceMin", c.node("Where", below, BEYOND, edge), axes=[0])
        return count, left, right

    def searched(self, lost: str, known: Sequence[str], found: Sequence[str]) -> list[str]:
        """Levels and edges as `found`, but of those that are `lost`, (1, n), as a look at all levels gives them."""
        c = self.c
        index = c.rows(c.node("NonZero", lost), 1, 2)
        few = (c.node("GatherElements", value, index, axis=1) for value in known)
        count, left, right = self.around(c.constant(_column(range(LEVELS + 1))), *few)
        values = (c.node("Sub", count, 1), left, right)
        return [c.node("ScatterElements", old, index, new, axis=1) for old, new in zip(found, values, strict=True)]


def _column(numbers: Sequence[int]) -> NDArray[np.float32]:
    return np.array(numbers, np.float32)[:, None]

"""The pixel network of a loaded `photo` model: its geometry, and its stages as functions on arrays.

All arrays are float32 integers of shape (rows, positions); colors are ordered green, red, blue.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.tables import FINE_BITS, TOTAL_BITS
from gencodec.errors import MALFORMED, InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

Array = NDArray[np.float32]
Index = NDArray[np.int64]
Whole = np.int16 | np.int32
MISSING = -1
"""Gray level of context pixels above a tile, for models whose edge is "missing"."""
BEGINNING = 128
"""Gray level left of a tile's first row."""
FLAGS = 4
FIRST_COLUMN = 1
"""The number among them of the one that tells a tile's first column."""
RAISED = 32
"""What a flag that holds is given as."""
LARGEST_ENERGY = 255
"""Of a pixel's traces; what else they hold is no larger."""
FINE_FORMAT = "3"
"""Of models whose table rows sum to 2**FINE_BITS."""
WIDE = 96
"""Width of layers from which a trunk, when it is computed alone, is worth TRUNK_THREADS threads."""
LEAST_LAG = 2
"""Of rows behind those above, so that sums over windows above are known."""
TRUNK_THREADS = 4
NOTHING: Array = np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class Geometry:
    """Which earlier pixels and traces a pixel sees; see `docs/format.md`."""

    lag: int
    reach: tuple[tuple[int, int], ...]
    trace_at: tuple[tuple[int, int], ...]
    energies: int
    drifts: int
    row_pool: int
    pool_rows: int
    pool_columns: int
    repeats_edge: bool
    """Whether the rows above a tile repeat its first row, delayed by `lag` columns each; else they are MISSING."""

    @cached_property
    def context_rows(self) -> int:
        """Rows of the context input."""
        return 3 * sum(last - first + 1 for first, last in self.reach)

    @cached_property
    def traces(self) -> int:
        """Features of a trace."""
        return self.energies + self.drifts

    @cached_property
    def near_rows(self) -> int:
        """Rows of the input that holds traces and flags."""
        return self.traces * len(self.trace_at) + FLAGS

    @cached_property
    def left(self) -> int:
        """How many columns left of a tile contexts reach."""
        return -min(first for first, _ in self.reach)

    @cached_property
    def right(self) -> int:
        """How many columns right of a tile contexts reach."""
        return max(last for _, last in self.reach)

    @cached_property
    def above(self) -> int:
        """How many rows above a tile contexts reach."""
        return len(self.reach) - 1

    @cached_property
    def kept_type(self) -> type[Whole]:
        """What holds traces and their sums over windows: small, for what is kept of the past fills the caches."""
        largest = LARGEST_ENERGY * max(self.row_pool, self.pool_rows * self.pool_columns)
        return np.int16 if largest <= np.iinfo(np.int16).max else np.int32

    def place(self, up: int, dx: int) -> int:
        """Row of a pixel's first color in the context."""
        before = sum(last - first + 1 for first, last in self.reach[:up])
        return 3 * (before + dx - self.reach[up][0])


class Seen(NamedTuple):
    """What a network is given of pixels' surroundings: (rows, n) each, as `Geometry` has them."""

    context: Array
    """Gray levels of neighboring pixels."""
    near: Array
    """Traces at neighboring places, and flags."""
    sums: Array
    """Of energies over two windows."""
    counts: Array
    """Of the windows' pixels, at least 1."""


class Neighborhood(NamedTuple):
    """A context relative to its base predictions (3, n), and what a network keeps of it for its later stages."""

    relative: Array
    base: Array
    kept: Array


class Hidden(NamedTuple):
    """What the trunk makes of a pixel's surroundings: features, and each color's linear predictions."""

    features: Array
    banks: tuple[Array, ...]


class Network:
    """The stages of one model."""

    INPUTS = "abcd"
    TRUNK, COLORS, TRACE = 0, (0, 1, 2), 3
    repeats_edge = True

    def __init__(self, model: Model, *, alone: bool = False):
        """`alone`: nothing else of the picture is computed beside."""
        # a step's arrays are too small to be worth two threads, which would only wait for each other
        self.model = model.serial
        self.total_bits = FINE_BITS if model.format == FINE_FORMAT else TOTAL_BITS
        config = model.config
        try:
            names = Geometry.__dataclass_fields__.keys() - {"repeats_edge"}
            fields = {name: config[name] for name in names}
            pairs = {name: tuple(map(tuple, fields[name])) for name in ("reach", "trace_at")}
            self.geometry = Geometry(**{**fields, **pairs}, repeats_edge=self.repeats_edge)
            self.bank, self.inner, hidden = (int(config[name]) for name in ("bank", "inner", "hidden"))
        except MALFORMED as error:
            raise InvalidFile(f"the model {model.card.name} does not say how it is built") from error
        if self.geometry.lag < LEAST_LAG:
            raise InvalidFile(f"the model {model.card.name} codes rows too close behind each other")
        self.wide = hidden >= WIDE
        self.trunk_model = model.with_threads(min(model.threads, TRUNK_THREADS)) if alone and self.wide else self.model

    @staticmethod
    def of(model: Model, *, alone: bool = False) -> Network:
        """The network of a model of the photo family, by the version of its stages. Raises `InvalidFile`."""
        if model.family != "photo":
            raise InvalidFile(f"the model {model.card.name} is not one of the photo family")
        kinds: dict[str, type[Network]] = {"1": FirstNetwork, "2": Network, FINE_FORMAT: Network}
        if model.format not in kinds:
            raise InvalidFile(f"the model {model.card.name} is of format {model.format}, which is not known here")
        return kinds[model.format](model, alone=alone)

    @cached_property
    def nearest(self) -> list[slice]:
        """Rows of the west, north and northwest neighbors in a context."""
        places = (self.geometry.place(*at) for at in ((0, -1), (1, 0), (1, -1)))
        return [slice(place, place + 3) for place in places]

    def neighborhood(self, context: Array) -> Neighborhood:
        """Contexts relative to their base predictions; takes `context` over."""
        base = median_edge(*(context[rows] for rows in self.nearest))
        colors = context.reshape(-1, 3, context.shape[1])
        colors -= base
        return Neighborhood(context, base, NOTHING)

    def trunk(self, around: Neighborhood, near: Array, sums: Array, counts: Array) -> tuple[Hidden, Array]:
        """Hidden features, and green's mean, scale and shape (3, n)."""
        features, rest = self._run(self.TRUNK, around.relative, near, floored_means(sums, counts), around.base[:1])
        return Hidden(features, (NOTHING, rest[3 : 3 + self.bank], rest[3 + self.bank :])), rest[:3]

    def color(self, color: int, hidden: Hidden, innovations: Array, around: Neighborhood) -> Array:
        """Mean, scale and shape (3, n) of color 1 (red) or 2 (blue), given the innovations of those before."""
        base = around.base[color : color + 1]
        return self._run(self.COLORS[color], hidden.features, innovations, hidden.banks[color], base)[0]

    def trace(self, around: Neighborhood, pixel: Array) -> Array:
        """What decoded pixels (3, n) leave for later ones."""
        return self._run(self.TRACE, around.relative, pixel - around.base)[0]

    def _run(self, stage: int, *arrays: Array) -> list[Array]:
        given = (*arrays, *[NOTHING] * (len(self.INPUTS) - len(arrays)))
        model = self.trunk_model if stage == self.TRUNK else self.model
        return model.run(stage, dict(zip(self.INPUTS, given, strict=True)))


class FirstNetwork(Network):
    """The stages of format 1, which computed base predictions and means of energies in the graph."""

    INPUTS = "abcde"
    CONTEXT, TRUNK, COLORS, TRACE = 0, 1, (1, 2, 3), 4
    repeats_edge = False

    def neighborhood(self, context: Array) -> Neighborhood:
        relative, rest = self._run(self.CONTEXT, context)
        return Neighborhood(relative, rest[self.inner : self.inner + 3], rest)

    def trunk(self, around: Neighborhood, near: Array, sums: Array, counts: Array) -> tuple[Hidden, Array]:
        rest = around.kept[self.inner :]
        features, green = self._run(self.TRUNK, around.relative, near, sums, counts, rest)
        return Hidden(features, tuple(rest[3 + i * self.bank : 3 + (i + 1) * self.bank] for i in range(3))), green

    def trace(self, around: Neighborhood, pixel: Array) -> Array:
        return self._run(self.TRACE, around.kept[: self.inner], pixel, around.base)[0]


def flags_of(row: Index, column: Index) -> Array:
    """The flags (FLAGS, ...) of pixels by their rows and columns in a tile, which are spread over each other."""
    flags = np.broadcast_arrays(row == 0, column == 0, row & 1, column & 1)
    return np.stack(flags).astype(np.float32) * RAISED


def floored_means(sums: Array, counts: Array) -> Array:
    """Whole means of two windows: sums (2 * energies, n) by counts (2, n); shaped as `sums`."""
    means = sums.reshape(2, -1, sums.shape[1]) / counts[:, None]
    return np.floor(means, out=means).reshape(sums.shape)


def median_edge(west: Array, north: Array, northwest: Array) -> Array:
    """The median edge predictor of LOCO-I (Weinberger et al. 2000, equation 1); shaped as its arguments."""
    result = west + north
    result -= northwest
    np.minimum(result, np.maximum(west, north), out=result)
    return np.maximum(result, np.minimum(west, north), out=result)

"""The pixel network of a loaded `photo` model: its geometry, and its five stages as functions on arrays.

All arrays are float32 integers of shape (rows, positions); colors are ordered green, red, blue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

Array = NDArray[np.float32]
CONTEXT, TRUNK, RED, BLUE, TRACE = range(5)
COLORS = (TRUNK, RED, BLUE)
"""The stages that give green, red and blue."""
MISSING = -1
"""Gray level of context pixels above a tile."""
BEGINNING = 128
"""Gray level left of a tile's first row."""
FLAGS = 4
RAISED = 32
"""What a flag that holds is given as."""
INPUTS = "abcde"
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

    @property
    def context_rows(self) -> int:
        """Rows of the context input."""
        return 3 * sum(last - first + 1 for first, last in self.reach)

    @property
    def traces(self) -> int:
        """Features of a trace."""
        return self.energies + self.drifts

    @property
    def near_rows(self) -> int:
        """Rows of the input that holds traces and flags."""
        return self.traces * len(self.trace_at) + FLAGS

    @property
    def left(self) -> int:
        """How many columns left of a tile contexts reach."""
        return -min(first for first, _ in self.reach)

    @property
    def right(self) -> int:
        """How many columns right of a tile contexts reach."""
        return max(last for _, last in self.reach)

    @property
    def above(self) -> int:
        """How many rows above a tile contexts reach."""
        return len(self.reach) - 1


class Neighborhood(NamedTuple):
    """What the first stage makes of contexts: the later stages' inputs."""

    relative: Array
    inner: Array
    base_and_banks: Array

    @property
    def base(self) -> Array:
        """Base predictions (3, n)."""
        return self.base_and_banks[:3]


class Network:
    """The stages of one model."""

    def __init__(self, model: Model):
        if model.family != "photo":
            raise InvalidFile(f"the model {model.card.name} is not one of the photo family")
        # only the trunk is worth the threads of a second session, which would spin while the others run
        self.model, self.serial = model, model.serial
        config = model.config
        try:
            fields = {name: config[name] for name in Geometry.__dataclass_fields__}
            pairs = {name: tuple(map(tuple, fields[name])) for name in ("reach", "trace_at")}
            self.geometry = Geometry(**{**fields, **pairs})
            self.bank, self.inner = int(config["bank"]), int(config["inner"])
        except (KeyError, TypeError) as error:
            raise InvalidFile(f"the model {model.card.name} does not say how it is built") from error

    def neighborhood(self, context: Array) -> Neighborhood:
        """Contexts relative to their base predictions, and what is computed of them alone."""
        relative, rest = self._run(CONTEXT, context)
        return Neighborhood(relative, rest[: self.inner], rest[self.inner :])

    def trunk(self, around: Neighborhood, near: Array, sums: Array, counts: Array) -> tuple[Array, Array]:
        """Hidden features, and green's mean, scale and shape (3, n)."""
        hidden, green = self._run(TRUNK, around.relative, near, sums, counts, around.base_and_banks)
        return hidden, green

    def color(self, color: int, hidden: Array, innovations: Array, around: Neighborhood) -> Array:
        """Mean, scale and shape (3, n) of color 1 (red) or 2 (blue), given the innovations of those before."""
        bank = around.base_and_banks[3 + color * self.bank : 3 + (color + 1) * self.bank]
        base = around.base_and_banks[color : color + 1]
        return self._run(COLORS[color], hidden, innovations, bank, base)[0]

    def trace(self, around: Neighborhood, pixel: Array) -> Array:
        """What decoded pixels (3, n) leave for later ones."""
        return self._run(TRACE, around.inner, pixel, around.base)[0]

    def _run(self, stage: int, *arrays: Array) -> list[Array]:
        inputs = dict(zip(INPUTS, (*arrays, *[NOTHING] * (len(INPUTS) - len(arrays))), strict=True))
        return (self.model if stage == TRUNK else self.serial).run(stage, inputs)

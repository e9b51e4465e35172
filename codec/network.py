"""The pixel network of a loaded `photo` model: its geometry, and its four stages as functions on arrays.

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
TRUNK, RED, BLUE, TRACE = range(4)
MISSING = -1
"""Gray level of context pixels above a tile."""
BEGINNING = 128
"""Gray level left of a tile's first row."""
FLAGS = 4


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


class Hidden(NamedTuple):
    """What the trunk gives: hidden features, base predictions, green's distribution, banks of red and blue."""

    features: Array
    base: Array
    green: Array
    red_bank: Array
    blue_bank: Array


class Network:
    """The stages of one model."""

    def __init__(self, model: Model):
        if model.family != "photo":
            raise InvalidFile(f"the model {model.card.name} is not one of the photo family")
        self.model = model
        config = model.config
        try:
            fields = {name: config[name] for name in Geometry.__dataclass_fields__}
            pairs = {name: tuple(map(tuple, fields[name])) for name in ("reach", "trace_at")}
            self.geometry = Geometry(**{**fields, **pairs})
            self.bank = int(config["bank"])
        except (KeyError, TypeError) as error:
            raise InvalidFile(f"the model {model.card.name} does not say how it is built") from error

    def trunk(self, context: Array, near: Array, sums: Array, counts: Array) -> Hidden:
        """Everything known of pixels before their first color."""
        features, rest = self._run(TRUNK, context, near, sums, counts)
        return Hidden(features, rest[:3], rest[3:6], rest[6 : 6 + self.bank], rest[6 + self.bank :])

    def color(self, stage: int, hidden: Hidden, innovations: Array) -> Array:
        """Mean, scale and shape of red or blue (3, n), given the innovations of the colors before."""
        bank = hidden.red_bank if stage == RED else hidden.blue_bank
        return self._run(stage, hidden.features, innovations, bank, hidden.base[stage : stage + 1])[0]

    def trace(self, context: Array, pixel: Array) -> Array:
        """What decoded pixels (3, n) leave for later ones."""
        nothing = np.zeros((0, 0), np.float32)
        return self._run(TRACE, context, pixel, nothing, nothing)[0]

    def _run(self, stage: int, a: Array, b: Array, c: Array, d: Array) -> list[Array]:
        return self.model.run({"stage": np.array(stage), "a": a, "b": b, "c": c, "d": d})

"""What the exporter knows of a tensor: its name in the graph and the integers that each row can hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Value:
    """A tensor (rows, positions) of integers; row i stands for `integer * 2**-bits[i]` within `low[i]..high[i]`."""

    name: str
    low: Integers
    high: Integers
    bits: Integers
    parts: tuple[Value, ...] = field(default=())
    """What a nameless value is the concatenation of; it becomes a tensor only where an operation needs one."""

    @property
    def rows(self) -> int:
        """Features of the tensor."""
        return len(self.low)

    @property
    def magnitude(self) -> Integers:
        """Largest absolute integer of each row."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


def uniform(name: str, rows: int, low: int, high: int, bits: int) -> Value:
    """A value all of whose rows hold the same range."""
    full = np.ones(rows, np.int64)
    return Value(name, full * low, full * high, full * bits)


def joined(values: list[Value], name: str = "") -> Value:
    """One value with the rows of all `values`."""
    low, high, bits = (np.concatenate([getattr(v, f) for v in values]) for f in ("low", "high", "bits"))
    return Value(name, low, high, bits)

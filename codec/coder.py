"""The entropy coder: intervals out of 2**16 on a constriction ANS stack.

ANS is a bijection between naturals (Duda 2013, arXiv 1311.2540), so a symbol with the integer interval
[left, left + length) is coded with uniform distributions alone: pop r out of `length`, push left + r out of
2**16. Popping what an empty stack does not hold gives zeros, and the decoder ends with an empty stack again.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from gencodec.errors import InvalidFile

TOTAL = 1 << 16
PRECISION = 1 << 24
"""What constriction's uniform model divides: the last of its numbers gets the remainder."""
LONG = 1 << 12
_stream: Any = constriction.stream  # type: ignore[attr-defined]  # a native module without stubs
_ANY = _stream.model.Uniform()
_QUANTILE = _stream.model.Uniform(TOTAL)

Index = NDArray[np.int64]


def _narrowed(length: Index) -> Index:
    """The sizes that are popped for intervals of `length`: long ones are cut by up to 0.4 %.

    A uniform model of a size that hardly divides 2**24 gives its last number up to 256 times its share, which in
    runs of predictable symbols costs more than the symbols do; of `2**24 // k` numbers the last is like the others.
    """
    return np.where(length < LONG, length, PRECISION // -(-PRECISION // length))


NARROWED = _narrowed(np.arange(1, TOTAL + 1, dtype=np.int64))
NARROWED = np.concatenate([[0], NARROWED])
"""The size popped for an interval of each length."""


class IntervalCoder:
    """A stack of symbols: what is pushed last is popped first. Blocks are pushed and popped as wholes."""

    def __init__(self, words: NDArray[np.uint32] | None = None):
        self.stack = _stream.stack.AnsCoder(words)

    @classmethod
    def from_bytes(cls, data: bytes) -> IntervalCoder:
        """The stack that `to_bytes` wrote. Raises `InvalidFile` if no stack reads so."""
        if len(data) % 4 or data[-4:] == b"\0\0\0\0":
            raise InvalidFile("the coded pixels are damaged: they do not end with a coder's state")
        return cls(np.frombuffer(data, "<u4").astype(np.uint32)) if data else cls()

    def to_bytes(self) -> bytes:
        """The stack as little-endian 32-bit words."""
        return self.stack.get_compressed().astype("<u4").tobytes()

    @property
    def empty(self) -> bool:
        """Whether all that was pushed has been popped."""
        return bool(self.stack.is_empty())

    def push(self, left: Index, length: Index) -> None:
        """Push symbols with intervals [left, left + length), all of one shape (n,)."""
        rest = self._pop_rest(length)
        self.stack.encode_reverse((left + rest).astype(np.int32), _QUANTILE)

    def pop_quantiles(self, count: int) -> Index:
        """Numbers within the intervals of the next `count` symbols; `restore` must follow."""
        return self.stack.decode(_QUANTILE, count).astype(np.int64)

    def restore(self, rest: Index, length: Index) -> None:
        """Finish popping: give back where within their intervals the quantiles lay."""
        length = NARROWED.take(length)
        if (rest >= length).any():
            raise InvalidFile("the coded pixels are damaged: a number lies where no coder puts one")
        open_ = length > 1
        if not open_.all():
            rest, length = rest[open_], length[open_]
        self.stack.encode_reverse(rest.astype(np.int32), _ANY, length.astype(np.int32))

    def _pop_rest(self, length: Index) -> Index:
        length = NARROWED.take(length)
        open_ = length > 1  # an interval of one unit has nothing to choose
        if open_.all():
            return self.stack.decode(_ANY, length.astype(np.int32)).astype(np.int64)
        rest = np.zeros(len(length), np.int64)
        rest[open_] = self.stack.decode(_ANY, length[open_].astype(np.int32))
        return rest

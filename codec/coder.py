"""The entropy coder: intervals of symbols on a constriction ANS stack, and what stands in its place for sampling.

Intervals are out of 2**16 or 2**20. ANS is a bijection between naturals (Duda 2013, arXiv 1311.2540), so a symbol with
the integer interval [left, left + length) is coded with uniform distributions alone: pop r out of `length`, push
left + r out of the total. Popping what an empty stack does not hold gives zeros, and the decoder ends with an empty
stack again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from gencodec.codec.tables import FINE_BITS, TOTAL_BITS
from gencodec.errors import InvalidFile

TOTAL = 1 << TOTAL_BITS
FINE_TOTAL = 1 << FINE_BITS
PRECISION = 1 << 24
"""What constriction's uniform model divides: the last of its numbers gets the remainder."""
LONG = 1 << 12
RUN = 1 << 10
"""Symbols of a cut."""
WHOLE_BITS = 12
"""Bits of a place within an interval out of 2**FINE_BITS that are popped as one number; those below are plain bits."""
PLAIN_BITS = np.array([number.bit_length() for number in range(1 << FINE_BITS - WHOLE_BITS)], np.int64)
"""How many these are, by the upper bits of the interval's length."""
FACTORS = 32
"""Lengths, of at most 2**20, of whose product one logarithm is taken: that is far quicker than one of each."""
DRAWN = 16
"""Bits that a symbol may draw from the stack before it is pushed."""
_stream: Any = constriction.stream  # type: ignore[attr-defined]  # a native module without stubs
_ANY = _stream.model.Uniform()
_QUANTILE = _stream.model.Uniform(TOTAL)
_FINE_QUANTILE = _stream.model.Uniform(FINE_TOTAL)

Index = NDArray[np.int64]
Units = NDArray[np.integer[Any]]


@cache
def _flag(share: int) -> Any:
    """A model of numbers 0 and 1; the share is a fraction that floating point and constriction's 24 bits hold."""
    return _stream.model.Bernoulli(share / TOTAL, perfect=False)


class Stack(Protocol):
    """Symbols on a stack: what is pushed last is popped first. Blocks are pushed and popped as wholes.

    `bits` is the information that has been put on it: the ideal code lengths of what was pushed, less those of what
    was popped. With popping, a stack is a source of random choices too (bits-back, Townsend et al. 2019,
    arXiv 1901.04866): a symbol is drawn from a distribution by popping it, and the choice is given back by pushing it.
    """

    bits: float

    def push(self, left: Index, length: Index) -> None:
        """Push symbols with intervals [left, left + length) out of 2**16, all of one shape (n,)."""
        ...

    def pop_quantiles(self, count: int) -> Index:
        """Numbers within the intervals of the next `count` symbols; `restore` must follow."""
        ...

    def restore(self, rest: Index, length: Index) -> None:
        """Finish popping: give back where within their intervals, of these lengths, the quantiles lay."""
        ...

    def give_back(self, rest: Index, length: Index) -> None:
        """What `restore` does, without keeping `bits` up to date: for decoders that are in a hurry."""
        ...

    def push_uniform(self, value: Index, size: Index | int) -> None:
        """Push numbers (n,), each equally likely below its size, a number or (n,), of at most 2**16."""
        ...

    def pop_uniform(self, size: Index | int, count: int) -> Index:
        """Pop `count` numbers that `push_uniform` pushed with these sizes."""
        ...

    def push_flags(self, flags: Index, share: int) -> None:
        """Push numbers 0 or 1 (n,), of which 1 has `share` out of 2**16, more than 0 and less than all."""
        ...

    def pop_flags(self, share: int, count: int) -> Index:
        """Pop `count` numbers that `push_flags` pushed with this share."""
        ...


def _narrowed(length: Index) -> Index:
    """The sizes that are popped for intervals of `length`: long ones are cut by up to 0.4 %.

    A uniform model of a size that hardly divides 2**24 gives its last number up to 256 times its share, which in
    runs of predictable symbols costs more than the symbols do; of `2**24 // k` numbers the last is like the others.
    """
    return np.where(length < LONG, length, PRECISION // -(-PRECISION // length))


NARROWED = np.concatenate([[0], _narrowed(np.arange(1, TOTAL + 1, dtype=np.int64))]).astype(np.int32)
"""The size popped for an interval of each length."""


class IntervalCoder:
    """The stack that files hold (`Stack`)."""

    PACKED: type[np.unsignedinteger[Any]] = np.uint32
    """What holds an interval's beginning and length, as `push_blocks` takes them."""

    def __init__(self, words: NDArray[np.uint32] | None = None):
        self.stack = _stream.stack.AnsCoder(words)
        self.bits = 0.0

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
        rest = self._pop_rest(NARROWED.take(length))
        self.stack.encode_reverse((left + rest).astype(np.int32), _QUANTILE)
        self.bits += information(length)

    def push_blocks(self, symbols: NDArray[np.unsignedinteger[Any]], begins: Index) -> None:
        """Push columns of `symbols` (rows, n) block by block, the last one first: what `push` does, in less time.

        Block i goes from column begins[i] up to begins[i + 1], its symbols row by row. `symbols`: beginnings of their
        intervals in the upper 16 bits, lengths in the lower ones, so none of the whole.
        """
        length = symbols & (TOTAL - 1)
        size = NARROWED.take(length)
        shut = np.flatnonzero((size <= 1).any(0))
        shuts = np.diff(np.searchsorted(shut, begins)) > 0
        for block, has_shut in zip(_reversed_blocks(begins), shuts[::-1].tolist(), strict=True):
            sizes = size[:, block].ravel()
            rest = self._pop_rest(sizes) if has_shut else self.stack.decode(_ANY, sizes)
            rest += (symbols[:, block].ravel() >> TOTAL_BITS).astype(np.int32)
            self.stack.encode_reverse(rest, _QUANTILE)
        self.bits += information(length)

    def pop_quantiles(self, count: int) -> Index:
        return self.stack.decode(_QUANTILE, count).astype(np.int64)

    def restore(self, rest: Index, length: Index) -> None:
        self.bits -= information(length)
        self.give_back(rest, length)

    def give_back(self, rest: Index, length: Index) -> None:
        size = NARROWED.take(length)
        if (rest >= size).any():
            raise InvalidFile("the coded pixels are damaged: a number lies where no coder puts one")
        if size.min(initial=2) < 2:
            open_ = size > 1
            rest, size = rest[open_], size[open_]
        self.stack.encode_reverse(rest.astype(np.int32), _ANY, size)

    def push_uniform(self, value: Index, size: Index | int) -> None:
        sizes = np.broadcast_to(size, value.shape)
        open_ = sizes > 1
        self.stack.encode_reverse(value[open_].astype(np.int32), _ANY, sizes[open_].astype(np.int32))
        self.bits += float(np.log2(sizes).sum())

    def pop_uniform(self, size: Index | int, count: int) -> Index:
        sizes = np.broadcast_to(np.asarray(size, np.int64), count)
        open_ = sizes > 1
        value = np.zeros(count, np.int64)
        value[open_] = self.stack.decode(_ANY, sizes[open_].astype(np.int32))
        self.bits -= float(np.log2(sizes).sum())
        return value

    def push_flags(self, flags: Index, share: int) -> None:
        self.stack.encode_reverse(flags.astype(np.int32), _flag(share))
        ones = int(flags.sum())
        self.bits += ones * (TOTAL_BITS - math.log2(share))
        self.bits += (len(flags) - ones) * (TOTAL_BITS - math.log2(TOTAL - share))

    def pop_flags(self, share: int, count: int) -> Index:
        flags = self.stack.decode(_flag(share), count).astype(np.int64)
        ones = int(flags.sum())
        self.bits -= ones * (TOTAL_BITS - math.log2(share))
        self.bits -= (count - ones) * (TOTAL_BITS - math.log2(TOTAL - share))
        return flags

    def _pop_rest(self, size: NDArray[np.int32]) -> NDArray[np.int32]:
        """Pop where within intervals of these narrowed sizes numbers shall lie."""
        open_ = size > 1  # an interval of one unit has nothing to choose
        if open_.all():
            return self.stack.decode(_ANY, size)
        rest = np.zeros(len(size), np.int32)
        rest[open_] = self.stack.decode(_ANY, size[open_])
        return rest


class FineCoder(IntervalCoder):
    """The stack of files whose intervals are out of 2**FINE_BITS, shorter than that.

    A place within an interval is popped as a number below the length's upper WHOLE_BITS bits, and then plain bits for
    the rest: that cuts the interval by 2**-WHOLE_BITS of its length in the mean, and constriction's uniform model gives
    the last of so few numbers hardly more than the others.
    """

    PACKED = np.uint64

    def push(self, left: Index, length: Index) -> None:
        self._put(left, length)
        self.bits += information(length, FINE_BITS)

    def push_blocks(self, symbols: NDArray[np.unsignedinteger[Any]], begins: Index) -> None:
        for block in _reversed_blocks(begins):
            pushed = symbols[:, block].ravel().astype(np.int64)
            self._put(pushed >> FINE_BITS, pushed & (FINE_TOTAL - 1))
        self.bits += information(symbols & (FINE_TOTAL - 1), FINE_BITS)

    def pop_quantiles(self, count: int) -> Index:
        return self.stack.decode(_FINE_QUANTILE, count).astype(np.int64)

    def restore(self, rest: Index, length: Index) -> None:
        self.bits -= information(length, FINE_BITS)
        self.give_back(rest, length)

    def give_back(self, rest: Index, length: Index) -> None:
        parts = _Parts(length)
        self.stack.encode_reverse(parts.of(rest), _ANY, parts.sizes)

    def _put(self, left: Index, length: Index) -> None:
        """Push a block of symbols."""
        parts = _Parts(length)
        rest = parts.joined(self.stack.decode(_ANY, parts.sizes))
        self.stack.encode_reverse((left + rest).astype(np.int32), _FINE_QUANTILE)


class _Parts:
    """The two parts of places within intervals out of 2**FINE_BITS, of these lengths (n,), all less than that."""

    def __init__(self, length: Index):
        self.plain = PLAIN_BITS.take(length >> WHOLE_BITS)
        """Plain bits, (n,)."""
        self.upper = length >> self.plain
        """How many numbers the other part can be, (n,)."""
        self.has_plain = np.flatnonzero(self.plain)
        self.open: Index | None = None
        """Who has an upper part, intervals of more than one unit; None for all."""
        if length.min(initial=2) < 2:
            self.open = np.flatnonzero(length > 1)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """How many numbers each part can be: first stand the upper ones of those that have one, then the plain ones."""
        return self._laid(self.upper, 1 << self.plain)

    def of(self, rest: Index) -> NDArray[np.int32]:
        """Places (n,) in parts, in the order of `sizes`. Raises `InvalidFile` for what no coder puts there."""
        upper = rest >> self.plain
        if (upper >= self.upper).any():
            raise InvalidFile("the coded pixels are damaged: a number lies where no coder puts one")
        return self._laid(upper, rest - (upper << self.plain))

    def joined(self, parts: NDArray[np.int32]) -> Index:
        """Places (n,) of their popped parts, in the order of `sizes`."""
        upper, low = np.split(parts, [len(parts) - len(self.has_plain)])
        if self.open is None:
            rest = upper.astype(np.int64)
        else:
            rest = np.zeros(len(self.plain), np.int64)
            rest[self.open] = upper
        rest <<= self.plain
        rest[self.has_plain] += low
        return rest

    def _laid(self, upper: Index, low: Index) -> NDArray[np.int32]:
        """What belongs to both parts of each place, (n,) each, in the order of `sizes`."""
        upper = upper if self.open is None else upper.take(self.open)
        return np.concatenate([upper, low.take(self.has_plain)]).astype(np.int32)


class RandomCoder:
    """A stack of endless random bits: what a decoder makes of it is a sample of the model (`Stack`)."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.bits = 0.0

    def push(self, left: Index, length: Index) -> None:  # noqa: ARG002
        self.bits += information(length)

    def pop_quantiles(self, count: int) -> Index:
        return self.rng.integers(0, TOTAL, count)

    def restore(self, rest: Index, length: Index) -> None:
        self.bits -= information(length)
        self.give_back(rest, length)

    def give_back(self, rest: Index, length: Index) -> None:
        """Do nothing: there are random bits enough."""

    def push_uniform(self, value: Index, size: Index | int) -> None:
        self.bits += float(np.log2(np.broadcast_to(size, value.shape)).sum())

    def pop_uniform(self, size: Index | int, count: int) -> Index:
        self.bits -= float(np.log2(np.broadcast_to(np.asarray(size, np.int64), count)).sum())
        return self.rng.integers(0, size, count)

    def push_flags(self, flags: Index, share: int) -> None:
        self.bits += information(np.where(flags == 1, share, TOTAL - share))

    def pop_flags(self, share: int, count: int) -> Index:
        flags = (self.rng.integers(0, TOTAL, count) < share).astype(np.int64)
        self.bits -= information(np.where(flags == 1, share, TOTAL - share))
        return flags


class MiddleCoder(RandomCoder):
    """A stack whose every choice is the middle one: medians for symbols, half of the size for uniform numbers."""

    def __init__(self) -> None:
        super().__init__(0)

    def pop_quantiles(self, count: int) -> Index:
        return np.full(count, TOTAL // 2, np.int64)

    def pop_uniform(self, size: Index | int, count: int) -> Index:
        return np.broadcast_to(np.asarray(size, np.int64) // 2, count).copy()

    def pop_flags(self, share: int, count: int) -> Index:
        return np.full(count, int(2 * share > TOTAL), np.int64)


def _reversed_blocks(begins: Index) -> Iterator[slice]:
    """Slices from each of `begins` to the next one, the last one first."""
    return (slice(a, b) for b, a in pairwise(begins[::-1].tolist()))


def runs(count: int) -> list[slice]:
    """Cuts of a block of `count` symbols.

    A stack must hold what a block draws before the block gives anything, some 12 bits a symbol: where it holds little,
    long blocks are pushed cut by cut, and popped from the last one.
    """
    return [slice(at, min(at + RUN, count)) for at in range(0, count, RUN)]


def information(length: Units, total_bits: int = TOTAL_BITS) -> float:
    """Ideal code length in bits of symbols with intervals of these lengths out of 2**`total_bits`."""
    flat = length.ravel()
    rest = flat.size % FACTORS
    products = np.multiply.reduce(flat[rest:].reshape(FACTORS, -1), 0, np.float64)
    return float(total_bits * flat.size - np.log2(flat[:rest]).sum() - np.log2(products).sum())

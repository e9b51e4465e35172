"""Weights fitted to one picture: what a file carries of them, and the model that it makes of them.

A change is a whole number of steps. Its magnitude is coded as a bucket (0, 1, 2, 3 to 4, 5 to 8, ...), whose chances
are the layer's counts of buckets so far, then the place in the bucket and the sign in plain bits. Counts are brought
up to date after blocks of growing length, up to LONGEST_BLOCK: a block is one vector operation, and its symbols
together borrow from the stack, which in so short a stream holds little.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.coder import TOTAL, IntervalCoder
from gencodec.errors import MALFORMED, InexactGraph, InvalidFile
from gencodec.runtime import proof
from gencodec.runtime.proof import EXACT_LIMIT

if TYPE_CHECKING:
    from gencodec.runtime import Model

Index = NDArray[np.int64]
Changes = dict[str, Index]
"""Per layer, the changes of weights and (last column) biases in their steps, (rows, columns + 1)."""
LARGEST_SHIFT = 15
BUCKETS = 17
"""Of magnitudes: 0, 1, 2, and from bucket k = 3 on those above 2**(k - 2), up to 2**(k - 1)."""
EXTRA = np.maximum(np.arange(BUCKETS) - 2, 0)
"""Bits that tell a magnitude within its bucket."""
FIRST = np.array([0, 1, 2, *((1 << np.arange(1, BUCKETS - 2)) + 1)])
"""The least magnitude of each bucket."""
LARGEST = 1 << (BUCKETS - 2)
"""The largest magnitude."""
PRIOR = np.array([48, 16, 8, 6, 4, 2, *[1] * (BUCKETS - 6)])
COUNTED = 8
"""What a bucket's count grows by at each use."""
FIRST_BLOCK, LONGEST_BLOCK = 16, 64
REFERENCE = 1 << 18
"""Pixels of the picture that changes of coarseness 0 are for."""
HEADER = struct.Struct("<b")


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that adapts."""

    name: str
    weight: Index
    """Integers of weights and, in the last column, biases; (rows, columns + 1)."""
    scale: NDArray[np.float32]
    """What a weight's integer 1 stands for, (rows, columns + 1)."""
    shift: Index
    """Logarithms of the integers that changes are multiples of at coarseness 0, (rows, columns + 1)."""
    reach: Index
    """Largest magnitudes of the inputs, and the bias' 1; (columns + 1,)."""

    @classmethod
    def of(cls, model: Model, name: str, reach: Index) -> Layer:
        """The layer called `name`, whose inputs reach magnitudes `reach` (columns,)."""
        weight, bias = (model.constant(f"{name}.{part}").astype(np.int64) for part in ("weight", "bias"))
        rows, columns = (model.constant(f"{name}.{part}_units").astype(np.int64) for part in ("row", "column"))
        both = np.concatenate([weight, bias[:, None]], 1)
        scale = np.exp2((columns[0] - rows[0][:, None]).astype(np.float32))
        return cls(name, both, scale, columns[1] + rows[1][:, None], np.append(reach, 1))

    def steps(self, coarseness: int) -> Index:
        """The integers that changes are multiples of, (rows, columns + 1)."""
        return np.int64(1) << np.clip(self.shift + coarseness, 0, LARGEST_SHIFT)

    def changed(self, changes: Index, coarseness: int) -> Index:
        """The integers of weights and biases with `changes` (rows, columns + 1)."""
        return self.weight + changes * self.steps(coarseness)

    def allowed(self, changes: Index, coarseness: int) -> Index:
        """`changes`, less where a row's sums would no longer be exact or a weight would not fit its type."""
        changes = np.clip(changes, -LARGEST, LARGEST)
        while True:
            integers = self.changed(changes, coarseness)
            wide = np.abs(integers[:, :-1]).max(1) >= 1 << 15
            broken = wide | (np.abs(integers) @ self.reach >= EXACT_LIMIT)
            if not broken.any():
                return changes
            changes[broken] = np.trunc(changes[broken] / 2).astype(np.int64)


def layers(model: Model) -> list[Layer]:
    """The layers of a model that adapt; none for models that do not. Raises `InvalidFile`."""
    try:
        names = json.loads(model.file.metadata.get("gencodec.adapts", "[]"))
    except MALFORMED as error:
        raise InvalidFile(f"the model {model.card.name} does not say which of its layers adapt") from error
    reaches = proof.reaches(model.file)
    if not isinstance(names, list) or not all(isinstance(name, str) and name in reaches for name in names):
        raise InvalidFile(f"the model {model.card.name} does not say which of its layers adapt")
    return [Layer.of(model, name, reaches[name]) for name in names]


def constants(layer: Layer, integers: Index) -> dict[str, NDArray[np.generic]]:
    """The model's constants that hold `integers` (rows, columns + 1). Raises `InvalidFile` where they do not fit."""
    weight, bias = integers[:, :-1], integers[:, -1]
    if np.abs(weight).max() >= 1 << 15 or np.abs(bias).max() >= 1 << 24:
        raise InvalidFile("the file's changes of weights are damaged: they leave the model's range")
    return {f"{layer.name}.weight": weight.astype(np.int16), f"{layer.name}.bias": bias.astype(np.int32)}


def applied(model: Model, changes: Changes, coarseness: int) -> Model:
    """The model with changed weights, proved exact again. Raises `InvalidFile` where it is not."""
    values: dict[str, NDArray[np.generic]] = {}
    for layer in layers(model):
        values |= constants(layer, layer.changed(changes[layer.name], coarseness))
    try:
        return model.changed(values)
    except InexactGraph as error:
        raise InvalidFile(f"the file's changes of weights are damaged: {error}") from error


def pack(changes: Changes, coarseness: int) -> bytes:
    """The payload of an ADAPTATION section."""
    symbols: list[tuple[Index, Index]] = []
    for values in changes.values():
        chances = Chances()
        flat = values.ravel()
        for block in blocks(flat.size):
            part = flat[block]
            magnitude = np.abs(part)
            bucket = np.searchsorted(FIRST, magnitude, "right") - 1
            symbols.append(chances.interval(bucket))
            chances.learn(bucket)
            wide = bucket[EXTRA[bucket] > 0]
            symbols.append(plain(magnitude[EXTRA[bucket] > 0] - FIRST[wide], EXTRA[wide]))
            changed = part[part != 0]
            symbols.append(plain((changed < 0).astype(np.int64), np.ones_like(changed)))
    coder = IntervalCoder()
    for left, length in reversed(symbols):
        coder.push(left, length)
    return HEADER.pack(coarseness) + coder.to_bytes()


def unpack(payload: bytes, model: Model) -> tuple[Changes, int]:
    """The changes of a model's weights, and their coarseness. Raises `InvalidFile`."""
    if len(payload) < HEADER.size:
        raise InvalidFile("the file's changes of weights are truncated")
    coder = IntervalCoder.from_bytes(payload[HEADER.size :])
    changes: Changes = {}
    for layer in layers(model):
        chances = Chances()
        flat = np.zeros(layer.weight.size, np.int64)
        for block in blocks(flat.size):
            quantile = coder.pop_quantiles(block.stop - block.start)
            bucket = chances.found(quantile)
            left, length = chances.interval(bucket)
            coder.restore(quantile - left, length)
            chances.learn(bucket)
            flat[block] = FIRST[bucket]
            wide = np.flatnonzero(EXTRA[bucket] > 0)
            flat[wide + block.start] += popped(coder, EXTRA[bucket[wide]])
            changed = np.flatnonzero(bucket) + block.start
            negative = popped(coder, np.ones_like(changed))
            flat[changed[negative > 0]] *= -1
        changes[layer.name] = flat.reshape(layer.weight.shape)
    if not coder.empty:
        raise InvalidFile("the file's changes of weights are damaged: they do not end where they should")
    if not changes:
        raise InvalidFile(f"the file changes weights of {model.card.name}, which does not adapt")
    return changes, HEADER.unpack_from(payload)[0]


class Chances:
    """Counts of buckets so far, and their intervals out of 2**16."""

    def __init__(self) -> None:
        self.counts = PRIOR.astype(np.int64)
        self._divide()

    def _divide(self) -> None:
        lengths = self.counts * (TOTAL - BUCKETS) // self.counts.sum() + 1
        lengths[0] += TOTAL - lengths.sum()
        self.ends = np.concatenate([[0], np.cumsum(lengths)])

    def learn(self, bucket: Index) -> None:
        """Count buckets (n,)."""
        self.counts += COUNTED * np.bincount(bucket, minlength=BUCKETS)
        self._divide()

    def interval(self, bucket: Index) -> tuple[Index, Index]:
        """Beginnings and lengths of buckets' intervals, (n,) each."""
        return self.ends[bucket], self.ends[bucket + 1] - self.ends[bucket]

    def found(self, quantile: Index) -> Index:
        """The buckets whose intervals hold `quantile` (n,)."""
        return np.searchsorted(self.ends, quantile, "right") - 1


def blocks(size: int) -> Iterator[slice]:
    """Slices that cover `size` elements, each as long as all before it together, up to LONGEST_BLOCK."""
    start, length = 0, FIRST_BLOCK
    while start < size:
        yield slice(start, min(start + length, size))
        start += length
        length = min(start, LONGEST_BLOCK)


def plain(value: Index, bits: Index) -> tuple[Index, Index]:
    """Intervals of numbers (n,) of so many equally likely bits each."""
    length = TOTAL >> bits
    return value * length, length


def popped(coder: IntervalCoder, bits: Index) -> Index:
    """Numbers (n,) of so many equally likely bits each."""
    quantile = coder.pop_quantiles(len(bits))
    length = TOTAL >> bits
    value = quantile // length
    coder.restore(quantile - value * length, length)
    return value

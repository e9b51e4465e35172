"""Steps of flows on integers: bijections that a flow's real ones are close to, and the code of its latents.

Values are (n, features, height, width) int64. Additive steps are bijections as they stand. A scale is one with the
help of a stack (the modular scale transform of iFlow, Zhang et al. 2021, arXiv 2111.00965, algorithm 1): what the
division loses is pushed, what the multiplication leaves open is popped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.coder import Stack, runs
from gencodec.codec.tables import Tables
from gencodec.errors import InvalidFile

Values = NDArray[np.int64]

SCALE_BITS = 10
"""A factor R scales by R / 2**SCALE_BITS."""
MATRIX_BITS = 12
"""A matrix's entries are multiples of 2**-MATRIX_BITS."""
EXACT_LIMIT = 1 << 53
"""Integers up to here, and so every partial sum up to it, are exact in float64."""
INTEGER_LIMIT = 1 << 62
PIECE = 16
"""Bits that a stack takes at once."""


def squeezed(y: Values, factor: int) -> Values:
    """Blocks of factor x factor positions as features, c * factor**2 + factor * row + column."""
    n, C, H, W = y.shape
    blocks = y.reshape(n, C, H // factor, factor, W // factor, factor).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(n, C * factor**2, H // factor, W // factor)


def unsqueezed(y: Values, factor: int) -> Values:
    """The inverse of `squeezed`."""
    n, C, H, W = y.shape
    blocks = y.reshape(n, C // factor**2, factor, factor, H, W).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, C // factor**2, H * factor, W * factor)


def scaled(y: Values, factor: Values, stack: Stack) -> Values:
    """About `y * factor / 2**SCALE_BITS`, for factors 1..2**16 that spread to the shape of `y`."""
    factors = np.broadcast_to(factor, y.shape).ravel()
    total = y.ravel() * factors
    for run in runs(y.size):
        total[run] += stack.pop_uniform(factors[run], total[run].size)
        stack.push_uniform(total[run] & ((1 << SCALE_BITS) - 1), 1 << SCALE_BITS)
    return (total >> SCALE_BITS).reshape(y.shape)


def unscaled(y: Values, factor: Values, stack: Stack) -> Values:
    """The inverse of `scaled`."""
    factors = np.broadcast_to(factor, y.shape).ravel()
    total = y.ravel() << SCALE_BITS
    quotient = np.empty_like(total)
    for run in reversed(runs(y.size)):
        total[run] += stack.pop_uniform(1 << SCALE_BITS, total[run].size)
        quotient[run] = total[run] // factors[run]
        stack.push_uniform(total[run] - quotient[run] * factors[run], factors[run])
    return quotient.reshape(y.shape)


def product(matrix: Values, y: Values) -> Values:
    """Floor of the matrix's product with the features (n, columns, positions), in units of 2**-MATRIX_BITS.

    It is exact for all sums below 2**62: in float64 while they stay below 2**53, else in integers. Raises
    `InvalidFile` beyond.
    """
    peak = max(int(y.max(initial=0)), -int(y.min(initial=0))) * int(np.abs(matrix).sum(1).max(initial=0))
    if peak < EXACT_LIMIT:
        total = np.matmul(matrix.astype(np.float64), y.astype(np.float64))
        return np.floor(total * 2.0**-MATRIX_BITS).astype(np.int64)
    if peak < INTEGER_LIMIT:
        return np.matmul(matrix, y) >> MATRIX_BITS
    raise InvalidFile("the coded pixels are damaged: their values leave the range of integers")


def sheared(y: Values, matrix: Values) -> Values:
    """`y` plus its product with a strictly triangular matrix."""
    flat = y.reshape(*y.shape[:2], -1)
    return (flat + product(matrix, flat)).reshape(y.shape)


def unsheared(y: Values, matrix: Values) -> Values:
    """The inverse of `sheared`: features in the order in which they depend on each other."""
    flat = y.reshape(*y.shape[:2], -1).copy()
    upper = bool(np.triu(matrix, 1).any())
    places = range(len(matrix))
    for i in reversed(places) if upper else places:
        known = slice(i + 1, None) if upper else slice(0, i)
        if matrix[i, known].any():
            flat[:, i] -= product(matrix[i : i + 1, known], flat[:, known])[:, 0]
    return flat.reshape(y.shape)


def push_bits(stack: Stack, value: Values, bits: int) -> None:
    """Push numbers (n,) below 2**bits."""
    for at in range(0, bits, PIECE):
        width = min(PIECE, bits - at)
        stack.push_uniform((value >> at) & ((1 << width) - 1), 1 << width)


def pop_bits(stack: Stack, bits: int, count: int) -> Values:
    """The inverse of `push_bits`."""
    value = np.zeros(count, np.int64)
    for at in reversed(range(0, bits, PIECE)):
        value |= stack.pop_uniform(1 << min(PIECE, bits - at), count) << at
    return value


class Outliers:
    """The code of numbers >= 0 with short tails: Golomb's, whose unit grows where it would be long.

    A number is q whole units of 2**bits and a rest; q takes q + 1 bits, and 15 says that what is left is coded with
    units 16 times as large.
    """

    FIRST = 4
    FAR = 15
    LAST = 60
    LEFT = np.append(65536 - (65536 >> np.arange(FAR)), 65534)
    LENGTH = np.append(32768 >> np.arange(FAR), 2)

    @classmethod
    def push(cls, stack: Stack, excess: Values, bits: int = FIRST) -> None:
        """Push numbers (n,)."""
        if bits >= cls.LAST:
            raise InvalidFile("the coded pixels are damaged: their values leave the range of integers")
        count = np.minimum(excess >> bits, cls.FAR)
        near = count < cls.FAR
        push_bits(stack, excess[near] & ((1 << bits) - 1), bits)
        if not near.all():
            cls.push(stack, excess[~near] - (cls.FAR << bits), bits + cls.FIRST)
        stack.push(cls.LEFT[count], cls.LENGTH[count])

    @classmethod
    def pop(cls, stack: Stack, size: int, bits: int = FIRST) -> Values:
        """Pop `size` numbers. Raises `InvalidFile`."""
        if bits >= cls.LAST:
            raise InvalidFile("the coded pixels are damaged: their values leave the range of integers")
        quantile = stack.pop_quantiles(size)
        count = np.searchsorted(cls.LEFT, quantile, "right") - 1
        stack.restore(quantile - cls.LEFT[count], cls.LENGTH[count])
        excess = count << bits
        near = count < cls.FAR
        if not near.all():
            excess[~near] += cls.pop(stack, int((~near).sum()), bits + cls.FIRST)
        excess[near] |= pop_bits(stack, bits, int(near.sum()))
        return excess


class Density:
    """The code of latents on a fine grid, by tables that are made for 256 gray levels.

    A latent's distance from the mean, in bins of 1/4 to 1/8 of the scale, is a symbol; where it lies in its bin is
    pushed as it is, and so is how far an end symbol's latent lies beyond.
    """

    CENTER = 128
    MEAN = 16 * CENTER - 8
    """In sixteenths of a symbol: where symbol CENTER begins."""
    FINEST = 36
    """Index of the scale of 4 symbols; those in use are up to 5 more."""
    PER_OCTAVE = 6

    def __init__(self, tables: Tables, fraction: int):
        """`fraction`: latents are in units of 2**-fraction gray levels."""
        self.tables, self.fraction = tables, fraction

    def widths(self, scale: Values) -> tuple[Values, Values]:
        """The logarithms of the bins' widths, and the scale indices in bins, of scale indices."""
        index = scale + self.PER_OCTAVE * self.fraction
        octave = np.maximum((index - self.FINEST) // self.PER_OCTAVE, 0)
        return octave, index - self.PER_OCTAVE * octave

    def push(self, stack: Stack, z: Values, mean: Values, scale: Values, shape: Values) -> None:
        """Push latents (n,), their means in the latents' units; scale and shape indices as in `Tables`."""
        for run in runs(len(z)):
            self._push(stack, z[run], mean[run], scale[run], shape[run])

    def pop(self, stack: Stack, mean: Values, scale: Values, shape: Values) -> Values:
        """The inverse of `push`."""
        parts = [self._pop(stack, mean[run], scale[run], shape[run]) for run in reversed(runs(len(mean)))]
        return np.concatenate(parts[::-1]) if parts else np.zeros(0, np.int64)

    def _push(self, stack: Stack, z: Values, mean: Values, scale: Values, shape: Values) -> None:
        octave, index = self.widths(scale)
        away = z - mean
        stack.push_uniform(away & ((1 << octave) - 1), 1 << octave)
        place = (away >> octave) + self.CENTER
        symbol = np.clip(place, 0, 255)
        high, low = symbol == 255, symbol == 0
        ends = high | low
        if ends.any():
            Outliers.push(stack, np.where(high, place - 255, -place)[ends])
        stack.push(*self.tables.interval(symbol, np.full_like(z, self.MEAN), index, shape))

    def _pop(self, stack: Stack, mean: Values, scale: Values, shape: Values) -> Values:
        octave, index = self.widths(scale)
        quantile = stack.pop_quantiles(len(mean))
        place, left, length = self.tables.find(quantile, np.full_like(mean, self.MEAN), index, shape)
        stack.restore(quantile - left, length)
        high, low = place == 255, place == 0
        ends = high | low
        if ends.any():
            excess = Outliers.pop(stack, int(ends.sum()))
            place[ends] += np.where(high[ends], excess, -excess)
        return ((place - self.CENTER) << octave) + stack.pop_uniform(1 << octave, len(mean)) + mean

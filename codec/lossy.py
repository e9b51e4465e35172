"""What lossy codecs give and take: pictures <-> payloads at quality levels, and the search for a level.

A lossy codec is a module with the functions of `LossyCodec`. A quality of 1 to 100, as users state it, is a position
between the model's lowest level and its highest.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gencodec.codec.groups import Progress
    from gencodec.runtime import Model

Pixels = NDArray[np.uint8]
Region = tuple[int, int, int, int]
LOWEST, HIGHEST = 1, 100
"""Qualities, as users state them."""
FIRST = 0.01
"""Where among a model's levels qualities begin: at the very end of what networks learn, files do not always shrink."""


@dataclass(frozen=True)
class LossyEncoded:
    """A coded picture."""

    payload: bytes
    bits: float
    """Code length by the exact model's own probabilities."""
    checksum: int
    """CRC-32 of the integers that a decoder finds, before floating point comes in."""


@dataclass(frozen=True)
class LossyDecoded:
    """A decoded picture, (height, width, 1 or 3), and the CRC-32 of the integers it was made of."""

    pixels: Pixels
    checksum: int | None
    """None where only a part was decoded."""


class LossyCodec(Protocol):
    """What a lossy family's module gives."""

    def levels(self, model: Model) -> int:
        """How many quality levels there are, of rising rate."""
        ...

    def encode(self, pixels: Pixels, model: Model, *, level: int, progress: Progress | None = None) -> LossyEncoded:
        """Code pixels (height, width, 1 or 3) at a level from 0."""
        ...

    def decode(
        self,
        payload: bytes,
        shape: tuple[int, int, int],
        model: Model,
        *,
        region: Region | None = None,
        preview: bool = False,
        progress: Progress | None = None,
    ) -> LossyDecoded:
        """The pixels of `shape`, or of a region (x, y, width, height); `preview`: from the first groups alone.

        Raises `InvalidFile`.
        """
        ...

    def sample(self, model: Model, count: int, seed: int, temperature: float = 1.0) -> Pixels:
        """What the decoder makes of random numbers: (count, side, side, 3), red, green, blue."""
        ...


def quality_of(level: int, levels: int) -> float:
    """The quality from 1 to 100 of a level."""
    return LOWEST + (HIGHEST - LOWEST) * level / max(1, levels - 1)


def level_of(quality: float, levels: int) -> int:
    """The level of a quality from 1 to 100."""
    return round(max(FIRST, (quality - LOWEST) / (HIGHEST - LOWEST)) * (levels - 1))


def first_reaching(measure: Callable[[int], float], wanted: float, levels: int) -> int:
    """The first level whose measure, which rises with the level, is at least what is wanted; the last if none is."""
    low, high = -1, levels - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if measure(middle) >= wanted else (middle, high)
    return high


def psnr(pixels: NDArray[Any], decoded: NDArray[Any]) -> float:
    """PSNR in dB of samples (height, width, channels), of one mean square error over all; infinite for none."""
    error = float(np.mean(np.square(pixels.astype(np.float64) - decoded)))
    peak = np.iinfo(pixels.dtype).max
    return 10 * math.log10(peak**2 / error) if error else math.inf


def checksum(arrays: Iterable[NDArray[np.int16] | NDArray[np.uint16]]) -> int:
    """CRC-32 of arrays of 16-bit integers, one after the other, little-endian."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes(), crc)
    return crc

"""How much of an image occurs in it more than once, which is what the copies of WebP and PNG live on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.image import Pixels

FEW_REPEATS = 0.1
"""Share of recurring pixel runs above which WebP's copies may gain what its quick effort does not show.
Kodak: 0.03 to 0.05; gb82: 0.00 to 0.67, by its flat skies and blacks; screenshots and line art: 0.45 to
1.00."""

BAND_PIXELS = 1 << 21
"""Pixels that are looked at together."""

_RUN = 8  # a power of two


def repeated_share(pixels: Pixels) -> float:
    """Share of the horizontal runs of 8 pixels that occur elsewhere too, wherever that is.

    Of all runs the 1 in 16 whose hash ends in 0 are looked at, so that both copies of one content are, or
    neither.
    """
    found = (_run_hashes(band) for band in bands(pixels))
    hashes = np.sort(np.concatenate([part[part & 15 == 0] for part in found]))  # a tenth of the time of np.unique
    distinct = min(1, len(hashes)) + np.count_nonzero(np.diff(hashes))
    return 1 - distinct / max(1, len(hashes))


def bands(pixels: Pixels) -> Iterator[Pixels]:
    """Cut samples into bands of whole rows, so that memory stays bounded."""
    rows = max(1, BAND_PIXELS // pixels.shape[1])
    for top in range(0, pixels.shape[0], rows):
        yield pixels[top : top + rows]


def _run_hashes(pixels: Pixels) -> NDArray[np.uint32]:
    """Hash every run of _RUN pixels in a row; uint32 (H, W - _RUN + 1), none where it is narrower."""
    values = np.zeros(pixels.shape[:2], np.uint32)
    for channel in range(pixels.shape[2]):
        values *= np.uint32(0x9E3779B1)
        values += pixels[:, :, channel]
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(15)
    reach = 1
    while reach < _RUN:  # of twice as many pixels each time
        values = values[:, :-reach] * np.uint32(pow(0x01000193, reach, 1 << 32)) + values[:, reach:]
        reach *= 2
    values *= np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))

"""The choice between the neural codec and ordinary coders.

The smaller of the two is never worse than WebP lossless at full effort, or than PNG where WebP cannot hold
the samples. Full effort is slow (0.05 MP/s on photographs), so that quick efforts tell first whether it
could win.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gencodec.codec import ordinary
from gencodec.codec.image import Pixels

LEAST_SIDE = 32
"""Images narrower or lower than this are left to ordinary coders: a network has too little to go by."""

PALETTE_COLORS = 256
GREY_LEVELS = 16
"""Color images of at most PALETTE_COLORS colors, and grey ones of at most GREY_LEVELS, are for ordinary
coders, which write them as a palette."""

# The probe factors. Evidence, all as (WebP at quality 100, method 6) / (the quick WebP):
#   quality 20, method 1, of b bytes a raw byte: 0.83 to 0.98 on 37 photographs of Kodak and gb82, growing
#     with b; 0.75 + 0.28 b, the bound used here, was below every one of them. Where runs of pixels recur
#     (FEW_REPEATS) the bound does not hold: 0.57 to 0.86 on screenshots.
#   quality 100, method 2: 0.91 to 1.02 on the same photographs; 0.83 on one screenshot, else 0.92 to 1.00.
# The neural codec, taken as 0.97 of JPEG XL at effort 7, is 0.77 to 0.91 of the first on photographs, and
# below the bound on all of them, so that a photograph costs one probe of 4 to 8 MP/s.
QUICK_FACTOR = 0.75
QUICK_SLOPE = 0.28
CLOSE_FACTOR = 0.91

PROBED_PIXELS = 1 << 15
"""Smaller images are compared in full, which takes a second: icons vary too much for a probe."""

FEW_REPEATS = 0.1
"""Share of recurring pixel runs above which WebP's copies may gain what its quick effort does not show.
Kodak: 0.03 to 0.05; gb82: 0.00 to 0.67, by its flat skies and blacks; screenshots and line art: 0.45 to
1.00."""

_RUN = 8
_BAND_PIXELS = 1 << 21


def suits_model(color: Pixels) -> bool:
    """Whether the neural codec is worth trying on samples without alpha: 8 bits, not tiny, many colors."""
    height, width, channels = color.shape
    if color.dtype != np.uint8 or min(height, width) < LEAST_SIDE:
        return False
    return not _has_few_colors(color, GREY_LEVELS if channels == 1 else PALETTE_COLORS)


def model_wins(pixels: Pixels, size: int) -> bool:
    """Whether WebP at full effort (or PNG, for lack of WebP) would surely take more than `size` bytes."""
    if pixels.shape[0] * pixels.shape[1] < PROBED_PIXELS:
        return False
    if not ordinary.fits_webp(pixels):
        return size < CLOSE_FACTOR * len(ordinary.encode_png(pixels, level=6))
    if repeated_share(pixels) < FEW_REPEATS:
        height, width, channels = pixels.shape
        quick = sum(len(ordinary.encode_webp(band, quality=20, method=1)) for band in _bands(pixels))
        # WebP writes grey as three channels.
        raw = height * width * max(channels, 3)
        if size < (QUICK_FACTOR + QUICK_SLOPE * quick / raw) * quick:
            return True
    return size < CLOSE_FACTOR * len(ordinary.encode_webp(pixels, quality=100, method=2))


def repeated_share(pixels: Pixels) -> float:
    """Share of the horizontal runs of 8 pixels that occur elsewhere too, wherever that is.

    Of all runs the 1 in 16 whose hash ends in 0 are looked at, so that both copies of one content are, or
    neither.
    """
    bands = (_run_hashes(band) for band in _bands(pixels))
    hashes = np.concatenate([band[band & 15 == 0] for band in bands])
    return 1 - len(np.unique(hashes)) / max(1, len(hashes))


def _bands(pixels: Pixels) -> Iterator[Pixels]:
    """Cut samples into bands of whole rows, so that memory stays bounded."""
    rows = max(1, _BAND_PIXELS // pixels.shape[1])
    for top in range(0, pixels.shape[0], rows):
        yield pixels[top : top + rows]


def _run_hashes(pixels: Pixels) -> NDArray[np.uint32]:
    """Hash every run of _RUN pixels in a row; uint32 (H, W - _RUN + 1)."""
    values = np.zeros(pixels.shape[:2], np.uint32)
    for channel in range(pixels.shape[2]):
        values = values * np.uint32(0x9E3779B1) + pixels[:, :, channel]
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(15)
    count = pixels.shape[1] - _RUN + 1
    hashes = np.zeros((len(pixels), count), np.uint32)
    for offset in range(_RUN):
        hashes *= np.uint32(0x01000193)
        hashes += values[:, offset : offset + count]
    hashes *= np.uint32(0xC2B2AE35)
    return hashes ^ (hashes >> np.uint32(16))


def _has_few_colors(color: Pixels, limit: int) -> bool:
    """Whether at most `limit` different pixels occur; most photographs show more in their first rows."""
    rows = max(1, _BAND_PIXELS // 16 // color.shape[1])
    seen = np.zeros(0, np.uint32)
    for top in range(0, color.shape[0], rows):
        band = color[top : top + rows].astype(np.uint32)
        keys = sum(band[:, :, channel] << np.uint32(8 * channel) for channel in range(color.shape[2]))
        seen = np.union1d(seen, np.asarray(keys))
        if len(seen) > limit:
            return False
    return True

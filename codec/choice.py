"""The choice between the neural codec and ordinary coders, and between a family's models.

The smaller of the two is never worse than WebP lossless at full effort, or than PNG where WebP cannot hold
the samples. Full effort is slow (0.05 MP/s on photographs), so that quick efforts tell first whether it
could win.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gencodec.codec import ordinary
from gencodec.codec.image import Pixels
from gencodec.codec.repeats import BAND_PIXELS, FEW_REPEATS, repeated_share
from gencodec.codec.tiling import LARGE

if TYPE_CHECKING:
    from gencodec.runtime import ModelCard

LEAST_SIDE = 32
"""Images narrower or lower than this are left to ordinary coders: a network has too little to go by."""

PALETTE_COLORS = 256
GREY_LEVELS = 16
"""Color images of at most PALETTE_COLORS colors, and grey ones of at most GREY_LEVELS, are for ordinary
coders, which write them as a palette."""

# The probe factors. Evidence, all as (WebP at quality 100, method 6) / (the quick WebP):
#   quality 20, method 1, of b bytes a raw byte: 0.82 to 0.98 on the 49 photographs of Kodak and gb82, growing
#     with b; 0.725 + 0.4 b, the bound used here, was below every one of them, and is capped for pictures
#     that are mostly noise. Where runs of pixels recur (FEW_REPEATS) the bound does not hold: 0.57 to 0.86
#     on screenshots.
#   quality 75, method 2, of b bytes a raw byte: 0.94 to 1.00 on these photographs, but 0.90 on one of b = 0.21,
#     and 0.92 to 0.99 on 14 grey ones, screenshots and renders; 0.83 + 0.3 b, capped, was below all photographs.
# The neural codec, taken as 0.97 of JPEG XL at effort 7, is below the bound on most photographs, which then
# cost one probe, of 9 MP/s on one core; the others cost a second one, of 2.7 MP/s.
QUICK_FACTOR = 0.725
QUICK_SLOPE = 0.4
QUICK_MOST = 0.91
CLOSE_FACTOR = 0.83
CLOSE_SLOPE = 0.3
CLOSE_MOST = 0.945
PNG_FACTOR = 0.91

SAMPLED_SHARE = 0.98
"""What `sampled_webp` tells is taken as so much of it. It was 0.999 to 1.005 of `quick_webp` on four pictures of 8 and
12 megapixels, each made of nine photographs; of Kodak and gb82 by only 8 or 9 stripes 1.014 in the mean, with a
deviation of 0.023."""

PROBED_PIXELS = 1 << 15
"""Smaller images are compared in full, which takes a second: icons vary too much for a probe."""

MANY_REPEATS = 0.4
DRAWN_RATE = 0.5
"""Images with more repeats than that, and fewer bits a sample by a quick WebP, are drawn, not photographed:
for ordinary coders. Photographs with flat grounds take more bits."""

LARGE_EFFORT = 5
"""Images of more than LARGE pixels get a family's model for large ones up to this effort: the smallest one, fitted,
which takes about as long as JPEG XL. Beyond it they get one that still decodes a megapixel a second."""
MEDIUM_EFFORT = 4
"""Up to this effort other images get the medium model."""


def chosen_model(card: ModelCard, pixels: int, effort: int) -> str:
    """The name of the model that codes an image of so many pixels for the family whose best one is `card`."""
    name = ""
    if effort == 1:
        name = card.quick
    elif pixels > LARGE:
        name = card.large if effort <= LARGE_EFFORT else card.large_slow
    elif effort <= MEDIUM_EFFORT:
        name = card.medium
    return name or card.name


def suits_model(color: Pixels) -> bool:
    """Whether the neural codec is worth trying on samples without alpha: 8 bits, not tiny, not drawn."""
    height, width, channels = color.shape
    if color.dtype != np.uint8 or min(height, width) < LEAST_SIDE:
        return False
    if _has_few_colors(color, GREY_LEVELS if channels == 1 else PALETTE_COLORS):
        return False
    if repeated_share(color) < MANY_REPEATS or not ordinary.fits_webp(color):
        return True
    return 8 * ordinary.quick_webp(color) > DRAWN_RATE * color.size


def sure_size(pixels: Pixels) -> float:
    """Bytes below which a file is surely smaller than WebP's at full effort, as far as one quick look tells.

    Of large images parts are looked at, and what they tell is taken as a little less.
    """
    height, width, _ = pixels.shape
    if height * width < PROBED_PIXELS or not ordinary.fits_webp(pixels) or repeated_share(pixels) >= FEW_REPEATS:
        return 0.0
    if _is_sampled(pixels):
        return SAMPLED_SHARE * _quickly(pixels, ordinary.sampled_webp)
    return _quickly(pixels, ordinary.quick_webp)


def model_wins(pixels: Pixels, size: int, sure: float) -> bool:
    """Whether WebP at full effort (or PNG, for lack of WebP) would surely take more than `size` bytes.

    `sure` is the pixels' `sure_size`.
    """
    if pixels.shape[0] * pixels.shape[1] < PROBED_PIXELS:
        return False
    if not ordinary.fits_webp(pixels):
        return ordinary.fits_png(pixels) and size < PNG_FACTOR * len(ordinary.encode_png(pixels, level=6))
    if size < sure:
        return True
    if sure > 0 and _is_sampled(pixels) and size < _quickly(pixels, ordinary.quick_webp):
        return True
    return size < _below(ordinary.close_webp(pixels), pixels, CLOSE_FACTOR, CLOSE_SLOPE, CLOSE_MOST)


def _is_sampled(pixels: Pixels) -> bool:
    """Whether the first look is at parts of the image alone."""
    return pixels.shape[0] * pixels.shape[1] > LARGE and ordinary.has_stripes(pixels)


def _quickly(pixels: Pixels, probe: Callable[[Pixels], int]) -> float:
    """Bytes that WebP at full effort surely takes, by a quick probe."""
    return _below(probe(pixels), pixels, QUICK_FACTOR, QUICK_SLOPE, QUICK_MOST)


def _below(probed: int, pixels: Pixels, factor: float, slope: float, most: float) -> float:
    """Bytes that WebP at full effort surely takes, by the size of a probe and what that is of the raw samples."""
    height, width, channels = pixels.shape
    raw = height * width * max(channels, 3)  # WebP writes grey as three channels
    return min(most, factor + slope * probed / raw) * probed


def _has_few_colors(color: Pixels, limit: int) -> bool:
    """Whether at most `limit` different pixels occur; most photographs show more in their first rows."""
    rows = max(1, BAND_PIXELS // 16 // color.shape[1])
    seen = np.zeros(0, np.uint32)
    for top in range(0, color.shape[0], rows):
        band = color[top : top + rows].astype(np.uint32)
        keys = sum(band[:, :, channel] << np.uint32(8 * channel) for channel in range(color.shape[2]))
        seen = np.union1d(seen, np.asarray(keys))
        if len(seen) > limit:
            return False
    return True

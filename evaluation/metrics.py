"""How far pixels are from what they should be: PSNR and MS-SSIM, as the literature on lossy coding counts them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.lossy import psnr

__all__ = ["color", "ms_ssim", "psnr"]

Samples = NDArray[Any]
Floats = NDArray[np.float64]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, from the finest: Wang, Simoncelli and Bovik, "Multiscale structural similarity", 2003."""
WINDOW, SIGMA = 11, 1.5
MIN_SIDE = (WINDOW - 1) * 2 ** (len(WEIGHTS) - 1) + 1
"""Smaller pictures have no window left at the coarsest scale."""
K1, K2 = 0.01, 0.03


def color(pixels: Samples) -> Samples:
    """The samples (height, width, 1 or 3) without those of an alpha plane."""
    return pixels[..., :-1] if pixels.shape[2] in (2, 4) else pixels


def ms_ssim(pixels: Samples, decoded: Samples) -> float | None:
    """MS-SSIM of samples (height, width, channels): the mean over the channels; None for sides below MIN_SIDE.

    It stands here because the kept libraries for it need torch, all but sewar, which takes ten times as long and halves
    pictures by other pairs of pixels than published figures do (0.002 apart). The tests hold it to pytorch-msssim.
    """
    if min(pixels.shape[:2]) < MIN_SIDE:
        return None
    channels = range(pixels.shape[2])
    return float(np.mean([_ms_ssim(pixels[..., channel], decoded[..., channel]) for channel in channels]))


def _ms_ssim(pixels: Samples, decoded: Samples) -> float:
    """MS-SSIM of one channel (height, width)."""
    x, y = (samples.astype(np.float64) for samples in (pixels, decoded))
    peak, result = np.iinfo(pixels.dtype).max, 1.0
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            x, y = _halved(x), _halved(y)
        luminance, contrast = _similarity(x, y, (K1 * peak) ** 2, (K2 * peak) ** 2)
        last = scale == len(WEIGHTS) - 1
        mean = float((luminance * contrast if last else contrast).mean())
        result *= max(mean, 0.0) ** weight  # a negative mean has no power: it counts as no similarity
    return result


def _similarity(x: Floats, y: Floats, c1: float, c2: float) -> tuple[Floats, Floats]:
    """Luminance, and contrast with structure, of every window (height - 10, width - 10)."""
    mean_x, mean_y = _filtered(x), _filtered(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    variances, covariance = _filtered(x * x + y * y) - squares, _filtered(x * y) - product
    return (2 * product + c1) / (squares + c1), (2 * covariance + c2) / (variances + c2)


def _filtered(x: Floats) -> Floats:
    """Means weighted by a Gaussian window, where it lies within the picture."""
    weights = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for _ in range(2):  # along rows, then along columns, turned back by the second turn
        length = len(x) - WINDOW + 1
        filtered = weights[0] * x[:length]
        for first, weight in enumerate(weights[1:], 1):
            filtered += weight * x[first : first + length]
        x = np.ascontiguousarray(filtered.T)
    return x


def _halved(x: Floats) -> Floats:
    """Means of 2 x 2 pixels; an odd side is preceded by zeros, which count as pixels, as in pytorch-msssim."""
    x = np.pad(x, [(side % 2, 0) for side in x.shape])
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4

"""Points that others have published for the 24 Kodak images: means over images of bits per pixel, PSNR-RGB and MS-SSIM.

From CompressAI's repository (InterDigitalInc/CompressAI, results/image/kodak), rounded: bmshj2018-hyperprior and
mbt2018-mean as of its own models trained for mean square error, with real bitstreams by ANS
(compressai-bmshj2018-hyperprior_mse_cuda.json, compressai-mbt2018-mean_mse_cuda.json), and BPG 0.9.8, 4:4:4, x265
(bpg_444_x265_ycbcr.json).
"""

from __future__ import annotations

from gencodec.evaluation.summary import Point

IMAGES = 24

HYPERPRIOR = (
    Point(0.13129, 27.5815, 0.91737),
    Point(0.20889, 29.1967, 0.94206),
    Point(0.31986, 30.9722, 0.96106),
    Point(0.47836, 32.8382, 0.97487),
    Point(0.66869, 34.5263, 0.98356),
    Point(0.93883, 36.7433, 0.98925),
    Point(1.25917, 38.5838, 0.99287),
    Point(1.66022, 40.5569, 0.99549),
)
"""Balle et al., "Variational image compression with a scale hyperprior", 2018."""
MEAN_SCALE = (
    Point(0.12392, 27.6995, 0.91784),
    Point(0.19798, 29.3588, 0.94306),
    Point(0.30724, 31.1289, 0.96148),
    Point(0.46061, 32.9507, 0.97520),
    Point(0.66167, 34.9683, 0.98358),
    Point(0.91440, 36.9111, 0.98925),
    Point(1.23421, 38.8375, 0.99305),
    Point(1.61909, 40.6333, 0.99535),
)
"""Minnen et al., "Joint autoregressive and hierarchical priors for learned image compression", 2018: no context."""
BPG = (
    Point(0.06777, 26.1951, 0.86859),
    Point(0.16102, 28.6815, 0.92420),
    Point(0.35155, 31.5947, 0.96114),
    Point(0.68470, 34.8575, 0.98080),
    Point(1.19967, 38.2599, 0.99047),
    Point(1.92971, 41.4789, 0.99493),
    Point(3.05788, 44.7031, 0.99755),
    Point(4.70314, 47.6325, 0.99880),
)

KODAK = {"hyperprior (published)": HYPERPRIOR, "mean-scale (published)": MEAN_SCALE, "BPG (published)": BPG}

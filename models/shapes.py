"""The family of pixel distributions: a location, one of 64 scales, one of 8 learned tail shapes.

A shape is a mixture of five zero-mean kernels, so that light (noise-like) and heavy (edge-like) tails both fit.
Mass beyond the ends of 0..255 belongs to the end symbols, as in PixelCNN++ (Salimans et al. 2017,
arXiv 1701.05517, section 2.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gencodec.models.quantize import Grid

SCALES = 64
SHAPES = 8
SCALES_PER_OCTAVE = 6
SPREAD = Grid(0, SCALES - 1, 3)
SHAPE = Grid(0, SHAPES - 1, 1)
"""What networks give for scale and shape indices, in eighths and halves of a unit."""
SCALE_OF_ONE = 24
"""Index whose scale is one gray level."""
TOTAL_BITS = 16
FINE_BITS = 20
"""Logarithms of what a table row sums to; the `photo` family states probabilities as finely as the second."""
FLOOR = 2.0**-TOTAL_BITS
"""The least probability that a row of 2**TOTAL_BITS can state, given to every one of the 256 symbols."""

WIDTHS = (0.5, 1.0, 2.0, 4.5)
"""Widths of the logistic kernels in units of the scale; the fifth kernel is a normal one."""
NORMAL_WIDTH = 1.6


def kernel_cdfs(z: Tensor) -> Tensor:
    """Distribution functions of the five kernels at `z` (in units of the scale); shape (5, *z.shape)."""
    logistic = [torch.sigmoid(z / width) for width in WIDTHS]
    normal = 0.5 * (1 + torch.erf(z * (1 / (NORMAL_WIDTH * math.sqrt(2)))))
    return torch.stack([*logistic, normal])


class Shapes(nn.Module):
    """Learned mixture weights of the kernels, one row a tail shape.

    Table rows sum to 2**`total_bits`, of which every one of the 256 symbols has at least one unit.
    """

    def __init__(self, total_bits: int = TOTAL_BITS) -> None:
        super().__init__()
        self.total_bits = total_bits
        start = torch.full((SHAPES, len(WIDTHS) + 1), -2.0)
        for shape in range(SHAPES):  # from normal over logistic to heavy-tailed
            lightness = shape / (SHAPES - 1)
            start[shape, 4] = 2.0 - 6.0 * lightness
            start[shape, 1] = 1.0
            start[shape, 3] = -4.0 + 5.0 * lightness
            start[shape, 0] = -4.0 + 6.0 * lightness
        self.logits = nn.Parameter(start)

    def weights(self) -> Tensor:
        """Mixture weights; (shapes, kernels), rows sum to one."""
        return torch.softmax(self.logits, 1)

    def mixture(self, shape_index: Tensor) -> Tensor:
        """Weights of the kernels (kernels, ...) for shape indices (...), between two shapes those of their mixture."""
        knots = torch.arange(SHAPES, device=shape_index.device).view(-1, *[1] * shape_index.dim())
        hats = (1 - (shape_index[None] - knots).abs()).clamp_min(0)
        return torch.tensordot(self.weights().t(), hats, dims=1)

    def bits(self, x: Tensor, mean: Tensor, scale_index: Tensor, shape_index: Tensor) -> Tensor:
        """Code length of gray levels `x` in bits; all arguments and the result have the same shape.

        `mean` is in gray levels; the indices are continuous (between two shapes their mixture is taken).
        """
        rate = torch.exp2((SCALE_OF_ONE - scale_index) / SCALES_PER_OCTAVE)
        above = torch.where(x >= 255, torch.full_like(x, 1e5), (x + 0.5 - mean) * rate)
        below = torch.where(x <= 0, torch.full_like(x, -1e5), (x - 0.5 - mean) * rate)
        # by symmetry evaluate in the lower half, where differences of distribution functions keep their digits
        flip = torch.where(above + below > 0, -1.0, 1.0)
        low, high = torch.minimum(above * flip, below * flip), torch.maximum(above * flip, below * flip)
        mass = kernel_cdfs(high) - kernel_cdfs(low)
        floor = 2.0**-self.total_bits
        probability = (self.mixture(shape_index) * mass).sum(0) * (1 - 256 * floor) + floor
        return -torch.log2(probability)

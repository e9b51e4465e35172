"""Lossy codecs of one network for all rates: beta-VAE and the lossy NVAE.

A variational autoencoder whose posterior is uniform of the width of a quantisation step has the bound

    E [ -log2 p(z) + (lambda / 3) |x - x'|^2 ]        bits and squared gray levels a pixel

where beta, the weight of the divergence (Higgins et al. 2017), is 1 / lambda: the trade of rate for distortion. The
network is given lambda, drawn log-uniformly in training, by its quality level. The beta-VAE has one layer of latents
with a hyper-latent (Balle et al. 2018, arXiv 1802.01436); NVAE a hierarchy of groups (Duan et al. 2023, arXiv
2208.13056).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gencodec.models.blocktransforms import BLOCK, KNOTS, MIDDLE_GRAY, RANGE, Analysis, Gains, Synthesis
from gencodec.models.hierarchy import (
    COARSE,
    FINE,
    LEVELS_A_KNOT,
    OCTAVES_A_KNOT,
    QUALITIES,
    TOP,
    Hierarchy,
    blend_of,
)

LOWEST = 0.00015
"""Lambda of quality level 0, in bits a pixel for a squared gray level (the mean over colors)."""
OCTAVES = 2 * OCTAVES_A_KNOT * (KNOTS - 1)
"""Between the lambdas of the lowest and the highest level."""
BALANCE = 0.45
"""Costs are divided by lambda to this power: all rates count alike in training."""
STEP_OF_UNIT = RANGE / 16
"""Gray levels of a quantisation step at a gain of one."""


@dataclass(frozen=True)
class LossyConfig:
    """Sizes of the lossy NVAE, by default those of the shipped model."""

    tile: int = 128
    top: int = 24
    """Latents at stride 32."""
    coarse: int = 48
    """Latents at stride 16, 0 for none."""
    fine: tuple[int, ...] = (24, 36, 56)
    """Latents of each group at stride 8."""
    width: int = 96
    """Features of the priors' state."""
    expansion: int = 2
    transform: int = 128
    """Features of the transforms."""
    blocks: int = 4
    filtering: int = 64
    """Features of the filter against blocks' edges."""


@dataclass(frozen=True)
class BetaVAEConfig(LossyConfig):
    """Sizes of the beta-VAE, by default those of the shipped model."""

    coarse: int = 0
    fine: tuple[int, ...] = (144,)


def lambda_of(level: Tensor) -> Tensor:
    """The trade of a quality level: bits a pixel for a squared gray level."""
    return LOWEST * torch.exp2(level * (OCTAVES / (QUALITIES - 1)))


class Lossy(nn.Module):
    """Transforms, gains and priors.

    Tiles (3, N, H, W) of gray levels, green, red and blue -> costs (N,): rate in bits a sub-pixel plus distortion times
    lambda / 3, divided by lambda ** BALANCE.
    """

    def __init__(self, config: LossyConfig):
        super().__init__()
        self.config = c = config
        self.analysis = Analysis(sum(c.fine), c.coarse, c.top, c.transform, c.blocks)
        self.synthesis = Synthesis(sum(c.fine), c.coarse, c.top, c.transform, c.blocks, c.filtering)
        self.prior = Hierarchy(c.top, c.coarse, c.fine, c.width, c.expansion)
        self.scales = [scale for scale in (FINE, COARSE, TOP) if self.prior.latents[scale]]
        levels = torch.arange(KNOTS) * float(LEVELS_A_KNOT)
        # the step that suits lambda where rates are high: lambda / 3 = 1 / (2 ln 2 D), where D = step**2 / 12
        steps = torch.sqrt(18 / math.log(2) / lambda_of(levels))
        gains = math.log2(STEP_OF_UNIT) - torch.log2(steps)
        self.gains = nn.ModuleList(Gains(self.prior.latents[scale], gains) for scale in self.scales)

    @property
    def reach(self) -> int:
        """How far, in pixels, the transforms see beyond a position: sides of 32 pixels, with what strides lose."""
        analysis = 2 * (BLOCK * self.config.blocks + 2 * 16 + 32) + 32
        return -(-analysis // 32) * 32

    def forward(self, x: Tensor) -> Tensor:
        level = torch.randint(QUALITIES, (x.shape[1],), device=x.device).float()
        bits, error = self.rate_and_distortion(x, level)
        trade = lambda_of(level)
        return (bits + trade / 3 * error) / (trade**BALANCE * 3)

    def rate_and_distortion(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Bits a sub-pixel and mean squared errors in gray levels of tiles (3, N, H, W) at quality levels (N,)."""
        pixels = ((x.transpose(0, 1) - MIDDLE_GRAY) / RANGE).contiguous(memory_format=torch.channels_last)
        seen, bits = self.coded(pixels, level)
        error = (seen - pixels).square().mean((1, 2, 3)) * RANGE**2
        return bits / pixels[0].numel(), error

    def coded(self, pixels: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """What a decoder makes of pixels (N, 3, H, W) at quality levels (N,), and bits (N,)."""
        blend = blend_of(level)
        gains = [torch.exp2(gain(blend)) for gain in self.gains]
        found = self.analysis(pixels, blend)
        wanted = {s: y * g for s, y, g in zip(self.scales, found, gains, strict=True)}
        known, bits = self.prior.walk(wanted, blend)
        return self.synthesis(*(known[s] / g for s, g in zip(self.scales, gains, strict=True)), blend), bits

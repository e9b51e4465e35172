"""VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937) of several rates, with the prior of its codes.

One map of latents at stride 8 is quantised stage by stage; a picture of quality level k is the synthesis of the first k
stages. Of each stage's map of codes a gated PixelCNN is the prior, which knows all earlier stages. The whole is trained
at once: the autoencoder through the straight-through gradient (section 3.2), codebooks by moving averages, and priors
on the codes as they come, to which no gradient leads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gencodec.models.codebooks import Codebooks, Quantised
from gencodec.models.codeprior import CodePrior, prior_sizes, stage_bits
from gencodec.models.transforms import BLOCK, UNIT, Analysis, Synthesis, in_units, marked

COMMITMENT = 0.1
"""Weight of the latents' distance from their codes, where pixels' errors weigh one."""
TRAINED = 3
"""Priors that a step trains, drawn at random."""


@dataclass(frozen=True)
class VQVAEConfig:
    """Sizes of the network, by default those of the shipped model."""

    tile: int = 256
    """Side in pixels of the tiles that the codec codes."""
    dim: int = 64
    """Features of a latent."""
    codes: int = 512
    stages: int = 8
    active: int = 24
    """Features that a stage quantises."""
    width: int = 96
    """Features of analysis and synthesis."""
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    filtered: int = 32
    prices: tuple[float, ...] = (8.0, 8.0, 4.5, 4.5, 2.5, 2.5, 1.4, 1.4)
    """Squared distance in units of 16 gray levels that a bit of each stage must save."""
    errors: tuple[float, ...] = (400.0, 290.0, 220.0, 190.0, 155.0, 135.0, 110.0, 95.0)
    """Mean squared errors in gray levels that each level counts as one."""
    frozen: int = 0
    """1: train the priors alone."""
    hidden: int = 32
    layers: int = 3
    embed: int = 24
    context: int = 32
    output: int = 64
    weight_bits: int = 12
    """Of the priors' integer weights."""

    @property
    def levels(self) -> int:
        """Quality levels."""
        return self.stages


PAPER = VQVAEConfig(codes=512, stages=1, active=64, width=256, encoder_blocks=2, decoder_blocks=2)
"""The paper's setting: 256 features and two residual blocks either way (section 4.1), 512 codes for ImageNet (section
4.2); it states no sizes of the prior. Its blocks are 3 x 3 and 1 x 1, and its latents stand at stride 4."""


class VQVAE(nn.Module):
    """Loss of tiles (3, batch, height, width), (batch,): error in its level's unit, and bits of codes a pixel.

    Heights and widths are multiples of 8. Levels are drawn at random, one a tile.
    """

    errors: Tensor

    def __init__(self, config: VQVAEConfig | None = None):
        super().__init__()
        self.config = c = config or VQVAEConfig()
        self.exact = False
        self.analysis = Analysis(c.dim, c.width, c.encoder_blocks)
        self.synthesis = Synthesis(c.dim, c.stages, c.width, c.decoder_blocks, c.filtered)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions are faster so
        self.codebooks = Codebooks(c.stages, c.codes, c.dim, tuple(c.prices), c.active, frozen=bool(c.frozen))
        self.priors = nn.ModuleList(CodePrior(prior_sizes(c, known=c.dim if stage else 0)) for stage in range(c.stages))
        self.register_buffer("errors", torch.tensor(tuple(c.errors)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = in_units(x)
        if self.config.frozen:
            with torch.no_grad():
                quantised = self.codebooks(self.analysis(pixels))
            return self.bits(quantised)
        latents = self.analysis(pixels)
        quantised = self.codebooks(latents)
        level = torch.randint(self.config.stages, (len(pixels),), device=x.device)
        chosen = quantised.sums[level, torch.arange(len(pixels), device=x.device)]
        through = latents + (chosen - latents).detach()
        picture = self.synthesis(marked(through, level, self.config.stages))
        error = (picture - pixels).square().mean((1, 2, 3))
        commitment = (latents - chosen).square().sum((1, 2, 3)) / pixels[0].numel()
        loss = (error + COMMITMENT * commitment) * UNIT**2 / self.errors[level]
        return loss + self.bits(quantised)

    def bits(self, quantised: Quantised) -> Tensor:
        """Bits a pixel of the codes of each tile, (batch,); in training estimated from some of the stages."""
        every = self.config.stages
        stages = torch.randperm(every)[:TRAINED].tolist() if self.training else list(range(every))
        found = torch.stack([self.stage_bits(quantised, stage).mean((1, 2)) for stage in stages])
        return found.mean(0) * (every / BLOCK**2)

    def stage_bits(self, quantised: Quantised, stage: int) -> Tensor:
        """Bits of every code of a stage, (batch, h, w)."""
        return stage_bits(self.priors[stage], self.codebooks, quantised, stage)

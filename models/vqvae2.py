"""VQ-VAE-2 (Razavi, van den Oord & Vinyals 2019, arXiv 1906.00446): codes of two resolutions.

A top map at stride 16 says what neighboring blocks have in common, and a bottom map at stride 8, of which the decoded
top map is taken away first, the rest (section 3.1). Both are quantised stage by stage. The lowest quality level is the
top map's; every further one adds a stage of the bottom map. Priors of the top map's codes attend to all earlier
positions, those of the bottom map's are conditioned on the top map (section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.codebooks import Codebooks, Quantised
from gencodec.models.codeprior import CodePrior, PriorSizes, prior_sizes, seen, stage_bits
from gencodec.models.transforms import BLOCK, UNIT, Analysis, Features, Synthesis, in_units, marked
from gencodec.models.vqvae import COMMITMENT, TRAINED

PREDICTION = 0.3
"""Weight of the distance of the bottom map's latents from what the top map says of them."""
SMOOTH = 40
"""Latents of the top map that begin as means of four blocks' first latents; the others begin as their differences."""


@dataclass(frozen=True)
class VQVAE2Config:
    """Sizes of the network."""

    tile: int = 256
    """Side in pixels of the tiles that the codec codes."""
    dim: int = 64
    """Features of a latent of either map."""
    codes: int = 512
    """Of every codebook."""
    top_stages: int = 3
    bottom_stages: int = 6
    active: int = 24
    """Features that a stage quantises."""
    width: int = 96
    """Features of analysis and synthesis."""
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    filtered: int = 32
    top_prices: tuple[float, ...] = (8.0, 7.0, 6.0)
    """Squared distance in units of 16 gray levels that a bit of each stage of the top map must save."""
    bottom_prices: tuple[float, ...] = (8.0, 6.0, 4.5, 3.0, 2.0, 1.4)
    errors: tuple[float, ...] = (440.0, 300.0, 230.0, 185.0, 150.0, 120.0, 95.0)
    """Mean squared errors in gray levels that each level counts as one."""
    frozen: int = 0
    """1: train the priors alone."""
    hidden: int = 32
    layers: int = 3
    embed: int = 24
    context: int = 32
    output: int = 64
    weight_bits: int = 8
    """Of the priors' integer weights."""
    attention: int = 32
    """Features of queries, keys and values of the top map's priors."""

    @property
    def levels(self) -> int:
        """Quality levels."""
        return 1 + self.bottom_stages


PAPER = VQVAE2Config(
    codes=512,
    top_stages=1,
    bottom_stages=1,
    active=64,
    width=128,
    encoder_blocks=2,
    decoder_blocks=2,
    hidden=512,
    layers=20,
    embed=64,
    context=512,
    output=512,
    attention=512,
)
"""The paper's size for pictures of 256 x 256 (appendix A, tables 4 and 5): 512 codes of 64 features, 128 features in
two residual blocks, and priors of 20 layers of 512; of its attention's layers and heads here is one."""


class Top(nn.Module):
    """Latents at stride 8 -> those of the top map (N, dim, h / 2, w / 2), and back, as predictions of them."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.gather, self.gathered = nn.Conv2d(4 * dim, dim, 1), Features(4 * dim, width, 1, dim)
        self.spread, self.corrected = nn.Conv2d(dim, 4 * dim, 1), Features(dim, width, 1, 4 * dim)
        with torch.no_grad():
            means = averages(dim)
            self.gather.weight.copy_(means[:, :, None, None])
            self.spread.weight.copy_(means.t()[:, :, None, None])
            for layer in (self.gather, self.spread):
                layer.bias.zero_()  # type: ignore[union-attr]

    def forward(self, latents: Tensor) -> Tensor:
        """The top map's latents."""
        fours = F.pixel_unshuffle(latents, 2)
        return self.gather(fours) + self.gathered(fours)

    def predicted(self, top: Tensor) -> Tensor:
        """What the top map's latents say of those at stride 8, (N, dim, h, w)."""
        return F.pixel_shuffle(self.spread(top) + self.corrected(top), 2)


class VQVAE2(nn.Module):
    """Loss of tiles (3, batch, height, width), (batch,): error in its level's unit, and bits of codes a pixel.

    Heights and widths are multiples of 16. Levels are drawn at random, one a tile.
    """

    errors: Tensor

    def __init__(self, config: VQVAE2Config | None = None):
        super().__init__()
        self.config = c = config or VQVAE2Config()
        self.exact = False
        self.analysis = Analysis(c.dim, c.width, c.encoder_blocks)
        self.top = Top(c.dim, c.width)
        self.synthesis = Synthesis(c.dim, c.levels, c.width, c.decoder_blocks, c.filtered)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions are faster so
        self.top_codebooks = Codebooks(
            c.top_stages, c.codes, c.dim, tuple(c.top_prices), c.active, frozen=bool(c.frozen)
        )
        self.bottom_codebooks = Codebooks(
            c.bottom_stages, c.codes, c.dim, tuple(c.bottom_prices), c.active, frozen=bool(c.frozen)
        )
        self.top_priors = nn.ModuleList(CodePrior(self.top_sizes(stage)) for stage in range(c.top_stages))
        self.bottom_priors = nn.ModuleList(CodePrior(self.bottom_sizes(stage)) for stage in range(c.bottom_stages))
        self.register_buffer("errors", torch.tensor(tuple(c.errors)), persistent=False)

    def top_sizes(self, stage: int) -> PriorSizes:
        """Sizes of the prior of a stage of the top map."""
        return prior_sizes(self.config, known=self.config.dim if stage else 0, attention=self.config.attention)

    def bottom_sizes(self, stage: int) -> PriorSizes:
        """Sizes of the prior of a stage of the bottom map."""
        return prior_sizes(self.config, known=self.config.dim if stage else 0, lifted=self.config.dim)

    def forward(self, x: Tensor) -> Tensor:
        pixels = in_units(x)
        if self.config.frozen:
            with torch.no_grad():
                top, bottom, _, _ = self.quantised(self.analysis(pixels))
            return self.bits(top, bottom)
        latents = self.analysis(pixels)
        top, bottom, predicted, above = self.quantised(latents)
        level = torch.randint(self.config.levels, (len(pixels),), device=x.device)
        rest = latents - predicted
        places = torch.arange(len(pixels), device=x.device)
        chosen = bottom.sums[(level - 1).clamp_min(0), places] * (level > 0).view(-1, 1, 1, 1)
        # a level without the bottom map leaves its gradient to the top map
        through = torch.where((level > 0).view(-1, 1, 1, 1), rest + (chosen - rest).detach(), chosen)
        picture = self.synthesis(marked(predicted + through, level, self.config.levels))
        size = pixels[0].numel()
        error = (picture - pixels).square().mean((1, 2, 3))
        commitment = (rest.detach() + latents - latents.detach() - chosen).square().sum((1, 2, 3)) / size
        commitment = commitment + (above - top.sums[-1]).square().sum((1, 2, 3)) / size
        prediction = (latents.detach() - predicted).square().sum((1, 2, 3)) / size
        loss = error + COMMITMENT * commitment + PREDICTION * prediction
        return loss * UNIT**2 / self.errors[level] + self.bits(top, bottom)

    def quantised(self, latents: Tensor) -> tuple[Quantised, Quantised, Tensor, Tensor]:
        """Codes of both maps, what the top map's say of the latents, and the top map's latents."""
        above = self.top(latents)
        top = self.top_codebooks(above)
        predicted = self.top.predicted(above + (top.sums[-1] - above).detach())
        return top, self.bottom_codebooks(latents - predicted), predicted, above

    def bits(self, top: Quantised, bottom: Quantised) -> Tensor:
        """Bits a pixel of the codes of each tile, (batch,); in training estimated from some of the stages."""
        every = self.config.bottom_stages
        stages = torch.randperm(every)[: TRAINED - 1].tolist() if self.training else list(range(every))
        found = torch.stack([self.bottom_bits(top, bottom, stage).mean((1, 2)) for stage in stages])
        coarse = torch.stack([self.top_bits(top, stage).mean((1, 2)) for stage in range(self.config.top_stages)])
        return found.mean(0) * (every / BLOCK**2) + coarse.sum(0) / (4 * BLOCK**2)

    def top_bits(self, top: Quantised, stage: int) -> Tensor:
        """Bits of every code of a stage of the top map, (batch, h / 2, w / 2)."""
        return stage_bits(self.top_priors[stage], self.top_codebooks, top, stage)

    def bottom_bits(self, top: Quantised, bottom: Quantised, stage: int) -> Tensor:
        """Bits of every code of a stage of the bottom map, (batch, h, w)."""
        coarser = seen(top.sums[-1])
        return stage_bits(self.bottom_priors[stage], self.bottom_codebooks, bottom, stage, coarser)


def averages(dim: int) -> Tensor:
    """Orthonormal weights (dim, 4 * dim) of the latents of 2 x 2 blocks: means of some, and differences of the first.

    Feature 4 c + 2 i + j is latent c of the block (i, j).
    """
    signs = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
    smooth = min(SMOOTH, dim - dim // 4)
    rows = [(c, 0) for c in range(smooth)] + [(c, s) for c in range(dim) for s in (1, 2, 3)]
    weights = torch.zeros(dim, dim, 4)
    for row, (c, s) in enumerate(rows[:dim]):
        weights[row, c] = signs[s]
    return weights.flatten(1)

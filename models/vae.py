"""The variational autoencoder (Kingma & Welling 2013, arXiv 1312.6114) with one layer of latents.

The latents of each 8 x 8 block have a learned prior, the same in every block, and a posterior around a linear analysis
of the block that begins as a cosine transform; the likelihood's means begin as the inverse transform, and its scales
come from the latents too. With a dense encoder and decoder it is the multilayer perceptron of the paper's appendix C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.latents import (
    CHANGE,
    FEATURE,
    HIDDEN,
    MEAN,
    PIXEL,
    SIGNED,
    Account,
    Cell,
    Colors,
    EncoderCell,
    Grown,
    LatentShapes,
    Posterior,
    Residual,
    clipped_mean,
    in_pictures,
)
from gencodec.models.quantize import ExactConv, Grid, Snap, Table
from gencodec.models.shapes import SHAPE, SPREAD

TANGENT = Grid(-256, 256, 8)
COLOR_AXES = ((1, 1, 1), (0, 1, -1), (2, -1, -1))
"""Luma and two chromas of green, red and blue, orthogonal."""


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the network, by default those of the shipped model."""

    tile: int = 32
    scale: int = 3
    """Latents stand for blocks of 2**scale x 2**scale pixels."""
    latents: int = 96
    """Latents of a block."""
    encoder: int = 48
    encoder_cells: int = 1
    widths: tuple[int, ...] = (32, 48, 64, 64)
    """Features of the decoder at strides 1, 2, ... 2**scale."""
    cells: int = 1
    """Residual cells of the decoder at each of them."""
    expansion: int = 2
    kernel: int = 3
    color_hidden: int = 24
    dense: int = 0
    """1: perceptrons of one hidden layer for whole tiles, with `hidden` features."""
    hidden: int = 500


PAPER = VAEConfig(dense=1, hidden=500, latents=20)
"""The paper's perceptrons (section 5 and appendix C): 500 hidden features, 20 latents, a Gaussian-like likelihood."""


class Encoder(nn.Module):
    """Pictures (N, 3, H, W) in units -> anchors (N, latents, h, w) of posteriors, and what moves them.

    The latter is (N, 3 * latents, h, w): gates, offsets, changes.
    """

    def __init__(self, c: VAEConfig):
        super().__init__()
        block, width = 1 << c.scale, c.encoder
        self.analysis = ExactConv([(3, PIXEL)], [(c.latents, MEAN)], block, stride=block, padding=0)
        self.stem = ExactConv([(12, PIXEL)], [(width, FEATURE)])
        self.steps = nn.Sequential(
            *(ExactConv([(width, FEATURE)], [(width, FEATURE)], stride=2) for _ in range(c.scale - 1))
        )
        side = c.tile >> c.scale
        self.cells = nn.Sequential(*(EncoderCell(width, side**2) for _ in range(c.encoder_cells)))
        self.residual = Residual([(width, FEATURE)], c.latents, anchored=True, scale=18)
        with torch.no_grad():
            self.analysis.weight.copy_(cosines(c.scale, c.latents, inverse=False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.cells(self.steps(self.stem(F.pixel_unshuffle(x, 2))))
        return clipped_mean(self.analysis(x)), self.residual(features)


class Decoder(nn.Module):
    """Latents (N, latents, h, w) in units -> features of pixels (N, width, H, W), and base predictions of colors."""

    def __init__(self, c: VAEConfig):
        super().__init__()
        self.scale = c.scale
        self.synthesis = ExactConv([(c.latents, PIXEL)], [(3 * 4**c.scale, MEAN)], 1)
        self.first = ExactConv([(c.latents, PIXEL)], [(c.widths[-1], HIDDEN)])
        self.stages, self.growths = nn.ModuleList(), nn.ModuleList()
        for scale in range(c.scale, -1, -1):
            width, positions = c.widths[scale], (c.tile >> scale) ** 2
            cells = (Cell(width, c.expansion, c.kernel, positions) for _ in range(c.cells))
            self.stages.append(nn.Sequential(*cells))
            if scale:
                self.growths.append(Grown(width, c.widths[scale - 1]))
        self.seen = ExactConv([(3, MEAN)], [(c.widths[0], SIGNED)])
        self.snapped = Snap(HIDDEN)
        with torch.no_grad():
            self.synthesis.weight.copy_(cosines(c.scale, c.latents, inverse=True))
            self.seen.weight.sub_(self.seen.weight.mean((2, 3), keepdim=True))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        base = self.synthesis(z)
        for _ in range(self.scale):
            base = F.pixel_shuffle(base, 2)
        f = self.first(z)
        for i, cells in enumerate(self.stages):
            f = cells(f)
            if i < self.scale:
                grown = self.growths[i](f)
                f = self.snapped(grown + self.seen(base) if i + 1 == self.scale else grown)
        return f, base


def cosines(scale: int, latents: int, *, inverse: bool) -> Tensor:
    """Weights of a cosine transform of blocks by colors: the analysis (latents, 3, side, side), or its inverse.

    Of luma and chromas the components of low frequency come first, chroma's counting as three times as high. A latent's
    bin holds several gray levels, so that nearly all values are within 256 bins. The inverse is (3 * side**2, latents,
    1, 1), in the order that `scale` pixel shuffles undo.
    """
    side = 1 << scale
    place, frequency = torch.arange(side) + 0.5, torch.arange(side)
    wave = torch.cos(math.pi / side * place * frequency[:, None]) * math.sqrt(2 / side)
    wave[0] /= math.sqrt(2)
    axes = torch.tensor(COLOR_AXES, dtype=torch.float32)
    axes = axes / axes.norm(dim=1, keepdim=True)
    basis = torch.einsum("ac,uy,vx->auvcyx", axes, wave, wave).reshape(-1, 3, side, side)
    height = frequency[:, None].square() + frequency.square()
    order = torch.stack([height, 9 * height + 2, 9 * height + 2]).flatten().argsort(stable=True)[:latents]
    constant = torch.stack([height == 0] * 3).flatten()[order]
    bins = torch.where(constant, 1.75 * side, 3.0)
    basis = basis[order]
    if not inverse:
        return basis / bins.view(-1, 1, 1, 1)
    for _ in range(scale):  # the finest offsets become the highest digits
        basis = F.pixel_unshuffle(basis, 2)
    return (basis * bins.view(-1, 1, 1, 1)).flatten(1).t()[:, :, None, None]


class DenseEncoder(nn.Module):
    """Pictures (N, 3, tile, tile) in units -> what moves posteriors (N, 2 * latents, 1, 1) away from the prior."""

    def __init__(self, c: VAEConfig):
        super().__init__()
        self.hidden = ExactConv([(3, PIXEL)], [(c.hidden, SIGNED)], c.tile, padding=0)
        self.tangent = Table(torch.tanh, SIGNED, TANGENT)
        self.residual = ExactConv([(c.hidden, TANGENT)], [(c.latents, MEAN), (c.latents, CHANGE)], 1)
        with torch.no_grad():
            self.hidden.weight.mul_(0.2)
            self.residual.bias[c.latents :] = -12 / 8

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(self.tangent(self.hidden(x)))


class DenseDecoder(nn.Module):
    """Latents (N, latents, 1, 1) in units -> means and spreads of all pixels (N, 6, tile, tile)."""

    def __init__(self, c: VAEConfig):
        super().__init__()
        self.doublings = c.tile.bit_length() - 1
        self.hidden = ExactConv([(c.latents, PIXEL)], [(c.hidden, SIGNED)], 1)
        self.tangent = Table(torch.tanh, SIGNED, TANGENT)
        size = 3 * c.tile**2
        self.rows = ExactConv([(c.hidden, TANGENT)], [(size, MEAN), (size, SPREAD)], 1)
        with torch.no_grad():
            self.rows.weight.mul_(0.2)
            self.rows.bias[size:] = 52.5 / 8

    def forward(self, z: Tensor) -> Tensor:
        rows = self.rows(self.tangent(self.hidden(z)))
        mean, spread = rows.chunk(2, 1)
        for _ in range(self.doublings):
            mean, spread = F.pixel_shuffle(mean, 2), F.pixel_shuffle(spread, 2)
        return torch.cat([clipped_mean(mean), spread, torch.clamp(spread, 0, 0)], 1)


class Prior(nn.Module):
    """One distribution a latent; it begins wide for the first latents and narrower for higher frequencies."""

    def __init__(self, latents: int, *, learned: bool):
        super().__init__()
        start = torch.zeros(3, latents)
        start[1] = torch.linspace(58, 30, latents) / 8 if learned else 42.5 / 8
        start[2] = 1.75 if learned else 0.0
        if learned:
            self.rows = nn.Parameter(start)
        else:
            self.register_buffer("rows", start, persistent=False)
        self.parts = nn.ModuleList(Snap(grid) for grid in (MEAN, SPREAD, SHAPE))

    def forward(self) -> Tensor:
        """Rows (1, 3 * latents, 1, 1)."""
        mean, spread, shape = (part(row) for part, row in zip(self.parts, self.rows, strict=True))
        return torch.cat([clipped_mean(mean), spread, shape])[None, :, None, None]


class VAE(nn.Module):
    """Negative evidence lower bounds of tiles (3, batch, height, width), in bits a sub-pixel (batch,).

    Heights and widths are multiples of a block; with dense parts they are the tile's side.
    """

    def __init__(self, config: VAEConfig | None = None):
        super().__init__()
        self.config = c = config or VAEConfig()
        self.exact = False
        self.shapes = LatentShapes()
        self.prior, self.posterior = Prior(c.latents, learned=not c.dense), Posterior()
        if c.dense:
            self.encoder, self.decoder = DenseEncoder(c), DenseDecoder(c)
        else:
            self.encoder, self.decoder = Encoder(c), Decoder(c)
            self.colors = Colors(c.widths[0], 0, c.color_hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.accounted(x).bits() / (3 * x.shape[2] * x.shape[3])

    def accounted(self, x: Tensor) -> Account:
        """What tiles cost, symbol by symbol."""
        account = Account(self.shapes, self.exact)
        pixels = in_pictures(x)
        anchor, residual = (None, self.encoder(pixels)) if self.config.dense else self.encoder(pixels)
        prior = self.prior().expand(len(pixels), -1, *residual.shape[2:])
        z = account.draw(prior, self.posterior(prior, residual, anchor))
        if self.config.dense:
            account.pay(pixels, self.decoder(z))
        else:
            features, predictions = self.decoder(z)
            self.colors.coded(features, predictions, pixels, None, account)
        return account

"""NVAE (Vahdat & Kautz 2020, arXiv 2007.03898): a hierarchy of latent groups, bottom-up and top-down.

A bottom-up network reads the picture at every scale. From the top down, each group of latents has a prior that the
state of the top-down network gives, and a residual normal posterior that the picture's features move; what is drawn
goes into the state. There are two kinds of groups:

    free groups      latents of any meaning, at the coarsest strides, as in the paper
    lattice groups   latents that begin as the picture's own pixels on ever finer lattices, one group a color

At the scale of stride 2s, pixels of even rows and columns of the lattice with stride s are known (A). The groups of
odd rows and columns (D), and of odd columns or rows only (B, C), follow and complete that lattice. At the finest scale
B and C are pixels and no latents, and the likelihood closes the gap between the others and the picture. Posteriors
of lattice groups are kept so narrow (`narrow`) that the evidence lower bound is nearly tight. With `points` they are
the pixels for sure: the bound is tight there, and nothing is left for the likelihood.

Clipped rectifiers stand for swish, and nothing for batch normalisation, which integers do not need; the penalty on
large spectral norms (section 3.3 of the paper) is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.latents import (
    FEATURE,
    HIDDEN,
    MEAN,
    PIXEL,
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
from gencodec.models.lattices import LatticeScale, Root, moved
from gencodec.models.nvaeconfig import NVAEConfig
from gencodec.models.quantize import ExactConv, Snap
from gencodec.models.shapes import SPREAD

NORM_LIMIT = 6.0
"""Spectral norms that cost nothing."""
PENALTY = 1e-3
"""Bits per sub-pixel that a squared excess of a spectral norm costs in training."""


class Tower(nn.Module):
    """The bottom-up network: pictures (N, 3, H, W) in units -> features for every scale's posteriors.

    One array a lattice scale, then one a free group; finest first.
    """

    def __init__(self, c: NVAEConfig):
        super().__init__()
        width, side = c.encoder, c.tile // 2
        self.ends = nn.ModuleList(EncoderCell(width // 2, c.tile**2) for _ in range(max(0, c.ends - 1)))
        if c.ends:
            self.stem = ExactConv([(3, PIXEL)], [(width // 2, FEATURE)])
            self.down = ExactConv([(width // 2, FEATURE)], [(width, FEATURE)], stride=2)
        else:
            self.stem, self.down = ExactConv([(12, PIXEL)], [(width, FEATURE)]), None
        self.scales = nn.ModuleList()
        self.steps = nn.ModuleList()
        for count in [1 - c.points] * c.lattice + list(c.groups):
            if len(self.scales):
                self.steps.append(ExactConv([(width, FEATURE)], [(width, FEATURE)], stride=2))
                side //= 2
            takers = (
                nn.Sequential(*(EncoderCell(width, side**2) for _ in range(c.encoder_cells))) for _ in range(count)
            )
            self.scales.append(nn.ModuleList(takers))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.down is None:
            r = self.stem(F.pixel_unshuffle(x, 2))
        else:
            r = self.stem(x)
            for cell in self.ends:
                r = cell(r)
            r = self.down(r)
        taken = []
        for i, scale in enumerate(self.scales):
            r = self.steps[i - 1](r) if i else r
            for cells in scale:  # type: ignore[attr-defined]
                r = cells(r)
                taken.append(r)
        return tuple(taken)


# free groups


class FreePrior(nn.Module):
    """The state (N, width, H, W) of a free group -> the state after its cells, and prior means and spreads."""

    def __init__(self, c: NVAEConfig, cells: int, positions: int):
        super().__init__()
        self.cells = nn.Sequential(*(Cell(c.width, c.expansion, c.kernel, positions) for _ in range(cells)))
        self.head = ExactConv([(c.width, HIDDEN)], [(c.latents, MEAN), (c.latents, SPREAD)], 1)
        with torch.no_grad():
            self.head.weight.mul_(0.2)
            self.head.bias[c.latents :] = 42.5 / 8  # eight bins

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cells(h)
        rows = self.head(h)
        latents = self.head.out_features // 2
        return h, torch.cat([clipped_mean(rows[:, :latents]), rows[:, latents:]], 1)


class FreeGroup(nn.Module):
    """A free group: its prior, what its posterior adds, and the state after it (section 3.1)."""

    def __init__(self, c: NVAEConfig, cells: int, positions: int):
        super().__init__()
        self.prior = FreePrior(c, cells, positions)
        self.residual = Residual([(c.width, HIDDEN), (c.encoder, FEATURE)], c.latents, 3, anchored=False)
        self.combine = ExactConv([(c.width, HIDDEN), (c.latents, PIXEL)], [(c.width, HIDDEN)], 1)
        self.posterior = Posterior()

    def forward(self, h: Tensor, features: Tensor, account: Account, weight: float) -> Tensor:
        """The state after the group; its latents are drawn and costed."""
        h, rows = self.prior(h)
        mean, spread = rows.chunk(2, 1)
        prior = torch.cat([mean, spread, torch.zeros_like(mean)], 1)
        posterior = self.posterior(prior, self.residual(torch.cat([h, features], 1)))
        z = account.draw(prior, posterior, weight)
        return self.combine(torch.cat([h, z], 1))


class FreeScale(nn.Module):
    """The free groups of one stride; the state comes from the next coarser one, or is the start (N, width, H, W)."""

    def __init__(self, c: NVAEConfig, count: int, side: int, top: bool):
        super().__init__()
        positions = side**2 if side > 1 else 0
        self.grown = None if top else nn.Sequential(Grown(c.width, c.width), Snap(HIDDEN))
        self.groups = nn.ModuleList(FreeGroup(c, 0 if top and i == 0 else c.cells, positions) for i in range(count))

    def forward(self, h: Tensor, features: list[Tensor], account: Account, weight: float) -> Tensor:
        h = h if self.grown is None else self.grown(h)
        for group in self.groups:
            h = group(h, features.pop(), account, weight)
        return h


# the whole


class Pixels(nn.Module):
    """Where there is no lattice: the state at stride 2 -> features of every pixel, and predictions of its colors."""

    def __init__(self, c: NVAEConfig):
        super().__init__()
        self.width = c.width // 2
        self.grown, self.snapped = Grown(c.width, self.width), Snap(HIDDEN)
        self.cells = nn.Sequential(*(Cell(self.width, c.expansion, c.kernel, c.tile**2) for _ in range(c.ends)))
        self.base = ExactConv([(self.width, HIDDEN)], [(3, MEAN)], 1)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cells(self.snapped(self.grown(h)))
        return h, self.base(h)


class NVAE(nn.Module):
    """Negative evidence lower bounds of tiles (3, batch, height, width) of gray levels, in bits a sub-pixel (batch,).

    Heights and widths are multiples of the coarsest stride; the shipped sizes squeeze whole tiles. While training, the
    penalty on spectral norms is added, and the divergence of free groups is weighted by its warm-up.
    """

    seen: Tensor

    def __init__(self, config: NVAEConfig | None = None):
        super().__init__()
        self.config = c = config or NVAEConfig()
        self.exact = False
        self.shapes = LatentShapes()
        self.tower = Tower(c)
        self.start, self.snapped = nn.Parameter(torch.full((c.width,), 0.5)), Snap(HIDDEN)
        self.free = nn.ModuleList(
            FreeScale(c, count, c.tile >> scale, i == 0)
            for i, (scale, count) in enumerate(zip(c.free, reversed(c.groups), strict=True))
        )
        if c.lattice:
            self.root, self.root_colors = Root(c), Colors(c.width, 0, c.color_hidden, c.narrow)
            sources = [(c.width, HIDDEN), (c.encoder, FEATURE)]
            self.root_residual = None if c.points else Residual(sources, 3, anchored=True)
            self.coarse = LatticeScale(c, c.width, c.width, (c.cells, c.cells), 0, finest=False)
            self.fine = LatticeScale(c, c.width, c.fine_width, c.fine_cells, c.tile // 2, finest=True)
        else:
            self.pixels, self.colors = Pixels(c), Colors(c.width // 2, 0, c.color_hidden)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        cells = [m for m in self.modules() if isinstance(m, Cell | EncoderCell)]
        self.norms = Norms([m for cell in cells for m in cell.modules() if isinstance(m, ExactConv) and m.groups == 1])

    def forward(self, x: Tensor) -> Tensor:
        bits = self.accounted(x).bits() / (3 * x.shape[2] * x.shape[3])
        return bits + PENALTY * self.norms() if self.training else bits

    def accounted(self, x: Tensor) -> Account:
        """What tiles cost, symbol by symbol."""
        account = Account(self.shapes, self.exact)
        pixels = in_pictures(x)
        features = list(self.tower(pixels))
        weight = self.warmed()
        h = self.beginning(pixels)
        for scale in self.free:
            h = scale(h, features, account, weight)
        if self.config.lattice:
            self.lattices(h, pixels, features or [None] * self.config.lattice, account)
        else:
            self.likelihood(h, pixels, account)
        return account

    def beginning(self, pixels: Tensor) -> Tensor:
        """The state before the first group (N, width, H, W), equal everywhere."""
        scale = self.config.lattice + len(self.config.groups)
        batch, _, height, width = pixels.shape
        return self.snapped(self.start)[None, :, None, None].expand(batch, -1, height >> scale, width >> scale)

    def lattices(self, h: Tensor, pixels: Tensor, features: Sequence[Tensor | None], account: Account) -> None:
        """Cost of the lattice groups and of the pixels that no latent stands for."""
        parts = [pixels]
        for _ in range(self.config.lattice):
            known = parts[-1] if len(parts) == 1 else parts[-1][0]
            parts.append([known[:, :, i::2, j::2] for i in range(2) for j in range(2)])  # type: ignore[arg-type]
        a = self.rooted(h, parts[-1][0], features[-1], account)
        for quarters, seen in zip(reversed(parts[2:]), reversed(features[1:]), strict=True):
            a, h = self.coarse(a, h, quarters, seen, account)
        self.fine(a, h, parts[1], features[0], account)

    def rooted(self, h: Tensor, pixels: Tensor, features: Tensor | None, account: Account) -> Tensor:
        """Latents of the coarsest lattice, where `pixels` (N, 3, H, W) are the picture's own."""
        f, predictions = self.root(h)
        residual = moved(self.root_residual, f, features)
        return self.root_colors.coded(f, predictions, pixels, residual, account)[0]

    def likelihood(self, h: Tensor, pixels: Tensor, account: Account) -> None:
        """Cost of all pixels, where no lattice is."""
        f, predictions = self.pixels(h)
        self.colors.coded(f, predictions, pixels, None, account)

    def warmed(self) -> float:
        """The weight of the free groups' divergence, and one more step seen in training."""
        if not self.training or self.exact or not self.config.warmup:
            return 1.0
        self.seen += 1
        return min(1.0, float(self.seen) / self.config.warmup)


class Norms(nn.Module):
    """The excess of convolutions' spectral norms over `NORM_LIMIT`, squared and summed; by one step of power iteration.

    Norms are those of the matrices (out, weights of a row); Yoshida & Miyato 2017, arXiv 1705.10941.
    """

    def __init__(self, convs: list[ExactConv]):
        super().__init__()
        self.convs = [convs]  # a list within a list: not its own parameters
        for i, conv in enumerate(convs):
            self.register_buffer(f"direction{i}", torch.ones(conv.out_features))

    def forward(self) -> Tensor:
        total = torch.zeros((), device=self.convs[0][0].weight.device)
        for i, conv in enumerate(self.convs[0]):
            matrix, left = conv.weight.flatten(1), getattr(self, f"direction{i}")
            with torch.no_grad():
                right = F.normalize(matrix.t() @ left, dim=0)
                left.copy_(F.normalize(matrix @ right, dim=0))
            total = total + F.relu(left.clone() @ matrix @ right - NORM_LIMIT).square()
        return total

"""NVAE (Vahdat & Kautz 2020, arXiv 2007.03898): a hierarchy of latent groups, bottom-up and top-down.

A bottom-up network reads the picture at every scale. From the top down, each group of latents has a prior that the
state of the top-down network gives, and a residual normal posterior that the picture's features move; what is drawn
goes into the state. There are two kinds of groups:

    free groups      latents of any meaning, at the coarsest strides, as in the paper
    lattice groups   latents that begin as the picture's own pixels on ever finer lattices, one group a color

At the scale of stride 2s, pixels of even rows and columns of the lattice with stride s are known (A). The groups of
odd rows and columns (D), and of odd columns or rows only (B, C), follow and complete that lattice. At the finest scale
B and C are pixels and no latents, and the likelihood closes the gap between the others and the picture. Posteriors
of lattice groups are kept so narrow (`narrow`) that the evidence lower bound is nearly tight.

Clipped rectifiers stand for swish, and nothing for batch normalisation, which integers do not need; the penalty on
large spectral norms (section 3.3 of the paper) is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.latents import (
    FEATURE,
    HIDDEN,
    MEAN,
    NARROW,
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
from gencodec.models.quantize import ExactConv, Snap
from gencodec.models.shapes import SPREAD

NORM_LIMIT = 6.0
"""Spectral norms that cost nothing."""
PENALTY = 1e-3
"""Bits per sub-pixel that a squared excess of a spectral norm costs in training."""


@dataclass(frozen=True)
class NVAEConfig:
    """Sizes of the network, by default those of the shipped model."""

    tile: int = 64
    lattice: int = 5
    """Scales whose groups are lattices of pixels: strides 2, 4, ... 2**lattice."""
    groups: tuple[int, ...] = (1,)
    """Free groups at each of the next coarser strides."""
    latents: int = 16
    """Latents of a free group at each position."""
    width: int = 48
    """Features of the free groups' and the coarser lattices' state."""
    cells: int = 1
    """Residual cells before each group that is coded at once."""
    fine_width: int = 64
    fine_cells: tuple[int, int] = (2, 3)
    """Features, and cells before D and before B and C, of the finest lattice."""
    expansion: int = 2
    kernel: int = 3
    narrow: int = 3
    """Largest scale index of lattice groups' posteriors: a tenth of a level."""
    bank: int = 4
    """Linear predictions that a color chooses among."""
    color_hidden: int = 24
    encoder: int = 16
    """Features of the bottom-up network."""
    encoder_cells: int = 1
    ends: int = 0
    """Cells at full resolution, before the bottom-up and after the top-down network, where there is no lattice."""
    warmup: int = 300
    """Steps in which the divergence of free groups gains its full weight (section 3 of the paper)."""

    @property
    def free(self) -> list[int]:
        """Scales (stride 2**scale) of free groups, coarsest first."""
        return list(range(self.lattice + len(self.groups), self.lattice, -1))


PAPER = NVAEConfig(
    tile=32,
    lattice=0,
    groups=(30,),
    latents=20,
    width=256,
    cells=2,
    expansion=6,
    kernel=5,
    encoder=256,
    encoder_cells=2,
    ends=2,
)
"""The paper's CIFAR-10 model (table 6): 30 groups of 20 latents at 16 x 16, 2 cells a group, 128 features at first."""


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
        for count in [1] * c.lattice + list(c.groups):
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


# lattice groups


class Root(nn.Module):
    """The state at the coarsest lattice (N, width, 2H, 2W), and predictions of its pixels."""

    def __init__(self, c: NVAEConfig):
        super().__init__()
        self.grown, self.snapped = Grown(c.width, c.width), Snap(HIDDEN)
        self.base = ExactConv([(c.width, HIDDEN)], [(3, MEAN)], 1)
        with torch.no_grad():
            self.base.weight.mul_(0.2)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.snapped(self.grown(h))
        return h, self.base(h)


class Enter(nn.Module):
    """Known pixels A, and the state of the next coarser scale -> the state before D, and predictions of D.

    A is (N, 3, H + 3, W + 3), its edges repeated once before and twice behind; the state is (N, source, H/2, W/2).
    """

    def __init__(self, c: NVAEConfig, source: int, width: int, cells: int, positions: int):
        super().__init__()
        self.grown = Grown(source, width)
        self.seen = ExactConv([(3, PIXEL)], [(width, SIGNED)], 4, padding=0)
        self.linear = predictor(3, c.bank, 4, {(i, j): 0.25 for i in (1, 2) for j in (1, 2)})
        self.snapped = Snap(HIDDEN)
        self.cells = nn.Sequential(*(Cell(width, c.expansion, c.kernel, positions) for _ in range(cells)))
        balance(self.seen, 3.0)

    def forward(self, a: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        f = self.snapped(self.seen(a) + self.grown(h))
        return self.cells(f), self.linear(a)


class Middle(nn.Module):
    """The state before D, and A and D -> the state before B and C, and predictions of B and of C.

    Seen are A, D and D's innovations, (N, 9, H + 2, W + 2): edges of A and D repeated, zeros around the innovations.
    """

    def __init__(self, c: NVAEConfig, width: int, cells: int, positions: int):
        super().__init__()
        self.seen = ExactConv([(6, PIXEL), (3, MEAN)], [(width, SIGNED)], 3, padding=0)
        self.mixed = ExactConv([(width, HIDDEN)], [(width, SIGNED)], 1)
        self.right = predictor(6, c.bank, 3, {(1, 1): 0.25, (1, 2): 0.25}, {(1, 1): 0.25, (0, 1): 0.25})
        self.below = predictor(6, c.bank, 3, {(1, 1): 0.25, (2, 1): 0.25}, {(1, 1): 0.25, (1, 0): 0.25})
        self.snapped = Snap(HIDDEN)
        self.cells = nn.Sequential(*(Cell(width, c.expansion, c.kernel, positions) for _ in range(cells)))
        balance(self.seen, 2.0)
        with torch.no_grad():
            self.mixed.weight.mul_(0.5)

    def forward(self, f: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f = self.snapped(self.mixed(f) + self.seen(seen))
        pixels = seen[:, :6]
        return self.cells(f), self.right(pixels), self.below(pixels)


class Leave(nn.Module):
    """The state before B and C, with what they were and their innovations (N, 12, H, W) -> the state of the scale."""

    def __init__(self, width: int):
        super().__init__()
        self.mixed = ExactConv([(width, HIDDEN), (6, PIXEL), (6, MEAN)], [(width, HIDDEN)], 1)

    def forward(self, f: Tensor, seen: Tensor) -> Tensor:
        return self.mixed(torch.cat([f, seen], 1))


class Copies(nn.Module):
    """The state of the finest scale, and its latents A and D (N, 6, H, W) -> rows (N, 18, H, W) of those pixels."""

    def __init__(self, width: int):
        super().__init__()
        self.head = ExactConv([(width, HIDDEN)], [(6, MEAN), (6, SPREAD)], 1)
        with torch.no_grad():
            self.head.weight.mul_(0.02)
            self.head.bias[6:] = (NARROW + 0.5) / 8

    def forward(self, f: Tensor, latents: Tensor) -> Tensor:
        offset, spread = self.head(f).chunk(2, 1)
        return torch.cat([clipped_mean(latents + offset), spread, torch.clamp(spread, 0, 0)], 1)


def predictor(
    sources: int, bank: int, kernel: int, *near: dict[tuple[int, int], float], weight_bits: int = 14
) -> ExactConv:
    """Linear predictions of three colors from `sources` pixels around, each color's base and `bank` corrections.

    The base begins as a weighted mean of each color's own pixels: `near` gives the weights, for every three sources.
    """
    conv = ExactConv([(sources, PIXEL)], [(3 * (1 + bank), MEAN)], kernel, padding=0, weight_bits=weight_bits)
    balance(conv, 0.3)
    with torch.no_grad():
        for color in range(3):
            row = conv.weight[(1 + bank) * color]
            row.zero_()
            for part, weights in enumerate(near):
                for (i, j), share in weights.items():
                    row[3 * part + color, i, j] = share
    return conv


def balance(conv: ExactConv, gain: float) -> None:
    """Scale weights by `gain`, and begin with zero sums over the neighborhood: blind to its brightness."""
    with torch.no_grad():
        conv.weight.sub_(conv.weight.mean((2, 3), keepdim=True)).mul_(gain)


class LatticeScale(nn.Module):
    """One doubling of the resolution: A is known, D follows, then B and C."""

    def __init__(self, c: NVAEConfig, source: int, width: int, cells: tuple[int, int], side: int, finest: bool):
        """`side`: of the lattice A in a tile, for squeezing; 0 for a module that serves several scales."""
        super().__init__()
        self.enter = Enter(c, source, width, cells[0], side**2)
        self.middle = Middle(c, width, cells[1], side**2)
        self.first, self.right, self.below = (Colors(width, c.bank, c.color_hidden, c.narrow) for _ in "DBC")
        sources = [(width, HIDDEN), (c.encoder, FEATURE)]
        self.first_residual = Residual(sources, 3, anchored=True)
        self.second_residual = None if finest else Residual(sources, 6, anchored=True)
        self.last = Copies(width) if finest else Leave(width)

    def forward(
        self, a: Tensor, h: Tensor, pixels: list[Tensor], features: Tensor, account: Account
    ) -> tuple[Tensor, Tensor]:
        """Latents of the next finer lattice (N, 3, 2H, 2W) and the state, costing what is coded.

        `pixels` are the picture's own at A, B, C and D, each (N, 3, H, W).
        """
        f, predictions = self.enter(F.pad(a, (1, 2, 1, 2), mode="replicate"), h)
        residual = self.first_residual(torch.cat([f, features], 1))
        d, surprise = self.first.coded(f, predictions, pixels[3], residual, account)
        around = F.pad(torch.cat([a, d], 1), (1, 1, 1, 1), mode="replicate")
        f, right, below = self.middle(f, torch.cat([around, F.pad(surprise, (1, 1, 1, 1))], 1))
        residuals: list[Tensor | None] = [None, None]
        if self.second_residual is not None:
            residual = self.second_residual(torch.cat([f, features], 1))
            residuals = [torch.cat([residual[:, i : i + 3] for i in (s, s + 6, s + 12)], 1) for s in (0, 3)]
        b, surprise_b = self.right.coded(f, right, pixels[1], residuals[0], account)
        c, surprise_c = self.below.coded(f, below, pixels[2], residuals[1], account)
        if isinstance(self.last, Copies):
            latents = torch.cat([a, d], 1)
            account.pay(torch.cat([pixels[0], pixels[3]], 1), self.last(f, latents))
            return a, f
        finer = F.pixel_shuffle(torch.stack([a, b, c, d], 2).flatten(1, 2), 2)
        return finer, self.last(f, torch.cat([b, c, surprise_b, surprise_c], 1))


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
            self.root_residual = Residual([(c.width, HIDDEN), (c.encoder, FEATURE)], 3, anchored=True)
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
            self.lattices(h, pixels, features, account)
        else:
            self.likelihood(h, pixels, account)
        return account

    def beginning(self, pixels: Tensor) -> Tensor:
        """The state before the first group (N, width, H, W), equal everywhere."""
        scale = self.config.lattice + len(self.config.groups)
        batch, _, height, width = pixels.shape
        return self.snapped(self.start)[None, :, None, None].expand(batch, -1, height >> scale, width >> scale)

    def lattices(self, h: Tensor, pixels: Tensor, features: list[Tensor], account: Account) -> None:
        """Cost of the lattice groups and of the pixels that no latent stands for."""
        parts = [pixels]
        for _ in range(self.config.lattice):
            known = parts[-1] if len(parts) == 1 else parts[-1][0]
            parts.append([known[:, :, i::2, j::2] for i in range(2) for j in range(2)])  # type: ignore[arg-type]
        a = self.rooted(h, parts[-1][0], features[-1], account)
        for quarters, seen in zip(reversed(parts[2:]), reversed(features[1:]), strict=True):
            a, h = self.coarse(a, h, quarters, seen, account)
        self.fine(a, h, parts[1], features[0], account)

    def rooted(self, h: Tensor, pixels: Tensor, features: Tensor, account: Account) -> Tensor:
        """Latents of the coarsest lattice, where `pixels` (N, 3, H, W) are the picture's own."""
        f, predictions = self.root(h)
        residual = self.root_residual(torch.cat([f, features], 1))
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

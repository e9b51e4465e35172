"""Lattice groups of NVAE: latents that begin as the picture's own pixels, on ever finer lattices.

One doubling of the resolution is a `LatticeScale`: A is known, D, in the middle of four of A, follows, then B and C,
beside and beneath those of A (see `gencodec.models.nvae`).
"""

from __future__ import annotations

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
    Grown,
    Residual,
    clipped_mean,
)
from gencodec.models.nvaeconfig import NVAEConfig
from gencodec.models.quantize import ExactConv, Snap
from gencodec.models.shapes import SPREAD


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
        self.first_residual = None if c.points else Residual(sources, 3, anchored=True)
        self.second_residual = None if c.points or finest else Residual(sources, 6, anchored=True)
        self.last = Leave(width) if not finest else None if c.points else Copies(width)

    def forward(
        self, a: Tensor, h: Tensor, pixels: list[Tensor], features: Tensor | None, account: Account
    ) -> tuple[Tensor, Tensor]:
        """Latents of the next finer lattice (N, 3, 2H, 2W) and the state, costing what is coded.

        `pixels` are the picture's own at A, B, C and D, each (N, 3, H, W).
        """
        f, predictions = self.enter(F.pad(a, (1, 2, 1, 2), mode="replicate"), h)
        residual = moved(self.first_residual, f, features)
        d, surprise = self.first.coded(f, predictions, pixels[3], residual, account)
        around = F.pad(torch.cat([a, d], 1), (1, 1, 1, 1), mode="replicate")
        f, right, below = self.middle(f, torch.cat([around, F.pad(surprise, (1, 1, 1, 1))], 1))
        residual = moved(self.second_residual, f, features)
        of_b, of_c = (None, None) if residual is None else halves(residual)
        b, surprise_b = self.right.coded(f, right, pixels[1], of_b, account)
        c, surprise_c = self.below.coded(f, below, pixels[2], of_c, account)
        if isinstance(self.last, Copies):
            latents = torch.cat([a, d], 1)
            account.pay(torch.cat([pixels[0], pixels[3]], 1), self.last(f, latents))
        if not isinstance(self.last, Leave):
            return a, f
        finer = F.pixel_shuffle(torch.stack([a, b, c, d], 2).flatten(1, 2), 2)
        return finer, self.last(f, torch.cat([b, c, surprise_b, surprise_c], 1))


def moved(residual: Residual | None, f: Tensor, features: Tensor | None) -> Tensor | None:
    """What moves posteriors away from priors, by the state and the bottom-up features; None for points."""
    return None if residual is None or features is None else residual(torch.cat([f, features], 1))


def halves(residual: Tensor) -> tuple[Tensor, Tensor]:
    """Of gates, offsets and changes of six colors (N, 18, H, W) those of the first three and of the last, as three."""
    first, last = residual.unflatten(1, (3, 2, 3)).unbind(2)
    return first.flatten(1, 2), last.flatten(1, 2)

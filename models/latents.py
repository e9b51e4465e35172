"""What the latent-variable families share: discretised latents, their cost, and the likelihood of pixels.

Latents are integers 0..255, as gray levels are, and both follow the distributions of `Shapes`. A distribution leaves
a network as a row of three numbers: a mean, a scale and a shape. Values, means included, are in units of 16 levels
around the middle one (128), so that a mean is exact to a sixteenth of a level. Arrays are pictures, (batch,
features, height, width); colors are green, red, blue.

The code length of a picture x is the negative evidence lower bound (Kingma & Welling 2013, arXiv 1312.6114, equation
3), in bits: that of x given latents z drawn from the posterior, and of z by the prior, less what drawing z took.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.quantize import ExactConv, Grid, Group, Snap, SpatialMean, floor_through
from gencodec.models.shapes import (
    FLOOR,
    NORMAL_WIDTH,
    SCALE_OF_ONE,
    SCALES,
    SCALES_PER_OCTAVE,
    SHAPE,
    SPREAD,
    WIDTHS,
    Shapes,
)

LEVELS = 16.0
"""Gray levels, or bins of a latent, in one unit of the network's values."""
MIDDLE = 8.0
"""The middle level in these units."""
PIXEL = Grid(-128, 127, 4)
"""Gray levels and latents as networks see them."""
HIDDEN = Grid(0, 1023, 7)
FEATURE = Grid(0, 255, 5)
"""Features of bottom-up networks: few bits, for their sums are long."""
SIGNED = Grid(-1023, 1023, 7)
GATE = Grid(-512, 511, 8)
EXCITED = Grid(0, 255, 7)
MEAN = Grid(-4080, 4080, 8)
CHANGE = Grid(1 - SCALES, SCALES - 1, 3)
"""Differences of scale indices."""
NARROW = 1
"""Scale index of posteriors that begin with nearly all mass on one level."""


FIELDS = ("mean", "scale", "shape")


@dataclass(frozen=True)
class Distribution:
    """Means in levels, scale and shape indices (continuous in the smooth network) of symbols, all of one shape."""

    mean: Tensor
    scale: Tensor
    shape: Tensor

    @classmethod
    def of(cls, rows: Tensor, exact: bool) -> Distribution:
        """From a network's rows (N, 3 * C, H, W): C means, C scales, C shapes."""
        mean, spread, shape = rows.chunk(3, 1)
        shift = 0.0 if exact else 0.5  # the integer network floors
        return cls((mean + MIDDLE) * LEVELS, spread * 8 - shift, (shape * 2 - shift).clamp_min(0))


def in_pictures(x: Tensor) -> Tensor:
    """Tiles of gray levels (3, batch, height, width) in units, (batch, 3, height, width)."""
    return in_units(x.transpose(0, 1)).contiguous(memory_format=torch.channels_last)


def in_units(symbols: Tensor) -> Tensor:
    """Symbols 0..255 as networks see them."""
    return symbols * (1 / LEVELS) - MIDDLE


def clipped_mean(mean: Tensor) -> Tensor:
    """Means limited to those of symbols."""
    return torch.clamp(mean, -MIDDLE, MIDDLE - 1 / LEVELS)


class Posterior(nn.Module):
    """A residual normal distribution (Vahdat & Kautz 2020, arXiv 2007.03898, section 3.2) of latents.

    With a prior of mean m and log scale s, the posterior has the mean m + dm and the log scale s + ds, where

        dm = gate * (anchor - m) + offset        ds = change - gate * s

    With everything zero it is the prior, if that is of the first shape, as the posterior is; a gate of one puts it at
    the anchor, a value that the picture gives. Without an anchor there is no gate.
    """

    def __init__(self, widest: int = SCALES - 1):
        """`widest`: the largest scale index."""
        super().__init__()
        self.widest, self.exact = widest, False
        self.shift, self.change = Snap(MEAN), Snap(CHANGE)

    def forward(self, prior: Tensor, residual: Tensor, anchor: Tensor | None = None) -> Tensor:
        """Rows of the posterior (N, 3 * C, H, W) from those of the prior and what `Residual` gives.

        That is (N, 3 * C, H, W), gates, offsets and changes, with anchors (N, C, H, W), or (N, 2 * C, H, W).
        """
        mean, spread, shape = prior.chunk(3, 1)
        if anchor is None:
            offset, change = residual.chunk(2, 1)
        else:
            gate, offset, change = residual.chunk(3, 1)
            offset = self.shift(gate * (anchor - mean)) + offset
            change = change - self.change(gate * spread)
        mean = clipped_mean(mean + offset)
        most = self.widest if self.exact else self.widest + 0.5
        spread = torch.clamp(spread + change, 0, most / 8)
        return torch.cat([mean, spread, torch.zeros_like(shape)], 1)


class Residual(nn.Module):
    """What moves the posteriors of `latents` features away from their priors, from hidden features."""

    def __init__(self, sources: list[Group], latents: int, kernel: int = 1, *, anchored: bool, scale: int = NARROW):
        """`anchored`: with gates, and beginning at the anchors with the scale index `scale`; otherwise as the prior."""
        super().__init__()
        gates: list[Group] = [(latents, GATE)] if anchored else []
        self.conv = ExactConv(sources, [*gates, (latents, MEAN), (latents, CHANGE)], kernel)
        with torch.no_grad():
            self.conv.weight.mul_(0.02)
            if anchored:
                self.conv.weight[: 2 * latents] = 0
                self.conv.bias[:latents] = 1.0
                self.conv.bias[2 * latents :] = (scale + 0.5) / 8

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features)


class LatentShapes(Shapes):
    """`Shapes` whose first one stays normal: that of posteriors."""

    def weights(self) -> Tensor:
        normal = F.one_hot(torch.tensor([len(WIDTHS)], device=self.logits.device), len(WIDTHS) + 1)
        return torch.cat([normal.float(), torch.softmax(self.logits[1:], 1)])


def drawn(posterior: Distribution) -> Tensor:
    """Symbols 0..255 drawn from normal distributions, with the gradient of the reparametrisation.

    They are rounded straight through.
    """
    scale = torch.exp2((posterior.scale - SCALE_OF_ONE) / SCALES_PER_OCTAVE)
    value = posterior.mean + scale * (NORMAL_WIDTH * torch.randn_like(scale))
    return floor_through(value + 0.5).clamp(0, 255)


def normal_bits(symbols: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Code lengths of symbols that are drawn from normal distributions: of no least share, unlike those coded."""
    rate = torch.exp2((SCALE_OF_ONE - scale) / SCALES_PER_OCTAVE) * (1 / (NORMAL_WIDTH * math.sqrt(2)))
    away = (symbols - mean).abs()
    # in the tail of |away|, where differences of distribution functions keep their digits
    inner, outer = 0.5 * torch.erfc((away - 0.5) * rate), 0.5 * torch.erfc((away + 0.5) * rate)
    end = ((symbols <= 0) & (mean >= symbols)) | ((symbols >= 255) & (mean <= symbols))
    beyond = ((symbols <= 0) & (mean < symbols)) | ((symbols >= 255) & (mean > symbols))
    mass = torch.where(end, inner, torch.where(beyond, 1 - outer, inner - outer))
    return -torch.log2(mass.clamp_min(FLOOR / 16))


class Color(nn.Module):
    """One color's distribution: a blend of predictions with weights that the features choose, and a correction.

    Features (N, features, H, W) and predictions (N, 1 + bank + earlier, H, W) on MEAN's grid -> a row (N, 3, H, W).
    Of the predictions the first is the base, the next ones are added to it with weights, and the last `earlier` are
    the innovations of the colors before this one, which a layer of its own mixes with the features.
    """

    def __init__(self, features: int, bank: int, earlier: int, hidden: int):
        super().__init__()
        self.bank = bank
        mixed = [(features, HIDDEN), (earlier, MEAN)]
        self.layer = ExactConv(mixed, [(hidden, HIDDEN)], 1) if earlier else None
        inner = hidden if earlier else features
        self.head = ExactConv([(inner, HIDDEN)], [(1, MEAN), (1, SPREAD), (1, SHAPE), (bank + earlier, GATE)], 1)
        self.blended = Snap(MEAN)
        start = [1.0 / max(1, bank)] * bank + [0.0] * (earlier - 1) + [0.7] * bool(earlier)
        with torch.no_grad():
            self.head.weight.mul_(0.2)
            self.head.bias.copy_(torch.tensor([0.0, 30 / 8, 3.5 / 2, *start]))

    def forward(self, features: Tensor, predictions: Tensor) -> Tensor:
        if self.layer is not None:
            features = self.layer(torch.cat([features, predictions[:, 1 + self.bank :]], 1))
        parameters = self.head(features)
        mean = predictions[:, :1] + parameters[:, :1]
        if self.blended_count:
            blend = (parameters[:, 3:] * predictions[:, 1:]).sum(1, keepdim=True)
            mean = mean + self.blended(blend)
        return torch.cat([clipped_mean(mean), parameters[:, 1:3]], 1)

    @property
    def blended_count(self) -> int:
        """Predictions that are added to the base with weights."""
        return self.head.out_features - 3


class Colors(nn.Module):
    """The three colors of pixels or of latents like them, one after the other, and how posteriors follow."""

    def __init__(self, features: int, bank: int, hidden: int, widest: int = SCALES - 1):
        """`widest`: the largest scale index of posteriors."""
        super().__init__()
        self.bank = bank
        self.each = nn.ModuleList(Color(features, bank, earlier, hidden) for earlier in range(3))
        self.posterior = Posterior(widest)

    def forward(self, features: Tensor, predictions: Tensor, color: int, innovations: list[Tensor]) -> Tensor:
        """The row of one color, given the innovations (N, 1, H, W) of those before it.

        `predictions` (N, 3 * (1 + bank), H, W) are the base and the bank of every color.
        """
        size = 1 + self.bank
        given = torch.cat([predictions[:, size * color : size * (color + 1)], *innovations], 1)
        return self.each[color](features, given)

    def coded(
        self, f: Tensor, predictions: Tensor, pixels: Tensor, residual: Tensor | None, account: Account
    ) -> tuple[Tensor, Tensor]:
        """Values and innovations, (N, 3, H, W) each: those of `pixels`, or of latents drawn around them.

        `residual` (N, 9, H, W) moves the latents' posteriors; without it the pixels are coded themselves.
        """
        values, innovations = [], []
        for color in range(3):
            row = self(f, predictions, color, innovations)
            value = pixels[:, color : color + 1]
            if residual is None:
                account.pay(value, row)
            else:
                value = account.draw(row, self.posterior(row, residual[:, color::3], value))
            values.append(value)
            innovations.append(value - row[:, :1])
        return torch.cat(values, 1), torch.cat(innovations, 1)


class Cell(nn.Module):
    """A residual cell of the top-down network (arXiv 2007.03898, figure 3a), without its normalisation.

    1x1 expansion, depthwise convolution, 1x1 projection, squeeze and excitation; clipped rectifiers, which integers
    compute without tables, stand for swish. (N, width, H, W) on HIDDEN's grid in and out.
    """

    def __init__(self, width: int, expansion: int, kernel: int, positions: int):
        """`positions`: height times width of the pictures, for the squeeze; 0 for a cell without it."""
        super().__init__()
        inner = width * expansion
        self.expand = ExactConv([(width, HIDDEN)], [(inner, HIDDEN)], 1)
        self.depthwise = ExactConv([(inner, HIDDEN)], [(inner, HIDDEN)], kernel, groups=inner)
        self.project = ExactConv([(inner, HIDDEN)], [(width, SIGNED)], 1)
        self.excite = Excite(width, positions) if positions else None
        self.added = Snap(HIDDEN)
        with torch.no_grad():
            self.project.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.project(self.depthwise(self.expand(x)))
        return self.added(x + (branch if self.excite is None else self.excite(branch)))


class Excite(nn.Module):
    """Squeeze and excitation (Hu et al. 2018, arXiv 1709.01507) of a branch (N, width, H, W) on SIGNED's grid.

    Factors are between 0 and 2, and begin as 1.
    """

    def __init__(self, width: int, positions: int):
        super().__init__()
        inner = max(4, width // 16)
        self.squeeze = SpatialMean(SIGNED, SIGNED, positions)
        self.reduce = ExactConv([(width, SIGNED)], [(inner, HIDDEN)], 1)
        self.restore = ExactConv([(inner, HIDDEN)], [(width, EXCITED)], 1)
        with torch.no_grad():
            self.restore.weight.mul_(0.1)
            self.restore.bias.fill_(1.0)

    def forward(self, branch: Tensor) -> Tensor:
        return branch * self.restore(self.reduce(self.squeeze(branch)))


class EncoderCell(nn.Module):
    """A residual cell of the bottom-up network (arXiv 2007.03898, figure 3b), without its normalisation.

    Two 3x3 convolutions, squeeze and excitation. (N, width, H, W) on FEATURE's grid in and out.
    """

    def __init__(self, width: int, positions: int):
        super().__init__()
        self.first = ExactConv([(width, FEATURE)], [(width, FEATURE)])
        self.second = ExactConv([(width, FEATURE)], [(width, SIGNED)])
        self.excite = Excite(width, positions)
        self.added = Snap(FEATURE)
        with torch.no_grad():
            self.second.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.added(x + self.excite(self.second(self.first(x))))


class Grown(nn.Module):
    """The state at twice the resolution: (N, source, H, W) on HIDDEN's grid -> (N, target, 2H, 2W) on SIGNED's."""

    def __init__(self, source: int, target: int):
        super().__init__()
        self.conv = ExactConv([(source, HIDDEN)], [(4 * target, SIGNED)], 1)
        with torch.no_grad():
            self.conv.weight.mul_(0.3)

    def forward(self, h: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(h), 2)


@dataclass
class Account:
    """Symbols and their distributions, collected to be costed at once: evaluation by small parts is slow."""

    shapes: Shapes
    exact: bool
    entries: list[tuple[Tensor, Distribution, float]] = field(default_factory=list)

    def pay(self, values: Tensor, rows: Tensor, weight: float = 1.0) -> None:
        """Add the cost, times `weight`, of values in units by the rows of a network."""
        self.entries.append(((values + MIDDLE) * LEVELS, Distribution.of(rows, self.exact), weight))

    def draw(self, prior: Tensor, posterior: Tensor, weight: float = 1.0) -> Tensor:
        """Latents in units drawn from the posterior; they cost the difference of the two code lengths."""
        distribution = Distribution.of(posterior, self.exact)
        symbols = drawn(distribution)
        self.entries.append((symbols, distribution, -weight))
        self.entries.append((symbols, Distribution.of(prior, self.exact), weight))
        return in_units(symbols)

    def bits(self) -> Tensor:
        """The sums of each picture of the batch, (batch,)."""
        sums = [weight * bits.sum(1) for bits, (_, _, weight) in zip(self.each(), self.entries, strict=True)]
        return torch.stack(sums).sum(0)

    def drawn(self) -> Tensor:
        """What drawing latents takes of a stack, altogether."""
        drawn = [bits.sum() for bits, (_, _, weight) in zip(self.each(), self.entries, strict=True) if weight < 0]
        return torch.stack(drawn).sum()

    def each(self) -> list[Tensor]:
        """Code lengths of every entry, (batch, symbols)."""
        result: list[Tensor | None] = [None] * len(self.entries)
        for drawing in (False, True):
            places = [i for i, (_, _, weight) in enumerate(self.entries) if (weight < 0) == drawing]
            if places:
                for i, bits in zip(places, self.together(places, drawing), strict=True):
                    result[i] = bits
        return cast(list[Tensor], result)

    def together(self, places: list[int], drawing: bool) -> list[Tensor]:
        """Code lengths of some entries, (batch, symbols) each, of which all or none are what drawing takes."""
        chosen = [self.entries[i] for i in places]
        symbols = torch.cat([s.flatten() for s, _, _ in chosen])
        mean, scale, shape = (torch.cat([getattr(d, f).flatten() for _, d, _ in chosen]) for f in FIELDS)
        bits = normal_bits(symbols, mean, scale) if drawing else self.shapes.bits(symbols, mean, scale, shape)
        pieces = bits.split([s.numel() for s, _, _ in chosen])
        return [piece.view(len(s), -1) for piece, (s, _, _) in zip(pieces, chosen, strict=True)]

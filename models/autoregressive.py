"""What PixelCNN and PixelRNN share: what a pixel may see of its tile, and how colors come out of its features.

Both are conditioned on whole earlier pixels in raster order; the colors of a pixel, green, red, blue, are told apart
in the output alone, where each color's small network sees the features and the innovations of the colors before.
Instead of a 256-way softmax a color has a mean, a scale and a tail shape (`Shapes`), its mean relative to the median
edge prediction, so that training starts from what LOCO-I knows. Arrays are feature-first, (features, batch, height,
width), except where a picture's layout, (batch, features, height, width), is named.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gencodec.models.photo import BANK, FLAG, LEVELS, MEAN, PIXEL, Head, median_edge, shifted
from gencodec.models.quantize import ExactLinear, Grid, Group, Snap, Table
from gencodec.models.shapes import Shapes

BEGINNING = 128.0
"""Gray level left of a tile's first row."""
FLAGS = 4

LEVEL = Grid(-128, 127, 4)
HIDDEN = Grid(0, 2047, 8)
ENERGY = Grid(0, 255, 6)
SUM = Grid(-1023, 1023, 7)
"""What one layer adds to the sums that gates are made of."""
SUMS = Grid(-2046, 2046, 7)
"""The sums of two layers."""
RATIO = Grid(0, 256, 8)
SIGNED = Grid(-256, 256, 8)
GATED = Grid(-512, 512, 9)
STATE = Grid(-1023, 1023, 7)
"""Features that layers add to."""


@dataclass(frozen=True)
class AutoregressiveConfig:
    """Geometry and output sizes that both families have."""

    tile: int = 64
    """Side of the tiles that the codec codes."""
    reach: tuple[tuple[int, int], ...] = ((-4, -1), (-3, 3), (-2, 2), (-1, 1))
    """First and last column offset of the context, for the pixel's own row and each row above."""
    near: tuple[tuple[int, int], ...] = ((0, -1), (0, -2), (0, -3), (1, 0), (1, 1), (1, -1), (1, 2), (2, 0), (2, 1))
    """Where energies are read: (rows up, column offset)."""
    bank: int = 4
    """Linear predictions of a color, which its features blend."""
    output: int = 48
    """Features that colors are told from."""
    color_hidden: int = 24

    @property
    def context(self) -> list[tuple[int, int]]:
        """Context offsets (rows up, column offset), nearest row first."""
        return [(up, dx) for up, (first, last) in enumerate(self.reach) for dx in range(first, last + 1)]

    @property
    def surroundings(self) -> list[Group]:
        """What is known of a pixel's surroundings: the relative context, energies and flags."""
        return [(3 * len(self.context), PIXEL), (3 * len(self.near), ENERGY), (FLAGS, FLAG)]


def energies() -> Tensor:
    """The energy of an absolute error of 0..255 gray levels, its logarithm on ENERGY's grid; (256,) whole numbers."""
    levels = torch.arange(256, dtype=torch.float64)
    return torch.floor(torch.log2(1 + levels) / 2 / ENERGY.step).clamp(ENERGY.low, ENERGY.high).float()


@dataclass(frozen=True)
class Views:
    """What pixels see of their tiles, all on grids."""

    base: Tensor
    """Median edge predictions in gray levels; (3, batch, height, width)."""
    surroundings: Tensor
    """Relative context, energies nearby and flags, (features, batch, height, width)."""
    maps: Tensor
    """Of every pixel its colors, its errors by the base predictions, and their energies; (batch, 9, height, width)."""

    @classmethod
    @torch.no_grad()
    def of(cls, x: Tensor, config: AutoregressiveConfig) -> Views:
        """The views of tiles `x` (3, batch, height, width) of gray levels."""
        taps = context_of(x, config)
        at = {offset: i for i, offset in enumerate(config.context)}
        base = median_edge(*(taps[at[o]] for o in ((0, -1), (1, 0), (1, -1))))
        relative = torch.cat([(tap - base) * PIXEL.step for tap in taps])
        error = x - base
        energy = energies().to(x.device)[error.abs().long()] * ENERGY.step
        near = [shifted(energy, up, dx) for up, dx in config.near]
        maps = torch.cat([(x - BEGINNING) * LEVEL.step, error * PIXEL.step, energy])
        return cls(base, torch.cat([relative, *near, flags_of(x)]), picture(maps))


def picture(x: Tensor) -> Tensor:
    """Features-first `x` as (batch, features, height, width), features last in memory, as convolutions like it."""
    return x.transpose(0, 1).contiguous(memory_format=torch.channels_last)


def context_of(x: Tensor, config: AutoregressiveConfig) -> list[Tensor]:
    """The context's pixels of tiles `x`, each (3, batch, height, width), by the edge rules.

    Left of a tile stands the first pixel of the row above (128 for the top row), right of it the row's last pixel, and
    above it rows like the first; to the first row's own pixels, the pixel on their left.
    """
    left = -min(first for first, _ in config.reach)
    right = max(last for _, last in config.reach)
    rows = len(config.reach) - 1
    first = torch.cat([torch.full_like(x[:, :, :1, :1], BEGINNING), x[:, :, :-1, :1]], 2)
    canvas = torch.cat([first.expand(-1, -1, -1, left), x, x[..., -1:].expand(-1, -1, -1, right)], 3)
    canvas = torch.cat([canvas[:, :, :1].expand(-1, -1, rows, -1), canvas], 2)
    height, width = x.shape[-2:]
    west = canvas[:, :, rows : rows + 1, left - 1 : left - 1 + width]
    taps = []
    for up, dx in config.context:
        tap = canvas[:, :, rows - up : rows - up + height, left + dx : left + dx + width]
        taps.append(torch.cat([west, tap[:, :, 1:]], 2) if up else tap)
    return taps


def flags_of(x: Tensor) -> Tensor:
    """Of tiles `x`, whether a pixel is in the top row, the first column, an odd row, an odd column; (4, ...)."""
    flags = x.new_zeros(FLAGS, *x.shape[1:])
    flags[0, :, 0] = 1
    flags[1, :, :, 0] = 1
    flags[2, :, 1::2] = 1
    flags[3, :, :, 1::2] = 1
    return flags


class Curve(Table):
    """A function whose values need no clipping."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.exact else self.function(x)


class Floor(Snap):
    """A floor to a grid whose ends are never passed."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.exact else x


class Gate(nn.Module):
    """The gated unit tanh(f) * sigmoid(g) (1606.05328, equation 2); two arrays on SUMS -> one on GATED, same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.tanh, self.sigmoid = Curve(torch.tanh, SUMS, SIGNED), Curve(torch.sigmoid, SUMS, RATIO)
        self.product = Floor(GATED)

    def forward(self, f: Tensor, g: Tensor) -> Tensor:
        return self.product(self.tanh(f) * self.sigmoid(g))


class Autoregressive(nn.Module):
    """A network of pixels in raster order; a family says how features are made."""

    config: AutoregressiveConfig

    def __init__(self, config: AutoregressiveConfig):
        super().__init__()
        self.exact = False
        c = config
        self.bank = ExactLinear([(3 * len(c.context), PIXEL)], [(3 * c.bank, BANK)])
        start = [0.5 / c.bank] * c.bank
        self.green = Head([(c.output, HIDDEN)], c.bank, start)
        self.red_layer = ExactLinear([(c.output, HIDDEN), (1, MEAN)], [(c.color_hidden, HIDDEN)])
        self.red = Head([(c.color_hidden, HIDDEN)], c.bank + 1, [*start, 0.7])
        self.blue_layer = ExactLinear([(c.output, HIDDEN), (2, MEAN)], [(c.color_hidden, HIDDEN)])
        self.blue = Head([(c.color_hidden, HIDDEN)], c.bank + 2, [*start, 0.0, 0.7])
        with torch.no_grad():
            self.bank.weight.mul_(0.3)
        self.shapes = Shapes()

    def features(self, views: Views) -> Tensor:
        """What pixels' colors are told from, (output, batch, height, width) on HIDDEN."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Code lengths in bits, (3, batch, height, width), of tiles `x` of gray levels of that shape."""
        return self.shapes.bits(x, *self.distributions(x))

    def distributions(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means in gray levels, scale and shape indices of all symbols of tiles `x`, each shaped as `x`."""
        views = Views.of(x, self.config)
        h = self.features(views)
        means, parameters, innovations = [], [], []
        for color, bank in enumerate(self.bank(views.surroundings[: self.bank.in_features]).chunk(3)):
            head, layer = ((self.green, None), (self.red, self.red_layer), (self.blue, self.blue_layer))[color]
            features = h if layer is None else layer(torch.cat([h, *innovations]))
            offset, spread_shape = head(features, torch.cat([bank, *innovations]))
            means.append((views.base[color : color + 1] + offset * LEVELS).clamp(0, 255))
            parameters.append(spread_shape)
            innovations.append((x[color : color + 1] - means[-1]) / LEVELS)
        spread, shape = torch.stack(parameters, 1)
        shift = 0.0 if self.exact else 0.5  # floors lose half a step of the grid
        return torch.cat(means), spread * 8 - shift, shape * 2 - shift

"""The flagship: a small causal network over a pixel's decoded neighborhood, made for wavefront decoding.

A descendant of PixelCNN (van den Oord et al. 2016, arXiv 1606.05328) with four per-pixel parts, all exact when
exported:

    trunk   context of a pixel                      -> hidden features, green's distribution
    red     hidden features, green's innovation     -> red's distribution
    blue    hidden features, both innovations       -> blue's distribution
    trace   a decoded pixel in its context          -> features it leaves for the pixels after it

Arrays are feature-first, (features, ...positions), and colors are ordered green, red, blue. Pictures that are kept
as luma and chroma (`gencodec.codec.colorcodes`) take the same network: luma is then "green", and the chromas follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.errors import UsageError
from gencodec.models.quantize import ExactLinear, Grid, Group, Mean, Snap, Table
from gencodec.models.shapes import FINE_BITS, SHAPE, SPREAD, TOTAL_BITS, Shapes

BEGINNING = 128.0
"""Gray level left of a tile's first row."""

PIXEL = Grid(-256, 256, 4)
INNER = Grid(0, 1023, 7)
SIGNED = Grid(-1023, 1023, 7)
MAGNITUDE = Grid(0, 1023, 7)
ENERGY = Grid(0, 255, 5)
DRIFT = Grid(-128, 127, 4)
FLAG = Grid(0, 32, 5)
BANK = Grid(-2047, 2047, 7)
GATE = Grid(-512, 511, 8)
MEAN = Grid(-4080, 4080, 8)
LEAST_SIZES = {"lag": 2, "energies": 1, "row_pool": 1, "pool_rows": 1, "pool_columns": 1}
"""What the codec takes. With a lag of 1 a row's sums over those above would not be known in time."""
LEVELS = 16.0
"""Gray levels in one unit of the network's values."""


@dataclass(frozen=True)
class PhotoConfig:
    """Sizes of the network; the geometry is read by the codec from the exported file's metadata."""

    lag: int = 3
    """Steps that a row runs behind the row above: pixel (y, x) is coded at step x + lag * y."""
    reach: tuple[tuple[int, int], ...] = ((-4, -1), (-3, 2), (-2, 3), (-1, 1))
    """First and last column offset of the context, for the pixel's own row and each row above."""
    trace_at: tuple[tuple[int, int], ...] = ((0, -1), (0, -2), (1, 0), (1, 1), (1, -1))
    """Where traces are read: (rows up, column offset)."""
    energies: int = 9
    drifts: int = 3
    row_pool: int = 6
    pool_rows: int = 8
    pool_columns: int = 12
    inner: int = 16
    hidden: int = 48
    layers: int = 3
    color_hidden: int = 24
    hidden_bits: int = 8
    """Binary digits after the point of the layers' features, in [0, 8). Finer ones leave fewer digits to weights."""
    bank: int = 4
    total_bits: int = FINE_BITS
    """Logarithm of what rows of the tables sum to, 20, or 16 for a faster coder and files larger by 0.2 to 0.5 %."""

    def __post_init__(self) -> None:
        if self.total_bits not in (TOTAL_BITS, FINE_BITS):
            raise UsageError(f"total_bits of a photo network is {TOTAL_BITS} or {FINE_BITS}, not {self.total_bits}")
        for name, least in LEAST_SIZES.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} of a photo network is at least {least}, not {getattr(self, name)}")

    @property
    def context(self) -> list[tuple[int, int]]:
        """Context offsets (rows up, column offset), nearest row first."""
        return [(up, dx) for up, (first, last) in enumerate(self.reach) for dx in range(first, last + 1)]

    @property
    def features(self) -> Grid:
        """The grid of the layers' features."""
        return Grid(0, (8 << self.hidden_bits) - 1, self.hidden_bits)

    @property
    def traces(self) -> int:
        """Features of a trace."""
        return self.energies + self.drifts


def median_edge(west: Tensor, north: Tensor, northwest: Tensor) -> Tensor:
    """The median edge predictor of LOCO-I (Weinberger et al. 2000, equation 1)."""
    low, high = torch.minimum(west, north), torch.maximum(west, north)
    return torch.maximum(low, torch.minimum(high, west + north - northwest))


def energy_of(magnitude: Tensor) -> Tensor:
    """Companded absolute error: its logarithm, on ENERGY's range for MAGNITUDE's."""
    return torch.log2(1 + magnitude * 64) * (28 / 32)


class Head(nn.Module):
    """Distribution parameters of one color from its features."""

    def __init__(self, sources: list[Group], blended: int, start: list[float]):
        super().__init__()
        self.linear = ExactLinear(sources, [(1, MEAN), (1, SPREAD), (1, SHAPE), (blended, GATE)])
        self.blended = Snap(MEAN)
        with torch.no_grad():
            self.linear.weight.mul_(0.2)
            self.linear.bias.copy_(torch.tensor([0.0, 30 / 8, 3.5 / 2, *start]))

    def forward(self, h: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean relative to the base prediction (1, ...), then scale and shape (2, ...).

        `predictions` (blended, ...) on BANK or MEAN grids are summed with weights that `h` chooses.
        """
        parameters = self.linear(h)
        blend = (parameters[3:] * predictions).sum(0, keepdim=True)
        return self.blended(blend) + parameters[:1], parameters[1:3]


class Photo(nn.Module):
    """The network of the `photo` codec (16 kMAC a pixel at its default sizes)."""

    def __init__(self, config: PhotoConfig | None = None):
        super().__init__()
        self.config = c = config or PhotoConfig()
        self.exact = False
        context = 3 * len(c.context)
        self.inner = ExactLinear([(context, PIXEL)], [(c.inner, INNER)])
        self.errors = ExactLinear([(c.inner, INNER), (3, PIXEL)], [(c.traces, SIGNED)])
        self.drift, self.pooled = Snap(DRIFT), Mean(ENERGY)
        self.energy = Table(energy_of, MAGNITUDE, ENERGY)
        near = len(c.trace_at)
        trace: list[Group] = [(c.energies, ENERGY), (c.drifts, DRIFT)]
        sources = [(context, PIXEL), *trace * near, (4, FLAG), (2 * c.energies, ENERGY)]
        widths = [c.hidden] * c.layers
        features = c.features
        self.layers = nn.ModuleList()
        for width in widths:
            self.layers.append(ExactLinear(sources, [(width, features)]))
            sources = [(width, features)]
        self.bank = ExactLinear([(context, PIXEL)], [(3 * c.bank, BANK)])
        start = [0.5 / c.bank] * c.bank
        self.green = Head([(c.hidden, features)], c.bank, start)
        self.red_layer = ExactLinear([(c.hidden, features), (1, MEAN)], [(c.color_hidden, features)])
        self.red = Head([(c.color_hidden, features)], c.bank + 1, [*start, 0.7])
        self.blue_layer = ExactLinear([(c.hidden, features), (2, MEAN)], [(c.color_hidden, features)])
        self.blue = Head([(c.color_hidden, features)], c.bank + 2, [*start, 0.0, 0.7])
        with torch.no_grad():
            self.bank.weight.mul_(0.3)
        self.shapes = Shapes(c.total_bits)

    def relative(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Base predictions (3, ...) in gray levels and the context relative to them, on PIXEL's grid.

        `context` is (3 * pixels, ...) gray levels, color-minor.
        """
        at = {offset: i for i, offset in enumerate(self.config.context)}
        near = [context[3 * at[o] : 3 * at[o] + 3] for o in ((0, -1), (1, 0), (1, -1))]
        base = median_edge(*near)
        return base, (context - torch.cat([base] * len(at))) * PIXEL.step

    def layer(self, name: str) -> ExactLinear:
        """A layer by its name."""
        return cast(ExactLinear, self.get_submodule(name))

    def trace(self, relative: Tensor, residual: Tensor) -> Tensor:
        """What a decoded pixel leaves behind, (traces, ...).

        `relative` is its context, `residual` (3, ...) its gray levels minus the base, both on PIXEL's grid.
        """
        errors = self.errors(torch.cat([self.inner(relative), residual]))
        energies = self.energy(errors[: self.config.energies].abs())
        return torch.cat([energies, self.drift(errors[self.config.energies :])])

    def trunk(self, features: Tensor) -> Tensor:
        """Hidden features (hidden, ...) from the concatenated inputs."""
        for layer in self.layers:
            features = layer(features)
        return features

    def inputs(self, x: Tensor, relative: Tensor, traces: Tensor) -> Tensor:
        """The trunk's inputs for whole tiles `x` (3, batch, height, width)."""
        c = self.config
        height, width = x.shape[-2:]
        x_type = relative.dtype
        near = [shifted(traces, up, dx) for up, dx in c.trace_at]
        sums = pools(traces[: c.energies].float(), c)  # bfloat16 would lose the sums' low digits
        counts = pool_counts(height, width, c)
        pooled = [self.pooled(s, n.to(s.device)).to(x_type) for s, n in zip(sums, counts, strict=True)]
        flags = relative.new_zeros(4, x.shape[1], height, width)
        flags[0, :, 0] = 1
        flags[1, :, :, 0] = 1
        flags[2, :, 1::2] = 1
        flags[3, :, :, 1::2] = 1
        return torch.cat([relative, *near, flags, *pooled])

    def forward(self, x: Tensor) -> Tensor:
        """Code lengths in bits, (3, batch, height, width), of tiles `x` of gray levels of that shape."""
        base, relative = self.relative(gather_context(x, self.config))
        relative = relative.to(compute_dtype(x))
        traces = self.trace(relative, (x - base) * PIXEL.step)
        h = self.trunk(self.inputs(x, relative, traces))
        return self.bits(x, base, relative, h)

    def bits(self, x: Tensor, base: Tensor, relative: Tensor, h: Tensor) -> Tensor:
        """Code lengths in bits of pixels `x` (3, ...) with hidden features `h`; shaped as `x`."""
        means, parameters, innovations = [], [], []
        with torch.autocast(x.device.type, enabled=False):
            banks = self.bank(relative.float()).chunk(3)
        for color, bank in enumerate(banks):
            head, layer = ((self.green, None), (self.red, self.red_layer), (self.blue, self.blue_layer))[color]
            features = h if layer is None else layer(torch.cat([h, *(i.to(h.dtype) for i in innovations)]))
            with torch.autocast(x.device.type, enabled=False):
                offset, spread_shape = head(features.float(), torch.cat([bank, *innovations]))
            means.append((base[color : color + 1] + offset * LEVELS).clamp(0, 255))
            parameters.append(spread_shape)
            innovations.append((x[color : color + 1] - means[-1]) / LEVELS)
        spread, shape = torch.stack(parameters, 1)
        shift = 0.0 if self.exact else 0.5
        return self.shapes.bits(x, torch.cat(means), spread * 8 - shift, shape * 2 - shift)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that autocast computes in where `x` is, or that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def gather_context(x: Tensor, config: PhotoConfig) -> Tensor:
    """Context (3 * pixels, batch, height, width) of tiles `x` (3, batch, height, width) by the edge rules.

    Left of a tile stands the first pixel of the row above (128 for the top row), right of it the row's last
    pixel. The k-th row above a tile is its first row, `lag * k` columns later: what the wavefront has just decoded.
    """
    left = -min(first for first, _ in config.reach)
    right = max(last for _, last in config.reach)
    rows = len(config.reach) - 1
    first = torch.cat([torch.full_like(x[:, :, :1, :1], BEGINNING), x[:, :, :-1, :1]], 2)
    canvas = torch.cat([first.expand(-1, -1, -1, left), x, x[..., -1:].expand(-1, -1, -1, right)], 3)
    top = canvas[:, :, :1]
    above = [F.pad(top, (config.lag * k, 0), value=BEGINNING)[..., : top.shape[-1]] for k in range(rows, 0, -1)]
    canvas = torch.cat([*above, canvas], 2)
    height, width = x.shape[-2:]
    cuts = [canvas[:, :, rows - up : rows - up + height, left + dx : left + dx + width] for up, dx in config.context]
    return torch.cat(cuts)


def shifted(x: Tensor, up: int, dx: int) -> Tensor:
    """`x` (..., height, width) as seen `up` rows above and `dx` columns beside, zero outside."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (max(-dx, 0), max(dx, 0), up, 0))
    start = max(dx, 0)
    return padded[..., :height, start : start + width]


def pools(energies: Tensor, config: PhotoConfig) -> tuple[Tensor, Tensor]:
    """Sums of `energies` over the pixels to the left, and over a sheared window of the rows above.

    The window's row k (from 0, counted upward from the row above) ends `lag - 1 + k` columns right of the
    pixel: all that is decoded by then, up to a fixed width.
    """
    c = config
    width, ahead = energies.shape[-1], c.lag - 2 + c.pool_rows
    left = F.pad(running_sum(energies, c.row_pool), (1, 0))[..., :width]
    runs = F.pad(running_sum(F.pad(energies, (0, ahead)), c.pool_columns), (0, 0, c.pool_rows, 0))
    area = torch.zeros_like(energies)
    for k in range(c.pool_rows):
        top, start = c.pool_rows - 1 - k, c.lag - 1 + k
        area = area + runs[..., top : top + energies.shape[-2], start : start + width]
    return left, area


def running_sum(x: Tensor, width: int) -> Tensor:
    """Sum over a pixel and the `width - 1` ones to its left."""
    total = torch.cumsum(x, -1)
    return total - F.pad(total, (width, 0))[..., : x.shape[-1]]


@cache
def pool_counts(height: int, width: int, config: PhotoConfig) -> tuple[Tensor, Tensor]:
    """How many pixels of a tile each of the two pools holds, at least 1; (1, 1, height, width)."""
    left, area = pools(torch.ones(1, 1, height, width), config)
    return left.clamp_min(1), area.clamp_min(1)

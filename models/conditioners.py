"""The networks inside flows: from the features that a coupling keeps to how it changes the others.

Values are (batch, features, height, width) in units of 16 gray levels around the middle gray. Networks see them on
VALUE's grid, and are exact when exported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.quantize import ExactConv, Grid, Group, Snap
from gencodec.models.shapes import SCALE_OF_ONE, SCALES, SCALES_PER_OCTAVE

LEVELS = 16.0
"""Gray levels in one unit of the values."""
MIDDLE = 128.0
FLOOR_NOISE = 0.25 / LEVELS
"""Noise that values have at least, for predictions that are fitted to few of them."""
WHITE_NOISE = 1.0 / LEVELS
"""Noise below which differences are not magnified."""
DEVIATION = 1.6
"""Mean absolute deviation of a latent in units of its scale, about."""
VALUE = Grid(-1024, 1023, 6)
"""What networks see of values: quarter levels."""
HIDDEN = Grid(0, 511, 6)
SIGNED = Grid(-511, 511, 6)
SHIFT = Grid(-4096, 4095, 8)
"""Shifts and means in sixteenths of a gray level."""
OCTAVE = Grid(-384, 384, 7)
"""Logarithms of scales, at most 3 octaves; as fine as large values need, whose small differences are to come."""
START_SHAPE = 3.5 / 2


class Network(nn.Module):
    """From features (N, sources, H, W) on VALUE's grid, `reach` more positions on every side, to (N, targets, H, W).

    The first group of targets is SHIFT's. `fit` may set the parameters for inputs `x` so that it begins as a
    prediction of `target`, and gives what is left of it. `last` is the layer that gives the targets.
    """

    reach: int
    last: ExactConv

    def fit(self, x: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        return target

    @torch.no_grad()
    def fit_distribution(self, x: Tensor, target: Tensor) -> None:
        """Begin as means, scales and shapes of the distribution of `target`."""
        residual = self.fit(x, target)
        count = target.shape[1]
        self.last.bias[count : 2 * count] = spread_of(residual)
        self.last.bias[2 * count :] = START_SHAPE


class Conditioner(Network):
    """A linear filter of the input, and a correction by a convolutional network that begins as zero.

    Between its two outer convolutions are `blocks`; each keeps the (N, hidden, H, W) of HIDDEN.
    """

    def __init__(self, sources: int, targets: list[Group], hidden: int, blocks: Sequence[nn.Module], kernel: int = 3):
        super().__init__()
        self.predicted, self.reach = targets[0][0], kernel // 2
        self.first = ExactConv([(sources, VALUE)], [targets[0], (hidden, HIDDEN)], kernel, padding=0)
        self.blocks = nn.ModuleList(blocks)
        self.last = ExactConv([(hidden, HIDDEN)], targets, kernel)
        with torch.no_grad():
            self.first.weight[: self.predicted] = 0
            self.last.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        linear, h = y[:, : self.predicted], y[:, self.predicted :]
        for block in self.blocks:
            h = block(h)
        y = self.last(h)
        return torch.cat([linear + y[:, : self.predicted], y[:, self.predicted :]], 1)

    @torch.no_grad()
    def fit(self, x: Tensor, target: Tensor) -> Tensor:
        """Begin as the best linear prediction of `target`, with hidden features of equal strength in all directions."""
        patches = F.unfold(x, 2 * self.reach + 1).transpose(1, 2).flatten(0, 1)
        wanted = target.flatten(2).transpose(1, 2).flatten(0, 1)
        center, aim = patches.mean(0), wanted.mean(0)
        deviations = patches - center
        covariance = deviations.t() @ deviations / len(patches)
        regular = covariance + torch.diag(FLOOR_NOISE**2 + covariance.diagonal() * (0.2 / len(patches)))
        linear = torch.linalg.solve(regular, deviations.t() @ (wanted - aim) / len(patches)).t()
        # whitened, so that fine differences count as much as brightness
        values, vectors = torch.linalg.eigh(covariance)
        whitening = vectors / (values.clamp_min(0) + WHITE_NOISE**2).sqrt() @ vectors.t()
        hidden = self.first.out_features - self.predicted
        mixed = torch.randn(hidden, len(values), device=x.device) * math.sqrt(1.5 / len(values))
        rows = torch.cat([linear, mixed @ whitening])
        self.first.weight.copy_(rows.view_as(self.first.weight))
        self.first.bias.copy_(-rows @ center)
        self.first.bias[: self.predicted] += aim
        residual = wanted - aim - deviations @ linear.t()
        return residual.view(len(x), -1, self.predicted).transpose(1, 2).reshape(target.shape)


class Plain(Network):
    """A paper's own network, begun as in the paper: layers in order, the last of which begins as zero."""

    def __init__(self, layers: Sequence[nn.Module], last: ExactConv, reach: int = 0):
        super().__init__()
        self.layers, self.last, self.reach = nn.Sequential(*layers), last, reach
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))


class Checkered(Network):
    """A network on whole pictures for the couplings of a checkerboard mask (RealNVP, figure 3).

    Features come in groups of the four positions of a block of 2x2, as `Squeeze` makes them, of which two of one
    color of the board are kept. `network` sees them at their places, with zeros elsewhere, and gives targets for
    every position; those of the other color are taken.
    """

    def __init__(self, sources: int, network: Plain, *, first: bool):
        """`sources`: features of the picture; `first`: whether the upper left position of a block is kept."""
        super().__init__()
        self.sources, self.network, self.first, self.reach = sources, network, first, 0
        self.last = network.last
        self.groups = network.last.out_features

    def forward(self, x: Tensor) -> Tensor:
        nothing = torch.clamp(x[:, :1], 0, 0)
        spread = []
        for i in range(self.sources):
            a, b = x[:, 2 * i : 2 * i + 1], x[:, 2 * i + 1 : 2 * i + 2]
            spread += [a, nothing, nothing, b] if self.first else [nothing, a, b, nothing]
        y = F.pixel_unshuffle(self.network(F.pixel_shuffle(torch.cat(spread, 1), 2)), 2)
        taken = (1, 2) if self.first else (0, 3)
        return torch.cat([y[:, 4 * i + j : 4 * i + j + 1] for i in range(self.groups) for j in taken], 1)


class Residual(nn.Module):
    """A residual block (He et al. 2016, arXiv 1603.05027) on HIDDEN's grid: `relu(h + conv(relu(conv(h))))`.

    RealNVP's batch normalisation is left out: the networks begin where normalisation would bring them.
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.first = ExactConv([(hidden, HIDDEN)], [(hidden, HIDDEN)])
        self.second = ExactConv([(hidden, HIDDEN)], [(hidden, SIGNED)])
        self.sum = Snap(HIDDEN)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.sum(x + self.second(self.first(x)))


def pointwise(hidden: int, blocks: int) -> list[nn.Module]:
    """1x1 convolutions, as many as `blocks`."""
    return [ExactConv([(hidden, HIDDEN)], [(hidden, HIDDEN)], 1) for _ in range(blocks)]


def spread_of(residual: Tensor) -> Tensor:
    """SPREAD's values of the scales that residuals (N, C, H, W) in units show; (C,)."""
    scale = residual.abs().mean((0, 2, 3)) * (LEVELS / DEVIATION)
    index = SCALE_OF_ONE + SCALES_PER_OCTAVE * scale.clamp_min(1e-3).log2()
    return (index + 0.5).clamp(1, SCALES - 2) / 8

"""PixelRNN (van den Oord et al. 2016, arXiv 1601.06759): Row LSTM, and the Diagonal BiLSTM as a second variant.

Layers of two-dimensional LSTM take features of a pixel's surroundings (the paper's first convolution, mask A), twice
as many as they have units; each adds to them by a 1 x 1 convolution (residual connections, figure 5), and is seen by
the output (skip connections). Convolutions from input to state are causal by their kernels' shapes (mask B).
As in `pixelcnn`, features are conditioned on whole earlier pixels, and colors told apart in the output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.autoregressive import (
    GATED,
    HIDDEN,
    RATIO,
    SIGNED,
    STATE,
    SUM,
    SUMS,
    Autoregressive,
    AutoregressiveConfig,
    Curve,
    Floor,
    Views,
    picture,
)
from gencodec.models.quantize import ExactConv, ExactLinear, Grid, Snap

CELL = Grid(-4095, 4095, 10)
BOTH = Grid(-1024, 1024, 9)
"""Sums of what the two directions of a Diagonal BiLSTM put out."""


@dataclass(frozen=True)
class PixelRNNConfig(AutoregressiveConfig):
    """Sizes of the network."""

    diagonal: int = 0
    """1: Diagonal BiLSTM layers instead of Row LSTM ones."""
    hidden: int = 32
    """Units of a layer."""
    layers: int = 3
    left: int = 2
    """Columns that Row LSTM's convolution from input to state sees: the pixel's own and those on its left."""
    across: int = 3
    """Columns of the row above that its convolution from state to state sees."""


PAPER = PixelRNNConfig(tile=32, hidden=128, layers=12, output=1024, color_hidden=1024)
"""The paper's size for CIFAR-10: 12 layers of 128 units, and 1024 features before the output."""


class Cell(nn.Module):
    """The update of an LSTM's units (equation 3); takes the gates' sums and cells, gives cells and states.

    Sums are of the output, forget and input gates and the content, in this order.
    """

    def __init__(self, axis: int = 1) -> None:
        """`axis`: that of the features."""
        super().__init__()
        self.axis = axis
        self.sigmoid, self.tanh = Curve(torch.sigmoid, SUMS, RATIO), Curve(torch.tanh, SUMS, SIGNED)
        self.shown = Curve(torch.tanh, CELL, SIGNED)
        self.cell, self.state = Snap(CELL), Floor(GATED)

    def forward(self, ratios: Tensor, content: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        output, forget, add = self.sigmoid(ratios).chunk(3, self.axis)
        cell = self.cell(forget * cell + add * self.tanh(content))
        return cell, self.state(output * self.shown(cell))


class Recurrence(nn.Module):
    """An LSTM along one axis of a picture: each slice's states come from those of the slice before.

    `kernel` convolves the states of a slice; `padding` is zeros before and after it.
    """

    def __init__(self, hidden: int, kernel: int, padding: tuple[int, int]):
        super().__init__()
        self.hidden, self.padding = hidden, padding
        self.conv = ExactConv([(hidden, GATED)], [(4 * hidden, SUM)], (1, kernel), padding=0)
        self.cell = Cell()

    def forward(self, inputs: list[Tensor], masks: list[Tensor] | None = None) -> list[Tensor]:
        """States (batch, hidden, 1, n) of each slice, of the sums (batch, 4 * hidden, 1, n) that their inputs give.

        With `masks`, each (n,), cells and states are zero where these are.
        """
        conv = self.conv
        weight, bias = conv.rounded() if conv.exact else (conv.effective(), conv.bias)
        weight = weight.view_as(conv.weight)
        batch, _, _, length = inputs[0].shape
        cell = state = inputs[0].new_zeros(batch, self.hidden, 1, length)
        states = []
        for i, given in enumerate(inputs):
            carried = conv.snapped(F.conv2d(F.pad(state, self.padding), weight, bias), 1)
            ratios, content = (given + carried).split([3 * self.hidden, self.hidden], 1)
            cell, state = self.cell(ratios, content, cell)
            if masks is not None:
                cell, state = cell * masks[i], state * masks[i]
            states.append(state)
        return states


class RowLSTM(nn.Module):
    """A Row LSTM layer (section 3.1): the state of a pixel comes from states of the row above."""

    def __init__(self, c: PixelRNNConfig):
        super().__init__()
        self.left = c.left
        self.inputs = ExactConv([(2 * c.hidden, STATE)], [(4 * c.hidden, SUM)], (1, c.left), padding=0)
        self.recurrence = Recurrence(c.hidden, c.across, (c.across // 2, c.across // 2))
        remember(self.inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2 * hidden, height, width) -> (batch, hidden, height, width)."""
        sums = self.inputs(F.pad(x, (self.left - 1, 0)))
        return torch.cat(self.recurrence(list(sums.split(1, 2))), 2)


class DiagonalBiLSTM(nn.Module):
    """A Diagonal BiLSTM layer (section 3.2): states come from the pixels beside and above, from both sides.

    States of the direction from right to left are moved down a row, so that none sees a pixel that is to come.
    """

    def __init__(self, c: PixelRNNConfig):
        super().__init__()
        widths = [(2 * c.hidden, STATE)], [(4 * c.hidden, SUM)]
        inputs = [ExactConv(*widths, 1) for _ in range(2)]
        self.inputs = nn.ModuleList(inputs)
        self.recurrences = nn.ModuleList(Recurrence(c.hidden, 2, (1, 0)) for _ in range(2))
        self.both = Floor(BOTH)
        for layer in inputs:
            remember(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2 * hidden, height, width) -> (batch, hidden, height, width)."""
        right = self.scanned(0, x)
        left = self.scanned(1, x.flip(3)).flip(3)
        return self.both(right + F.pad(left[:, :, :-1], (0, 0, 1, 0)))

    def scanned(self, direction: int, x: Tensor) -> Tensor:
        """States of the scan from left to right."""
        height, width = x.shape[2:]
        sums = skewed(self.inputs[direction](x))
        steps = torch.arange(sums.shape[3], device=x.device)
        masks = list((torch.arange(height, device=x.device) <= steps[:, None]).to(x.dtype))
        slices = [s.transpose(2, 3) for s in sums.split(1, 3)]
        states = self.recurrences[direction](slices, masks)
        return straightened(torch.cat(states, 2).transpose(2, 3), width)


def remember(layer: ExactConv) -> None:
    """Start with forget gates that are mostly open."""
    with torch.no_grad():
        layer.bias.view(4, -1)[1] = 1.0


def skewed(x: Tensor) -> Tensor:
    """Each row moved a column further right than the one above, so that diagonals are columns (figure 3).

    (batch, features, height, width) -> (batch, features, height, width + height - 1).
    """
    batch, features, height, width = x.shape
    flat = F.pad(x, (0, height)).reshape(batch, features, -1)
    return flat[..., : height * (width + height - 1)].view(batch, features, height, -1)


def straightened(x: Tensor, width: int) -> Tensor:
    """The inverse of `skewed`."""
    batch, features, height, _ = x.shape
    flat = F.pad(x.reshape(batch, features, -1), (0, height))
    return flat.view(batch, features, height, -1)[..., :width]


class PixelRNN(Autoregressive):
    """The network; about 100 thousand multiplications a pixel at its default sizes."""

    config: PixelRNNConfig

    def __init__(self, config: PixelRNNConfig | None = None):
        c = config or PixelRNNConfig()
        super().__init__(c)
        self.config = c
        kind, states = (DiagonalBiLSTM, BOTH) if c.diagonal else (RowLSTM, GATED)
        self.first = ExactLinear(c.surroundings, [(2 * c.hidden, STATE)])
        self.layers = nn.ModuleList(kind(c) for _ in range(c.layers))
        self.residuals = nn.ModuleList(
            ExactConv([(c.hidden, states)], [(2 * c.hidden, STATE)], 1) for _ in range(c.layers - 1)
        )
        self.skips = ExactConv([(c.layers * c.hidden, states)], [(c.output, HIDDEN)], 1)
        self.add = Snap(STATE)

    def features(self, views: Views) -> Tensor:
        x = picture(self.first(views.surroundings))
        states = []
        for index, layer in enumerate(self.layers):
            states.append(layer(x))
            if index < len(self.residuals):
                x = self.add(x + self.residuals[index](states[-1]))
        return self.skips(torch.cat(states, 1)).transpose(0, 1)

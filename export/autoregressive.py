"""`pixelcnn` and `pixelrnn` networks as ONNX files: exact graphs for a row of pixels, for a pixel, and for its colors.

What convolutions see of a tile is gathered by the codec, so that each becomes a product with a matrix, of the very
integers that it was trained with. Arrays are (features, positions); of several pixels' features, all those of the first
come first. `docs/format-autoregressive.md` tells the graphs' inputs and outputs.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from gencodec.export.photo import Color, distribution, scale_rates, shape_tables
from gencodec.export.stages import Stage, write_model
from gencodec.export.values import Value, joined, uniform
from gencodec.models.autoregressive import ENERGY, GATED, HIDDEN, LEVEL, STATE, SUM, Autoregressive, energies
from gencodec.models.photo import BANK, MEAN, PIXEL
from gencodec.models.pixelcnn import PixelCNN
from gencodec.models.pixelrnn import CELL, Cell, DiagonalBiLSTM, PixelRNN, RowLSTM
from gencodec.models.quantize import ExactConv, ExactLinear, Group, set_exact

FORMAT = "1"
"""Version of what the stages take and give."""

Outputs = tuple[Tensor, ...]


class Matrix(ExactLinear):
    """A convolution as a product with the features that it sees: pixel by pixel, row by row, (taps * in, positions)."""

    def __init__(self, conv: ExactConv):
        taps = conv.kernel[0] * conv.kernel[1]
        super().__init__(conv.sources * taps, conv.targets, conv.weight_bits, conv.room)
        by_tap = conv.effective().detach().view_as(conv.weight).permute(0, 2, 3, 1)
        self.weight = nn.Parameter(by_tap.flatten(1).clone())
        self.bias = conv.bias
        self.exponents = conv.scale_bits()

    def scale_bits(self) -> Tensor:
        """The convolution's own: another order of summation might round to others."""
        return self.exponents


class Output(nn.Module):
    """What is known of a pixel before its first color: features, green's distribution, red's and blue's banks."""

    def __init__(self, network: Autoregressive, skips: ExactConv):
        super().__init__()
        self.skips, self.bank, self.green = Matrix(skips), network.bank, network.green
        self.banked = network.config.bank

    def forward(self, skips: Tensor, relative: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden features, and green's mean, scale and shape with the banks."""
        hidden, banks = self.skips(skips), self.bank(relative)
        green = distribution(self.green, hidden, banks[: self.banked], base)
        return hidden, torch.cat([green, banks[self.banked :]])


class Vertical(nn.Module):
    """Stages "row0" and on: a layer of the vertical stack."""

    def __init__(self, network: PixelCNN, layer: int):
        super().__init__()
        conv = network.vertical[layer - 1] if layer else network.first_vertical
        self.conv = Matrix(cast(ExactConv, conv))
        self.link = Matrix(cast(ExactConv, network.links[layer]))
        self.gate, self.last = network.gate, layer + 1 == network.config.layers

    def forward(self, seen: Tensor) -> Outputs:
        """What the horizontal stack's layer takes, and the features that the next layer sees."""
        sums = self.conv(seen)
        if self.last:
            return (self.link(sums),)
        f, g = sums.chunk(2, 0)
        return self.link(sums), self.gate(f, g)


class GatedPixel(nn.Module):
    """Stage "pixel" of a PixelCNN: the horizontal stack, and green's distribution."""

    def __init__(self, network: PixelCNN):
        super().__init__()
        self.config = network.config
        self.first = network.first_horizontal
        self.horizontal = nn.ModuleList(Matrix(cast(ExactConv, conv)) for conv in network.horizontal)
        self.residuals = nn.ModuleList(Matrix(cast(ExactConv, conv)) for conv in network.residuals)
        self.gate, self.state = network.gate, network.state
        self.output = Output(network, network.skips)

    def forward(self, surroundings: Tensor, above: Tensor, base: Tensor, past: Tensor) -> Outputs:
        """Hidden features, green and banks, and the states that pixels to the right see."""
        c = self.config
        width, behind = c.hidden, c.hidden * (c.left - 1)
        along, state = self.first(surroundings), None
        skips, states = [], []
        for layer in range(c.layers):
            if state is not None:
                states.append(state)
                seen = past[(layer - 1) * behind : layer * behind]
                along = self.horizontal[layer - 1](torch.cat([seen, state]))
            f, g = (along + above[2 * width * layer : 2 * width * (layer + 1)]).chunk(2, 0)
            skips.append(self.gate(f, g))
            if layer + 1 < c.layers:
                change = self.residuals[layer](skips[-1])
                state = change if state is None else self.state(state + change)
        hidden, rest = self.output(torch.cat(skips), surroundings[: self.output.bank.in_features], base)
        return hidden, rest, *([torch.cat(states)] if states else [])


class Carried(nn.Module):
    """Stage "row" of a Row LSTM: what the states of the row above add to the gates' sums, layer by layer."""

    def __init__(self, network: PixelRNN):
        super().__init__()
        convs = (cast(RowLSTM, layer).recurrence.conv for layer in network.layers)
        self.convs = nn.ModuleList(Matrix(conv) for conv in convs)
        self.width = network.config.hidden * network.config.across

    def forward(self, states: Tensor) -> Tensor:
        """(layers * across * hidden, n) -> (layers * 4 * hidden, n)."""
        parts = [conv(states[i * self.width : (i + 1) * self.width]) for i, conv in enumerate(self.convs)]
        return torch.cat(parts)


class Unit(nn.Module):
    """Gates' sums of an LSTM layer, of two parts, and its cells -> its new cells and states."""

    def __init__(self, hidden: int):
        super().__init__()
        self.ratios = 3 * hidden
        self.cell = Cell(axis=0)

    def forward(self, given: Tensor, carried: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """(4 * hidden, n), (4 * hidden, n), (hidden, n) -> (hidden, n), (hidden, n)."""
        sums = given + carried
        return self.cell(sums[: self.ratios], sums[self.ratios :], cells)


class RecurrentPixel(nn.Module):
    """Stage "pixel" of a PixelRNN: all layers at a pixel, each updated as `layer` says, and green's distribution."""

    def __init__(self, network: PixelRNN):
        super().__init__()
        self.config = network.config
        self.first, self.add = network.first, network.add
        self.residuals = nn.ModuleList(Matrix(cast(ExactConv, conv)) for conv in network.residuals)
        self.unit = Unit(network.config.hidden)
        self.output = Output(network, network.skips)

    def layer(self, index: int, x: Tensor, inputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        """Cells, states, and what the layer puts out, by its input features and the stage's inputs."""
        raise NotImplementedError

    def forward(self, surroundings: Tensor, base: Tensor, inputs: Outputs) -> Outputs:
        """Hidden features; green and banks; and each layer's input features, cells and states."""
        x = self.first(surroundings)
        kept: list[list[Tensor]] = [[], [], []]
        skips = []
        for index in range(self.config.layers):
            cells, states, out = self.layer(index, x, inputs)
            for values, value in zip(kept, (x, cells, states), strict=True):
                values.append(value)
            skips.append(out)
            if index < len(self.residuals):
                x = self.add(x + self.residuals[index](out))
        hidden, rest = self.output(torch.cat(skips), surroundings[: self.output.bank.in_features], base)
        return hidden, rest, *(torch.cat(values) for values in kept)


class RowPixel(RecurrentPixel):
    """Stage "pixel" of a Row LSTM."""

    def __init__(self, network: PixelRNN):
        super().__init__(network)
        self.inputs = nn.ModuleList(Matrix(cast(RowLSTM, layer).inputs) for layer in network.layers)

    def forward(  # type: ignore[override]
        self, surroundings: Tensor, above: Tensor, base: Tensor, past: Tensor, cells: Tensor
    ) -> Outputs:
        """`above`: what the row above adds to sums; `past`: input features to the left; `cells`: of the row above."""
        return super().forward(surroundings, base, (above, past, cells))

    def layer(self, index: int, x: Tensor, inputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        c, (above, past, cells) = self.config, inputs
        behind = 2 * c.hidden * (c.left - 1)
        given = self.inputs[index](torch.cat([past[index * behind : (index + 1) * behind], x]))
        carried, cell = part(above, index, 4 * c.hidden), part(cells, index, c.hidden)
        cell, state = self.unit(given, carried, cell)
        return cell, state, state


class Scan(nn.Module):
    """One direction of a Diagonal BiLSTM layer at a pixel."""

    def __init__(self, layer: DiagonalBiLSTM, direction: int, hidden: int):
        super().__init__()
        self.inputs = Matrix(cast(ExactConv, layer.inputs[direction]))
        self.carried = Matrix(layer.recurrences[direction].conv)  # type: ignore[arg-type]
        self.unit = Unit(hidden)

    def forward(self, x: Tensor, above: Tensor, beside: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Cells and states, of the input features and the states above and beside."""
        return self.unit(self.inputs(x), self.carried(torch.cat([above, beside])), cells)


class DiagonalPixel(RecurrentPixel):
    """Stage "pixel" of a Diagonal BiLSTM."""

    def __init__(self, network: PixelRNN):
        super().__init__(network)
        layers = [cast(DiagonalBiLSTM, layer) for layer in network.layers]
        self.scans = nn.ModuleList(Scan(layer, 0, network.config.hidden) for layer in layers)
        self.both = layers[0].both

    def forward(  # type: ignore[override]
        self, surroundings: Tensor, above: Tensor, base: Tensor, beside: Tensor, cells: Tensor, left: Tensor
    ) -> Outputs:
        """`above` and `left`: states of the two directions in the row above; `beside`, `cells`: of the pixel before."""
        return super().forward(surroundings, base, (above, beside, cells, left))

    def layer(self, index: int, x: Tensor, inputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        above, beside, cells, left = (part(values, index, self.config.hidden) for values in inputs)
        cell, state = self.scans[index](x, above, beside, cells)
        return cell, state, self.both(state + left)


class Back(nn.Module):
    """Stage "back" of a Diagonal BiLSTM: all layers' direction from right to left, at a pixel that is known."""

    def __init__(self, network: PixelRNN):
        super().__init__()
        self.hidden = network.config.hidden
        layers = (cast(DiagonalBiLSTM, layer) for layer in network.layers)
        self.scans = nn.ModuleList(Scan(layer, 1, self.hidden) for layer in layers)

    def forward(self, x: Tensor, above: Tensor, beside: Tensor, cells: Tensor) -> Outputs:
        """Cells and states of all layers."""
        results = []
        for index, scan in enumerate(self.scans):
            seen = (part(values, index, self.hidden) for values in (above, beside, cells))
            results.append(scan(part(x, index, 2 * self.hidden), *seen))
        return tuple(torch.cat(values) for values in zip(*results, strict=True))


def part(x: Tensor, index: int, width: int) -> Tensor:
    """The features of layer `index`."""
    return x[index * width : (index + 1) * width]


def value(*groups: Group) -> Value:
    """An input whose features lie on the grids of `groups`."""
    return joined([uniform("", n, grid.low, grid.high, grid.bits) for n, grid in groups])


def color_stages(network: Autoregressive) -> list[Stage]:
    """Stages "red" and "blue", each given the innovations of the colors before it."""
    c = network.config
    base, hidden, bank = uniform("", 1, 0, 255, 0), (c.output, HIDDEN), (c.bank, BANK)
    return [
        Stage("red", Color(network.red_layer, network.red), [value(hidden), value((1, MEAN)), value(bank), base]),
        Stage("blue", Color(network.blue_layer, network.blue), [value(hidden), value((2, MEAN)), value(bank), base]),
    ]


def cnn_stages(network: PixelCNN) -> list[Stage]:
    """The stages of a row and of a pixel."""
    c = network.config
    seen = [(3, LEVEL), (3, PIXEL), (3, ENERGY)] * (c.first_rows * c.first_columns)
    rows = [value(*seen), *[value((c.rows * c.columns * c.hidden, GATED))] * (c.layers - 1)]
    above, past = value((2 * c.layers * c.hidden, SUM)), value(((c.layers - 1) * (c.left - 1) * c.hidden, STATE))
    pixel = [value(*c.surroundings), above, uniform("", 1, 0, 255, 0), past]
    return [
        *(Stage(f"row{layer}", Vertical(network, layer), [row]) for layer, row in enumerate(rows)),
        Stage("pixel", GatedPixel(network), pixel),
    ]


def rnn_stages(network: PixelRNN) -> list[Stage]:
    """The stages of a row and of a pixel."""
    c = network.config
    units = c.layers * c.hidden
    states, cells, features = value((units, GATED)), value((units, CELL)), value((2 * units, STATE))
    surroundings, base = value(*c.surroundings), uniform("", 1, 0, 255, 0)
    if c.diagonal:
        return [
            Stage("pixel", DiagonalPixel(network), [surroundings, states, base, states, cells, states]),
            Stage("back", Back(network), [features, states, states, cells]),
        ]
    past, above = value((2 * units * (c.left - 1), STATE)), value((4 * units, SUM))
    return [
        Stage("row", Carried(network), [value((c.across * units, GATED))]),
        Stage("pixel", RowPixel(network), [surroundings, above, base, past, cells]),
    ]


def export_autoregressive(
    network: Autoregressive,
    target: Path,
    card: dict[str, str],
    tiles: Tensor | None = None,  # noqa: ARG001
) -> None:
    """Write a `PixelCNN` or `PixelRNN` as an exact ONNX file with its tables. Raises `InexactGraph`.

    `tiles`, by which other exporters measure their weights, have no use here.
    """
    set_exact(network, True)
    family, stages = ("pixelcnn", cnn_stages) if isinstance(network, PixelCNN) else ("pixelrnn", rnn_stages)
    constants = {
        "shapes.cdf": shape_tables(network.shapes),
        "shapes.rate": scale_rates(),
        "energies": energies().numpy().astype("uint8"),
    }
    every = [*stages(network), *color_stages(network)]  # type: ignore[arg-type]
    write_model(target, family, FORMAT, asdict(network.config), every, constants, card, axis=0)

"""Gated PixelCNN (van den Oord et al. 2016, arXiv 1606.05328, sections 2.1 and 2.2, figure 2).

A vertical stack sees the rows above a pixel, without a blind spot, and a horizontal stack what is left of it; gated
units, 1 x 1 links from the vertical to the horizontal stack, residual connections in the horizontal one, and skip
connections to the output. Instead of by masks, convolutions are made causal by their kernels' shapes: the first of
each stack (mask A) ends before the pixel, later ones (mask B) with the features of the pixel itself.

To keep decoding to a few calls of the network a pixel, both stacks are conditioned on whole earlier pixels. Colors
of the same pixel enter in the output (`autoregressive`), where the paper masks features by color.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.errors import UsageError
from gencodec.models.autoregressive import (
    ENERGY,
    GATED,
    HIDDEN,
    LEVEL,
    STATE,
    SUM,
    Autoregressive,
    AutoregressiveConfig,
    Gate,
    Views,
    picture,
)
from gencodec.models.photo import PIXEL
from gencodec.models.quantize import ExactConv, ExactLinear, Snap


@dataclass(frozen=True)
class PixelCNNConfig(AutoregressiveConfig):
    """Sizes of the network."""

    hidden: int = 32
    """Features of each stack; sums before a gate are twice as many."""
    layers: int = 4
    first_rows: int = 3
    """Rows above that the vertical stack's first layer sees."""
    first_columns: int = 7
    rows: int = 2
    """Rows that its later layers see: their own, which is the one above the pixel, and those above."""
    columns: int = 3
    left: int = 3
    """Columns that the horizontal stack's later layers see: their own and those on its left."""

    def __post_init__(self) -> None:
        if min(self.layers, self.left) < 2:
            raise UsageError("the sizes layers and left of a PixelCNN are at least 2")


PAPER = PixelCNNConfig(tile=32, hidden=384, layers=20, rows=3, columns=5, left=3, output=384, color_hidden=384)
"""The paper's size: 20 layers of 384 features and filters of 5 x 5, as of its ImageNet network; it states none for
CIFAR-10. Causal kernels are what is left of filters: 3 x 5 above and 1 x 3 on the left; of the first, 7 x 7, 3 x 7."""


class PixelCNN(Autoregressive):
    """The network; about 100 thousand multiplications a pixel at its default sizes."""

    config: PixelCNNConfig

    def __init__(self, config: PixelCNNConfig | None = None):
        c = config or PixelCNNConfig()
        super().__init__(c)
        self.config = c
        sums, later = [(2 * c.hidden, SUM)], range(c.layers - 1)
        seen = [(3, LEVEL), (3, PIXEL), (3, ENERGY)]
        self.first_vertical = ExactConv(seen, sums, (c.first_rows, c.first_columns), padding=0)
        self.first_horizontal = ExactLinear(c.surroundings, sums)
        gated, state = [(c.hidden, GATED)], [(c.hidden, STATE)]
        self.vertical = nn.ModuleList(ExactConv(gated, sums, (c.rows, c.columns), padding=0) for _ in later)
        self.horizontal = nn.ModuleList(ExactConv(state, sums, (1, c.left), padding=0) for _ in later)
        self.links = nn.ModuleList(ExactConv(sums, sums, 1) for _ in range(c.layers))
        self.residuals = nn.ModuleList(ExactConv(gated, state, 1) for _ in later)
        self.skips = ExactConv([(c.layers * c.hidden, GATED)], [(c.output, HIDDEN)], 1)
        self.gate, self.state = Gate(), Snap(STATE)

    def features(self, views: Views) -> Tensor:
        state: Tensor | None = None
        skips = []
        first = picture(self.first_horizontal(views.surroundings))
        for layer, above in enumerate(self.links_of(views.maps)):
            along = first if state is None else self.along(layer, state)
            f, g = (along + above).chunk(2, 1)
            skips.append(self.gate(f, g))
            if layer < len(self.residuals):
                change = self.residuals[layer](skips[-1])
                state = change if state is None else self.state(state + change)
        return self.skips(torch.cat(skips, 1)).transpose(0, 1)

    def links_of(self, maps: Tensor) -> list[Tensor]:
        """What the vertical stack gives each layer of the horizontal one, (batch, 2 * hidden, height, width) each."""
        c = self.config
        side = c.first_columns // 2
        sums = self.first_vertical(F.pad(maps[:, :, :-1], (side, side, c.first_rows, 0)))
        result = [self.links[0](sums)]
        for layer, link in zip(self.vertical, self.links[1:], strict=True):
            f, g = sums.chunk(2, 1)
            side = c.columns // 2
            sums = layer(F.pad(self.gate(f, g), (side, side, c.rows - 1, 0)))
            result.append(link(sums))
        return result

    def along(self, layer: int, state: Tensor) -> Tensor:
        """The horizontal convolution of a later layer, (batch, 2 * hidden, height, width)."""
        return self.horizontal[layer - 1](F.pad(state, (self.config.left - 1, 0)))

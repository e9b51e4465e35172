"""NICE (Dinh et al. 2014, arXiv 1410.8516): additive couplings, and a fixed density a feature.

The paper's network couples the odd and even components of a flattened picture four times, by dense rectifier networks.
For a small model that learns fast, ours is convolutional and goes from fine to coarse: on every level blocks of 2x2
positions become features, couplings with alternating partitions predict red and blue by the others, then positions by
those around them, and what has been predicted is left as latents. A coupling begins as the best linear prediction, so
that the flow begins as a lifting wavelet. The paper's diagonal scaling is the scale of each latent's density.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gencodec.models.conditioners import HIDDEN, SHIFT, VALUE, Conditioner, Network, Plain, pointwise
from gencodec.models.flows import BLOCK, COLORS, DETAILS, LIFTING, Coupling, Factor, Flow, Layout, Order, Squeeze, Step
from gencodec.models.quantize import ExactConv


@dataclass(frozen=True)
class NiceConfig:
    """Sizes of the network."""

    tile: int = 32
    levels: int = 4
    hidden: int = 48
    blocks: int = 1
    """Hidden layers between the first and the last, in every coupling."""
    dense: int = 0
    """The paper's form, with dense networks on whole tiles; `levels` is then without meaning."""
    couplings: int = 4
    """Couplings of the dense form."""


PAPER = NiceConfig(dense=1, hidden=2000, blocks=3)
"""CIFAR-10 in the paper's section 5.1: four couplings, each with four hidden layers of 2000."""


class Nice(Flow):
    """The flow of a `NiceConfig`."""

    def __init__(self, config: NiceConfig | None = None):
        self.config = c = config or NiceConfig()
        super().__init__(dense_steps(c) if c.dense else steps(c))


def steps(c: NiceConfig) -> list[Step | Factor]:
    """The convolutional form."""

    def network(kept: int, changed: int) -> Network:
        return Conditioner(kept, Coupling.targets(changed, False), c.hidden, pointwise(c.hidden, c.blocks))

    layout = Layout()
    for _ in range(c.levels):
        layout.squeeze()
        for mask in LIFTING:
            layout.couple(mask, network, affine=False)
        layout.put_aside(DETAILS)
    layout.put_aside((COLORS, BLOCK))
    return layout.steps


def dense_steps(c: NiceConfig) -> list[Step | Factor]:
    """The paper's form: even and odd components of a tile of tile x tile pixels in turn."""
    size = 3 * c.tile**2
    halves = [*range(0, size, 2), *range(1, size, 2)]
    turn = [*range(size // 2, size), *range(size // 2)]
    result: list[Step | Factor] = [Squeeze(c.tile), Order(halves)]
    for i in range(c.couplings):
        hidden: list[nn.Module] = [ExactConv([(size // 2, VALUE)], [(c.hidden, HIDDEN)], 1)]
        last = ExactConv([(c.hidden, HIDDEN)], [(size // 2, SHIFT)], 1)
        result += [Order(turn)] if i else []
        result.append(Coupling(size // 2, Plain(hidden + pointwise(c.hidden, c.blocks), last), affine=False))
    return [*result, Factor(0, size)]

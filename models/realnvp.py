"""RealNVP (Dinh et al. 2017, arXiv 1605.08803): affine couplings by checkerboard and channel masks, multi-scale.

On every scale come couplings with checkerboard masks, then couplings with channel masks, and a part of the features is
put aside (section 3.6). The masks alternate as in the paper; in ours, the channel masks tell colors apart first. Our
networks see both positions of a checkerboard's color in a block of 2x2 as features of one position (`folded`), which
is as good and costs a quarter; the paper's see the whole picture with the others masked. Batch normalisation (section
3.7) is replaced by couplings that begin as the best linear prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gencodec.models.conditioners import HIDDEN, VALUE, Checkered, Conditioner, Network, Plain, Residual
from gencodec.models.flows import BLOCK, COLORS, DETAILS, LIFTING, Coupling, Factor, Flow, Layout, Step
from gencodec.models.quantize import ExactConv

EVEN, ODD = (COLORS, (0, 3)), (COLORS, (1, 2))
"""The two colors of the checkerboard."""
UPPER, LOWER = (COLORS, (0, 1)), (COLORS, (2, 3))
"""The two halves of the channels after a squeeze."""


@dataclass(frozen=True)
class RealnvpConfig:
    """Sizes of the network."""

    tile: int = 32
    scales: int = 4
    hidden: int = 32
    blocks: int = 1
    """Residual blocks of every coupling's network."""
    folded: int = 1
    """Our masks and folded networks; 0: the paper's, which put half of the features aside on every scale."""


PAPER = RealnvpConfig(scales=2, hidden=64, blocks=8, folded=0)
"""CIFAR-10 in the paper's section 4.1: 8 residual blocks of 64 features, one squeeze between two scales."""


class Realnvp(Flow):
    """The flow of a `RealnvpConfig`."""

    def __init__(self, config: RealnvpConfig | None = None):
        self.config = c = config or RealnvpConfig()
        super().__init__(steps(c) if c.folded else paper_steps(c))


def steps(c: RealnvpConfig) -> list[Step | Factor]:
    """Our form."""

    def network(kept: int, changed: int) -> Network:
        blocks = [Residual(c.hidden) for _ in range(c.blocks)]
        return Conditioner(kept, Coupling.targets(changed, True), c.hidden, blocks)

    layout = Layout()
    for _ in range(c.scales):
        layout.squeeze()
        for mask in LIFTING:
            layout.couple(mask, network, affine=True)
        layout.put_aside(DETAILS)
    layout.put_aside((COLORS, BLOCK))
    return layout.steps


def paper_steps(c: RealnvpConfig) -> list[Step | Factor]:
    """The paper's form: three couplings with checkerboard and three with channel masks a scale, four on the last."""

    def plain(sources: int, changed: int) -> Plain:
        layers: list[nn.Module] = [ExactConv([(sources, VALUE)], [(c.hidden, HIDDEN)])]
        layers += [Residual(c.hidden) for _ in range(c.blocks)]
        return Plain(layers, ExactConv([(c.hidden, HIDDEN)], Coupling.targets(changed, True)))

    def checkered(kept: int, changed: int, *, first: bool) -> Network:
        return Checkered(kept // 2, plain(kept // 2, changed // 2), first=first)

    layout = Layout()
    for scale in range(c.scales):
        last = scale == c.scales - 1
        layout.squeeze()
        for i in range(4 if last else 3):
            mask, first = (EVEN, False) if i % 2 else (ODD, True)
            layout.couple(mask, lambda kept, changed, first=first: checkered(kept, changed, first=first), affine=True)
        if last:
            break
        for mask in (LOWER, UPPER, LOWER):
            layout.couple(mask, plain, affine=True)
        layout.put_aside(LOWER)
    layout.put_aside((COLORS, BLOCK))
    return layout.steps

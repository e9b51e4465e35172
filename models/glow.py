"""Glow (Kingma and Dhariwal 2018, arXiv 1807.03039): actnorm, 1x1 convolutions, affine couplings, multi-scale.

A step of the flow is actnorm, a 1x1 convolution in LU form and a coupling that changes half of the features (figure
2a); after the steps of a level a part of the features is put aside, with a distribution that depends on the rest.
The paper's convolutions begin as random rotations. Ours begin as permutations that let the couplings predict red and
blue by the others, and positions by those around them; a coupling begins as the best linear prediction. The paper puts
half of the features aside on every level, ours three quarters, so that a level costs a quarter of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gencodec.models.conditioners import HIDDEN, VALUE, Conditioner, Network, Plain, pointwise
from gencodec.models.flows import BLOCK, COLORS, DETAILS, Coupling, Factor, Flow, Layout, Mask, Mix, Squeeze, Step
from gencodec.models.quantize import ExactConv

MASKS: tuple[Mask, ...] = (
    ((1, 2), (1, 2, 3)),
    (COLORS, (1, 2)),
    (COLORS, (0, 3)),
    (COLORS, (1, 3)),
    (COLORS, (0, 2)),
    (COLORS, (2, 3)),
)
"""What the couplings of a level change to begin with, in turn: each is half of the features."""


@dataclass(frozen=True)
class GlowConfig:
    """Sizes of the network."""

    tile: int = 32
    levels: int = 4
    steps: int = 6
    hidden: int = 48
    blocks: int = 1
    """1x1 convolutions between the first and the last of every network."""
    fitted: int = 1
    """Our beginning; 0: the paper's, which puts half of the features aside on every level."""


PAPER = GlowConfig(levels=3, steps=32, hidden=512, fitted=0)
"""CIFAR-10 in the paper's table 4: 3 levels of 32 steps, 512 features; about 44 million parameters."""


class Glow(Flow):
    """The flow of a `GlowConfig`."""

    def __init__(self, config: GlowConfig | None = None):
        self.config = c = config or GlowConfig()
        super().__init__(steps(c) if c.fitted else paper_steps(c))


def steps(c: GlowConfig) -> list[Step | Factor]:
    """Our form."""

    def coupling(kept: int, changed: int) -> Network:
        return Conditioner(kept, Coupling.targets(changed, True), c.hidden, pointwise(c.hidden, c.blocks))

    def prior(kept: int, aside: int) -> Network:
        return Conditioner(kept, Factor.targets(aside), c.hidden, pointwise(c.hidden, c.blocks))

    layout = Layout()
    for _ in range(c.levels):
        layout.squeeze()
        for i in range(c.steps):
            layout.mix(MASKS[i % len(MASKS)])
            half = len(layout.labels) // 2
            layout.steps.append(Coupling(half, coupling(half, half), affine=True))
        layout.put_aside(DETAILS, prior)
    layout.put_aside((COLORS, BLOCK))
    return layout.steps


def paper_steps(c: GlowConfig) -> list[Step | Factor]:
    """The paper's form."""
    result: list[Step | Factor] = []
    features = 3
    for level in range(c.levels):
        features *= 4
        half = features // 2
        result.append(Squeeze())
        for _ in range(c.steps):
            first = ExactConv([(half, VALUE)], [(c.hidden, HIDDEN)], padding=0)
            last = ExactConv([(c.hidden, HIDDEN)], Coupling.targets(half, True))
            network = Plain([first, *pointwise(c.hidden, c.blocks)], last, reach=1)
            result += [Mix(features, rotation(features)), Coupling(half, network, affine=True)]
        if level < c.levels - 1:
            prior = Plain([], ExactConv([(half, VALUE)], Factor.targets(half), padding=0), reach=1)
            result.append(Factor(half, half, prior))
            features = half
    return [*result, Factor(0, features)]


def rotation(features: int) -> torch.Tensor:
    """A random rotation (features, features)."""
    return torch.linalg.qr(torch.randn(features, features))[0]

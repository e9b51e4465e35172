"""`beta-vae` and `nvae-lossy` networks as ONNX files: exact priors, and transforms of floating point.

What the graphs take and give is in docs/format-lossy.md.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gencodec.export.floats import FloatStage
from gencodec.export.lower import grid
from gencodec.export.photo import scale_rates, shape_tables
from gencodec.export.stages import Stage, write_model
from gencodec.export.values import Value
from gencodec.models.blocktransforms import KNOTS, Analysis, Synthesis
from gencodec.models.hierarchy import BLEND, LATENT, LEVELS_A_KNOT, First, Group, Hierarchy, Next
from gencodec.models.latents import HIDDEN
from gencodec.models.lossy import BetaVAEConfig, Lossy
from gencodec.models.quantize import set_exact

FORMAT = "1"
"""Version of what the stages take and give."""
SKIP = 3
"""Scale index below which latents are their means and nothing is coded: a zero would cost as much as it is worth."""
RESIDUAL = 1 << 15
"""Weights from which the analysis keeps a layer as int8: its errors cost less than the synthesis's."""
LINEAR = ("coarse_linear", "fine_linear")
"""What is always kept as float16: all that passes from pictures to latents and back without correction."""
EXAMPLE = 64
"""Side of the pictures that graphs of floating point are traced with."""


class Analyzed(nn.Module):
    """Pixels and the shares of the knots (N, KNOTS, 1, 1) -> latents in quantisation steps, coarsest first."""

    def __init__(self, network: Lossy):
        super().__init__()
        self.analysis: Analysis = network.analysis
        self.gains = network.gains

    def forward(self, x: Tensor, blend: Tensor) -> tuple[Tensor, ...]:
        blend = blend[:, :, 0, 0]
        found = self.analysis(x, blend)
        return tuple(y * exp2(gain(blend)) for y, gain in zip(found, self.gains, strict=True))[::-1]


class Synthesized(nn.Module):
    """Latents, coarsest first, and the shares of the knots -> pixels."""

    def __init__(self, network: Lossy):
        super().__init__()
        self.synthesis: Synthesis = network.synthesis
        self.gains = network.gains

    def forward(self, *given: Tensor) -> Tensor:
        *latents, blend = given
        blend = blend[:, :, 0, 0]
        finest = zip(latents[::-1], self.gains, strict=True)
        return self.synthesis(*(z * exp2(-gain(blend)) for z, gain in finest), blend)


def exp2(x: Tensor) -> Tensor:
    """As `torch.exp2`, which ONNX lacks."""
    return torch.exp(x * math.log(2))


def export_lossy(network: Lossy, target: Path, card: dict[str, str], tiles: Tensor | None = None) -> None:  # noqa: ARG001
    """Write a network as an ONNX file with its tables, proof and `card`. Raises `InexactGraph`."""
    network.eval()
    set_exact(network, True)
    prior = network.prior
    constants: dict[str, NDArray[np.generic]] = {
        "shapes.cdf": shape_tables(prior.shapes),
        "shapes.rate": scale_rates(),
    }
    groups = [{"scale": g.scale, "first": g.first, "last": g.last, "parity": g.parity} for g in prior.groups]
    latents = [[scale, prior.latents[scale]] for scale in reversed(network.scales)]
    config = {
        "sizes": asdict(network.config),
        "tile": network.config.tile,
        "groups": groups,
        "latents": latents,
        "knots": KNOTS,
        "levels_a_knot": LEVELS_A_KNOT,
        "margin": network.reach,
        "skip": SKIP,
    }
    family = "beta-vae" if isinstance(network.config, BetaVAEConfig) else "nvae-lossy"
    stages = [Stage(f"group.{i}", step, inputs_of(prior, i)) for i, step in enumerate(prior.steps)]
    write_model(target, family, FORMAT, config, stages, constants, card, axis=1, floats=transforms(network))


def inputs_of(prior: Hierarchy, index: int) -> list[Value]:
    """Ranges of what the step before a group takes: the state, latents that are known, the knots' shares."""
    step, width = prior.steps[index], prior.width
    if isinstance(step, First):
        return [grid(KNOTS, BLEND)]
    before: Group = prior.groups[index - 1]
    known = before.latents if isinstance(step, Next) else prior.latents[before.scale]
    return [grid(width, HIDDEN), grid(known, LATENT), grid(KNOTS, BLEND)]


def transforms(network: Lossy) -> list[FloatStage]:
    """The graphs `analysis` and `synthesis`."""
    blend = torch.zeros(1, KNOTS, 1, 1)
    blend[:, 0] = 1.0
    scales = list(reversed(network.scales))
    latents = [torch.zeros(1, network.prior.latents[s], EXAMPLE >> s, EXAMPLE >> s) for s in scales]
    pixels = torch.zeros(1, 3, EXAMPLE, EXAMPLE)
    return [
        FloatStage("analysis", Analyzed(network), (pixels, blend), len(scales), RESIDUAL, LINEAR),
        FloatStage("synthesis", Synthesized(network), (*latents, blend), precise=LINEAR),
    ]

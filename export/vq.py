"""`vq-vae` and `vq-vae-2` networks as ONNX files: exact priors of codes, and transforms of floating point.

What the graphs take and give is in docs/format-vq.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gencodec.export.floats import FloatStage
from gencodec.export.lower import grid
from gencodec.export.stages import Stage, write_model
from gencodec.models.autoregressive import GATED, HIDDEN, SIGNED, STATE, SUM
from gencodec.models.codebooks import POINT_BITS, Codebooks
from gencodec.models.codeprior import (
    ABOVE,
    AROUND,
    CONTEXT,
    EMBEDDED,
    LATENT,
    LATER,
    LEFT,
    PLAIN,
    CodePrior,
    Known,
    powers,
    seen,
)
from gencodec.models.quantize import set_exact
from gencodec.models.transforms import MIDDLE, UNIT, Synthesis
from gencodec.models.vqvae import VQVAE
from gencodec.models.vqvae2 import VQVAE2, Top

FORMAT = "1"
"""Version of what the stages take and give."""
REACH = 2
"""Positions that a residual block reaches."""
FILTER_REACH = 1
"""Positions of latents that the synthesis' filter at stride 4 reaches, twice one of its own."""
TOP_BLOCKS = 1
"""Residual blocks of either direction of the top map."""
EXAMPLE = 64
"""Side of the pictures that graphs of floating point are traced with."""
Constants = dict[str, NDArray[np.generic]]


# the exact graphs of a prior, on (1, features, 1, positions)


class Entered(nn.Module):
    """Stage "join": what is known at a position -> its hidden features; lifted ones are of `lift`."""

    def __init__(self, known: Known):
        super().__init__()
        self.enter, self.joined = known.enter, known.joined

    def forward(self, *given: Tensor) -> Tensor:
        raise NotImplementedError


class EnteredAlone(Entered):
    """Of latents of earlier stages."""

    def forward(self, latents: Tensor) -> Tensor:  # type: ignore[override]
        return self.joined(cast(nn.Module, self.enter)(latents))


class LiftedAlone(Entered):
    """Of what a coarser map says."""

    def forward(self, lifted: Tensor) -> Tensor:  # type: ignore[override]
        return self.joined(lifted)


class EnteredAndLifted(Entered):
    """Of both."""

    def forward(self, latents: Tensor, lifted: Tensor) -> Tensor:  # type: ignore[override]
        return self.joined(cast(nn.Module, self.enter)(latents) + lifted)


class Spread(nn.Module):
    """Stage "given": hidden features around a position -> what they add to the gates of all layers."""

    def __init__(self, known: Known):
        super().__init__()
        self.around, self.spread = known.around, known.spread

    def forward(self, around: Tensor) -> Tensor:
        return self.spread(self.around(around))


class Row(nn.Module):
    """Stages "row0" and on: a layer of the vertical stack -> what the horizontal one takes, and features."""

    def __init__(self, prior: CodePrior, layer: int):
        super().__init__()
        self.layer, self.link, self.gate = prior.vertical[layer], prior.links[layer], prior.gate
        self.last = layer + 1 == prior.sizes.layers

    def forward(self, around: Tensor) -> tuple[Tensor, ...]:
        sums = self.layer(around)
        if self.last:
            return (self.link(sums),)
        f, g = sums.chunk(2, 1)
        return self.link(sums), self.gate(f, g)


class Position(nn.Module):
    """Stage "position": the horizontal stack, and the logits or, with attention, the features they are made of.

    Takes embedded codes on the left, what the vertical stack gives, what is known, and the states of the position on
    the left; gives the states too, if there is more than one layer.
    """

    def __init__(self, prior: CodePrior):
        super().__init__()
        self.prior, self.hidden, self.layers = prior, prior.sizes.hidden, prior.sizes.layers
        self.attends = prior.attention is not None

    def forward(self, left: Tensor, above: Tensor, given: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        prior, hidden = self.prior, self.hidden
        sums = prior.sum(above + given)
        state: Tensor | None = None
        skips, states = [], []
        for layer in range(self.layers):
            if state is None:
                along = prior.horizontal[0](left)
            else:
                beside = past[:, (layer - 1) * hidden : layer * hidden]
                along = prior.horizontal[layer](torch.cat([beside, state], 1))
            f, g = (along + sums[:, 2 * layer * hidden : 2 * (layer + 1) * hidden]).chunk(2, 1)
            skips.append(prior.gate(f, g))
            if layer + 1 < self.layers:
                change = prior.residuals[layer](skips[-1])
                state = change if state is None else prior.state(state + change)
                states.append(state)
        features = prior.skips(torch.cat(skips, 1))
        return features if self.attends else prior.head(features), torch.cat(states, 1)


class Joint(nn.Module):
    """A layer of two arrays' features, one after the other."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.layer(torch.cat([a, b], 1))


def prior_stages(name: str, prior: CodePrior) -> list[Stage]:
    """The graphs of one prior."""
    s = prior.sizes
    seen_above = [grid(len(ABOVE) * s.embed, EMBEDDED), *[grid(len(LATER) * s.hidden, GATED)] * (s.layers - 1)]
    sums = grid(2 * s.layers * s.hidden, SUM)
    position = [grid(len(LEFT) * s.embed, EMBEDDED), sums, sums, grid((s.layers - 1) * s.hidden, STATE)]
    stages = [Stage(f"{name}.row{i}", Row(prior, i), [value]) for i, value in enumerate(seen_above)]
    stages.append(Stage(f"{name}.position", Position(prior), position))
    if prior.known is not None:
        stages += known_stages(name, prior.known, s.known, s.lifted, s.context)
    if prior.attention is not None:
        features = grid(s.output, HIDDEN)
        stages += [
            Stage(f"{name}.query", prior.attention.query, [features]),
            Stage(f"{name}.memory", Joint(prior.attention.memory), [features, grid(s.embed, EMBEDDED)]),
            Stage(f"{name}.head", Joint(prior.head), [features, grid(s.attention, SIGNED)]),
        ]
    return stages


def known_stages(name: str, known: Known, latents: int, lifted: int, context: int) -> list[Stage]:
    """The graphs of what is known before a map's codes."""
    stages = [Stage(f"{name}.given", Spread(known), [grid(len(AROUND) * context, CONTEXT)])]
    entered, raised = [grid(latents, LATENT)] * bool(latents), [grid(context, PLAIN)] * bool(lifted)
    kind = EnteredAndLifted if latents and lifted else EnteredAlone if latents else LiftedAlone
    stages.append(Stage(f"{name}.join", kind(known), [*entered, *raised]))
    if known.lift is not None:
        stages.append(Stage(f"{name}.lift", known.lift, [grid(lifted, LATENT)]))
    return stages


# the graphs of floating point, on (batch, features, height, width)


class Analysed(nn.Module):
    """Pixels, gray levels -> latents at stride 8 and, with a top map, its latents."""

    def __init__(self, network: VQVAE | VQVAE2):
        super().__init__()
        self.analysis = network.analysis
        self.top = network.top if isinstance(network, VQVAE2) else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        latents = self.analysis((pixels - MIDDLE) * (1 / UNIT))
        return (latents,) if self.top is None else (latents, self.top(latents))


class Predicted(nn.Module):
    """The top map's latents -> what they say of those at stride 8."""

    def __init__(self, top: Top):
        super().__init__()
        self.top = top

    def forward(self, latents: Tensor) -> Tensor:
        return self.top.predicted(latents)


class Synthesised(nn.Module):
    """Latents and the marks of their level -> pixels, gray levels."""

    def __init__(self, synthesis: Synthesis):
        super().__init__()
        self.synthesis = synthesis

    def forward(self, latents: Tensor) -> Tensor:
        return self.synthesis(latents) * UNIT + MIDDLE


def transforms(network: VQVAE | VQVAE2) -> list[FloatStage]:
    """The graphs `analysis`, `synthesis` and, with a top map, `predicted`."""
    dim, side = network.config.dim, EXAMPLE // 8
    levels = network.config.levels
    pixels, latents = torch.zeros(1, 3, EXAMPLE, EXAMPLE), torch.zeros(1, dim + levels, side, side)
    stages = [FloatStage("synthesis", Synthesised(network.synthesis), (latents,))]
    if isinstance(network, VQVAE2):
        top = torch.zeros(1, dim, side // 2, side // 2)
        stages.append(FloatStage("predicted", Predicted(network.top), (top,)))
    return [FloatStage("analysis", Analysed(network), (pixels,), len(stages)), *stages]


def margins(network: VQVAE | VQVAE2) -> dict[str, int]:
    """How far the graphs of floating point reach, in positions of the finest latents."""
    c, two = network.config, isinstance(network, VQVAE2)
    coarse = 2 * REACH * TOP_BLOCKS if two else 0
    synthesis = REACH * c.decoder_blocks + FILTER_REACH
    return {
        "analysis": REACH * c.encoder_blocks + coarse,
        "predicted": coarse,
        "synthesis": synthesis + synthesis % 2,  # whole codes of the top map
    }


# whole files


def export_vq(network: VQVAE | VQVAE2, target: Path, card: dict[str, str], tiles: Tensor | None = None) -> None:  # noqa: ARG001
    """Write a network as an ONNX file with its codebooks, tables, proof and `card`. Raises `InexactGraph`.

    `tiles`, by which other exporters measure their weights, have no use here.
    """
    network.eval()
    set_exact(network, True)
    maps = maps_of(network)
    stages = [
        s for name, _, priors in maps for i, prior in enumerate(priors) for s in prior_stages(f"{name}{i}", prior)
    ]
    constants: Constants = {"powers": powers().to(torch.int32).numpy()}
    for name, books, priors in maps:
        constants.update(tables(name, books, priors))
    config = {
        "tile": network.config.tile,
        "sizes": asdict(network.config),
        "margins": margins(network),
        "maps": [
            {"name": name, "stages": books.stages, "stride": 8 << (len(maps) - 1 - i)}
            for i, (name, books, _) in enumerate(maps)
        ],
    }
    family = "vq-vae-2" if isinstance(network, VQVAE2) else "vq-vae"
    write_model(target, family, FORMAT, config, stages, constants, card, axis=1, floats=transforms(network))


def maps_of(network: VQVAE | VQVAE2) -> list[tuple[str, Codebooks, Sequence[CodePrior]]]:
    """Names, codebooks and priors of the maps of codes, the coarsest first."""
    if isinstance(network, VQVAE2):
        top = ("top", network.top_codebooks, cast(Sequence[CodePrior], network.top_priors))
        return [top, ("bottom", network.bottom_codebooks, cast(Sequence[CodePrior], network.bottom_priors))]
    return [("bottom", network.codebooks, cast(Sequence[CodePrior], network.priors))]


def tables(name: str, books: Codebooks, priors: Sequence[CodePrior]) -> Constants:
    """Codebooks, what the encoder charges for codes, and embedded codes of a map."""
    points = torch.round(books.points() * 2**POINT_BITS)
    result: Constants = {
        f"{name}.codebooks": points.numpy().astype(np.int16),
        f"{name}.costs": books.costs().numpy().astype(np.float32),
    }
    for stage, prior in enumerate(priors):
        vectors = seen(books.points()[stage].t()[None, :, :, None])  # (dim, 1, codes, 1)
        with torch.no_grad():
            embedded = prior.embed(vectors)[:, 0, :, 0] * 2**EMBEDDED.bits
        result[f"{name}{stage}.embedded"] = embedded.t().round().numpy().astype(np.int16)
    return result

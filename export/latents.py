"""`vae` and `nvae` networks as ONNX files: an exact graph for every step of a walk through the groups of latents.

Arrays are (batch, features, height, width). What the graphs take and give is in docs/format-latents.md.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gencodec.export.lower import grid
from gencodec.export.photo import scale_rates, shape_tables
from gencodec.export.stages import Stage, write_model
from gencodec.export.values import Value, joined
from gencodec.models.latents import FEATURE, HIDDEN, MEAN, PIXEL, Color, Colors
from gencodec.models.lattices import LatticeScale, Leave
from gencodec.models.nvae import NVAE, FreeGroup, FreeScale
from gencodec.models.quantize import Grid, set_exact
from gencodec.models.shapes import SHAPE, SPREAD
from gencodec.models.vae import VAE

FORMAT = "1"
"""Version of what the stages take and give."""
SAMPLES = 8
"""Tiles that tell how much is drawn, where no others are given."""


class Joint(nn.Module):
    """A module of several arrays' features, one after the other."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.module(torch.cat([a, b], 1))


class Pair(nn.Module):
    """A color at two places, of the same features."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, features: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(features, first), self.second(features, second)


class Grow(nn.Module):
    """The prior of the first group of a stride, from the state of the coarser one."""

    def __init__(self, grown: nn.Module, prior: nn.Module):
        super().__init__()
        self.grown, self.prior = grown, prior

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.prior(self.grown(h))


class Turned(nn.Module):
    """A module with its two arguments the other way around."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return self.module(b, a)


def export_latents(network: VAE | NVAE, target: Path, card: dict[str, str], tiles: Tensor | None = None) -> None:
    """Write a VAE or an NVAE as an exact ONNX file with its tables, proof and `card`. Raises `InexactGraph`.

    `tiles` (3, batch, height, width) of gray levels, of which the first ones tell how many bits a tile draws.
    """
    network.eval()
    set_exact(network, True)
    constants: dict[str, NDArray[np.generic]] = {
        "shapes.cdf": shape_tables(network.shapes),
        "shapes.rate": scale_rates(),
    }
    sizes = asdict(network.config)
    config = {"tile": sizes["tile"], "sizes": sizes, "demand": demand(network, tiles)}
    if isinstance(network, VAE):
        stages = vae_stages(network)
        constants["prior"] = prior_rows(network)
    else:
        stages = nvae_stages(network)
        constants["start"] = integers(network.snapped(network.start), HIDDEN)
    write_model(target, type(network).__name__.lower(), FORMAT, config, stages, constants, card, axis=1)


def integers(values: Tensor, grid: Grid) -> NDArray[np.int32]:
    """Points of a grid as its integers."""
    return np.rint(values.detach().numpy() * 2.0**grid.bits).astype(np.int32)


def prior_rows(network: VAE) -> NDArray[np.int32]:
    """Means in sixteenths of a bin from 0, scale and shape indices of a VAE's prior, (3, latents)."""
    parts = network.prior().flatten().chunk(3)
    rows = np.stack([integers(part, grid) for part, grid in zip(parts, (MEAN, SPREAD, SHAPE), strict=True)])
    rows[0] += 16 * 128
    return rows


def demand(network: VAE | NVAE, tiles: Tensor | None) -> float:
    """Bits that drawing the latents of a tile takes."""
    side = network.config.tile
    if tiles is None or min(tiles.shape[2:]) < side:
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(3, SAMPLES, side, side, generator=generator) * 32
        tiles = noise.floor() + torch.linspace(0, 200, side).floor()
    tiles = tiles[:, :SAMPLES, :side, :side].float()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # latents are drawn: one checkpoint makes one file
        return float(network.accounted(tiles).drawn()) / tiles.shape[1]


def color_stages(name: str, colors: list[Colors], width: int) -> list[Stage]:
    """The graphs of three colors, at one place or at two."""
    stages = []
    for i in range(3):
        each = [cast(Color, part.each[i]) for part in colors]
        module = Pair(*each) if len(each) == 2 else each[0]
        predictions = grid(1 + each[0].bank + i, MEAN)
        stages.append(Stage(f"{name}{i}", module, [grid(width, HIDDEN), *[predictions] * len(each)]))
    return stages


def vae_stages(vae: VAE) -> list[Stage]:
    """The graphs of a VAE: "up", "down" and the colors."""
    c = vae.config
    both = [Stage("up", vae.encoder, [grid(3, PIXEL)]), Stage("down", vae.decoder, [grid(c.latents, PIXEL)])]
    return both if c.dense else [*both, *color_stages("color", [vae.colors], c.widths[0])]


def nvae_stages(nvae: NVAE) -> list[Stage]:
    """The graphs of an NVAE: "up", those of every free group, and those of the lattices or the pixels."""
    c = nvae.config
    stages = [Stage("up", nvae.tower, [grid(3, PIXEL)])]
    for scale, module in zip(c.free, nvae.free, strict=True):
        stages += free_stages(f"free{scale}", cast(FreeScale, module), nvae)
    state = grid(c.width, HIDDEN)
    if not c.lattice:
        return [
            *stages,
            Stage("pixels", nvae.pixels, [state]),
            *color_stages("color", [nvae.colors], nvae.pixels.width),
        ]
    features = grid(c.encoder, FEATURE)
    stages += [
        Stage("root", nvae.root, [state]),
        *color_stages("root", [nvae.root_colors], c.width),
        *moving("root.residual", nvae.root_residual, [state, features]),
    ]
    if c.lattice > 1:
        stages += lattice_stages("coarse", nvae.coarse, c.width, nvae)
    return stages + lattice_stages("fine", nvae.fine, c.fine_width, nvae)


def free_stages(name: str, scale: FreeScale, nvae: NVAE) -> list[Stage]:
    """The graphs of the free groups of one stride."""
    c = nvae.config
    state, features, stages = grid(c.width, HIDDEN), grid(c.encoder, FEATURE), []
    for i, module in enumerate(scale.groups):
        group = cast(FreeGroup, module)
        prior = group.prior if i or scale.grown is None else Grow(scale.grown, group.prior)
        stages += [
            Stage(f"{name}.{i}.prior", prior, [state]),
            Stage(f"{name}.{i}.residual", Joint(group.residual), [state, features]),
            Stage(f"{name}.{i}.combine", Joint(group.combine), [state, grid(c.latents, PIXEL)]),
        ]
    return stages


def lattice_stages(name: str, scale: LatticeScale, width: int, nvae: NVAE) -> list[Stage]:
    """The graphs of a doubling of the resolution."""
    c = nvae.config
    state, features = grid(width, HIDDEN), grid(c.encoder, FEATURE)
    three, six = grid(3, PIXEL), grid(6, PIXEL)
    stages = [
        Stage(f"{name}.enter", scale.enter, [three, grid(c.width, HIDDEN)]),
        *color_stages(f"{name}.d", [scale.first], width),
        *moving(f"{name}.first", scale.first_residual, [state, features]),
        Stage(f"{name}.middle", Turned(scale.middle), [joined([six, grid(3, MEAN)]), state]),
        *color_stages(f"{name}.bc", [scale.right, scale.below], width),
    ]
    stages += moving(f"{name}.second", scale.second_residual, [state, features])
    if isinstance(scale.last, Leave):
        return [*stages, Stage(f"{name}.leave", scale.last, [state, joined([six, grid(6, MEAN)])])]
    return stages if scale.last is None else [*stages, Stage(f"{name}.copies", scale.last, [state, six])]


def moving(name: str, residual: nn.Module | None, inputs: list[Value]) -> list[Stage]:
    """The graph that moves posteriors, where they are not points."""
    return [] if residual is None else [Stage(name, Joint(residual), inputs)]

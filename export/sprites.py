"""`beta-vae-sprites` networks as ONNX files: encoder and decoder of floating point, and the exact prior of the latents.

The graphs take and give arrays (batch, features, height, width):

- `prior`: ones (N, 1, h, w) -> means and standard deviations (N, 2 * latents, h, w) of a normal distribution.
- `encode`: pictures (N, 1, 64, 64) from 0 to 1 -> the posterior's means and logarithms of variances (N, latents, 1, 1).
- `decode`: latents (N, latents, 1, 1) -> for every pixel the probability that it is white (N, 1, 64, 64).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from gencodec.export.floats import FloatStage
from gencodec.export.stages import Stage, write_model
from gencodec.export.values import uniform
from gencodec.models.quantize import ExactConv, Grid, set_exact
from gencodec.models.spritevae import SpriteVAE

FAMILY = "beta-vae-sprites"
FORMAT = "1"
"""Version of what the stages take and give."""
ONES, WHOLE = Grid(0, 1, 0), Grid(-1, 1, 0)


class Encoded(nn.Module):
    """Pictures -> the posterior of their latents."""

    def __init__(self, network: SpriteVAE):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.posterior(pixels)


class Decoded(nn.Module):
    """Latents -> probabilities of white."""

    def __init__(self, network: SpriteVAE):
        super().__init__()
        self.decoder = network.decoder

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(z))


def export_sprites(network: SpriteVAE, target: Path, card: dict[str, str], tiles: Tensor | None = None) -> None:  # noqa: ARG001
    """Write a network as an ONNX file with `card`."""
    c = network.eval().config
    floats = [
        FloatStage("encode", Encoded(network), (torch.zeros(2, 1, c.tile, c.tile),), 2),
        FloatStage("decode", Decoded(network), (torch.zeros(2, c.latents, 1, 1),)),
    ]
    stages = [Stage("prior", standard_normal(c.latents), [uniform("", 1, ONES.low, ONES.high, ONES.bits)])]
    config = {"sizes": asdict(c), "latents": c.latents, "tile": c.tile}
    write_model(target, FAMILY, FORMAT, config, stages, {}, card, axis=1, floats=floats)


def standard_normal(latents: int) -> ExactConv:
    """Ones (N, 1, h, w) -> means of 0, then standard deviations of 1, (N, 2 * latents, h, w)."""
    prior = ExactConv([(1, ONES)], [(2 * latents, WHOLE)], 1)
    with torch.no_grad():
        prior.weight.zero_()
        prior.bias[latents:] = 1
    set_exact(prior, True)
    return prior

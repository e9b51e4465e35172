"""The beta-VAE as its paper has it: a few latents, each of which is to stand for one factor of the pictures.

Higgins et al. 2017 (beta-VAE, ICLR) train a variational autoencoder with the divergence of the posterior from the
prior, a standard normal distribution, weighted by beta (equation 4):

    E_q(z|x) [ -log p(x|z) ] + beta KL( q(z|x) || p(z) )

With beta above 1, latents that carry independent factors cost less than others that say the same. The lossy codec's
beta-VAE is in `gencodec.models.lossy`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.sprites import SIDE

WHITE = 255.0
BLOCK = 4
"""Side of the blocks of pixels that are features of one position: convolutions of one feature are slow."""


@dataclass(frozen=True)
class SpriteVAEConfig:
    """Sizes of the network, by default those of the shipped model, and the weight of the divergence."""

    tile: int = SIDE
    latents: int = 10
    beta: float = 4.0
    widths: tuple[int, ...] = (8, 16, 32)
    """Features at strides 4, 8 and 16."""
    hidden: int = 128
    dense: int = 0
    """1: the paper's perceptrons, whose layers have `hidden` features."""


PAPER = SpriteVAEConfig(dense=1, hidden=1200)
"""The paper's network for 2D shapes (appendix A.1): two layers of ReLU encode, three of tanh decode, 10 latents."""


class SpriteVAE(nn.Module):
    """Encoder and decoder.

    Pictures (3, N, 64, 64) of gray levels, of which the first plane counts -> what each costs, (N,), in bits a pixel:
    the likelihood's code length and beta times the divergence.
    """

    def __init__(self, config: SpriteVAEConfig):
        super().__init__()
        self.config = c = config
        self.encoder, self.decoder = (dense_encoder(c), dense_decoder(c)) if c.dense else (encoder(c), decoder(c))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x[0, :, None] / WHITE
        distortion, divergence = self.terms(pixels)
        return (distortion + self.config.beta * divergence.sum(1)) / (math.log(2) * pixels[0].numel())

    def terms(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Of pictures (N, 1, 64, 64) from 0 to 1: -log p(x|z) (N,) for a sample z, and divergences (N, latents).

        Both are in nats. The likelihood is a Bernoulli distribution of every pixel.
        """
        mean, log_variance = self.posterior(pixels)
        z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        logits = self.decoder(z)  # of white
        distortion = (F.softplus(logits) - logits * pixels).sum((1, 2, 3))
        divergence = (mean.square() + torch.exp(log_variance) - 1 - log_variance) / 2
        return distortion, divergence.flatten(1)

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of variances, (N, latents, 1, 1) each, of pictures (N, 1, 64, 64) from 0 to 1."""
        mean, log_variance = self.encoder(pixels).chunk(2, 1)
        return mean, log_variance


def encoder(c: SpriteVAEConfig) -> nn.Sequential:
    """Convolutions from pictures (N, 1, 64, 64) to (N, 2 * latents, 1, 1)."""
    first, second, third = c.widths
    return nn.Sequential(
        nn.PixelUnshuffle(BLOCK),
        nn.Conv2d(BLOCK**2, first, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(first, second, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(second, third, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(third, c.hidden, 4),
        nn.ReLU(),
        nn.Conv2d(c.hidden, 2 * c.latents, 1),
    )


def decoder(c: SpriteVAEConfig) -> nn.Sequential:
    """The encoder's mirror image: latents (N, latents, 1, 1) to logits (N, 1, 64, 64)."""
    first, second, third = c.widths
    return nn.Sequential(
        nn.Conv2d(c.latents, c.hidden, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(c.hidden, third, 4),
        nn.ReLU(),
        nn.ConvTranspose2d(third, second, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(second, first, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(first, BLOCK**2, 3, 1, 1),
        nn.PixelShuffle(BLOCK),
    )


def dense_encoder(c: SpriteVAEConfig) -> nn.Sequential:
    """Perceptron of two hidden layers, as convolutions of whole pictures."""
    return nn.Sequential(
        nn.Conv2d(1, c.hidden, c.tile),
        nn.ReLU(),
        nn.Conv2d(c.hidden, c.hidden, 1),
        nn.ReLU(),
        nn.Conv2d(c.hidden, 2 * c.latents, 1),
    )


def dense_decoder(c: SpriteVAEConfig) -> nn.Sequential:
    """Perceptron of three hidden layers, whose outputs are a picture's pixels."""
    return nn.Sequential(
        nn.Conv2d(c.latents, c.hidden, 1),
        nn.Tanh(),
        nn.Conv2d(c.hidden, c.hidden, 1),
        nn.Tanh(),
        nn.Conv2d(c.hidden, c.hidden, 1),
        nn.Tanh(),
        nn.Conv2d(c.hidden, c.tile**2, 1),
        nn.PixelShuffle(c.tile),
    )

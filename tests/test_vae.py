"""The variational autoencoder: transform, learning, the integer network, and the paper's size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gencodec.models.latents import in_pictures, in_units
from gencodec.models.quantize import set_exact
from gencodec.models.soap import Soap
from gencodec.models.vae import PAPER, VAE, VAEConfig, cosines

TINY = VAEConfig(tile=16, scale=2, latents=24, encoder=8, widths=(8, 8, 8), color_hidden=6)
DENSE = VAEConfig(tile=16, dense=1, latents=6, hidden=24)
both = pytest.mark.parametrize("config", [TINY, DENSE], ids=["convolutional", "dense"])


def tiles(slopes: Tensor, side: int = 16) -> Tensor:
    return slopes[:, :, :side, :side]


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_transform_is_undone(scale: int) -> None:
    side = 1 << scale
    count = 3 * side * side
    there, back = cosines(scale, count, inverse=False), cosines(scale, count, inverse=True)
    x = torch.randn(2, 3, 2 * side, side)
    y = torch.nn.functional.conv2d(x, there, stride=side)
    z = torch.nn.functional.conv2d(y, back)
    for _ in range(scale):
        z = torch.nn.functional.pixel_shuffle(z, 2)
    torch.testing.assert_close(z, x, atol=1e-5, rtol=1e-5)


def test_the_transform_keeps_the_low_frequencies(slopes: Tensor) -> None:
    x = in_pictures(slopes)
    smooth = torch.nn.functional.avg_pool2d(x, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    y = torch.nn.functional.conv2d(smooth, cosines(3, 6, inverse=False), stride=8)
    z = torch.nn.functional.conv2d(y, cosines(3, 6, inverse=True))
    for _ in range(3):
        z = torch.nn.functional.pixel_shuffle(z, 2)
    torch.testing.assert_close(z, smooth, atol=1e-4, rtol=1e-4)


@both
@pytest.mark.parametrize("exact", [False, True])
def test_every_tile_has_a_cost_and_every_parameter_a_gradient(config: VAEConfig, exact: bool, slopes: Tensor) -> None:
    torch.manual_seed(1)
    vae = VAE(config)
    set_exact(vae, exact)
    bits = vae(tiles(slopes))
    assert bits.shape == (8,)
    assert float(bits.min()) > 0
    bits.mean().backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@both
def test_a_few_steps_lower_the_bound(config: VAEConfig, slopes: Tensor) -> None:
    torch.manual_seed(2)
    vae, x = VAE(config), tiles(slopes)
    optimizer, bounds = Soap(vae.parameters(), lr=1e-2), []
    for _ in range(40):
        bound = vae(x).mean()
        optimizer.zero_grad()
        bound.backward()
        optimizer.step()
        bounds.append(float(bound.detach()))
    assert min(bounds) < 0.98 * bounds[0]


def test_the_integer_network_is_near_the_smooth_one(slopes: Tensor) -> None:
    torch.manual_seed(3)
    vae, x = VAE(TINY).eval(), tiles(slopes)
    with torch.no_grad():
        smooth = float(torch.stack([vae(x).mean() for _ in range(8)]).mean())
        set_exact(vae, True)
        exact = float(torch.stack([vae(x).mean() for _ in range(8)]).mean())
    assert exact == pytest.approx(smooth, rel=0.02)


def test_means_of_latents_give_the_picture_back(slopes: Tensor) -> None:
    torch.manual_seed(4)
    vae, x = VAE(TINY).eval(), in_pictures(tiles(slopes))
    set_exact(vae, True)
    with torch.no_grad():
        anchor, residual = vae.encoder(x)
        prior = vae.prior().expand(len(x), -1, *residual.shape[2:])
        mean = vae.posterior(prior, residual, anchor).chunk(3, 1)[0]
        _, base = vae.decoder(in_units(torch.round((mean + 8) * 16)))
    error, spread = (base - x).square().mean(), (x - x.mean()).square().mean()
    assert float(error) < 0.1 * float(spread)


def test_the_papers_size() -> None:
    with torch.device("meta"):
        vae = VAE(PAPER)
    data, hidden, latents = 3 * 32 * 32, 500, 20
    # appendix C: one hidden layer each; mean and variance of latents, mean and variance of the data
    expected = (data + 1) * hidden + (hidden + 1) * 2 * latents + (latents + 1) * hidden + (hidden + 1) * 2 * data
    assert sum(p.numel() for part in (vae.encoder, vae.decoder) for p in part.parameters()) == expected
    assert not list(vae.prior.parameters())  # a standard normal one

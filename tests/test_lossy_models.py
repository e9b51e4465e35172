"""Lossy networks: transforms that begin as a cosine transform, and priors that walk from coarse to fine latents."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gencodec.models.blocktransforms import KNOTS, Analysis, Synthesis, block_transform, cosine_basis
from gencodec.models.hierarchy import COARSE, FINE, LATENT, QUALITIES, TOP, Group, blend_of, squeezed
from gencodec.models.lossy import BetaVAEConfig, Lossy, LossyConfig, lambda_of
from gencodec.models.quantize import set_exact

TINY = LossyConfig(tile=32, top=4, coarse=12, fine=(6, 10), width=12, transform=12, blocks=1, filtering=8)
BETA = BetaVAEConfig(tile=32, top=4, fine=(14,), width=12, transform=12, blocks=1, filtering=8)
both = pytest.mark.parametrize("config", [TINY, BETA], ids=["hierarchy", "beta"])


@pytest.fixture
def tiles() -> Tensor:
    """Smooth shading with an edge, (3, 2, 64, 64) gray levels."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    first = 60 + x + 0.5 * y + 50 * (x > 40)
    return torch.stack([torch.stack([first, 200 - x]), torch.stack([first - 20, y * 2]), torch.stack([255 - y, x])])


def test_the_block_transform_is_orthonormal_and_starts_with_luma() -> None:
    basis, names = block_transform()
    assert torch.allclose(basis @ basis.t(), torch.eye(192), atol=1e-5)
    assert names[0] == (0, 0, 0)
    assert torch.allclose(basis[0], torch.full((192,), 192**-0.5))
    assert torch.allclose(cosine_basis(4) @ cosine_basis(4).t(), torch.eye(4, dtype=torch.float64))


def test_untrained_transforms_without_residuals_give_back_their_input(tiles: Tensor) -> None:
    analysis, synthesis = Analysis(180, 48, 4, 8, 1), Synthesis(180, 48, 4, 8, 1, 8)
    silent = [analysis.fine_head, analysis.coarse_head, synthesis.head, synthesis.after, synthesis.top_linear]
    for layer in silent:
        assert layer is not None
        torch.nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        torch.nn.init.zeros_(layer.bias)
    pixels = (tiles.transpose(0, 1) - 127.5) / 64
    blend = blend_of(torch.tensor([20.0, 100.0]))
    with torch.no_grad():
        seen = synthesis(*analysis(pixels, blend), blend)
    assert torch.allclose(seen, pixels, atol=1e-4)


def test_blends_are_of_two_neighboring_knots_and_sum_to_one() -> None:
    shares = blend_of(torch.arange(QUALITIES).float())
    assert torch.allclose(shares.sum(1), torch.ones(QUALITIES))
    assert int((shares > 0).sum(1).max()) == 2
    assert shares[-1, KNOTS - 1] == 1
    assert (lambda_of(torch.arange(QUALITIES).float()).diff() > 0).all()


def test_halves_of_a_checkerboard_are_all_positions_once() -> None:
    masks = [Group(COARSE, 0, 3, parity).mask(5, 7) for parity in (0, 1)]
    assert torch.equal(masks[0] + masks[1], torch.ones(5, 7))
    assert masks[0][0, 0] == 1
    assert torch.equal(Group(FINE, 0, 3).mask(2, 2), torch.ones(2, 2))


def test_squeezing_keeps_signs_and_order() -> None:
    z = torch.linspace(-20, 20, 101)
    assert (squeezed(z).diff() > 0).all()
    assert torch.allclose(squeezed(-z), -squeezed(z))


@both
def test_latents_are_whole_steps_from_exact_means(config: LossyConfig, tiles: Tensor) -> None:
    torch.manual_seed(3)
    network = Lossy(config).eval()
    set_exact(network, True)
    means = []
    for step in network.prior.steps:
        step.register_forward_hook(lambda _, __, out: means.append(out[1].chunk(3, 1)[0]))
    pixels = (tiles.transpose(0, 1) - 127.5) / 64
    level = torch.tensor([40.0, 200.0])
    blend = blend_of(level)
    found = network.analysis(pixels, blend)
    wanted = {s: y * torch.exp2(g(blend)) for s, y, g in zip(network.scales, found, network.gains, strict=True)}
    with torch.no_grad():
        known, bits = network.prior.walk(wanted, blend)
    for group, mean in zip(network.prior.groups, means, strict=True):
        z = known[group.scale][:, group.first : group.last]
        steps = (z - mean) * 16 * group.mask(z.shape[2], z.shape[3])
        assert torch.equal(steps, steps.round())
        assert torch.equal(z * 256, (z * 256).round())
        assert float(z.abs().max()) <= LATENT.high * LATENT.step
    assert (bits > 0).all()


def test_coarse_latents_do_not_depend_on_finer_ones(tiles: Tensor) -> None:
    torch.manual_seed(3)
    network = Lossy(TINY).eval()
    blend = blend_of(torch.tensor([120.0, 120.0]))
    found = network.analysis((tiles.transpose(0, 1) - 127.5) / 64, blend)
    wanted = dict(zip(network.scales, found, strict=True))
    with torch.no_grad():
        first, _ = network.prior.walk(wanted, blend)
        second, _ = network.prior.walk({**wanted, FINE: wanted[FINE] + 3}, blend)
    assert torch.equal(first[TOP], second[TOP])
    assert torch.equal(first[COARSE], second[COARSE])
    assert not torch.equal(first[FINE], second[FINE])


@both
def test_higher_levels_cost_more_and_err_less(config: LossyConfig, tiles: Tensor) -> None:
    torch.manual_seed(3)
    network = Lossy(config).eval()
    with torch.no_grad():
        bits, error = network.rate_and_distortion(
            tiles[:, :1].expand(-1, 3, -1, -1), torch.tensor([0.0, 0.5, 1.0]) * (QUALITIES - 1)
        )
    assert (bits.diff() > 0).all()
    assert (error.diff() < 0).all()


@both
def test_a_few_steps_lower_the_cost(config: LossyConfig, tiles: Tensor) -> None:
    from gencodec.models.soap import Soap

    torch.manual_seed(3)
    network = Lossy(config)
    optimizer = Soap(network.parameters(), lr=3e-3)
    costs = []
    for _ in range(25):
        optimizer.zero_grad()
        bits, error = network.rate_and_distortion(tiles, torch.tensor([40.0, 80.0]))
        cost = (bits + lambda_of(torch.tensor([40.0, 80.0])) / 3 * error).mean()
        cost.backward()
        optimizer.step()
        costs.append(float(cost.detach()))
    assert sum(costs[-3:]) < 0.9 * sum(costs[:3])
    assert all(p.grad is not None for p in network.parameters())


def test_held_out_rates_are_those_of_rounded_latents(tiles: Tensor) -> None:
    torch.manual_seed(3)
    network = Lossy(TINY).eval()
    level = torch.tensor([120.0, 120.0])
    with torch.no_grad():
        rates = [network.rate_and_distortion(tiles, level)[0] for _ in range(2)]
        noisy = network.train().rate_and_distortion(tiles, level)[0]
    assert torch.equal(*rates)
    assert (noisy > rates[0]).all()

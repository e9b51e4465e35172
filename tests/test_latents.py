"""What latent-variable families share: distributions of integers, residual posteriors, and their costs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gencodec.models.latents import (
    GATE,
    HIDDEN,
    MEAN,
    SCALES,
    SIGNED,
    Account,
    Cell,
    Color,
    Distribution,
    EncoderCell,
    Excite,
    LatentShapes,
    Posterior,
    Residual,
    drawn,
    in_pictures,
    in_units,
    normal_bits,
)
from gencodec.models.quantize import set_exact


def distribution(mean: float, scale: float, count: int, shape: float = 0.0) -> Distribution:
    return Distribution(*(torch.full((1, 1, 1, count), value) for value in (mean, scale, shape)))


def rows(count: int, seed: int = 0, shape: float = 0.0) -> Tensor:
    """Rows on the integer network's grids, (1, 3 * count, 2, 2)."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randint(-2000, 2000, (1, count, 2, 2), generator=generator) / 256
    spread = torch.randint(5, 50, (1, count, 2, 2), generator=generator) / 8
    return torch.cat([mean, spread, torch.full_like(mean, shape)], 1)


def test_units_are_sixteen_levels_around_the_middle() -> None:
    x = torch.tensor([0.0, 128.0, 144.0, 255.0]).view(1, 1, 1, 4).expand(3, 2, 1, 4)
    assert in_units(x)[0, 0, 0].tolist() == [-8.0, 0.0, 1.0, 7.9375]
    assert in_pictures(x).shape == (2, 3, 1, 4)


@pytest.mark.parametrize("mean", [-3.0, 0.4, 100.0, 127.5, 254.9, 260.0])
@pytest.mark.parametrize("scale", [0.0, 3.0, 18.0, 30.0, 45.0])
def test_normal_masses_add_up_to_one(mean: float, scale: float) -> None:
    levels = torch.arange(256.0)
    bits = normal_bits(levels, torch.full((256,), mean), torch.full((256,), scale))
    assert float(torch.exp2(-bits).sum()) == pytest.approx(1, abs=2e-3)


def test_normal_masses_are_those_of_the_first_shape() -> None:
    levels = torch.arange(256.0)
    for mean, scale in ((70.2, 24.0), (0.3, 30.0)):
        like = torch.zeros(256)
        coded = LatentShapes().bits(levels, like + mean, like + scale, like)
        pure = normal_bits(levels, like + mean, like + scale)
        likely = coded < 8  # beyond, the least share of coded levels shows
        torch.testing.assert_close(pure[likely], coded[likely], atol=0.03, rtol=0)


def test_symbols_are_drawn_as_they_are_costed() -> None:
    torch.manual_seed(1)
    d = distribution(60.3, 27.0, 40000)
    symbols = drawn(d)
    assert torch.equal(symbols, symbols.round())
    shares = torch.bincount(symbols.flatten().long(), minlength=256) / symbols.numel()
    levels = torch.arange(256.0)
    masses = torch.exp2(-normal_bits(levels, torch.full((256,), 60.3), torch.full((256,), 27.0)))
    assert float((shares - masses).abs().sum()) < 0.03


def test_drawing_passes_gradients_to_mean_and_scale() -> None:
    torch.manual_seed(2)
    mean, scale = torch.full((1, 1, 1, 500), 90.0, requires_grad=True), torch.full((1, 1, 1, 500), 30.0)
    scale.requires_grad_()
    symbols = drawn(Distribution(mean, scale, torch.zeros_like(mean)))
    symbols.sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))  # type: ignore[arg-type]
    expected = (symbols.detach() - 90) * math.log(2) / 6
    assert float((scale.grad - expected).abs().max()) < 0.1  # type: ignore[operator]  # but for the rounding


def test_the_first_shape_does_not_learn() -> None:
    shapes = LatentShapes()
    with torch.no_grad():
        shapes.logits[0] = 3.0
    assert shapes.weights()[0].tolist() == [0, 0, 0, 0, 1]
    torch.testing.assert_close(shapes.weights().sum(1), torch.ones(8))


@pytest.mark.parametrize("exact", [False, True])
def test_without_a_residual_the_posterior_is_the_prior(exact: bool) -> None:
    prior, posterior = rows(5), Posterior()
    set_exact(posterior, exact)
    for residual, anchor in ((torch.zeros(1, 15, 2, 2), torch.ones(1, 5, 2, 2)), (torch.zeros(1, 10, 2, 2), None)):
        assert torch.equal(posterior(prior, residual, anchor), prior)


def test_a_posterior_that_is_the_prior_costs_nothing() -> None:
    torch.manual_seed(3)
    prior = rows(64)
    account = Account(LatentShapes(), True)
    account.draw(prior, Posterior()(prior, torch.zeros(1, 128, 2, 2)))
    with torch.no_grad():
        taken, net = float(account.drawn()), float(account.bits())
    assert taken > 500
    assert abs(net) < 0.02 * taken  # what the least shares of coded levels cost


def test_residuals_are_relative_to_the_prior() -> None:
    prior, anchor = rows(3), torch.full((1, 3, 2, 2), 1.5)
    mean, spread, _ = prior.chunk(3, 1)
    ones = torch.ones_like(mean)
    posterior = Posterior()
    moved = posterior(prior, torch.cat([0 * ones, 0.25 * ones, -0.5 * ones], 1), anchor)
    torch.testing.assert_close(moved.chunk(3, 1)[0], (mean + 0.25).clamp(-8, 7.9375))
    torch.testing.assert_close(moved.chunk(3, 1)[1], (spread - 0.5).clamp_min(0))
    gated = posterior(prior, torch.cat([ones, 0 * ones, 0.75 * ones], 1), anchor)
    torch.testing.assert_close(gated.chunk(3, 1)[0], anchor)
    torch.testing.assert_close(gated.chunk(3, 1)[1], 0.75 * ones)


def test_posteriors_are_no_wider_than_allowed() -> None:
    prior = rows(4)
    wide = Posterior(3)(prior, torch.zeros(1, 8, 2, 2))
    assert float(Distribution.of(wide, False).scale.max()) == pytest.approx(3)
    narrow = Posterior(3)
    set_exact(narrow, True)
    assert float(Distribution.of(narrow(prior, torch.zeros(1, 8, 2, 2)), True).scale.max()) == 3


@pytest.mark.parametrize("scale", [1, 18])
def test_anchored_residuals_begin_at_the_anchor(scale: int) -> None:
    torch.manual_seed(4)
    prior, anchor = rows(6), (torch.rand(1, 6, 2, 2) * 128).round() / 16 - 4
    residual = Residual([(9, HIDDEN)], 6, anchored=True, scale=scale)(torch.rand(1, 9, 2, 2))
    d = Distribution.of(Posterior()(prior, residual, anchor), False)
    torch.testing.assert_close(d.mean, 16 * (anchor + 8), atol=1e-3, rtol=0)
    assert float((d.scale - scale).abs().max().detach()) < 2


def test_free_residuals_begin_near_the_prior() -> None:
    torch.manual_seed(5)
    prior = rows(6)
    residual = Residual([(9, HIDDEN)], 6, anchored=False)(torch.rand(1, 9, 2, 2))
    assert residual.shape == (1, 12, 2, 2)
    assert float((Posterior()(prior, residual) - prior).detach().abs().max()) < 0.2


def test_an_account_sums_each_picture() -> None:
    shapes = LatentShapes()
    x, row = torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 4, 4)
    row[0, 1], row[1, 1] = 3.0, 5.0  # a wider second picture
    account = Account(shapes, True)
    account.pay(x, row)
    bits = account.bits().detach()
    one = shapes.bits(torch.tensor([128.0]), torch.tensor([128.0]), torch.tensor([24.0]), torch.tensor([0.0]))
    assert bits.shape == (2,)
    assert float(bits[0]) == pytest.approx(16 * float(one.detach()), rel=1e-5)
    assert bits[1] > bits[0]
    account.pay(x, row, weight=0.5)
    torch.testing.assert_close(account.bits().detach(), 1.5 * bits)


def test_later_colors_begin_with_seven_tenths_of_the_innovation() -> None:
    torch.manual_seed(6)
    red = Color(8, 2, 1, 6)
    with torch.no_grad():
        red.head.weight.zero_()
    predictions = torch.tensor([0.5, 1.0, -0.5, 2.0]).view(1, 4, 1, 1)
    row = red(torch.rand(1, 8, 1, 1), predictions)
    assert float(row[0, 0].detach()) == pytest.approx(0.5 + 0.5 * (1.0 - 0.5) + 0.7 * 2.0)


@pytest.mark.parametrize("positions", [0, 64])
def test_cells_start_as_small_changes(positions: int) -> None:
    torch.manual_seed(7)
    x = torch.rand(2, 16, 8, 8) * 4
    change = (Cell(16, 2, 3, positions)(x) - x).abs().mean()
    assert 0 < float(change) < 0.6
    r = torch.rand(2, 12, 8, 8) * 4
    assert 0 < float((EncoderCell(12, 64)(r) - r).abs().mean()) < 0.6


def test_excitation_begins_near_one_and_looks_at_the_whole_picture() -> None:
    torch.manual_seed(8)
    excite, branch = Excite(16, 64), torch.randn(1, 16, 8, 8)
    torch.testing.assert_close(excite(branch), branch, atol=0.5, rtol=0.15)
    other = branch.clone()
    other[..., 7] += 4
    assert not torch.allclose(excite(other)[..., 0], excite(branch)[..., 0])


def test_grids_leave_sums_below_two_to_the_24() -> None:
    assert SCALES == 64
    for a, b in ((SIGNED, GATE), (MEAN, GATE)):
        assert a.magnitude * b.magnitude * 8 < 1 << 24

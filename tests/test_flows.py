"""Steps of flows: what they do can be undone, what they say of volume is true, and they begin well."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gencodec.models.conditioners import LEVELS, VALUE, Checkered, Conditioner, Plain, Residual, pointwise
from gencodec.models.flows import (
    BLOCK,
    COLORS,
    Constant,
    Coupling,
    Factor,
    Flow,
    Layout,
    Mix,
    Order,
    Squeeze,
    Step,
    density_bits,
    padded,
    values_of,
)
from gencodec.models.quantize import ExactConv, set_exact
from gencodec.models.shapes import SCALE_OF_ONE, SHAPES, Shapes


def conditioner(kept: int, changed: int, affine: bool = True) -> Conditioner:
    """A network whose outputs vary."""
    network = Conditioner(kept, Coupling.targets(changed, affine), 6, [Residual(6), *pointwise(6, 1)])
    torch.nn.init.normal_(network.last.weight, std=0.1)
    torch.nn.init.normal_(network.first.weight, std=0.2)
    return network


def steps() -> dict[str, Step]:
    """One of every kind, for 4 features."""
    torch.manual_seed(3)
    mix = Mix(4, torch.randn(4, 4))
    with torch.no_grad():
        mix.bias.normal_()
        mix.octaves.normal_(std=0.5)
    return {
        "squeeze": Squeeze(2),
        "order": Order([2, 0, 3, 1]),
        "additive": Coupling(2, conditioner(2, 2, affine=False), affine=False),
        "affine": Coupling(1, conditioner(1, 3), affine=True),
        "mix": mix,
    }


@pytest.mark.parametrize("name", steps())
@pytest.mark.parametrize("exact", [False, True])
def test_steps_can_be_undone(name: str, exact: bool) -> None:
    step = steps()[name]
    set_exact(step, exact)
    y = 2 * torch.randn(3, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        there = step(y)[0]
        torch.testing.assert_close(step.inverse(there), y, atol=2e-5, rtol=1e-4)
    assert not torch.equal(there, y)


@pytest.mark.parametrize("name", steps())
def test_steps_know_their_change_of_volume(name: str) -> None:
    step = steps()[name].double()
    y = torch.randn(1, 4, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    jacobian = torch.autograd.functional.jacobian(lambda v: step(v.view_as(y))[0].flatten(), y.flatten())
    expected = -torch.linalg.slogdet(jacobian).logabsdet / math.log(2)  # type: ignore[arg-type]
    torch.testing.assert_close(step(y)[1][0], expected, atol=1e-6, rtol=1e-6)
    assert name in ("squeeze", "order", "additive") or abs(float(expected)) > 0.1


def test_a_mix_begins_as_the_matrix_it_is_given() -> None:
    start = 2 * torch.eye(6)[[3, 0, 1, 5, 4, 2]] + 0.2 * torch.randn(6, 6, generator=torch.Generator().manual_seed(4))
    mix = Mix(6, start)
    torch.testing.assert_close(mix.matrix(), start)
    determinant = torch.linalg.slogdet(start).logabsdet / math.log(2)
    torch.testing.assert_close(mix.scales().sum(), determinant)
    with torch.no_grad():
        mix.octaves.fill_(0.5)
    torch.testing.assert_close(mix.matrix(), start * math.sqrt(2))


def test_actnorm_begins_with_unit_variance_where_it_magnifies() -> None:
    mix = Mix(3, torch.eye(3))
    y = torch.randn(50, 3, 4, 4) * torch.tensor([0.4, 1.0, 5.0])[:, None, None] + 3
    mix.fit(y)
    std, mean = torch.std_mean(mix(y)[0].detach(), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(std[:2], torch.ones(2), atol=0.1, rtol=0)
    assert std[2] == pytest.approx(5.0, rel=0.1)


def test_a_fitted_network_predicts_what_is_linear() -> None:
    torch.manual_seed(5)
    network = Conditioner(2, Coupling.targets(3, True), 8, [])
    x = torch.randn(20, 2, 8, 8)
    target = F.conv2d(padded(x, 1), 0.3 * torch.randn(3, 2, 3, 3)) + 1.5
    residual = network.fit(padded(x, 1), target)
    assert residual.square().mean() < 1e-3 * target.square().mean()
    torch.testing.assert_close(network(padded(x, 1))[:, :3], target - residual, atol=1e-3, rtol=1e-3)
    hidden = network.first(padded(x, 1))[:, 3:]
    assert 0.2 < hidden.mean() < 2, "hidden features are neither dead nor cut"


def test_a_fitted_coupling_leaves_the_unpredictable() -> None:
    torch.manual_seed(6)
    kept = torch.randn(20, 2, 8, 8)
    noise = 0.1 * torch.randn(20, 1, 8, 8)
    y = torch.cat([kept, kept[:, :1] - 0.5 * kept[:, 1:] + noise], 1)
    coupling = Coupling(2, Conditioner(2, Coupling.targets(1, False), 4, []), affine=False)
    coupling.fit(y)
    torch.testing.assert_close(coupling(y)[0][:, 2:], noise, atol=0.05, rtol=0)


def test_paper_networks_begin_as_nothing() -> None:
    layers = [ExactConv([(2, VALUE)], [(4, VALUE)])]
    network = Plain(layers, ExactConv([(4, VALUE)], Coupling.targets(3, True)))
    assert not network(torch.randn(2, 2, 4, 4)).any()


@pytest.mark.parametrize("first", [False, True])
def test_checkered_networks_see_one_color_and_change_the_other(first: bool) -> None:
    inner = ExactConv([(3, VALUE)], Coupling.targets(3, True), 1)
    checkered = Checkered(3, Plain([], inner), first=first)
    torch.nn.init.normal_(inner.weight)
    picture = torch.randn(2, 3, 6, 8)
    board = (torch.arange(6)[:, None] + torch.arange(8)) % 2 == (0 if first else 1)
    features = F.pixel_unshuffle(picture, 2).unflatten(1, (3, 4))
    kept = features[:, :, [0, 3] if first else [1, 2]].flatten(1, 2)
    inner.weight.data[:] = torch.randn(6, 3, 1, 1)
    assert not checkered(kept).any(), "a 1x1 network sees nothing where it is to say something"
    wide = ExactConv([(3, VALUE)], Coupling.targets(3, True), 3)
    checkered = Checkered(3, Plain([], wide), first=first)
    torch.nn.init.normal_(wide.weight, std=0.1)
    expected = F.pixel_unshuffle(wide(picture * board), 2).unflatten(1, (6, 4))
    torch.testing.assert_close(checkered(kept), expected[:, :, [1, 2] if first else [0, 3]].flatten(1, 2))


def density(z: Tensor, scale: float, shape: float) -> Tensor:
    full = torch.full_like(z, scale)
    return torch.exp2(-density_bits(Shapes(), z / LEVELS, torch.zeros_like(z), full, torch.full_like(z, shape)))


@pytest.mark.parametrize("shape", range(SHAPES))
def test_densities_integrate_to_what_tables_leave(shape: int) -> None:
    z = torch.linspace(-400, 400, 80001)
    total = density(z, SCALE_OF_ONE + 6.0, float(shape)).sum().detach() * 0.01
    assert float(total) == pytest.approx(255 / 256, abs=2e-3)


def test_densities_match_the_symbols_of_gray_levels() -> None:
    shapes = Shapes()
    x = torch.arange(100.0, 150.0)
    mean, scale, shape = (torch.full_like(x, v) for v in (120.3, 41.5, 2.5))
    by_symbol = shapes.bits(x, mean, scale, shape)
    by_density = density_bits(shapes, x / LEVELS, mean / LEVELS, scale, shape)
    torch.testing.assert_close(by_density[10:40], by_symbol[10:40], atol=0.02, rtol=0)


def test_far_latents_keep_a_finite_cost_and_gradient() -> None:
    z = torch.tensor([-5000.0, 0.0, 5000.0], requires_grad=True)
    zero = torch.zeros(3)
    bits = density_bits(Shapes(), z, zero, zero + 2, zero)
    (gradient,) = torch.autograd.grad(bits.sum(), z)
    assert torch.isfinite(bits).all()
    assert gradient[0] < 0 < gradient[2]


def test_constants_lie_on_their_grids_when_exact() -> None:
    constant = Constant(2)
    with torch.no_grad():
        constant.mean.copy_(torch.tensor([0.1234, -0.7]))
    set_exact(constant, True)
    mean, spread, shape = constant().flatten().chunk(3)
    torch.testing.assert_close(mean * 256, torch.floor(torch.tensor([0.1234, -0.7]) * 256))
    assert torch.equal(spread * 8, torch.floor(spread * 8))
    assert torch.equal(shape * 2, torch.floor(shape * 2))


def small_flow() -> Flow:
    """A flow of one level with a conditional prior."""
    layout = Layout()
    layout.squeeze()
    layout.mix((COLORS, (0, 3)))
    layout.couple((COLORS, (0, 3)), conditioner, affine=True)
    layout.put_aside((COLORS, (1, 2)), lambda kept, aside: Conditioner(kept, Factor.targets(aside), 4, []))
    layout.put_aside((COLORS, BLOCK))
    return Flow(layout.steps)


def test_layouts_keep_track_of_features() -> None:
    layout = Layout()
    layout.squeeze()
    assert layout.arrange(((0,), (1, 2))) == 10
    assert layout.labels[10:] == [(0, 1), (0, 2)]
    y = torch.arange(3.0)[None, :, None, None] * 100 + torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    for step in layout.steps:
        y = step(y)[0]
    assert y.flatten().tolist() == [100 * color + place for color, place in layout.labels]
    layout.put_aside((COLORS, (0, 3)))
    assert sorted(layout.labels) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]


def test_flows_can_be_undone() -> None:
    torch.manual_seed(7)
    flow, y = small_flow(), torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        latents = flow.latents(y)
        assert [tuple(z.shape) for z in latents] == [(3, 6, 4, 4), (3, 6, 4, 4)]
        torch.testing.assert_close(flow.inverse(latents), y, atol=1e-4, rtol=1e-4)


def test_a_flow_counts_latents_and_volume(slopes: Tensor) -> None:
    torch.manual_seed(8)
    flow, y = small_flow(), values_of(slopes)
    total = torch.zeros(8)
    with torch.no_grad():
        bits = flow.bits(y)
        for step in flow.steps:
            before, (y, rest) = y, step(y)
            if isinstance(step, Factor):
                total += density_bits(flow.shapes, rest, *step.distribution(y)).sum((1, 2, 3))
            else:
                total += rest
                assert before.numel() == y.numel()
    torch.testing.assert_close(bits, total)


def test_a_flow_begins_by_its_first_batch_once(slopes: Tensor) -> None:
    torch.manual_seed(9)
    flow = small_flow().eval()
    untouched = float(flow(slopes).mean().detach())
    assert not flow.begun
    flow.train()
    begun = float(flow(slopes).mean().detach())
    assert flow.begun
    assert begun < untouched - 1
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    flow(slopes)
    assert all(torch.equal(before[name], value) for name, value in flow.state_dict().items())


def test_code_lengths_are_a_tile_s_bits_a_sub_pixel(slopes: Tensor) -> None:
    torch.manual_seed(10)
    flow = small_flow()
    bits = flow(slopes)
    assert bits.shape == (8,)
    torch.manual_seed(11)
    noise = torch.rand_like(slopes)
    torch.manual_seed(11)
    torch.testing.assert_close(flow(slopes), flow.bits(values_of(slopes + noise)) / (3 * 32 * 32))

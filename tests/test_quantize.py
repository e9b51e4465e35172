"""Exact layers: what they compute is integer arithmetic, and what they learn from is the smooth network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.quantize import (
    EXACT_LIMIT,
    ROOM,
    ExactLinear,
    Grid,
    Group,
    Mean,
    Snap,
    Table,
    floor_through,
    set_exact,
    snap,
)

Integers = NDArray[np.int64]
several = settings(max_examples=60)
seeds = st.integers(0, 2**32 - 1)
POINTS = 50


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Any grid of up to 12 bits, signed or not."""
    high = 2 ** draw(st.integers(1, 11)) - draw(st.integers(0, 1))
    return Grid(draw(st.sampled_from([0, -high, -high // 2, 1])), high, draw(st.integers(-2, 9)))


groups = st.lists(st.tuples(st.integers(1, 9), grids()), min_size=1, max_size=3)


def points(rng: np.random.Generator, source: list[Group]) -> Integers:
    """Random integers on the grids, both ends among them; (rows, POINTS)."""
    rows = [rng.integers(g.low, g.high + 1, (n, POINTS)) for n, g in source]
    for part, (_, g) in zip(rows, source, strict=True):
        part[:, 0], part[:, 1] = g.low, g.high
    return np.concatenate(rows)


def bits_of(groups: list[Group]) -> Integers:
    """The bits of every row, (rows, 1)."""
    return np.repeat([g.bits for _, g in groups], [n for n, _ in groups])[:, None]


def values(integers: Integers, groups: list[Group]) -> Tensor:
    """What the integers stand for."""
    return torch.from_numpy(integers * np.exp2(-bits_of(groups).astype(float))).float()


def random_layer(rng: np.random.Generator, sources: list[Group], targets: list[Group], bits: int) -> ExactLinear:
    """A layer whose weights have any magnitude, some of them zero."""
    layer = ExactLinear(sources, targets, bits)
    shape = (layer.out_features, layer.in_features)
    weight = rng.standard_normal(shape) * np.exp2(rng.uniform(-12, 4, (shape[0], 1)))
    weight[rng.random(shape) < 0.1] = 0
    bias = rng.standard_normal(shape[0]) * np.exp2(rng.uniform(-8, 6, shape[0]))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


def integer_weights(layer: ExactLinear) -> tuple[Integers, Integers, Integers]:
    """Weights, biases and exponents, worked out in double precision from the layer's parameters."""
    exponents = layer.scale_bits().double().numpy()
    unit = np.exp2(exponents)
    steps = np.exp2(-bits_of(layer.sources).astype(float)).T
    weight = np.rint(layer.weight.detach().double().numpy() * steps * unit[:, None])
    bias = np.rint(layer.bias.detach().double().numpy() * unit)
    return weight.astype(np.int64), bias.astype(np.int64), exponents.astype(np.int64)


def shifted(integers: Integers, by: Integers) -> Integers:
    """Floor of `integers * 2**by`, in integers alone."""
    return (integers << np.maximum(by, 0)) >> np.maximum(-by, 0)


def clipped(integers: Integers, groups: list[Group]) -> Integers:
    low, high = (np.repeat([getattr(g, end) for _, g in groups], [n for n, _ in groups]) for end in ("low", "high"))
    return np.clip(integers, low[:, None], high[:, None])


@several
@given(seeds, groups, groups, st.integers(5, 12))
def test_a_weighted_sum_is_the_integer_sum(seed: int, sources: list[Group], targets: list[Group], bits: int) -> None:
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, sources, targets, bits)
    layer.exact = True
    x = points(rng, sources)
    weight, bias, exponents = integer_weights(layer)
    total = weight @ x + bias[:, None]
    expected = clipped(shifted(total, bits_of(targets) - exponents[:, None]), targets)
    with torch.no_grad():
        found = layer(values(x, sources))
    np.testing.assert_array_equal(found.double().numpy() * np.exp2(bits_of(targets).astype(float)), expected)


@several
@given(seeds, groups, groups, st.integers(5, 16))
def test_scales_keep_the_bound_and_are_as_fine_as_it_allows(
    seed: int, sources: list[Group], targets: list[Group], bits: int
) -> None:
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, sources, targets, bits)
    weight, bias, exponents = integer_weights(layer)
    reach = np.repeat([g.magnitude for _, g in sources], [n for n, _ in sources])
    widest = 2 ** (bits - 1) - 1
    assert np.abs(weight).max() <= widest
    assert (np.abs(weight) @ reach + np.abs(bias)).max() < ROOM < EXACT_LIMIT
    # one bit more would break the width of a weight or, with the roundings' allowance, the bound
    doubled = np.exp2(exponents + 1.0)
    real = np.abs(layer.weight.detach().double().numpy()) * np.exp2(-bits_of(sources).astype(float)).T
    steps = np.exp2(-bits_of(targets).astype(float))[:, 0]
    worst = real @ reach + np.abs(layer.bias.detach().double().numpy()) + steps
    too_wide = real.max(1) * doubled > widest * (1 - 1e-5)
    too_large = worst * doubled > (ROOM - 2 - 0.5 * reach.sum()) * (1 - 1e-5)
    assert (too_wide | too_large).all()


def test_positions_may_have_any_shape() -> None:
    sources, targets = [(3, Grid(0, 255, 4))], [(2, Grid(-511, 511, 5)), (1, Grid(0, 63, 3))]
    layer = random_layer(np.random.default_rng(1), sources, targets, 10)
    layer.exact = True
    x = values(points(np.random.default_rng(2), sources), sources)
    assert torch.equal(layer(x.view(3, 5, 2, 5)).view(3, POINTS), layer(x))


def test_without_exactness_a_layer_is_linear() -> None:
    sources, targets = [(4, Grid(-255, 255, 4))], [(3, Grid(-(2**20), 2**20, 4))]
    layer = random_layer(np.random.default_rng(3), sources, targets, 8)
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), layer.weight @ x + layer.bias[:, None])


FUNCTIONS: list[Callable[[Tensor], Tensor]] = [torch.sigmoid, torch.tanh, F.elu, F.silu]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_table_is_the_floored_function(function: Callable[[Tensor], Tensor]) -> None:
    source, target = Grid(-300, 511, 6), Grid(-100, 127, 7)
    table = Table(function, source, target)
    integers = np.arange(source.low, source.high + 1)
    real = function(torch.from_numpy(integers / 2.0**source.bits)).numpy()
    expected = np.clip(np.floor(real * 2.0**target.bits), target.low, target.high)
    set_exact(table, True)
    found = table(values(integers[None], [(1, source)])) * 2.0**target.bits
    np.testing.assert_array_equal(found[0].numpy(), expected)


@several
@given(seeds, grids(), grids())
def test_snap_floors_and_clips(seed: int, source: Grid, target: Grid) -> None:
    x = points(np.random.default_rng(seed), [(3, source)])
    layer = Snap(target)
    set_exact(layer, True)
    expected = clipped(shifted(x, np.array(target.bits - source.bits)), [(3, target)])
    found = layer(values(x, [(3, source)])).double().numpy() * 2.0**target.bits
    np.testing.assert_array_equal(found, expected)


@several
@given(seeds, st.integers(1, 2**21), st.integers(1, 500), st.integers(0, 8))
def test_mean_is_the_integer_quotient(seed: int, largest: int, most: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    total, count = rng.integers(0, largest + 1, (4, POINTS)), rng.integers(1, most + 1, (1, POINTS))
    total[0] = np.minimum(count[0] * rng.integers(0, 1 + largest // most, POINTS), largest)  # no remainder
    total[1] = np.maximum(total[0] - 1, 0)  # just below
    target = Grid(0, 1000, bits)
    layer = Mean(target)
    set_exact(layer, True)
    found = layer(values(total, [(4, target)]), torch.from_numpy(count).float()).double().numpy() * 2.0**bits
    np.testing.assert_array_equal(found, np.clip(total // count, 0, 1000))


def gradient(output: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    (found,) = torch.autograd.grad((output * weights).sum(), wanted)
    return found


def test_floor_passes_gradients_as_they_are() -> None:
    x = torch.tensor([-1.5, 0.0, 2.7], requires_grad=True)
    weights = torch.tensor([1.0, -2.0, 3.0])
    assert torch.equal(floor_through(x), torch.tensor([-2.0, 0.0, 2.0]))
    assert torch.equal(gradient(floor_through(x), x, weights), weights)


@pytest.mark.parametrize("exact", [False, True])
def test_snap_stops_gradients_outside_its_range_only(exact: bool) -> None:
    grid = Grid(-8, 7, 2)
    x = torch.tensor([-2.6, -1.7, 0.3, 1.6, 1.9], requires_grad=True)
    found = gradient(snap(x, grid, exact), x, torch.full((5,), 3.0))
    assert torch.equal(found, torch.tensor([0.0, 3.0, 3.0, 3.0, 0.0]))


def test_exact_weighted_sums_learn_as_smooth_ones_do() -> None:
    rng = np.random.default_rng(4)
    sources, targets = [(5, Grid(-255, 255, 4))], [(3, Grid(-(2**20), 2**20, 6))]
    layer = random_layer(rng, sources, targets, 9)
    x = values(points(rng, sources), sources).requires_grad_()
    weights = torch.from_numpy(rng.standard_normal((3, POINTS))).float()
    layer.exact = True
    output = layer(x)
    to_weight, to_bias, to_x = torch.autograd.grad((output * weights).sum(), (layer.weight, layer.bias, x))
    torch.testing.assert_close(to_weight, weights @ x.detach().t())
    torch.testing.assert_close(to_bias, weights.sum(1))
    torch.testing.assert_close(to_x, layer.rounded()[0].detach().t() @ weights)


def test_half_gradients_are_nearly_the_whole_ones_and_change_no_output() -> None:
    rng = np.random.default_rng(4)
    sources, targets = [(5, Grid(-255, 255, 4))], [(3, Grid(-(2**20), 2**20, 6))]
    layer = random_layer(rng, sources, targets, 9)
    x = values(points(rng, sources), sources).requires_grad_()
    weights = torch.from_numpy(rng.standard_normal((3, POINTS))).float()
    found = []
    for half in (False, True):
        set_exact(layer, True, half_gradients=half)
        output = layer(x)
        found.append((output, *torch.autograd.grad((output * weights).sum(), (layer.weight, layer.bias, x))))
    (whole, *expected), (half_, *gradients) = found
    assert torch.equal(whole, half_)
    for wanted, gradient_ in zip(expected, gradients, strict=True):
        assert gradient_.dtype == torch.float32
        torch.testing.assert_close(gradient_, wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))
    assert not torch.equal(expected[0], gradients[0])
    set_exact(layer, True)
    assert not layer.half_gradients


def test_a_table_has_the_gradient_of_its_function() -> None:
    source, target = Grid(-64, 63, 4), Grid(-127, 127, 7)
    table = Table(torch.tanh, source, target)
    x = values(np.arange(-60, 60)[None], [(1, source)]).requires_grad_()
    set_exact(table, True)
    found = gradient(table(x), x, torch.ones(1, 120))
    inside = (torch.tanh(x) * 2.0**target.bits).abs() < 127
    torch.testing.assert_close(found, torch.where(inside, 1 - torch.tanh(x) ** 2, 0.0))
    assert inside.any()
    assert not inside.all()


def test_exactness_is_switched_in_all_layers() -> None:
    grid = Grid(0, 15, 2)
    inner = nn.Sequential(Snap(grid), ExactLinear([(1, grid)], [(1, grid)]))
    network = nn.ModuleList([inner, Table(torch.tanh, grid, grid), Mean(grid), nn.ReLU()])
    layers = [part for part in network.modules() if isinstance(part, ExactLinear | Table | Snap | Mean)]
    for exact in (True, False):
        set_exact(network, exact)
        assert [layer.exact for layer in layers] == [exact] * 4

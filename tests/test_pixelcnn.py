"""Gated PixelCNN: what depends on what, how large it is, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gencodec.errors import UsageError
from gencodec.models.pixelcnn import PAPER, PixelCNN, PixelCNNConfig
from gencodec.models.quantize import set_exact
from gencodec.models.soap import Soap
from tests.causality import changed, noise

TINY = PixelCNNConfig(tile=16, hidden=8, layers=3, output=8, color_hidden=8, bank=2)


@pytest.fixture
def network() -> PixelCNN:
    torch.manual_seed(5)
    return PixelCNN(TINY).eval()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("y", "x"), [(0, 0), (0, 6), (3, 0), (4, 5), (4, 9), (8, 9)])
def test_no_distribution_sees_its_own_value_or_later_ones(network: PixelCNN, exact: bool, y: int, x: int) -> None:
    set_exact(network, exact)
    tile, order = noise(9, 10), torch.arange(90).view(9, 10)
    for color in range(3):
        seen = changed(network, tile, color, y, x)
        assert not seen[:, order < 10 * y + x].any()
        assert not seen[: color + 1, y, x].any()
        assert seen[color + 1 :, y, x].all() or color == 2
        if x < 9:
            assert seen[:, y, x + 1].any()
        if y < 8:
            assert seen[:, y + 1, x].any()


@torch.no_grad()
def test_the_vertical_stack_sees_nothing_of_its_own_row(network: PixelCNN) -> None:
    maps = torch.randn(1, 9, 8, 8)
    other = maps.clone()
    other[:, :, 4] += 1
    for a, b in zip(network.links_of(maps), network.links_of(other), strict=True):
        where = (a != b).any(1)[0]
        assert not where[:5].any()
        assert where[5].all()


@torch.no_grad()
def test_there_is_no_blind_spot(network: PixelCNN) -> None:
    tile = noise(8, 16)
    # to the upper right, beyond the context: it is the vertical stack that sees it
    assert changed(network, tile, 0, 2, 9)[:, 6, 5].any()


def test_it_starts_near_the_base_prediction_and_learns(slopes: Tensor) -> None:
    torch.manual_seed(2)
    network, tiles = PixelCNN(TINY), slopes[..., :16, :16]
    optimizer = Soap(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = network(tiles).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] < 7
    assert losses[-1] < losses[0] - 0.8


def test_the_exact_network_codes_nearly_as_well(slopes: Tensor, network: PixelCNN) -> None:
    tiles = slopes[:, :4]
    with torch.no_grad():
        smooth = float(network(tiles).mean())
        set_exact(network, True)
        assert float(network(tiles).mean()) == pytest.approx(smooth, rel=0.03)


def test_every_weight_learns_in_both_forms(network: PixelCNN) -> None:
    for exact in (False, True):
        set_exact(network, exact)
        network.zero_grad()
        network(noise(12, 12, 2)).mean().backward()
        unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert not unused


@pytest.mark.parametrize("size", ["layers", "left"])
def test_sizes_that_no_codec_takes_are_refused(size: str) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        replace(TINY, **{size: 1})


def test_the_default_size_takes_a_hundred_thousand_multiplications_a_pixel() -> None:
    multiplications = sum(p.numel() for name, p in PixelCNN().named_parameters() if name.endswith("weight"))
    assert 80_000 < multiplications < 110_000


def test_the_papers_size_has_as_many_parameters_as_its_description_gives() -> None:
    with torch.device("meta"):
        network = PixelCNN(PAPER)
    p, n, layers = 384, 5, 20
    down, along = (n + 1) // 2 * n, (n + 1) // 2  # taps of an n x n and a 1 x n filter that are causal
    vertical = p * down * 2 * p + 2 * p
    horizontal = p * along * 2 * p + 2 * p
    link, residual = 2 * p * 2 * p + 2 * p, p * p + p
    stacks = (network.vertical, network.horizontal, network.links, network.residuals)
    counted = [sum(q.numel() for q in stack.parameters()) for stack in stacks]
    assert counted == [(layers - 1) * vertical, (layers - 1) * horizontal, layers * link, (layers - 1) * residual]
    assert 115e6 < sum(q.numel() for q in network.parameters()) < 130e6

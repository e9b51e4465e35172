"""PixelRNN: Row LSTM and Diagonal BiLSTM, what depends on what, how large they are, and that they learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gencodec.models.pixelrnn import (
    PAPER,
    Cell,
    DiagonalBiLSTM,
    PixelRNN,
    PixelRNNConfig,
    Recurrence,
    skewed,
    straightened,
)
from gencodec.models.quantize import set_exact
from gencodec.models.soap import Soap
from tests.causality import changed, noise

SIZES: dict[str, Any] = {"tile": 16, "hidden": 6, "layers": 2, "output": 8, "color_hidden": 8, "bank": 2}
ROW, DIAGONAL = PixelRNNConfig(**SIZES), PixelRNNConfig(**SIZES, diagonal=1)
BOTH = pytest.mark.parametrize("config", [ROW, DIAGONAL], ids=["row", "diagonal"])


def built(config: PixelRNNConfig) -> PixelRNN:
    torch.manual_seed(5)
    return PixelRNN(config).eval()


@BOTH
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("y", "x"), [(0, 0), (0, 6), (3, 0), (4, 8), (6, 7)])
def test_no_distribution_sees_its_own_value_or_later_ones(config: PixelRNNConfig, exact: bool, y: int, x: int) -> None:
    network = built(config)
    set_exact(network, exact)
    tile, order = noise(7, 9), torch.arange(63).view(7, 9)
    for color in range(3):
        seen = changed(network, tile, color, y, x)
        assert not seen[:, order < 9 * y + x].any()
        assert not seen[: color + 1, y, x].any()
        if x < 8:
            assert seen[:, y, x + 1].any()
        if y < 6:
            assert seen[:, y + 1, x].any()


@pytest.mark.parametrize(("config", "sides"), [(ROW, 5), (DIAGONAL, 14)], ids=["row", "diagonal"])
def test_states_carry_what_is_far_above(config: PixelRNNConfig, sides: int) -> None:
    # five rows up, beyond every context: Row LSTM sees a triangle there, the Diagonal BiLSTM all columns
    tile = noise(7, 15)
    seen = changed(built(config), tile, 0, 0, 7)[:, 6].any(0)
    assert seen[7]
    assert int(seen.sum()) >= sides


def test_the_direction_from_right_to_left_sees_what_is_right_and_above() -> None:
    torch.manual_seed(1)
    layer = DiagonalBiLSTM(DIAGONAL)
    x = torch.randn(1, 12, 4, 6)
    other = x.clone()
    other[:, :, 1, 5] += 1
    with torch.no_grad():
        where = (layer(x) != layer(other)).any(1)[0]
    assert not where[0].any()
    assert where[1].tolist() == [False] * 5 + [True]
    assert where[2].all()


def test_skewing_moves_each_row_by_one_more_column() -> None:
    x = torch.arange(1.0, 13).view(1, 1, 3, 4)
    rows = skewed(x)[0, 0].tolist()
    assert rows == [[1, 2, 3, 4, 0, 0], [0, 5, 6, 7, 8, 0], [0, 0, 9, 10, 11, 12]]
    assert torch.equal(straightened(skewed(x), 4), x)


def test_a_cell_is_the_lstm_of_the_paper() -> None:
    torch.manual_seed(3)
    o, f, i, g, c = torch.randn(5, 1, 4, 1, 2)
    cell, state = Cell()(torch.cat([o, f, i], 1), g, c)
    expected = f.sigmoid() * c + i.sigmoid() * g.tanh()
    torch.testing.assert_close(cell, expected)
    torch.testing.assert_close(state, o.sigmoid() * expected.tanh())


def test_a_recurrence_goes_on_from_the_states_before() -> None:
    torch.manual_seed(4)
    recurrence = Recurrence(3, 3, (1, 1))
    sums = list(torch.randn(4, 2, 12, 1, 5).unbind(0))
    whole = recurrence(sums)
    assert [state.shape for state in whole] == [(2, 3, 1, 5)] * 4
    sums[1] = sums[1] + 1
    other = recurrence(sums)
    assert [torch.equal(a, b) for a, b in zip(whole, other, strict=True)] == [True, False, False, False]


@BOTH
def test_it_starts_near_the_base_prediction_and_learns(config: PixelRNNConfig, slopes: Tensor) -> None:
    torch.manual_seed(2)
    network, tiles = PixelRNN(config), slopes[..., :16, :16]
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


@BOTH
def test_the_exact_network_codes_nearly_as_well(config: PixelRNNConfig, slopes: Tensor) -> None:
    network, tiles = built(config), slopes[:, :4, :16]
    with torch.no_grad():
        smooth = float(network(tiles).mean())
        set_exact(network, True)
        assert float(network(tiles).mean()) == pytest.approx(smooth, rel=0.03)


@BOTH
@pytest.mark.parametrize("exact", [False, True])
def test_every_weight_learns_in_both_forms(config: PixelRNNConfig, exact: bool) -> None:
    network = built(config)
    set_exact(network, exact)
    network(noise(8, 8, 2)).mean().backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused


def test_the_default_size_takes_a_hundred_thousand_multiplications_a_pixel() -> None:
    for config, most in ((PixelRNNConfig(), 110_000), (PixelRNNConfig(diagonal=1), 120_000)):
        weights = sum(p.numel() for name, p in PixelRNN(config).named_parameters() if name.endswith("weight"))
        assert 80_000 < weights < most


def test_the_papers_size_has_as_many_parameters_as_its_description_gives() -> None:
    with torch.device("meta"):
        network = PixelRNN(PAPER)
    h, k, layers = 128, 3, 12
    # a 3 x 1 convolution from 2 h features to 4 gates, of which mask B leaves two columns, and one from h states
    layer = 2 * h * 2 * 4 * h + 4 * h + h * k * 4 * h + 4 * h
    assert sum(p.numel() for p in network.layers.parameters()) == layers * layer
    assert sum(p.numel() for p in network.residuals.parameters()) == (layers - 1) * (h * 2 * h + 2 * h)
    assert 6.5e6 < sum(p.numel() for p in network.parameters()) < 10e6

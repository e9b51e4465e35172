"""Larger photo networks begin as the smaller ones that they grew from, and can learn beyond them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gencodec.models.grow import grown, matrices
from gencodec.models.photo import Photo, PhotoConfig

SMALL = PhotoConfig(hidden=8, color_hidden=5, inner=4, energies=3, drifts=1, layers=2, bank=2)
LARGE = replace(
    SMALL,
    hidden=13,
    color_hidden=7,
    inner=6,
    reach=((-5, -1), (-3, 2), (-3, 4), (-1, 1), (0, 2)),
    trace_at=((0, -1), (1, 2), (0, -2), (1, 0), (1, 1), (1, -1)),
)


@pytest.fixture
def small() -> Photo:
    torch.manual_seed(3)
    return Photo(SMALL)


def larger(small: Photo, config: PhotoConfig = LARGE) -> Photo:
    network = Photo(config)
    network.load_state_dict(grown(small.config, config, small.state_dict()))
    return network


@pytest.mark.parametrize("config", [LARGE, replace(SMALL, hidden=9), replace(SMALL, inner=5), SMALL])
def test_a_grown_network_computes_the_same(small: Photo, config: PhotoConfig) -> None:
    x = torch.nn.functional.avg_pool2d(torch.randint(0, 256, (3, 2, 24, 30)).float(), 3, 1, 1).round()
    with torch.no_grad():
        torch.testing.assert_close(larger(small, config)(x), small(x), rtol=1e-4, atol=1e-4)


def test_what_was_added_learns(small: Photo) -> None:
    network = larger(small)
    network(torch.randint(0, 256, (3, 1, 16, 16)).float()).mean().backward()
    last = network.get_parameter("layers.1.weight")
    gradient = network.get_parameter("green.linear.weight").grad
    assert gradient is not None
    assert (gradient[:, SMALL.hidden :] != 0).any()
    assert (last[SMALL.hidden :] != 0).all()


@pytest.mark.parametrize(
    "sizes",
    [
        *({"hidden": 7}, {"inner": 3}, {"bank": 3}, {"energies": 4}, {"layers": 3}),
        *({"reach": ((-4, -1), (-3, 2), (-2, 3))}, {"trace_at": ((0, -1),)}),
    ],
)
def test_what_cannot_grow_is_refused(small: Photo, sizes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"only the width|in the larger network"):
        grown(SMALL, replace(SMALL, **sizes), small.state_dict())  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [SMALL, LARGE])
def test_rows_and_columns_are_those_of_the_layers(config: PhotoConfig) -> None:
    shapes = {name: tuple(map(len, names)) for name, names in matrices(config).items()}
    weights = {n.removesuffix(".weight"): tuple(p.shape) for n, p in Photo(config).named_parameters() if p.dim() == 2}
    weights.pop("shapes.logits")
    assert shapes == weights

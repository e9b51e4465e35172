"""Features that have fallen silent come to life without changing what the network computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gencodec.models.photo import Photo, PhotoConfig
from gencodec.models.revive import LIVELY, SILENT, activity, readers, revive

SILENCED = {"layers.0": 3, "layers.1": 5, "red_layer": 2, "blue_layer": 1}


@pytest.fixture
def tiles() -> Tensor:
    torch.manual_seed(1)
    return torch.nn.functional.avg_pool2d(torch.randint(0, 256, (3, 2, 24, 30)).float(), 3, 1, 1).round()


@pytest.fixture
def photo() -> Photo:
    """A network some of whose features are silent."""
    torch.manual_seed(3)
    photo = Photo(PhotoConfig(hidden=16, color_hidden=9, inner=4, energies=3, drifts=1, layers=2, bank=2))
    with torch.no_grad():
        for name, count in SILENCED.items():
            photo.get_parameter(f"{name}.bias")[:count] = -1e3
    return photo


def test_silent_features_come_to_life(photo: Photo, tiles: Tensor) -> None:
    with torch.no_grad():
        before, silent = photo(tiles), [share < SILENT for share in activity(photo, tiles)]
        assert revive(photo, tiles) == sum(int(each.sum()) for each in silent) >= sum(SILENCED.values())
        torch.testing.assert_close(photo(tiles), before, rtol=1e-4, atol=1e-4)
        shares = activity(photo, tiles)
    assert [len(share) for share in shares] == [16, 16, 9, 9]
    for share, former in zip(shares, silent, strict=True):
        assert (share[former] > LIVELY[0]).float().mean() > 0.6
        assert (share[~former] >= SILENT).all()


def test_they_learn(photo: Photo, tiles: Tensor) -> None:
    revive(photo, tiles)
    photo(tiles).mean().backward()
    for name, read in readers(photo).items():
        gradient = photo.get_parameter(f"{read[0]}.weight").grad
        assert gradient is not None
        assert (gradient[:, : SILENCED[name]] != 0).any()


def test_one_lively_feature_is_enough(photo: Photo, tiles: Tensor) -> None:
    with torch.no_grad():
        photo.get_parameter("red_layer.bias")[1:] = -1e3
        photo.get_parameter("red_layer.bias")[:1] = 0
        revive(photo, tiles)
        assert torch.isfinite(photo(tiles)).all()


def test_lively_networks_stay_as_they_are(photo: Photo, tiles: Tensor) -> None:
    revive(photo, tiles)
    weights = {name: value.clone() for name, value in photo.state_dict().items()}
    again = revive(photo, tiles)
    changed = sum(int((photo.state_dict()[f"{name}.bias"] != weights[f"{name}.bias"]).sum()) for name in readers(photo))
    assert changed == again < sum(SILENCED.values())

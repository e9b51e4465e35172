"""The set of sprites, and the VAE of a few latents that learns it."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch

from gencodec.errors import UsageError
from gencodec.export.sprites import export_sprites
from gencodec.models import data
from gencodec.models.families import find_family
from gencodec.models.soap import Soap
from gencodec.models.sprites import SIZES, Sprites, chosen, drawn, factors_of
from gencodec.models.spritevae import PAPER, SpriteVAE, SpriteVAEConfig
from gencodec.models.train import side_of
from gencodec.runtime import load

TINY = SpriteVAEConfig(latents=4, widths=(4, 8, 8), hidden=16)
FACTORS = st.tuples(*(st.integers(0, size - 1) for size in SIZES))


def picture(*factors: int) -> np.ndarray:
    """One sprite, (64, 64) of 0 and 1."""
    return drawn(np.array([factors]))[0] // 255


def middle(sprite: np.ndarray) -> np.ndarray:
    """Mean row and column of a sprite's white pixels."""
    return np.argwhere(sprite).mean(0)


# the set


@settings(max_examples=40)
@given(FACTORS)
def test_sprites_are_whole_black_and_white_and_determined(factors: tuple[int, ...]) -> None:
    sprite = drawn(np.array([factors, factors]))
    assert (sprite.shape, sprite.dtype) == ((2, 64, 64), np.uint8)
    assert set(np.unique(sprite)) == {0, 255}
    assert np.array_equal(sprite[0], sprite[1])
    assert not any(sprite[0, edge].any() or sprite[0, :, edge].any() for edge in (0, 1, -2, -1))
    assert 50 < (sprite[0] > 0).sum() < 500


@settings(max_examples=40)
@given(FACTORS, st.integers(0, 31), st.integers(0, 31))
def test_places_move_a_sprite_and_nothing_else(factors: tuple[int, ...], x: int, y: int) -> None:
    before, after = picture(*factors), picture(*factors[:3], x, y)
    assert np.array_equal(np.roll(before, (y - factors[4], x - factors[3]), (0, 1)), after)


@settings(max_examples=40)
@given(FACTORS)
def test_larger_scales_are_larger(factors: tuple[int, ...]) -> None:
    areas = [int(picture(factors[0], scale, *factors[2:]).sum()) for scale in range(SIZES[1])]
    assert all(a <= b for a, b in pairwise(areas))
    assert areas[-1] == pytest.approx(4 * areas[0], rel=0.2)


def test_orientations_turn_shapes() -> None:
    for shape in range(3):
        sprites = [picture(shape, 5, angle, 16, 16) for angle in range(SIZES[2])]
        turned = np.rot90(sprites[3][1:, 1:])  # around the pixel (32, 32)
        quarter = sprites[3 - 10][1:, 1:] if shape else turned
        assert np.array_equal(turned, quarter)
        assert np.allclose([sprite.sum() for sprite in sprites], sprites[0].sum(), rtol=0.16)
    assert len({picture(2, 5, angle, 16, 16).tobytes() for angle in range(40)}) == 40
    assert len({picture(0, 5, angle, 16, 16).tobytes() for angle in range(40)}) == 10


def test_hearts_stand_upright() -> None:
    heart = picture(2, 5, 0, 16, 16)
    rows = heart.sum(1)[heart.any(1)]
    assert np.array_equal(heart[:, 1:], heart[:, :0:-1])
    assert rows[-1] <= 3
    assert rows[: len(rows) // 2].sum() > rows[len(rows) // 2 :].sum()


def test_the_set_holds_every_combination_once() -> None:
    assert len(Sprites()) == 737_280
    numbers = np.array([0, 1, 32, 737_279])
    assert factors_of(numbers).tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [2, 5, 39, 31, 31]]
    assert np.array_equal(Sprites()[numbers], drawn(factors_of(numbers)))
    some = chosen(1000, seed=0)
    assert len(set(some)) == 1000
    assert np.array_equal(some, chosen(1000, seed=0))


def test_the_set_is_found_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    place = data.find_data("sprites")
    assert data.is_set(place)
    assert side_of(TINY, place) == 64
    known, held_out = data.load_set(place)
    assert (len(known), held_out.shape, held_out.dtype) == (737_280, (1000, 64, 64), np.uint8)
    batches = data.Small(known, data.Draw(batch=5, size=64, seed=1))
    first, second = islice(batches, 2)
    assert first.shape == (3, 5, 64, 64)
    assert not torch.equal(first, second)
    assert torch.equal(first[0], first[2])
    (tmp_path / "sprites").mkdir()
    assert not data.is_set(data.find_data("sprites"))
    with pytest.raises(UsageError, match=r"no folder sprite$"):
        data.find_data("sprite")


# the network


def parameters(config: SpriteVAEConfig) -> int:
    return sum(p.numel() for p in SpriteVAE(config).parameters())


def test_the_papers_network_has_its_size() -> None:
    """Layers of 4096, 1200, 1200 and 2 x 10 features, and of 10, 1200, 1200, 1200 and 4096."""
    sizes = [(4096, 1200), (1200, 1200), (1200, 20), (10, 1200), (1200, 1200), (1200, 1200), (1200, 4096)]
    assert parameters(PAPER) == sum(a * b + b for a, b in sizes) == 14_196_516
    assert parameters(SpriteVAEConfig()) == 158_100


@pytest.mark.parametrize("config", [TINY, replace(TINY, dense=1)])
def test_costs_are_a_code_length_and_beta_times_a_divergence(config: SpriteVAEConfig) -> None:
    torch.manual_seed(0)
    sprites = torch.from_numpy(Sprites()[chosen(6, seed=2)])
    tiles = torch.stack([sprites] * 3).float()
    costs = []
    for beta in (0.0, 1.0, 5.0):
        network = SpriteVAE(replace(config, beta=beta))
        torch.manual_seed(1)
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.1)
        costs.append(network(tiles).detach())
    assert costs[0].shape == (6,)
    torch.testing.assert_close(costs[2] - costs[0], 5 * (costs[1] - costs[0]))
    distortion, divergence = network.terms(sprites[:, None] / 255.0)
    assert (distortion.shape, divergence.shape) == ((6,), (6, 4))
    assert (divergence >= 0).all()


def test_training_learns_sprites() -> None:
    """From a bit a pixel to less than what a constant picture costs: about a twentieth of the pixels is white."""
    torch.manual_seed(0)
    network = find_family("beta-vae-sprites").build(replace(TINY, beta=1.0))
    optimizer = Soap(network.parameters(), lr=1e-2)
    rng, losses = np.random.default_rng(0), []
    for _ in range(60):
        tiles = torch.from_numpy(np.stack([Sprites()[rng.integers(len(Sprites()), size=16)]] * 3)).float()
        loss = network(tiles).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.9
    assert np.mean(losses[-10:]) < 0.29


# the file


@pytest.mark.parametrize("config", [TINY, replace(TINY, dense=1)])
def test_the_file_computes_what_the_network_does(config: SpriteVAEConfig, tmp_path: Path) -> None:
    torch.manual_seed(4)
    network = SpriteVAE(config).eval()
    export_sprites(network, tmp_path / "tiny.onnx", {"licence": "none"})
    model = load(tmp_path / "tiny.onnx", threads=1, device="cpu")
    assert model.card.family == model.family == "beta-vae-sprites"
    assert model.config["sizes"]["beta"] == 4
    pixels = torch.from_numpy(Sprites()[chosen(3, seed=2)])[:, None] / 255.0
    z = torch.randn(3, 4, 1, 1)
    with torch.no_grad():
        expected = [*network.posterior(pixels), torch.sigmoid(network.decoder(z))]
    found = [*model.run_float("encode", pixels.numpy()), *model.run_float("decode", z.numpy())]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)  # weights are kept in float16
    rows = model.call("prior", np.ones((1, 1, 1, 2), np.float32))[0]
    assert rows[0, :, 0, 1].tolist() == [0] * 4 + [1] * 4

"""The codec of VAE and NVAE: what is popped is what was pushed, at the cost that the network states."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gencodec.codec import latents as latent_codec
from gencodec.codec.coder import IntervalCoder, RandomCoder
from gencodec.codec.latents import (
    Encoding,
    LatentCodec,
    Moved,
    Normals,
    Place,
    Row,
    Seen,
    draw,
    give_back,
    pop,
    push,
)
from gencodec.codec.tables import Tables
from gencodec.errors import InvalidFile
from gencodec.export import latents as exporter
from gencodec.export.latents import export_latents
from gencodec.export.photo import scale_rates, shape_tables
from gencodec.export.stages import Stage
from gencodec.models.latents import LatentShapes, Posterior
from gencodec.models.nvae import NVAE, NVAEConfig
from gencodec.models.quantize import set_exact
from gencodec.models.soap import Soap
from gencodec.models.vae import VAE, VAEConfig
from gencodec.runtime import Model, load

Tiles = NDArray[np.uint8]
SIDE = 16
LATTICE = NVAEConfig(
    tile=SIDE,
    points=0,
    lattice=2,
    groups=(1, 1),
    latents=3,
    width=8,
    fine_width=8,
    fine_cells=(1, 1),
    bank=2,
    color_hidden=6,
    encoder=8,
)
CONFIGS: dict[str, VAEConfig | NVAEConfig] = {
    "vae": VAEConfig(tile=SIDE, scale=2, latents=24, encoder=8, widths=(8, 8, 8), color_hidden=6),
    "dense": VAEConfig(tile=SIDE, dense=1, latents=6, hidden=24),
    "lattice": LATTICE,
    "points": replace(LATTICE, points=1),
    "free": replace(LATTICE, lattice=0, groups=(2, 1), ends=2),
}
names = pytest.mark.parametrize("name", CONFIGS)


def filled(seed: int = 0, words: int = 3000) -> IntervalCoder:
    """A stack of random bits."""
    return IntervalCoder(np.random.default_rng(seed).integers(1, 2**32, words, dtype=np.uint32))


@pytest.fixture(scope="module")
def networks(slopes: Tensor) -> dict[str, VAE | NVAE]:
    """Networks that have learned a little of slopes."""
    found: dict[str, VAE | NVAE] = {}
    for name, config in CONFIGS.items():
        torch.manual_seed(5)
        network = VAE(config) if isinstance(config, VAEConfig) else NVAE(config)
        optimizer = Soap(network.parameters(), lr=1e-2)
        for _ in range(6):
            optimizer.zero_grad()
            network(slopes[:, :, :SIDE, :SIDE]).mean().backward()
            optimizer.step()
        set_exact(network, True)
        found[name] = network.eval()
    return found


@pytest.fixture(scope="module")
def files(networks: dict[str, VAE | NVAE], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("latents")
    for name, network in networks.items():
        export_latents(network, folder / f"{name}.onnx", {"licence": "none"})
    return {name: folder / f"{name}.onnx" for name in networks}


@pytest.fixture(scope="module")
def models(files: dict[str, Path]) -> dict[str, Model]:
    return {name: load(file, threads=1, device="cpu") for name, file in files.items()}


@pytest.fixture(scope="module")
def tiles(slopes: Tensor) -> Tiles:
    return slopes.transpose(0, 1)[:6, :, :SIDE, :SIDE].to(torch.uint8).numpy()


def as_network_input(tiles: Tiles) -> Tensor:
    return torch.from_numpy(tiles).transpose(0, 1).float()


@names
def test_tiles_come_back_and_the_stack_is_as_before(name: str, models: dict[str, Model], tiles: Tiles) -> None:
    codec, stack = LatentCodec(models[name]), filled()
    before = stack.to_bytes()
    codec.push(stack, tiles)
    assert stack.bits > 0
    np.testing.assert_array_equal(codec.pop(stack, len(tiles)), tiles)
    assert stack.to_bytes() == before
    assert stack.bits == pytest.approx(0, abs=1e-6)


@names
def test_any_tiles_come_back(name: str, models: dict[str, Model]) -> None:
    codec, stack = LatentCodec(models[name]), filled(1)
    noise = np.random.default_rng(2).integers(0, 256, (2, 3, SIDE, SIDE), np.uint8)
    noise[1] = np.where(noise[1] > 128, 255, 0)
    codec.push(stack, noise)
    np.testing.assert_array_equal(codec.pop(stack, 2), noise)


@names
def test_the_stack_holds_what_the_network_says(
    name: str, networks: dict[str, VAE | NVAE], models: dict[str, Model], tiles: Tiles
) -> None:
    codec, pushed = LatentCodec(models[name]), []
    for seed in range(4):
        stack = filled(seed)
        size = len(stack.to_bytes())
        codec.push(stack, tiles)
        pushed.append(stack.bits)
        assert 8 * (len(stack.to_bytes()) - size) == pytest.approx(stack.bits, rel=3e-3, abs=64)
    torch.manual_seed(6)
    with torch.no_grad():
        stated = [float(networks[name](as_network_input(tiles)).mean()) * tiles.size for _ in range(4)]
    assert np.mean(pushed) == pytest.approx(np.mean(stated), rel=0.01)


@names
def test_what_is_drawn_is_about_the_demand(name: str, models: dict[str, Model], tiles: Tiles) -> None:
    codec, stack = LatentCodec(models[name]), filled()
    codec.network.walk(Encoding(stack, codec.tables, codec.normals, Seen(models[name], tiles)), len(tiles))
    drawn = -stack.bits / len(tiles)
    assert drawn < codec.demand < 16 * 1024 + 3 * drawn + 100


def stages(network: VAE | NVAE) -> list[Stage]:
    return exporter.vae_stages(network) if isinstance(network, VAE) else exporter.nvae_stages(network)


@names
def test_graphs_give_what_the_network_gives_bit_for_bit(
    name: str,
    networks: dict[str, VAE | NVAE],
    models: dict[str, Model],
    tiles: Tiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = models[name], {}
    original = model.call

    def recorded(stage: str, *arrays: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        calls[stage] = arrays, original(stage, *arrays)
        return calls[stage][1]

    monkeypatch.setattr(model, "call", recorded)
    LatentCodec(model).push(filled(), tiles)
    for stage in stages(networks[name]):
        arrays, found = calls[stage.name]
        steps = [torch.exp2(-torch.from_numpy(value.bits).float())[:, None, None] for value in stage.inputs]
        with torch.no_grad():
            given = stage.module(*(torch.from_numpy(a) * s for a, s in zip(arrays, steps, strict=True)))
        expected = [given] if isinstance(given, Tensor) else list(given)
        for integers, values in zip(found, expected, strict=True):
            assert same_grid_points(integers, values.numpy()), stage.name


def same_grid_points(integers: NDArray[np.float32], values: NDArray[np.float32]) -> bool:
    """Whether each feature's integers are its values times a power of two."""
    for feature in range(integers.shape[1]):
        a, b = integers[:, feature], values[:, feature]
        if not any(np.array_equal(a, b * 2.0**bits) for bits in range(15)):
            return False
    return True


@names
def test_threads_and_batches_change_nothing(name: str, files: dict[str, Path], tiles: Tiles) -> None:
    found = []
    for threads, optimize in ((1, True), (2, True), (1, False)):
        stack = filled()
        LatentCodec(load(files[name], threads=threads, device="cpu", optimize=optimize)).push(stack, tiles)
        found.append(stack.to_bytes())
    assert found[0] == found[1] == found[2]
    codec = LatentCodec(load(files[name], threads=1, device="cpu"))
    parts = [codec.latents(part) for part in (tiles[:1], tiles[1:])]
    for whole, split in zip(codec.latents(tiles), zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(split))


@names
def test_samples_are_pictures_that_differ(name: str, models: dict[str, Model]) -> None:
    codec = LatentCodec(models[name])
    samples = codec.pop(RandomCoder(3), 4)
    assert samples.shape == (4, 3, SIDE, SIDE)
    assert samples.dtype == np.uint8
    assert samples.std() > 1
    assert not np.array_equal(samples[0], samples[1])
    np.testing.assert_array_equal(codec.pop(RandomCoder(3), 4), samples)
    assert not np.array_equal(codec.pop(RandomCoder(4), 4), samples)


@names
def test_low_temperatures_give_calmer_pictures(name: str, models: dict[str, Model]) -> None:
    def roughness(temperature: float) -> float:
        pictures = LatentCodec(models[name], temperature).pop(RandomCoder(5), 6).astype(float)
        return float(np.abs(np.diff(pictures)).mean())

    assert roughness(0.25) < 0.7 * roughness(1.0)
    assert roughness(1e-9) < roughness(0.25)


@names
def test_pictures_are_decoded_from_their_latents(name: str, models: dict[str, Model], tiles: Tiles) -> None:
    codec = LatentCodec(models[name])
    latents = codec.latents(tiles)
    assert all(len(z) == len(tiles) and z.dtype == np.int64 for z in latents)
    decoded = codec.decoded(latents).astype(float)
    mean = np.broadcast_to(tiles.mean(0), tiles.shape)
    error, spread = np.square(decoded - tiles).mean(), np.square(mean - tiles).mean()
    # perceptrons and free groups know little after so few steps
    assert error < (0.2 if name in ("vae", "lattice", "points") else 3) * spread
    halfway = codec.decoded([(z[:3] + z[3:]) // 2 for z in latents])
    assert halfway.shape == (3, 3, SIDE, SIDE)
    if name in ("vae", "lattice", "points"):
        middle = (tiles[:3].astype(float) + tiles[3:]) / 2
        assert np.square(halfway - middle).mean() < 0.3 * spread


# posteriors


def test_posteriors_are_those_of_the_network() -> None:
    rng = np.random.default_rng(8)
    shape = (2, 5, 3, 3)
    mean, scale, anchor = (rng.integers(0, n, shape) for n in (4081, 64, 256))
    gate, offset, change = (rng.integers(-n, n, shape) for n in (512, 300, 64))
    gate[0, 0], gate[0, 1], change[0, 1] = 256, 0, 0
    prior = torch.from_numpy(np.concatenate([(mean - 2048) / 256, scale / 8, 0 * scale], 1)).float()
    residual = torch.from_numpy(np.concatenate([gate / 256, offset / 256, change / 8], 1)).float()
    for widest in (63, 3):
        posterior = Posterior(widest)
        set_exact(posterior, True)
        expected = posterior(prior, residual, torch.from_numpy((anchor - 128) / 16).float())
        seen = cast(Seen, SimpleNamespace(features=[(16 * anchor - 2048).astype(np.float32)]))
        moved = Moved(lambda _: np.concatenate([gate, offset, change], 1), anchor=0, widest=widest)
        row = moved.posterior(Row(mean, scale, np.zeros_like(scale)), seen)
        m, s, _ = expected.chunk(3, 1)
        np.testing.assert_array_equal(row.mean, (m * 256 + 2048).numpy())
        np.testing.assert_array_equal(row.scale, (s * 8).numpy())
        assert row.scale.max() <= widest


def test_places_are_pixels_of_a_lattice() -> None:
    tiles = np.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    place = Place(slice(1, 2), 1, 0, 2)
    np.testing.assert_array_equal(place.of(tiles), tiles[:, 1:2, 1::2, ::2])


# drawing


def tables() -> tuple[Tables, Normals]:
    cdf, rate = shape_tables(LatentShapes()), scale_rates()
    return Tables(cdf, rate), Normals(cdf[:1], rate)


def random_row(count: int, seed: int) -> Row:
    rng = np.random.default_rng(seed)
    shape = (1, 1, 1, count)
    return Row(rng.integers(0, 4081, shape), rng.integers(0, 64, shape), np.zeros(shape, np.int64))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 1024, 2500])
def test_drawing_is_undone(seed: int, count: int) -> None:
    normals, stack, row = tables()[1], filled(seed), random_row(count, seed)
    before = stack.to_bytes()
    values = draw(stack, normals, row)
    assert stack.bits <= 0
    give_back(stack, normals, values, row)
    assert stack.to_bytes() == before


def test_pushing_is_undone() -> None:
    codes, stack, row = tables()[0], filled(4), random_row(2500, 5)
    values = np.random.default_rng(6).integers(0, 256, row.mean.shape)
    before = stack.to_bytes()
    push(stack, codes, values, row)
    np.testing.assert_array_equal(pop(stack, codes, row), values)
    assert stack.to_bytes() == before


def test_what_is_drawn_is_never_far_from_the_mean() -> None:
    normals, rng = tables()[1], RandomCoder(7)
    shape = (1, 1, 1, 100_000)
    row = Row(np.full(shape, 16 * 90), np.full(shape, 24), np.zeros(shape, np.int64))
    values = draw(rng, normals, row)
    assert np.abs(values - 90).max() <= 8  # five deviations: the least share of levels would give anything
    assert values.std() == pytest.approx(np.hypot(1.6, 0.29), rel=0.02)


def test_intervals_of_drawing_cover_all_numbers_once() -> None:
    normals = tables()[1]
    levels = np.arange(256)
    for mean, scale in ((0, 0), (1000, 10), (4080, 63), (2047, 24)):
        left, length = normals.interval(levels, levels * 0 + mean, levels * 0 + scale, levels * 0)
        assert left[0] == 0
        np.testing.assert_array_equal(left[1:], (left + length)[:-1])
        assert left[-1] + length[-1] == 1 << 16
        quantile = np.arange(0, 1 << 16, 97)
        like = np.zeros_like(quantile)
        level, begin, size = normals.find(quantile, like + mean, like + scale, like)
        assert ((begin <= quantile) & (quantile < begin + size)).all()
        np.testing.assert_array_equal(begin, left[level])


def test_latents_that_no_posterior_draws_are_refused() -> None:
    normals, shape = tables()[1], (1, 1, 1, 4)
    row = Row(np.full(shape, 16 * 90), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
    with pytest.raises(InvalidFile, match="none that the model draws"):
        give_back(filled(), normals, np.full(shape, 10), row)
    give_back(RandomCoder(0), normals, np.full(shape, 10), row)  # samples at other temperatures may


@names
def test_models_that_do_not_say_what_they_are_are_refused(name: str, models: dict[str, Model]) -> None:
    model = models[name]
    config = json.loads(json.dumps(model.config))
    del config["sizes"]
    broken = SimpleNamespace(family=model.family, config=config, card=model.card, constant=model.constant)
    with pytest.raises(InvalidFile, match="does not say what its latents are"):
        LatentCodec(cast(Model, broken))


def test_every_graph_of_the_codec_is_exported_once(models: dict[str, Model], networks: dict[str, VAE | NVAE]) -> None:
    assert isinstance(networks["lattice"], nn.Module)
    for name, network in networks.items():
        found = [stage.name for stage in stages(network)]
        assert len(set(found)) == len(found)
        assert set(found) == set(models[name].stages)
    assert set(latent_codec.NETWORKS) == {"vae", "nvae"}


def test_a_network_is_exported_alike_every_time(
    networks: dict[str, VAE | NVAE], files: dict[str, Path], tmp_path: Path
) -> None:
    name = next(iter(networks))
    export_latents(networks[name], tmp_path / "again.onnx", {"licence": "none"})
    assert (tmp_path / "again.onnx").read_bytes() == files[name].read_bytes()

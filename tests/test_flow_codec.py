"""The codec of flows: integer steps that can be undone exactly, and stacks that hold what the model says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencodec.codec import flow as flow_codec
from gencodec.codec import integerflow
from gencodec.codec.coder import IntervalCoder, RandomCoder
from gencodec.codec.flow import FRACTION, FlowCodec
from gencodec.codec.integerflow import (
    MATRIX_BITS,
    SCALE_BITS,
    Density,
    Outliers,
    Values,
    pop_bits,
    product,
    push_bits,
    scaled,
    sheared,
    squeezed,
    unscaled,
    unsheared,
    unsqueezed,
)
from gencodec.codec.tables import Tables
from gencodec.errors import InexactGraph, InvalidFile
from gencodec.export.flow import coupling_factors, export_flow, mix_integers
from gencodec.export.photo import scale_rates, shape_tables
from gencodec.models.flows import Flow, Mix, density_bits
from gencodec.models.glow import Glow, GlowConfig
from gencodec.models.nice import Nice, NiceConfig
from gencodec.models.quantize import set_exact
from gencodec.models.realnvp import Realnvp, RealnvpConfig
from gencodec.models.shapes import Shapes
from gencodec.runtime import Model, load

Tiles = NDArray[np.uint8]
seeds = pytest.mark.parametrize("seed", range(3))


def filled(seed: int = 0, words: int = 60000) -> IntervalCoder:
    """A stack of random bits."""
    data = np.random.default_rng(seed).integers(1, 2**32, words, dtype=np.uint32)
    return IntervalCoder(data)


# integer steps


def integers(seed: int, *shape: int) -> Values:
    """Numbers of all magnitudes up to 2**40, the ends among them."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-(1 << 40), 1 << 40, shape) >> rng.integers(0, 41, shape)
    values.flat[:4] = [0, -1, 1 << 40, -(1 << 40)]
    return values


@seeds
@pytest.mark.parametrize("factor", [2, 4])
def test_squeezing_is_a_bijection_and_that_of_the_network(seed: int, factor: int) -> None:
    y = integers(seed, 2, 3, 8, 12)
    there = squeezed(y, factor)
    expected = torch.nn.functional.pixel_unshuffle(torch.from_numpy(y), factor).numpy()
    np.testing.assert_array_equal(there, expected)
    np.testing.assert_array_equal(unsqueezed(there, factor), y)


@seeds
def test_scaling_is_undone_and_the_stack_is_as_before(seed: int) -> None:
    rng, stack = np.random.default_rng(seed), filled(seed)
    y, before = integers(seed, 3, 5, 4, 4), stack.to_bytes()
    factor = rng.integers(1, 1 << 16, y.shape)
    factor.flat[:3] = [1, 1 << SCALE_BITS, 1 << 16]
    there = scaled(y, factor, stack)
    np.testing.assert_allclose(there, y * (factor / 2.0**SCALE_BITS), atol=1 + 2.0**6, rtol=1e-9)
    gained = stack.bits
    assert gained == pytest.approx(float(SCALE_BITS * y.size - np.log2(factor).sum()))
    np.testing.assert_array_equal(unscaled(there, factor, stack), y)
    assert stack.to_bytes() == before
    assert stack.bits == pytest.approx(0, abs=1e-6)


def test_scaling_the_other_way_is_undone_too() -> None:
    stack, y, factor = filled(5), integers(5, 2, 3, 4, 4), np.full((3, 1, 1), 700)
    before = stack.to_bytes()
    np.testing.assert_array_equal(scaled(unscaled(y, factor, stack), factor, stack), y)
    assert stack.to_bytes() == before


def exact_product(matrix: Values, y: Values) -> list[int]:
    """The floors in Python's integers, of one picture (columns, positions)."""
    rows, columns = matrix.tolist(), y.T.tolist()
    return [sum(a * b for a, b in zip(r, c, strict=True)) >> MATRIX_BITS for r in rows for c in columns]


@seeds
@pytest.mark.parametrize("bits", [20, 40])
def test_products_are_exact_below_and_beyond_what_floats_hold(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, y = rng.integers(-(1 << 18), 1 << 18, (5, 7)), rng.integers(-(1 << bits), 1 << bits, (1, 7, 9))
    assert product(matrix, y).ravel().tolist() == exact_product(matrix, y[0])


def test_products_that_integers_cannot_hold_are_refused() -> None:
    with pytest.raises(InvalidFile, match="range of integers"):
        product(np.full((1, 2), 1 << 20), np.full((1, 2, 1), 1 << 42))


@seeds
@pytest.mark.parametrize("upper", [False, True])
def test_shears_are_undone(seed: int, upper: bool) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-4000, 4000, (6, 6))
    matrix = np.triu(matrix, 1) if upper else np.tril(matrix, -1)
    matrix[2] = 0
    y = integers(seed, 2, 6, 3, 4)
    there = sheared(y, matrix)
    assert (there != y).any()
    np.testing.assert_array_equal(unsheared(there, matrix), y)
    np.testing.assert_array_equal(sheared(unsheared(y, matrix), matrix), y)


@pytest.mark.parametrize("bits", [1, 8, 16, 17, 40])
def test_numbers_of_any_width_go_on_a_stack(bits: int) -> None:
    stack = filled(1)
    before = stack.to_bytes()
    value = np.random.default_rng(bits).integers(0, 1 << bits, 50)
    push_bits(stack, value, bits)
    assert stack.bits == pytest.approx(50 * bits)
    np.testing.assert_array_equal(pop_bits(stack, bits, 50), value)
    assert stack.to_bytes() == before


def test_outliers_of_any_size_are_coded() -> None:
    stack = filled(2)
    before = stack.to_bytes()
    excess = np.concatenate([np.arange(300), (1 << np.arange(55)) - 1, 1 << np.arange(55)])
    Outliers.push(stack, excess)
    np.testing.assert_array_equal(Outliers.pop(stack, len(excess)), excess)
    assert stack.to_bytes() == before
    assert Outliers.LENGTH.sum() == 1 << 16
    np.testing.assert_array_equal(Outliers.LEFT, np.cumsum(Outliers.LENGTH) - Outliers.LENGTH)


def test_outliers_beyond_integers_are_refused() -> None:
    with pytest.raises(InvalidFile, match="range of integers"):
        Outliers.push(filled(), np.array([1 << 62]))


def tables() -> Tables:
    return Tables(shape_tables(Shapes()), scale_rates())


@seeds
@pytest.mark.parametrize("fraction", [6, FRACTION])
def test_latents_of_any_size_are_coded(seed: int, fraction: int) -> None:
    rng, stack = np.random.default_rng(seed), filled(seed)
    before, density = stack.to_bytes(), Density(tables(), fraction)
    z = integers(seed, 400)
    mean = rng.integers(-(1 << 16), 1 << 16, 400)
    scale, shape = rng.integers(0, 64, 400), rng.integers(0, 8, 400)
    density.push(stack, z, mean, scale, shape)
    np.testing.assert_array_equal(density.pop(stack, mean, scale, shape), z)
    assert stack.to_bytes() == before
    assert stack.bits == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [6, 24, 33, 60])
@pytest.mark.parametrize("shape", [0, 3, 7])
def test_latents_take_the_bits_of_their_density(scale: int, shape: int) -> None:
    """Drawn from the code itself, by popping random bits; the model's density is that of training."""
    density, count = Density(tables(), FRACTION), 20000
    columns = [np.full(count, v) for v in (1000, scale, shape)]
    z = density.pop(RandomCoder(3), *columns)
    stack = RandomCoder(0)
    density.push(stack, z, *columns)
    at = torch.from_numpy((z + 0.5 - 1000) / 2.0**FRACTION / 16).float()
    real = density_bits(Shapes(), at, torch.zeros(count), *(torch.full((count,), float(v)) for v in (scale, shape)))
    model = float(real.sum().detach()) + FRACTION * count
    assert stack.bits == pytest.approx(model, rel=0.01)


def test_factors_are_powers_of_two_by_parts_of_an_octave() -> None:
    factors = coupling_factors()
    assert (factors[0], factors[len(factors) // 2], factors[-1]) == (1 << 7, 1 << 10, 1 << 13)
    assert (np.diff(factors) >= 0).all()


def test_a_mix_on_integers_is_the_real_one() -> None:
    torch.manual_seed(1)
    mix = Mix(6, 2 * torch.eye(6)[[3, 0, 1, 5, 4, 2]] + 0.3 * torch.randn(6, 6))
    with torch.no_grad():
        mix.bias.normal_()
        mix.octaves.normal_(std=0.3)
    constants = mix_integers(mix, "m")
    model = SimpleNamespace(constant=lambda name: constants[name.removeprefix("m.")])
    step, stack = flow_codec.Mix(cast(Model, model), "m"), filled(3)
    before = stack.to_bytes()
    y = np.random.default_rng(1).integers(-(1 << 15), 1 << 15, (2, 6, 4, 4))
    there = step.push(y, stack)
    real = mix(torch.from_numpy(y).float() / (16 << FRACTION))[0].detach().numpy() * (16 << FRACTION)
    np.testing.assert_allclose(there, real, atol=40, rtol=2e-3)
    np.testing.assert_array_equal(step.pop(there, stack), y)
    assert stack.to_bytes() == before


def test_a_mix_that_integers_cannot_hold_is_refused() -> None:
    mix = Mix(2, torch.eye(2))
    with torch.no_grad():
        mix.bias[0] = 1e8
    with pytest.raises(InexactGraph, match="layer m cannot be written"):
        mix_integers(mix, "m")


# whole models

MAKERS = {
    "nice": lambda: Nice(NiceConfig(levels=2, hidden=6)),
    "dense nice": lambda: Nice(NiceConfig(tile=8, dense=1, hidden=8, blocks=1, couplings=2)),
    "realnvp": lambda: Realnvp(RealnvpConfig(scales=2, hidden=6)),
    "paper's realnvp": lambda: Realnvp(RealnvpConfig(tile=16, scales=2, hidden=4, folded=0)),
    "glow": lambda: Glow(GlowConfig(levels=2, steps=2, hidden=6)),
    "paper's glow": lambda: Glow(GlowConfig(tile=16, levels=2, steps=2, hidden=6, fitted=0)),
}
every = pytest.mark.parametrize("name", MAKERS)
chief = pytest.mark.parametrize("name", ["nice", "realnvp", "glow"])
_made: dict[str, tuple[Flow, Path]] = {}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flows")


def made(name: str, place: Path, slopes: Tensor) -> tuple[Flow, Path]:
    """A flow that has begun by slopes and was moved from there, and its exported file."""
    if name not in _made:
        torch.manual_seed(5)
        flow = MAKERS[name]().train()
        with torch.no_grad():
            side = flow.config.tile  # type: ignore[union-attr]
            flow(slopes[:, :, :side, :side])
            generator = torch.Generator().manual_seed(6)
            for parameter in flow.parameters():
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        path = place / f"{name.replace(' ', '-')}.onnx"
        export_flow(flow, path, {"licence": "none"})
        _made[name] = flow, path
    return _made[name]


def codec_of(name: str, place: Path, slopes: Tensor, temperature: float = 1.0, threads: int = 1) -> FlowCodec:
    return FlowCodec(load(made(name, place, slopes)[1], threads=threads, device="cpu"), temperature)


def pictures(side: int, slopes: Tensor) -> Tiles:
    """Slopes, noise, constants, gradients and stripes of extremes, (7, 3, side, side)."""
    rng = np.random.default_rng(8)
    ramp = np.broadcast_to(np.linspace(0, 255, side), (3, side, side))
    made_up = [
        rng.integers(0, 256, (3, side, side)),
        np.zeros((3, side, side)),
        np.full((3, side, side), 255),
        ramp,
        np.indices((3, side, side)).sum(0) % 2 * 255,
    ]
    own = slopes[:, :2, :side, :side].transpose(0, 1).numpy()
    return np.concatenate([own, np.stack(made_up)]).astype(np.uint8)


@every
def test_tiles_come_back_and_the_stack_is_as_before(name: str, place: Path, slopes: Tensor) -> None:
    codec, stack = codec_of(name, place, slopes), filled(4)
    before, tiles = stack.to_bytes(), pictures(codec.tile, slopes)
    codec.push(stack, tiles)
    assert stack.to_bytes() != before
    np.testing.assert_array_equal(codec.pop(stack, len(tiles)), tiles)
    assert stack.to_bytes() == before
    assert stack.bits == pytest.approx(0, abs=1e-5)


@every
def test_the_stack_holds_what_the_exact_network_says(name: str, place: Path, slopes: Tensor) -> None:
    codec, flow = codec_of(name, place, slopes), made(name, place, slopes)[0]
    side = codec.tile
    tiles = slopes[:, :, :side, :side]
    stack = filled(5)
    before = len(stack.to_bytes())
    codec.push(stack, tiles.transpose(0, 1).numpy().astype(np.uint8))
    set_exact(flow, True)
    torch.manual_seed(9)
    with torch.no_grad():
        expected = np.mean([float(flow(tiles).mean()) for _ in range(3)]) * tiles.numel()
    assert stack.bits == pytest.approx(expected, rel=0.01)
    assert 8 * (len(stack.to_bytes()) - before) == pytest.approx(stack.bits, rel=0.002, abs=64)


@chief
def test_threads_do_not_matter(name: str, place: Path, slopes: Tensor) -> None:
    results = []
    for threads in (1, 2):
        codec, stack = codec_of(name, place, slopes, threads=threads), filled(6)
        codec.push(stack, pictures(codec.tile, slopes))
        results.append(stack.to_bytes())
    assert results[0] == results[1]


@chief
def test_what_networks_say_of_a_tile_does_not_depend_on_the_others(name: str, place: Path, slopes: Tensor) -> None:
    codec = codec_of(name, place, slopes)
    tiles = pictures(codec.tile, slopes)
    together = codec.latents(tiles)
    apart = [codec.latents(tiles[i : i + 1]) for i in range(len(tiles))]
    for i, latents in enumerate(together):
        np.testing.assert_array_equal(latents, np.concatenate([a[i] for a in apart]))


@chief
def test_groups_are_popped_in_the_opposite_order(name: str, place: Path, slopes: Tensor) -> None:
    codec, stack = codec_of(name, place, slopes), filled(7)
    tiles = pictures(codec.tile, slopes)
    codec.push(stack, tiles[:2])
    codec.push(stack, tiles[2:])
    np.testing.assert_array_equal(codec.pop(stack, len(tiles) - 2), tiles[2:])
    np.testing.assert_array_equal(codec.pop(stack, 2), tiles[:2])


@chief
def test_the_demand_is_what_pushing_draws_at_most(name: str, place: Path, slopes: Tensor) -> None:
    codec = codec_of(name, place, slopes)

    class Watched(RandomCoder):
        least = 0.0

        def pop_uniform(self, size: Values | int, count: int) -> Values:
            value = super().pop_uniform(size, count)
            self.least = min(self.least, self.bits)
            return value

    stack = Watched(1)
    tiles = pictures(codec.tile, slopes)[:2]
    codec.push(stack, tiles)
    assert 0.5 * codec.demand < -stack.least / len(tiles) <= codec.demand


@every
def test_samples_are_pictures(name: str, place: Path, slopes: Tensor) -> None:
    codec = codec_of(name, place, slopes)
    sample = codec.pop(RandomCoder(1), 3)
    assert (sample.shape, sample.dtype) == ((3, 3, codec.tile, codec.tile), np.dtype(np.uint8))
    assert (sample.reshape(3, -1).std(1) > 1).all()
    np.testing.assert_array_equal(codec.pop(RandomCoder(1), 3), sample)
    assert (codec.pop(RandomCoder(2), 3) != sample).any()


@chief
def test_temperature_narrows_what_is_drawn(name: str, place: Path, slopes: Tensor) -> None:
    def spread(temperature: float) -> float:
        sample = codec_of(name, place, slopes, temperature).pop(RandomCoder(1), 8)
        return float(np.abs(np.diff(sample.astype(float), axis=-1)).mean())

    assert spread(0.25) < 0.8 * spread(1.0)
    assert codec_of(name, place, slopes, 0.5).shift == -6
    assert codec_of(name, place, slopes, 1e-9).pop(RandomCoder(1), 1).shape[0] == 1


@chief
def test_latents_hold_the_tile(name: str, place: Path, slopes: Tensor) -> None:
    codec = codec_of(name, place, slopes)
    tiles = pictures(codec.tile, slopes)[:2]
    latents = codec.latents(tiles)
    assert [z.shape[1:] for z in latents] == codec.shapes
    assert sum(z[0].size for z in latents) == tiles[0].size
    back = codec.decoded(latents).astype(int)
    assert np.abs(back - tiles).mean() < (0.01 if name == "nice" else 0.5)
    halfway = codec.decoded([(z[:1] + z[1:]) // 2 for z in latents])
    assert halfway.shape == tiles[:1].shape
    between = np.abs(halfway[0].astype(int) - tiles[:2]).mean((1, 2, 3))
    assert (between < np.abs(tiles[0].astype(int) - tiles[1]).mean()).all()


def test_the_file_says_how_the_flow_goes(place: Path, slopes: Tensor) -> None:
    flow, path = made("glow", place, slopes)
    model = load(path, threads=1, device="cpu")
    assert (model.family, model.format) == ("glow", "1")
    kinds = [entry["step"] for entry in model.config["steps"]]
    assert kinds == [type(step).__name__.lower() for step in flow.steps]
    assert model.config["sizes"]["steps"] == 2
    networks = [e["name"] for e in model.config["steps"] if "reach" in e]
    assert list(model.stages) == networks
    assert model.constant("factors").dtype == np.int32


@pytest.mark.parametrize("steps", [[{"step": "twist"}], [{"factor": 2}], None])
def test_a_flow_that_is_not_understood_is_refused(steps: object, place: Path, slopes: Tensor) -> None:
    model = load(made("nice", place, slopes)[1], threads=1, device="cpu")
    config = json.loads(json.dumps({**model.config, "steps": steps}))
    other = SimpleNamespace(constant=model.constant, config=config, card=model.card)
    with pytest.raises(InvalidFile, match="does not say how its flow goes"):
        FlowCodec(cast(Model, other))


def test_integer_steps_have_one_unit_each() -> None:
    """What the format document states."""
    assert (integerflow.SCALE_BITS, integerflow.MATRIX_BITS, FRACTION) == (10, 12, 8)

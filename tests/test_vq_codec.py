"""The codec of VQ-VAE and VQ-VAE-2: codes come back, at the cost that the network states, and pixels without seams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencodec.codec import codeprior, vq
from gencodec.codec.autoregressive import Lanes
from gencodec.codec.codeprior import Softmax, Walk, find, interval, softmax_of
from gencodec.codec.coder import TOTAL
from gencodec.codec.vq import VQCodec, decode, encode, levels, sample
from gencodec.errors import InvalidFile
from gencodec.export.vq import export_vq
from gencodec.models import codeprior as trained
from gencodec.models.codeprior import code_bits, powers
from gencodec.models.quantize import set_exact
from gencodec.models.soap import Soap
from gencodec.models.transforms import MIDDLE, UNIT, in_units, marked
from gencodec.models.vqvae import VQVAE
from gencodec.models.vqvae2 import VQVAE2
from gencodec.runtime import Model, load
from tests.test_vq import ONE, TWO, Network, built

Pixels = NDArray[np.uint8]
CONFIGS = {"vq-vae": ONE, "vq-vae-2": TWO}
names = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(scope="module")
def networks(slopes: Tensor) -> dict[str, Network]:
    """Networks that have learned a little of slopes."""
    found: dict[str, Network] = {}
    for name, config in CONFIGS.items():
        network = built(config)
        optimizer = Soap(network.parameters(), lr=1e-2)
        for _ in range(15):
            optimizer.zero_grad()
            network(slopes).mean().backward()
            optimizer.step()
        set_exact(network, True)
        found[name] = network.eval()
    return found


@pytest.fixture(scope="module")
def files(networks: dict[str, Network], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vq")
    for name, network in networks.items():
        export_vq(network, folder / f"{name}.onnx", {"licence": "none"})
    return {name: folder / f"{name}.onnx" for name in networks}


@pytest.fixture(scope="module")
def models(files: dict[str, Path]) -> dict[str, Model]:
    return {name: load(file, threads=1, device="cpu") for name, file in files.items()}


@pytest.fixture(scope="module")
def picture(slopes: Tensor) -> Pixels:
    """Several tiles, no whole number of them: (75, 90, 3)."""
    tiles = slopes[[1, 0, 2]].permute(1, 2, 3, 0).to(torch.uint8).numpy()
    rows = [np.concatenate(list(tiles[i : i + 3]), 1) for i in (0, 3, 5)]
    return np.ascontiguousarray(np.concatenate(rows)[:75, :90])


# whole numbers


def test_frequencies_fill_the_range_and_leave_no_code_out() -> None:
    logits = np.random.default_rng(0).integers(-512, 512, (16, 200)).astype(np.float32)
    frequencies = Softmax(powers().numpy()).frequencies(logits)
    assert (frequencies.sum(1) == TOTAL).all()
    assert frequencies.min() >= 1
    likely = torch.softmax(torch.tensor(logits.T) * (np.log(2) / 16), 1).numpy()
    assert np.abs(frequencies / TOTAL - likely).max() < 0.001


def test_codes_are_found_in_their_intervals() -> None:
    rng = np.random.default_rng(1)
    frequencies = Softmax(powers().numpy()).frequencies(rng.integers(-60, 60, (16, 300)).astype(np.float32))
    codes = rng.integers(0, 16, 300)
    left, length = interval(frequencies, codes)
    for quantile in (left, left + length - 1):
        found = find(frequencies, quantile)
        assert all((a == b).all() for a, b in zip(found, (codes, left, length), strict=True))


def test_a_low_temperature_narrows() -> None:
    logits = np.linspace(-32, 32, 16)[:, None].astype(np.float32)
    plain, cold = (Softmax(powers().numpy(), t).frequencies(logits)[0] for t in (1.0, 0.5))
    assert cold.max() > plain.max()


def test_both_sides_have_the_same_offsets() -> None:
    for name in ("ABOVE", "LATER", "LEFT", "AROUND"):
        assert getattr(codeprior, name) == getattr(trained, name)


# parity with the trained network


def codes_of(network: Network, picture: Pixels) -> list[Tensor]:
    """The trained network's codes of a picture of whole tiles, map by map, (stages, 1, h, w)."""
    pixels = in_units(torch.tensor(picture[..., [1, 0, 2]].transpose(2, 0, 1)[:, None].astype(np.float32)))
    with torch.no_grad():
        latents = network.analysis(pixels)
        if isinstance(network, VQVAE):
            return [network.codebooks(latents).codes]
        top, bottom, _, _ = network.quantised(latents)
        return [top.codes, bottom.codes]


def costs_of(network: Network, picture: Pixels) -> list[Tensor]:
    """What those codes cost, stage by stage, each (h, w)."""
    pixels = in_units(torch.tensor(picture[..., [1, 0, 2]].transpose(2, 0, 1)[:, None].astype(np.float32)))
    with torch.no_grad():
        latents = network.analysis(pixels)
        if isinstance(network, VQVAE):
            quantised = network.codebooks(latents)
            return [network.stage_bits(quantised, s)[0] for s in range(len(network.priors))]
        top, bottom, _, _ = network.quantised(latents)
        coarse = [network.top_bits(top, s)[0] for s in range(network.config.top_stages)]
        return [*coarse, *(network.bottom_bits(top, bottom, s)[0] for s in range(network.config.bottom_stages))]


def whole_lanes(maps: list[NDArray[np.uint16]]) -> list[Lanes]:
    """Lanes that maps (stages, h, w, lanes) fill."""
    return [Lanes(np.full((codes.shape[3], 2), codes.shape[1:3]), codes.shape[2]) for codes in maps]


@names
def test_the_codec_finds_the_networks_codes(
    name: str, networks: dict[str, Network], models: dict[str, Model], picture: Pixels
) -> None:
    tile = np.ascontiguousarray(picture[:32, :32])
    codec = VQCodec(models[name])
    found = codec.quantise(tile, codec.levels - 1)
    for codes, wanted in zip(found, codes_of(networks[name], tile), strict=True):
        assert (codes == wanted[:, 0].numpy()).mean() > 0.97  # ties, and weights in float16


@names
def test_the_codecs_prices_are_the_networks(
    name: str, networks: dict[str, Network], models: dict[str, Model], picture: Pixels
) -> None:
    tile = np.ascontiguousarray(picture[:32, :32])
    codec = VQCodec(models[name])
    maps = [codes[:, 0, :, :, None].numpy().astype(np.uint16) for codes in codes_of(networks[name], tile)]
    costs = costs_of(networks[name], tile)
    walked = list(codec.walks(maps, whole_lanes(maps)))
    assert len(walked) == len(costs)
    for (number, stage, walk), cost in zip(walked, costs, strict=True):
        _, length = walk.known(maps[number][stage].astype(np.int64))
        np.testing.assert_allclose(16 - np.log2(length[..., 0]), cost.numpy(), atol=0.03)


@names
def test_step_by_step_is_as_all_at_once(name: str, models: dict[str, Model], picture: Pixels) -> None:
    codec = VQCodec(models[name])
    maps = [codes[..., None] for codes in codec.quantise(np.ascontiguousarray(picture[:32, :64]), codec.levels - 1)]
    for (number, stage, whole), (_, _, steps) in zip(
        *(codec.walks(maps, whole_lanes(maps)) for _ in range(2)), strict=True
    ):
        codes = maps[number][stage].astype(np.int64)
        left, length = whole.known(codes)
        for y in range(steps.height):
            steps.begin(y, y + 1)
            for x in range(steps.width):
                found = interval(steps.frequencies(x), codes[y, x])
                assert (found[0] == left[y, x]).all()
                assert (found[1] == length[y, x]).all()
                steps.learn(x, codes[y, x])


@names
def test_lanes_do_not_know_each_other(name: str, models: dict[str, Model]) -> None:
    codec, rng = VQCodec(models[name]), np.random.default_rng(3)
    prior = codec.maps[0].priors[0]
    codes = rng.integers(0, 16, (4, 4, 3))
    inside = np.ones((4, 4, 3), np.float32)
    together = Walk(prior, inside, None).known(codes)[1]
    alone = [Walk(prior, inside[..., :1], None).known(codes[..., i : i + 1])[1] for i in range(3)]
    assert (together == np.concatenate(alone, 2)).all()


@names
def test_what_lies_beyond_a_tile_does_not_count(name: str, models: dict[str, Model]) -> None:
    codec, rng = VQCodec(models[name]), np.random.default_rng(4)
    scales = [codec.coarsest // m.stride for m in codec.maps]
    maps = [
        rng.integers(0, 16, (m.stages, 3 * f, 2 * f, 1), np.uint16) for m, f in zip(codec.maps, scales, strict=True)
    ]
    found = []
    for height, width in ((3, 2), (4, 4)):
        lanes = [Lanes(np.array([[3 * f, 2 * f], [height * f, width * f]]), width * f) for f in scales]
        padded = [np.zeros((len(m), height * f, width * f, 2), np.uint16) for m, f in zip(maps, scales, strict=True)]
        for place, codes in zip(padded, maps, strict=True):
            place[:, : codes.shape[1], : codes.shape[2]] = codes
        walks = codec.walks(padded, lanes)
        lengths = [walk.known(padded[n][s].astype(np.int64))[1] for n, s, walk in walks]
        shapes = [maps[n].shape[1:3] for n, m in enumerate(codec.maps) for _ in range(m.stages)]
        found.append([length[:h, :w, 0] for length, (h, w) in zip(lengths, shapes, strict=True)])
    for small, large in zip(*found, strict=True):
        assert (small == large).all()


def test_pixels_are_the_networks(networks: dict[str, Network], models: dict[str, Model], picture: Pixels) -> None:
    tile = np.ascontiguousarray(picture[:32, :32])
    for level in range(3):
        network = networks["vq-vae"]
        assert isinstance(network, VQVAE)
        codes = encode(tile, models["vq-vae"], level=level)
        found = decode(codes.payload, tile.shape, models["vq-vae"]).pixels
        maps = VQCodec(models["vq-vae"]).quantise(tile, level)
        with torch.no_grad():
            sums = sum(network.codebooks.points()[s][torch.tensor(c.astype(np.int64))] for s, c in enumerate(maps[0]))
            latents = torch.as_tensor(sums).permute(2, 0, 1)[None]
            planes = network.synthesis(marked(latents, torch.tensor([level]), 3)) * UNIT + MIDDLE
        wanted = planes[0, [1, 0, 2]].permute(1, 2, 0).clamp(0, 255).round().numpy()
        assert np.abs(found - wanted).max() <= 2
        assert np.abs(found - wanted).mean() < 0.1


# round trips


@names
def test_codes_come_back_at_every_level(name: str, models: dict[str, Model], picture: Pixels) -> None:
    sizes = []
    for level in range(levels(models[name])):
        coded = encode(picture, models[name], level=level)
        found = decode(coded.payload, picture.shape, models[name])
        assert found.checksum == coded.checksum
        assert found.pixels.shape == picture.shape
        assert len(coded.payload) * 8 < coded.bits + 8 * 40
        sizes.append(len(coded.payload))
    assert sizes == sorted(sizes)


@names
def test_codes_of_one_length_are_counted(name: str, models: dict[str, Model]) -> None:
    codec = VQCodec(models[name])
    maps = [np.log2(m.books.shape[1]) / m.stride**2 for m in codec.maps]
    level = codec.levels - 1
    expected = sum(64 * 64 * m.stages * bits for m, bits in zip(codec.maps, maps, strict=True))
    assert codec.fixed_bits(level, 64, 64) == pytest.approx(expected)
    assert codec.fixed_bits(level, 57, 64) == codec.fixed_bits(level, 64, 64)
    assert codec.fixed_bits(0, 64, 64) < expected


@names
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 70, 1), (33, 17, 3), (40, 9, 1)])
def test_any_size_and_grey(name: str, shape: tuple[int, int, int], models: dict[str, Model]) -> None:
    pixels = np.random.default_rng(2).integers(60, 200, shape).astype(np.uint8)
    coded = encode(pixels, models[name], level=1)
    found = decode(coded.payload, shape, models[name])
    assert found.checksum == coded.checksum
    assert found.pixels.shape == shape


@names
def test_threads_and_batches_change_nothing(name: str, files: dict[str, Path], models: dict[str, Model]) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (64, 100, 3)).astype(np.uint8)
    other = load(files[name], threads=3, device="cpu", optimize=False)
    coded = encode(pixels, models[name], level=2)
    found = decode(coded.payload, pixels.shape, other)
    assert found.checksum == coded.checksum
    here = decode(coded.payload, pixels.shape, models[name]).pixels
    assert np.abs(found.pixels.astype(int) - here).max() <= 1


@names
def test_a_region_is_a_part_of_the_whole(name: str, models: dict[str, Model], picture: Pixels) -> None:
    coded = encode(picture, models[name], level=2)
    whole = decode(coded.payload, picture.shape, models[name]).pixels
    x, y, width, height = region = (37, 20, 30, 41)
    part = decode(coded.payload, picture.shape, models[name], region=region).pixels
    assert np.abs(part.astype(int) - whole[y : y + height, x : x + width]).max() <= 1


@names
def test_windows_leave_no_seams(
    name: str, models: dict[str, Model], picture: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded = encode(picture, models[name], level=2)
    whole = decode(coded.payload, picture.shape, models[name]).pixels
    monkeypatch.setattr(vq, "WINDOW", 2)
    again = encode(picture, models[name], level=2)
    assert again.checksum == coded.checksum
    assert np.abs(decode(coded.payload, picture.shape, models[name]).pixels.astype(int) - whole).max() <= 1


@names
def test_a_preview_is_the_lowest_level(name: str, models: dict[str, Model], picture: Pixels) -> None:
    preview = decode(encode(picture, models[name], level=2).payload, picture.shape, models[name], preview=True)
    lowest = decode(encode(picture, models[name], level=0).payload, picture.shape, models[name])
    assert (preview.pixels == lowest.pixels).all()
    assert preview.checksum is None


@names
def test_samples_are_the_seeds(name: str, models: dict[str, Model]) -> None:
    first, again, other = (sample(models[name], 2, seed, 0.9) for seed in (1, 1, 2))
    assert first.shape == (2, 32, 32, 3)
    assert (first == again).all()
    assert (first != other).any()


# damage


@names
def test_damage_is_an_invalid_file(name: str, models: dict[str, Model], picture: Pixels) -> None:
    payload = encode(picture, models[name], level=1).payload
    damaged = [b"", payload[:1], payload[:5], bytes([200]) + payload[1:], payload[:-4], payload + b"\1\2\3\4"]
    middle = len(payload) // 2
    damaged.append(payload[:middle] + bytes([payload[middle] ^ 0x55]) + payload[middle + 1 :])
    for bad in damaged:
        with pytest.raises(InvalidFile):
            decode(bad, picture.shape, models[name])


def test_a_model_without_its_tables_is_refused(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["vq-vae"]
    monkeypatch.setitem(model.file.constants, "bottom.costs", np.zeros(3, np.float32))
    with pytest.raises(InvalidFile, match="does not say what its codes are"):
        VQCodec(model)
    monkeypatch.setitem(model.file.constants, "powers", np.zeros((0,), np.int32))
    with pytest.raises(InvalidFile, match="powers"):
        softmax_of(model)


def test_the_estimate_is_the_networks(networks: dict[str, Network], models: dict[str, Model], picture: Pixels) -> None:
    """Of one tile, where the codec cuts as the network does."""
    tile = np.ascontiguousarray(picture[:32, :32])
    for name, network in networks.items():
        coded = encode(tile, models[name], level=2)
        assert abs(coded.bits / sum(float(c.sum()) for c in costs_of(network, tile)) - 1) < 0.05


def test_bits_are_of_the_right_networks() -> None:
    assert isinstance(built(TWO), VQVAE2)
    assert code_bits(torch.zeros(16, 1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long)).item() == pytest.approx(4.0)

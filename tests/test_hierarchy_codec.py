"""The lossy codec: the same latents on both sides, pictures of every shape, damage, regions, previews."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from gencodec.codec import hierarchy
from gencodec.codec.lossy import psnr
from gencodec.errors import InvalidFile
from gencodec.runtime import load
from tests.test_lossy_models import BETA, TINY

if TYPE_CHECKING:
    from gencodec.models.lossy import LossyConfig
    from gencodec.runtime import Model

Pixels = NDArray[np.uint8]


def exported(config: LossyConfig, file: Path) -> Path:
    """An untrained network, which codes by its cosine transform."""
    import torch

    from gencodec.export.lossy import export_lossy
    from gencodec.models.lossy import Lossy

    torch.manual_seed(7)
    network = Lossy(config)
    for layer in (network.synthesis.head, network.synthesis.after):
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)  # what has learned nothing adds noise
    export_lossy(network, file, {"licence": "none"})
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(TINY, tmp_path_factory.mktemp("lossy") / "lossy.onnx")


@pytest.fixture(scope="module")
def model(file: Path) -> Model:
    return load(file, threads=1, device="cpu")


def picture(height: int, width: int, colors: int = 3) -> Pixels:
    """Shading, a grating and an edge."""
    y, x, c = np.ogrid[:height, :width, :colors]
    values = 90 + 40 * np.sin(x / 9 + c) + 30 * np.cos(y / 7) + 50 * (x + y > width) + 10 * np.sin(x * y / 50)
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 70, 3), (33, 31, 1), (64, 96, 3), (100, 45, 3)])
def test_decoders_find_the_encoders_latents(model: Model, shape: tuple[int, int, int]) -> None:
    pixels = picture(*shape)
    coded = hierarchy.encode(pixels, model, level=90)
    decoded = hierarchy.decode(coded.payload, shape, model)
    assert decoded.checksum == coded.checksum
    assert decoded.pixels.shape == shape
    assert psnr(decoded.pixels, pixels) > 24


def test_a_beta_vae_codes_with_a_hyper_latent_alone(tmp_path: Path) -> None:
    model = load(exported(BETA, tmp_path / "beta.onnx"), threads=1, device="cpu")
    assert model.family == "beta-vae"
    pixels = picture(40, 70)
    coded = hierarchy.encode(pixels, model, level=hierarchy.levels(model) - 1)
    assert hierarchy.decode(coded.payload, pixels.shape, model).checksum == coded.checksum


def test_onnx_runtime_walks_as_torch_does(model: Model) -> None:
    import torch

    from gencodec.models.hierarchy import blend_of
    from gencodec.models.lossy import Lossy
    from gencodec.models.quantize import set_exact

    torch.manual_seed(7)
    network = Lossy(TINY).eval()
    set_exact(network, True)
    codec = hierarchy.HierarchyCodec(model)
    planes = hierarchy.padded(picture(64, 64))
    wanted = codec.analyzed(planes, 75)

    class Rounding:
        def steps(self, group: hierarchy.Group, where: NDArray[np.bool_], prior: hierarchy.Prior) -> NDArray[np.int64]:
            away = wanted[group.scale][group.first : group.last][where] - prior.mean
            return np.rint(away / 16).astype(np.int64)

    codec.skip = 0
    found = codec.walk(Rounding(), 75, 64, 64, model)
    inputs = {s: torch.from_numpy(y)[None] / 256 for s, y in wanted.items()}
    with torch.no_grad():
        known, _ = network.prior.walk(inputs, blend_of(torch.tensor([75.0])))
    for scale, z in found.items():
        assert np.array_equal(z, (known[scale][0] * 256).numpy().astype(np.int16))


def test_levels_rise_in_size_and_accuracy(model: Model) -> None:
    pixels = picture(96, 96)
    coded = [hierarchy.encode(pixels, model, level=level) for level in (0, 60, 120, 180, 224)]
    sizes = [len(c.payload) for c in coded]
    accuracy = [psnr(hierarchy.decode(c.payload, pixels.shape, model).pixels, pixels) for c in coded]
    assert sizes == sorted(sizes)
    assert accuracy == sorted(accuracy)
    assert hierarchy.levels(model) == 225


def test_files_are_hardly_longer_than_the_estimate(model: Model) -> None:
    coded = hierarchy.encode(picture(256, 256), model, level=80)
    assert 8 * len(coded.payload) < 1.01 * coded.bits + 200


def test_tiles_threads_and_batches_change_nothing(file: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(130, 200)
    monkeypatch.setattr(hierarchy, "TILE", 64)
    coded = hierarchy.encode(pixels, model, level=70)
    other = load(file, threads=3, device="cpu", optimize=False)
    assert hierarchy.encode(pixels, other, level=70).checksum == coded.checksum
    decoded = [hierarchy.decode(coded.payload, pixels.shape, m) for m in (model, other)]
    assert decoded[0].checksum == decoded[1].checksum == coded.checksum
    assert np.abs(decoded[0].pixels.astype(int) - decoded[1].pixels).max() <= 1


def test_windows_and_regions_have_no_seams(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(352, 416)
    monkeypatch.setattr(hierarchy, "TILE", 128)
    coded = hierarchy.encode(pixels, model, level=70)
    whole = hierarchy.decode(coded.payload, pixels.shape, model).pixels
    part = hierarchy.decode(coded.payload, pixels.shape, model, region=(201, 155, 77, 40))
    assert part.checksum is None
    assert np.abs(whole[155:195, 201:278].astype(int) - part.pixels).max() <= 1
    monkeypatch.setattr(hierarchy, "WINDOW", 96)
    assert np.abs(whole.astype(int) - hierarchy.decode(coded.payload, pixels.shape, model).pixels).max() <= 1
    again = hierarchy.encode(pixels, model, level=70)
    assert abs(len(again.payload) - len(coded.payload)) <= 8


def test_a_preview_is_rougher_than_the_picture(model: Model) -> None:
    pixels = picture(96, 96)
    coded = hierarchy.encode(pixels, model, level=100)
    full = hierarchy.decode(coded.payload, pixels.shape, model).pixels
    rough = hierarchy.decode(coded.payload, pixels.shape, model, preview=True)
    assert rough.checksum is None
    assert 12 < psnr(rough.pixels, pixels) < psnr(full, pixels)


def test_samples_are_of_the_seed_and_not_constant(model: Model) -> None:
    first, again = (hierarchy.sample(model, 2, seed=3) for _ in range(2))
    assert first.shape == (2, 32, 32, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert first.std() > 1
    assert not np.array_equal(first, hierarchy.sample(model, 2, seed=3, temperature=0.5))


def test_numbers_far_from_their_means_are_kept(model: Model) -> None:
    extremes = np.zeros((64, 64, 3), np.uint8)
    extremes[16:48, 16:48] = 255
    coded = hierarchy.encode(extremes, model, level=224)
    decoded = hierarchy.decode(coded.payload, extremes.shape, model)
    assert decoded.checksum == coded.checksum
    assert psnr(decoded.pixels, extremes) > 27


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: b"", "truncated"),
        (lambda p: p[:4], "truncated"),
        (lambda p: bytes([250]) + p[1:], "no quality level 250"),
        (lambda p: p[:1] + b"\xff\xff" + p[3:], "tiles of 65535"),
    ],
)
def test_damaged_payloads_are_refused(model: Model, damage, reason: str) -> None:
    pixels = picture(64, 64)
    payload = hierarchy.encode(pixels, model, level=50).payload
    with pytest.raises(InvalidFile, match=reason):
        hierarchy.decode(damage(payload), pixels.shape, model)


def found(payload: bytes, shape: tuple[int, int, int], model: Model) -> int | None:
    """The checksum of what a payload decodes to, None where it is refused."""
    try:
        return hierarchy.decode(payload, shape, model).checksum
    except InvalidFile:
        return None


def test_altered_streams_are_refused_or_show(model: Model) -> None:
    pixels = picture(64, 64)
    coded = hierarchy.encode(pixels, model, level=80)
    data = bytearray(coded.payload)
    data[20] ^= 0x40
    assert found(coded.payload, pixels.shape, model) == coded.checksum
    assert found(bytes(data), pixels.shape, model) != coded.checksum

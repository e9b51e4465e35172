"""What users wish for: qualities, sizes, accuracies; what cannot be had is said in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import gencodec
from gencodec.cli.app import app
from gencodec.codec import container as gnc
from gencodec.codec.lossy import first_reaching, level_of, psnr, quality_of
from gencodec.errors import GencodecError, InvalidFile, UnsupportedImage, UsageError
from tests.test_hierarchy_codec import exported, picture
from tests.test_lossy_models import TINY


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(exported(TINY, tmp_path_factory.mktemp("quality") / "lossy.onnx"))


def test_qualities_are_levels_from_end_to_end() -> None:
    levels = [level_of(quality, 225) for quality in range(1, 101)]
    assert (levels[0], levels[-1]) == (2, 224)
    assert levels == sorted(levels)
    assert len(set(levels)) == 99
    assert [level_of(quality, 4) for quality in (1, 34, 67, 100)] == [0, 1, 2, 3]
    assert quality_of(224, 225) == 100


@pytest.mark.parametrize("wanted", [-1.0, 0.0, 17.5, 40.0, 112.0, 500.0])
def test_the_first_level_that_reaches_is_found(wanted: float) -> None:
    found = first_reaching(float, wanted, 113)
    assert found == next((level for level in range(113) if level >= wanted), 112)


def test_a_lossy_file_says_so_and_keeps_alpha(model: str) -> None:
    pixels = np.concatenate([picture(64, 80), picture(64, 80, 1) // 2], 2)
    data = gencodec.compress(pixels, model=model, quality=70)
    decoded = gencodec.decompress(data, model=model)
    assert np.array_equal(decoded.pixels[..., 3], pixels[..., 3])
    assert psnr(decoded.pixels[..., :3], pixels[..., :3]) > 20
    info = gencodec.info(data, model=model)
    assert info.lossy
    assert info.version == 3
    assert gencodec.verify(data, model=model) == info


@pytest.mark.parametrize("family", ["nvae-lossy", "beta-vae", "vq-vae", "vq-vae-2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_region_of_a_picture_with_alpha(family: str, channels: int) -> None:
    """All groups of so small a picture are decoded, so that some families know the checksum of its color."""
    pixels = np.concatenate([picture(64, 64, channels), picture(64, 64, 1) // 2], 2)
    data = gencodec.compress(pixels, model=family, quality=50)
    whole = gencodec.decompress(data).pixels
    part = gencodec.decompress(data, region=(3, 5, 20, 10)).pixels
    np.testing.assert_array_equal(part[..., -1], whole[5:15, 3:23, -1])
    assert part.shape == (10, 20, channels + 1)


def test_sizes_land_within_five_percent_or_are_refused(model: str) -> None:
    pixels = picture(160, 160)
    sizes = [8 * len(gencodec.compress(pixels, model=model, quality=quality)) / 25600 for quality in (20, 60)]
    wanted = sum(sizes) / 2
    data = gencodec.compress(pixels, model=model, target_bpp=wanted)
    assert abs(8 * len(data) / 25600 / wanted - 1) <= 0.05
    with pytest.raises(GencodecError, match=r"no quality gives 0\.001 bits a pixel; the nearest gives"):
        gencodec.compress(pixels, model=model, target_bpp=0.001)


def test_an_accuracy_is_reached_or_refused(model: str) -> None:
    pixels = picture(96, 96)
    data = gencodec.compress(pixels, model=model, target_psnr=24)
    assert psnr(gencodec.decompress(data, model=model).pixels, pixels) >= 24
    with pytest.raises(GencodecError, match="no quality gives a PSNR of 90 dB; the highest gives"):
        gencodec.compress(pixels, model=model, target_psnr=90)


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"quality": 0}, "from 1 to 100, not 0"),
        ({"quality": 101}, "from 1 to 100, not 101"),
        ({"quality": 50, "target_bpp": 1}, "exclude each other"),
        ({"target_bpp": -1}, "above 0"),
        ({"target_psnr": float("nan")}, "above 0"),
    ],
)
def test_wrong_wishes_are_refused(model: str, wish: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        gencodec.compress(picture(40, 40), model=model, **wish)


def test_lossless_models_take_no_quality() -> None:
    with pytest.raises(UsageError, match="photo codes without loss"):
        gencodec.compress(picture(40, 40), model="photo", quality=50)


def test_samples_of_16_bits_are_refused(model: str) -> None:
    with pytest.raises(UnsupportedImage, match="samples of 8 bits, and the image has 16"):
        gencodec.compress(picture(40, 40).astype(np.uint16) * 257, model=model, quality=50)


def test_what_is_smaller_without_loss_stays_without(model: str) -> None:
    flat = np.full((50, 60, 3), 70, np.uint8)
    data = gencodec.compress(flat, model=model, quality=50)
    assert not gencodec.info(data).lossy
    assert np.array_equal(gencodec.decompress(data).pixels, flat)


def test_what_would_be_too_short_for_its_pixels_is_coded_without_loss(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gencodec.codec.quality.long_enough", lambda sections, pixels: False)
    data = gencodec.compress(picture(40, 40), model=model, quality=50)
    assert not gencodec.info(data).lossy


def test_previews_are_of_lossy_files_only(model: str) -> None:
    pixels = picture(64, 64)
    data = gencodec.compress(pixels, model=model, quality=90)
    rough = gencodec.decompress(data, model=model, preview=True)
    assert psnr(rough.pixels, pixels) < psnr(gencodec.decompress(data, model=model).pixels, pixels)
    with pytest.raises(UsageError, match="lossless: it has no preview"):
        gencodec.decompress(gencodec.compress(np.zeros((9, 9), np.uint8)), preview=True)


def test_headers_that_contradict_the_flag_are_refused(model: str) -> None:
    data = gencodec.compress(picture(64, 64), model=model, quality=50)
    whole = gnc.read(data)
    lossless = gnc.write(gnc.Container(64, 64, 3, 8, whole.pixel_crc, whole.sections))
    with pytest.raises(InvalidFile, match="codes with loss, and the file claims to be lossless"):
        gencodec.decompress(lossless, model=model)
    deep = gnc.write(gnc.Container(64, 64, 3, 16, whole.pixel_crc, whole.sections, lossy=True))
    with pytest.raises(InvalidFile, match="claims to be lossy"):
        gencodec.decompress(deep, model=model)
    wrong = gnc.write(gnc.Container(64, 64, 3, 8, whole.pixel_crc ^ 1, whole.sections, lossy=True))
    with pytest.raises(InvalidFile, match="checksum"):
        gencodec.decompress(wrong, model=model)


def test_the_command_line_has_the_dial(model: str, tmp_path: Path) -> None:
    gencodec_run = CliRunner()
    source = tmp_path / "a.png"
    from gencodec.codec.formats import write_image
    from gencodec.codec.image import Image

    pixels = picture(64, 64)
    write_image(Image.from_array(pixels), source)
    coded = gencodec_run.invoke(app, ["compress", "--model", model, "--quality", "80", str(source)])
    assert coded.exit_code == 0, coded.output
    file = tmp_path / "a.png.gnc"
    back = tmp_path / "b.png"
    for more in ([], ["--preview", "-f"]):
        done = gencodec_run.invoke(app, ["decompress", "--model", model, str(file), "-o", str(back), *more])
        assert done.exit_code == 0, done.output
    refused = gencodec_run.invoke(app, ["compress", "--model", model, "--quality", "800", str(source), "-f"])
    assert refused.exit_code == 2
    assert "from 1 to 100" in refused.output

"""`gencodec.evaluation`: metrics, and the codecs that are compared."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gencodec.codec.image import Image
from gencodec.errors import GencodecError, UnsupportedImage, UsageError
from gencodec.evaluation import baselines, contenders, metrics, ours
from gencodec.evaluation.measure import distortion, measure, row, same
from gencodec.evaluation.protocol import Options
from tests.photographs import photograph

OPTIONS = Options(threads=1, device="cpu")


# metrics


def test_psnr_is_that_of_one_error_over_all_channels() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    decoded = pixels.copy()
    decoded[0, 0] = (3, 0, 0)
    assert metrics.psnr(pixels, decoded) == pytest.approx(10 * math.log10(255**2 / (9 / 12)))
    assert metrics.psnr(pixels, pixels) == math.inf


@pytest.mark.parametrize("shape", [(176, 161), (163, 201)])
def test_ms_ssim_is_that_of_pytorch_msssim(shape: tuple[int, int]) -> None:
    import torch
    from pytorch_msssim import ms_ssim

    pixels = photograph(1, *shape)
    noise = np.random.default_rng(0).normal(0, 12, pixels.shape)
    decoded = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    x, y = (torch.from_numpy(array.transpose(2, 0, 1)[None].astype(np.float64)) for array in (pixels, decoded))
    assert metrics.ms_ssim(pixels, decoded) == pytest.approx(float(ms_ssim(x, y, data_range=255)), abs=1e-5)


def test_small_images_have_no_ms_ssim() -> None:
    pixels = np.zeros((metrics.MIN_SIDE - 1, 300, 3), np.uint8)
    assert metrics.ms_ssim(pixels, pixels) is None


def test_distortion_is_of_the_color() -> None:
    grey = np.full((4, 4, 1), 7, np.uint8)
    assert distortion(grey, np.full((4, 4, 3), 7, np.uint8)) == {"psnr": None, "ms_ssim": None}
    with_alpha = np.concatenate([grey, 9 * grey], axis=2)
    found = distortion(with_alpha, np.concatenate([grey + np.uint8(1), grey], axis=2))
    assert found["psnr"] == pytest.approx(20 * math.log10(255))
    with pytest.raises(GencodecError, match="the decoded image is"):
        distortion(grey, np.zeros((5, 4, 1), np.uint8))


def test_pictures_that_differ_only_in_their_layout_are_the_same() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    opaque = np.full_like(grey, 255)
    assert same(grey, np.concatenate([grey, grey, grey, opaque], axis=2))
    assert not same(grey, np.concatenate([grey, grey, grey, opaque - 1], axis=2))
    assert not same(grey, grey.astype(np.uint16))


# contenders


@pytest.mark.parametrize("name", [*baselines.LOSSLESS, "jxl-e1"])
def test_lossless_baselines_give_back_every_sample(name: str) -> None:
    contender = baselines.make(name, None, 1)
    if contender.missing:
        pytest.skip(contender.missing)
    for channels in set(contender.channels) & {1, 3, 4}:
        image = Image.from_array(np.random.default_rng(0).integers(0, 256, (9, 14, channels), np.uint8))
        assert same(image.pixels, contender.decode(contender.encode(image)).pixels)
    deep = Image.from_array(np.full((9, 14, 3), 1025, np.uint16))
    if 2 in contender.depths:
        assert same(deep.pixels, contender.decode(contender.encode(deep)).pixels)
    else:
        with pytest.raises(UnsupportedImage, match=f"{name} does not take samples of 16 bits"):
            contender.encode(deep)


@pytest.mark.parametrize("name", baselines.LOSSY)
def test_lossy_baselines_are_monotone(name: str) -> None:
    image = Image.from_array(photograph(1, 64, 96))
    sizes, errors = [], []
    for quality in baselines.sweep(name)[::4]:
        contender = baselines.make(name, quality, 1)
        if contender.missing:
            pytest.skip(contender.missing)
        data = contender.encode(image)
        sizes.append(len(data))
        errors.append(metrics.psnr(image.pixels, contender.decode(data).pixels))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors)


def test_models_are_contenders_at_an_effort_or_at_qualities(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = contenders.entries(["photo@1", "nice"], ["jxl-e3", "jpeg"], OPTIONS)
    assert [entry.name for entry in entries[:4]] == ["photo@1", "nice", "jxl-e3", "jpeg 5"]
    assert ours.make("photo@1", None, OPTIONS).effort == 1
    settings = ours.make("photo@1", None, OPTIONS).settings
    assert all(name in settings for name in ("photo-base.5", "photo-base.3", "photo-codes.2", "photo-small.1"))
    assert ours.make("photo-base.5", None, OPTIONS).settings.startswith("photo-base.5, weights ")
    sent = {}
    monkeypatch.setattr(ours.gencodec, "compress", lambda image, **options: sent.update(options) or b"")
    (first, second) = contenders.entries(["beta-vae"], [], Options(qualities=(20, 80)))
    assert (first.name, second.name) == ("beta-vae 20", "beta-vae 80")
    lossy = contenders.make(second, OPTIONS)
    assert not lossy.lossless
    lossy.encode(Image.from_array(np.zeros((1, 1, 3), np.uint8)))
    assert sent == {"model": "beta-vae", "quality": 80, "threads": 1, "device": "cpu"}


def test_a_model_of_few_levels_is_measured_once_at_each() -> None:
    found = contenders.entries(["vq-vae-2"], [], Options(qualities=(1, 20, 40, 60, 80, 100)))
    assert [entry.quality for entry in found] == [1, 34, 67, 100]


@pytest.mark.parametrize(
    ("models", "codecs", "sentence"),
    [
        ([], ["wepb"], "there is no codec 'wepb'; did you mean webp?"),
        (["gloww"], [], "there is no model 'gloww'; did you mean glow?"),
        (["photo@0"], [], "the effort of photo@0 is not from 1 to 9"),
    ],
)
def test_unknown_names_come_with_a_suggestion(models: list[str], codecs: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        contenders.entries(models, codecs, OPTIONS)
    assert str(caught.value) == sentence


def test_a_model_states_its_estimate() -> None:
    contender = ours.make("nice", None, OPTIONS)
    image = Image.from_array(photograph(1, 32, 48))
    known = row("a", "", "", "nice", contender)
    found = measure(image, contender, known)
    assert found.done
    assert found.identical
    assert found.overhead == pytest.approx(8 * (found.bytes or 0) / (found.estimate_bits or 1) - 1)
    assert found.initial_bits

"""The ordinary coders: every one gives back what it was given, and refuses what it cannot have written."""

from __future__ import annotations

import io
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image as PillowImage

from gencodec import InvalidFile
from gencodec.codec import choice, ordinary
from gencodec.codec.container import Coder
from gencodec.codec.image import Pixels

FREE = [coder for coder in Coder if coder not in (Coder.MODEL, Coder.CHANGES, Coder.CONSTANT)]
shapes = st.tuples(st.integers(1, 21), st.integers(1, 21), st.integers(1, 4))
images = st.sampled_from([np.uint8, np.uint16]).flatmap(lambda dtype: hnp.arrays(dtype, shapes))


def shape_of(pixels: Pixels) -> ordinary.Shape:
    height, width, channels = pixels.shape
    return ordinary.Shape(height, width, channels, pixels.itemsize)


def noise(*shape: int, dtype: type = np.uint8) -> Pixels:
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@given(images)
@example(np.zeros((1, 1, 1), np.uint8))
@example(np.zeros((1, 1, 4), np.uint16)[:, :, :2])
@settings(max_examples=25)
def test_every_coder_round_trips(pixels: Pixels) -> None:
    for coder in FREE:
        if coder is Coder.WEBP and not ordinary.fits_webp(pixels):
            continue
        decoded = ordinary.decode(coder, ordinary.encode_by(coder, pixels), shape_of(pixels))
        np.testing.assert_array_equal(decoded, pixels)
        assert decoded.dtype == pixels.dtype


@given(images)
@settings(max_examples=25)
def test_choice_round_trips(pixels: Pixels) -> None:
    coder, payload = ordinary.encode(pixels)
    np.testing.assert_array_equal(ordinary.decode(coder, payload, shape_of(pixels)), pixels)
    assert len(payload) <= pixels.nbytes


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparent_pixels_keep_their_colors(channels: int, dtype: type) -> None:
    pixels = noise(16, 16, channels, dtype=dtype)
    pixels[::2, :, -1] = 0
    for coder in (Coder.WEBP, Coder.JXL, Coder.PNG):
        if coder is not Coder.WEBP or dtype is np.uint8:
            payload = ordinary.encode_by(coder, pixels)
            np.testing.assert_array_equal(ordinary.decode(coder, payload, shape_of(pixels)), pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_constant_samples_take_one_pixel(channels: int) -> None:
    assert ordinary.encode(np.full((500, 400, channels), 9, np.uint8)) == (Coder.CONSTANT, b"\t" * channels)


def test_payloads_are_never_shorter_than_asked() -> None:
    pixels = np.zeros((900, 900, 3), np.uint8)
    coder, payload = ordinary.encode(pixels, least=400)
    assert len(payload) >= 400
    np.testing.assert_array_equal(ordinary.decode(coder, payload, shape_of(pixels)), pixels)


def test_sides_beyond_webp() -> None:
    pixels = np.zeros((2, ordinary.MAX_WEBP_SIDE + 1, 3), np.uint8)
    pixels[1, ::7] = 200
    coder, payload = ordinary.encode(pixels)
    assert coder is not Coder.WEBP
    np.testing.assert_array_equal(ordinary.decode(coder, payload, shape_of(pixels)), pixels)


def test_sides_beyond_libpng() -> None:
    pixels = np.zeros((1, 1_000_001, 1), np.uint8)
    pixels[0, -1] = 1
    coder, payload = ordinary.encode(pixels)
    np.testing.assert_array_equal(ordinary.decode(coder, payload, shape_of(pixels)), pixels)
    assert not choice.model_wins(pixels, len(payload), 0)


@pytest.mark.parametrize("kind", ["noise", "stripes", "slope"])
def test_never_longer_than_webp(kind: str) -> None:
    y, x, c = np.ogrid[:60, :70, :3]
    stripes = (x // 3 % 2 * 250 + y * 0 + c * 0).astype(np.uint8)
    pixels = {"noise": noise(60, 70, 3), "stripes": stripes, "slope": (x + y + c).astype(np.uint8)}[kind]
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "WEBP", lossless=True, quality=100, method=6)
    assert len(ordinary.encode(pixels).payload) <= len(file.getvalue()) - 20


@pytest.mark.parametrize("coder", [*FREE, Coder.CONSTANT])
def test_damage_is_refused_or_harmless(coder: Coder) -> None:
    """Cut payloads raise InvalidFile; altered ones do, or decode to samples of the right shape."""
    pixels = np.full((24, 24, 3), 5, np.uint8) if coder is Coder.CONSTANT else noise(24, 24, 3) % np.uint8(32)
    payload, shape = ordinary.encode_by(coder, pixels), shape_of(pixels)
    for length in {0, 1, 2, 5, 11, len(payload) // 2} & set(range(len(payload))):
        with pytest.raises(InvalidFile):
            ordinary.decode(coder, payload[:length], shape)
    rng = np.random.default_rng(3)
    for _ in range(40):
        altered = bytearray(payload)
        altered[rng.integers(len(payload))] ^= 1 << rng.integers(8)
        with suppress(InvalidFile):
            assert ordinary.decode(coder, bytes(altered), shape).shape == shape[:3]


@pytest.mark.parametrize("coder", FREE)
@pytest.mark.parametrize("change", [{"height": 20000}, {"width": 20000}, {"channels": 1}, {"channels": 4}])
def test_other_shapes_are_refused_without_room_for_them(coder: Coder, change: dict[str, int]) -> None:
    pixels = noise(16, 16, 3)
    payload = ordinary.encode_by(coder, pixels)
    shape = shape_of(pixels)._replace(**change)
    if coder is Coder.WEBP and "channels" in change:
        pytest.skip("WebP holds grey as colors: the checksum over the samples tells")
    tracemalloc.start()
    with pytest.raises(InvalidFile):
        ordinary.decode(coder, payload, shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


@pytest.mark.parametrize("side", [1, 7, 8, 9, 64, 255, 256, 513, 8193])
def test_jxl_size_is_read(side: int) -> None:
    for height, width in ((side, 3), (3, side), (side, min(side, 600)), (min(side, 300), 2 * min(side, 300))):
        payload = ordinary.encode_by(Coder.JXL, np.zeros((height, width, 1), np.uint8))
        with pytest.raises(InvalidFile, match=f"is {width} x {height} instead"):
            ordinary.decode(Coder.JXL, payload, ordinary.Shape(5, 5, 1, 1))

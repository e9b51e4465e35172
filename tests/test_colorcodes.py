"""Color codes: each formula, its exact inverse, what is found and what is not, and exceptions whole and damaged."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFilter

from gencodec.codec import colorcodes
from gencodec.codec.colorcodes import SYSTEMS, ColorCodes, Exceptions
from gencodec.errors import InvalidFile

ROOT = Path(__file__).resolve().parent.parent
PHOTO_CD, JFIF, VP8 = SYSTEMS

Samples = NDArray[np.uint8]

systems = pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)


@pytest.fixture(scope="module")
def coast() -> PillowImage.Image:
    """A photograph that was reduced after it was decoded, so that no formula gives its colors."""
    with PillowImage.open(ROOT / "examples" / "coast.png") as picture:
        return picture.convert("RGB")


def clip(value: int) -> int:
    return max(0, min(255, value))


def through(picture: PillowImage.Image, kind: str, **options: Any) -> Samples:
    """The pixels of a picture after a lossy format."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    with PillowImage.open(file) as decoded:
        return np.asarray(decoded.convert("RGB"))


def contrasty(picture: PillowImage.Image) -> PillowImage.Image:
    """Many pixels of it are clipped."""
    return picture.point([clip(3 * level - 256) for level in range(256)] * 3)


def photo_cd(picture: PillowImage.Image) -> Samples:
    """The codes of a picture as a Photo CD holds them: chroma of half the resolution, interpolated."""
    rgb = np.asarray(picture, np.float64)
    light = rgb @ (0.299, 0.587, 0.114)

    def chroma(difference: NDArray[np.float64]) -> Samples:
        plane = PillowImage.fromarray(np.clip(np.rint(difference), 0, 255).astype(np.uint8))
        half = plane.resize((picture.width // 2, picture.height // 2), PillowImage.Resampling.BOX)
        return np.asarray(half.resize(picture.size, PillowImage.Resampling.BILINEAR))

    red = chroma((rgb[:, :, 0] - light) / 1.8215 + 137)
    blue = chroma((rgb[:, :, 2] - light) / 2.2179 + 156)
    return np.stack([red, np.rint(light / 1.3584).astype(np.uint8), blue], axis=2)


def some_codes(count: int, seed: int = 0) -> Samples:
    """Codes (count / 100, 100, 3) of which every triple is as likely as any other."""
    return np.random.default_rng(seed).integers(0, 256, (count // 100, 100, 3), np.uint8)


def spoiled(pixels: Samples, share: float, seed: int = 0) -> Samples:
    """Pixels of which some are of arbitrary color."""
    rng = np.random.default_rng(seed)
    at = rng.choice(pixels.shape[0] * pixels.shape[1], int(share * pixels.shape[0] * pixels.shape[1]), replace=False)
    result = pixels.copy()
    result.reshape(-1, 3)[at] = rng.integers(0, 256, (len(at), 3))
    return result


def coded(pixels: Samples, system: ColorCodes) -> tuple[Samples, Exceptions]:
    """Codes and exceptions of pixels that surely have some."""
    result = colorcodes.to_codes(pixels, system)
    assert result is not None
    return result


def restored(planes: Samples, exceptions: Exceptions, system: ColorCodes) -> Samples:
    """Pixels as a decoder makes them of what the file holds."""
    height, width, _ = planes.shape
    pixels = colorcodes.to_pixels(planes, system)
    unpacked = colorcodes.unpack_exceptions(colorcodes.pack_exceptions(exceptions), width, height)
    colorcodes.apply_exceptions(pixels, unpacked)
    return pixels


# the formulas


def photo_cd_color(red: int, luma: int, blue: int) -> tuple[int, int, int]:
    light = 89024 * luma
    c1, c2 = 145352 * (blue - 156), 119374 * (red - 137)
    green = light - 12714 * (c1 >> 16) - 33358 * (c2 >> 16)
    return clip((light + c2) >> 16), clip(green >> 16), clip((light + c1) >> 16)


def jfif_color(red: int, luma: int, blue: int) -> tuple[int, int, int]:
    cr, cb = red - 128, blue - 128
    green = luma + ((-22554 * cb - 46802 * cr + 32768) >> 16)
    return clip(luma + ((91881 * cr + 32768) >> 16)), clip(green), clip(luma + ((116130 * cb + 32768) >> 16))


def vp8_color(red: int, luma: int, blue: int) -> tuple[int, int, int]:
    y = 19077 * luma >> 8
    r = y + (26149 * red >> 8) - 14234
    g = y - (6419 * blue >> 8) - (13320 * red >> 8) + 8708
    b = y + (33050 * blue >> 8) - 17685
    return clip(r >> 6), clip(g >> 6), clip(b >> 6)


@pytest.mark.parametrize(("system", "color"), [(PHOTO_CD, photo_cd_color), (JFIF, jfif_color), (VP8, vp8_color)])
def test_formulas(system: ColorCodes, color: Any) -> None:
    planes = np.concatenate([some_codes(20000), np.array([[[0] * 3, [255] * 3] * 50], np.uint8)])
    expected = [color(*(int(code) for code in codes)) for codes in planes.reshape(-1, 3)]
    np.testing.assert_array_equal(colorcodes.to_pixels(planes, system).reshape(-1, 3), expected)


@pytest.mark.parametrize(
    ("codes", "rgb"),
    [
        ((173, 63, 134), (151, 61, 36)),
        ((133, 95, 147), (121, 136, 109)),
        ((137, 80, 151), (108, 110, 97)),
        ((146, 135, 138), (199, 182, 143)),
        ((137, 188, 156), (255, 255, 255)),
    ],
)
def test_photo_cd_gives_colors_of_kodak_pictures(codes: tuple[int, ...], rgb: tuple[int, ...]) -> None:
    """Exact coefficients would make the green of the first four greater by 1."""
    planes = np.array(codes, np.uint8).reshape(1, 1, 3)
    assert tuple(colorcodes.to_pixels(planes, PHOTO_CD)[0, 0]) == rgb


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jfif_gives_what_libjpeg_makes_of_the_planes(coast: PillowImage.Image, subsampling: int) -> None:
    file = io.BytesIO()
    contrasty(coast).save(file, "JPEG", quality=90, subsampling=subsampling)
    with PillowImage.open(file) as picture:
        picture.draft("YCbCr", picture.size)
        luma, blue, red = picture.split()
        assert picture.mode == "YCbCr"
    planes = np.stack([np.asarray(plane) for plane in (red, luma, blue)], axis=2)
    with PillowImage.open(file) as picture:
        pixels = np.asarray(picture)
    assert (pixels == 255).any()
    assert (pixels == 0).any()
    np.testing.assert_array_equal(colorcodes.to_pixels(planes, JFIF), pixels)


def test_systems_have_numbers_of_their_own() -> None:
    assert {system.wire_id: system.name for system in SYSTEMS} == {1: "photo-cd", 2: "jfif", 3: "vp8"}
    for system in SYSTEMS:
        assert colorcodes.find_system(system.wire_id) is system
    with pytest.raises(InvalidFile, match="unknown system 4"):
        colorcodes.find_system(4)


@systems
def test_tables_are_such_as_the_inverse_needs(system: ColorCodes) -> None:
    unit = 1 << system.shift
    for table in (system.luma, system.red, system.blue, system.green_red, system.green_blue):
        assert table.shape == (256,)
        assert (np.diff(table) > 0).all()
    assert min(np.diff(system.red).min(), np.diff(system.blue).min()) > unit
    assert np.diff(system.green_blue).max() < unit


# codes and back


@systems
def test_every_color_that_codes_give_is_found(system: ColorCodes) -> None:
    planes = some_codes(100_000)
    pixels = colorcodes.to_pixels(planes, system)
    found, exceptions = coded(pixels, system)
    assert len(exceptions) == 0
    np.testing.assert_array_equal(colorcodes.to_pixels(found, system), pixels)
    inside = ((pixels > 0) & (pixels < 255)).all(axis=2)
    assert inside.sum() > 5000
    np.testing.assert_array_equal(found[inside], planes[inside])


@systems
@settings(max_examples=60)
@given(planes=hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))))
def test_any_codes_round_trip(system: ColorCodes, planes: Samples) -> None:
    pixels = colorcodes.to_pixels(planes, system)
    found, exceptions = coded(pixels, system)
    assert len(exceptions) == 0
    np.testing.assert_array_equal(colorcodes.to_pixels(found, system), pixels)


@systems
def test_every_triple_of_extreme_codes_is_found(system: ColorCodes) -> None:
    ends = np.array([*range(12), *range(110, 146, 5), *range(244, 256)], np.uint8)
    planes = np.stack(np.meshgrid(ends, ends, ends), axis=3).reshape(len(ends), -1, 3)
    found, exceptions = coded(colorcodes.to_pixels(planes, system), system)
    assert len(exceptions) == 0
    np.testing.assert_array_equal(colorcodes.to_pixels(found, system), colorcodes.to_pixels(planes, system))


@systems
def test_any_pixels_round_trip_with_exceptions(coast: PillowImage.Image, system: ColorCodes) -> None:
    pixels = spoiled(colorcodes.to_pixels(photo_cd(contrasty(coast)), system), 0.015)
    planes, exceptions = coded(pixels, system)
    assert 1000 < len(exceptions) <= 0.015 * pixels.size / 3
    np.testing.assert_array_equal(restored(planes, exceptions, system), pixels)


@systems
def test_bands_make_no_difference(
    coast: PillowImage.Image, system: ColorCodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = spoiled(colorcodes.to_pixels(photo_cd(contrasty(coast))[:60, :70], system), 0.01)
    planes, exceptions = coded(pixels, system)
    monkeypatch.setattr(colorcodes, "BAND_PIXELS", 111)
    again, also = coded(pixels, system)
    np.testing.assert_array_equal(again, planes)
    np.testing.assert_array_equal(also.positions, exceptions.positions)
    np.testing.assert_array_equal(also.residuals, exceptions.residuals)
    np.testing.assert_array_equal(restored(planes, exceptions, system), pixels)


@systems
def test_strided_pixels_are_taken(system: ColorCodes) -> None:
    pixels = colorcodes.to_pixels(some_codes(4000), system)
    planes, _ = coded(pixels[::2, ::-3], system)
    np.testing.assert_array_equal(colorcodes.to_pixels(planes, system), pixels[::2, ::-3])
    np.testing.assert_array_equal(colorcodes.to_pixels(planes[:, ::2], system), pixels[::2, ::-3][:, ::2])


@systems
def test_a_color_has_one_triple_wherever_it_occurs(system: ColorCodes) -> None:
    pixels = colorcodes.to_pixels(some_codes(50_000), system)
    planes, _ = coded(pixels, system)
    both = np.concatenate([pixels, planes], axis=2).reshape(-1, 6)
    assert (pixels == 255).any()
    assert len(np.unique(both, axis=0)) == len(np.unique(both[:, :3], axis=0))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(("gain", "offset"), [(1, 90), (1, -70), (3, -256)])
def test_codes_of_clipped_colors_are_smooth(coast: PillowImage.Image, kind: str, gain: int, offset: int) -> None:
    """Steps between neighbors are below those of RGB, though a clipped color leaves a choice."""
    pixels = through(coast.point([clip(gain * level + offset) for level in range(256)] * 3), kind, quality=95)
    planes, exceptions = coded(pixels, JFIF if kind == "JPEG" else VP8)
    assert len(exceptions) == 0
    clipped = ((pixels == 255) | (pixels == 0)).any(axis=2)
    assert clipped.mean() > 0.4
    codes, rgb = (abs(np.diff(a.astype(int), axis=1)).sum(2)[clipped[:, 1:]].mean() for a in (planes, pixels))
    assert codes < 0.8 * rgb


@systems
def test_planes_of_exceptions_hold_near_codes(coast: PillowImage.Image, system: ColorCodes) -> None:
    pixels = colorcodes.to_pixels(photo_cd(coast), system)
    noise = np.random.default_rng(1).integers(-2, 3, pixels.shape) * (np.arange(pixels.shape[1]) % 60 == 7)[:, None]
    pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    _, exceptions = coded(pixels, system)
    assert len(exceptions) > 500
    inside = ((pixels > 10) & (pixels < 245)).all(axis=2).ravel()[exceptions.positions]
    assert abs(exceptions.residuals[inside].view(np.int8).astype(int)).max() <= 3


@systems
def test_too_many_exceptions_are_refused(coast: PillowImage.Image, system: ColorCodes) -> None:
    pixels = colorcodes.to_pixels(photo_cd(coast), system)
    assert colorcodes.to_codes(spoiled(pixels, 0.03), system) is None
    assert colorcodes.to_codes(np.asarray(coast), system) is None


# detection


@pytest.mark.parametrize("enhance", [contrasty, lambda picture: picture], ids=["contrasty", "plain"])
@pytest.mark.parametrize(
    ("system", "kind", "options"),
    [
        (JFIF, "JPEG", {"quality": 90, "subsampling": 0}),
        (JFIF, "JPEG", {"quality": 90, "subsampling": 2}),
        (JFIF, "JPEG", {"quality": 50, "subsampling": 1, "progressive": True}),
        (VP8, "WEBP", {"quality": 90}),
        (VP8, "WEBP", {"quality": 30}),
    ],
)
def test_lossy_formats_are_found(
    coast: PillowImage.Image, enhance: Any, system: ColorCodes, kind: str, options: dict[str, Any]
) -> None:
    pixels = through(enhance(coast), kind, **options)
    assert colorcodes.detect(pixels) is system
    planes, exceptions = coded(pixels, system)
    assert len(exceptions) == 0
    np.testing.assert_array_equal(colorcodes.to_pixels(planes, system), pixels)


@systems
def test_pictures_made_of_codes_are_found(coast: PillowImage.Image, system: ColorCodes) -> None:
    pixels = colorcodes.to_pixels(photo_cd(coast), system)
    assert colorcodes.detect(pixels) is system
    assert colorcodes.detect(pixels[-60:, -60:]) is system
    assert colorcodes.detect(spoiled(pixels, 0.015)) is system
    assert colorcodes.detect(spoiled(pixels, 0.06)) is None


def test_photographs_that_were_worked_on_are_not_found(coast: PillowImage.Image) -> None:
    assert colorcodes.detect(np.asarray(coast)) is None
    assert colorcodes.detect(np.asarray(contrasty(coast))) is None
    jpeg = PillowImage.fromarray(through(coast, "JPEG", quality=90))
    assert colorcodes.detect(np.asarray(jpeg.resize((300, 200)))) is None
    assert colorcodes.detect(np.asarray(jpeg.filter(ImageFilter.SHARPEN))) is None
    assert colorcodes.detect(np.asarray(jpeg.point([level * 60 // 64 for level in range(256)] * 3))) is None
    assert colorcodes.detect(np.asarray(jpeg)[:, :, ::-1]) is None


def test_gray_flat_and_noise_are_not_found(coast: PillowImage.Image) -> None:
    gray = through(coast.convert("L"), "JPEG", quality=90)
    assert colorcodes.detect(gray) is None
    tinted = np.stack([gray[:, :, 0] // 2 + 60, gray[:, :, 0] // 2 + 40, gray[:, :, 0] // 2 + 20], axis=2)
    assert colorcodes.detect(tinted) is None
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    assert colorcodes.detect(noise) is None
    assert colorcodes.detect(noise // 128 * 255) is None
    for level in (0, 90, 255):
        assert colorcodes.detect(np.full((40, 50, 3), level, np.uint8)) is None
    assert colorcodes.detect(np.zeros((1, 1, 3), np.uint8)) is None


@systems
def test_few_colors_are_not_found(system: ColorCodes) -> None:
    """A palette may lie among a formula's colors, by chance or not, and has nothing to gain."""
    colors = colorcodes.to_pixels(np.random.default_rng(5).integers(100, 160, (1, 400, 3), np.uint8), system)
    pixels = colors[0, np.random.default_rng(6).integers(0, 400, (200, 200))]
    assert colorcodes.detect(pixels) is None


def test_drawings_are_not_found() -> None:
    picture = PillowImage.new("RGB", (640, 480), (238, 240, 243))
    draw = ImageDraw.Draw(picture)
    rng = np.random.default_rng(3)
    for number in range(150):
        x, y, w, h = (int(value) for value in rng.integers(0, 400, 4))
        draw.rectangle((x, y, x + w // 4, y + h // 4), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
        draw.text((x, y), f"entry {number}", fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    assert colorcodes.detect(np.asarray(picture)) is None
    assert colorcodes.detect(np.asarray(picture.resize((500, 400), PillowImage.Resampling.BICUBIC))) is None
    y, x = np.mgrid[:256, :256]
    assert colorcodes.detect(np.stack([x, y, (x + y) // 2], axis=2).astype(np.uint8)) is None


def test_png_suite_is_not_found() -> None:
    files = [path for path in sorted((ROOT / "tests/data/pngsuite").glob("*.png")) if path.name[0] != "x"]
    assert len(files) > 100
    for path in files:
        with PillowImage.open(path) as picture:
            assert colorcodes.detect(np.asarray(picture.convert("RGBA").convert("RGB"))) is None, path.name


# exceptions


def some_exceptions(width: int, height: int, count: int, seed: int = 0) -> Exceptions:
    rng = np.random.default_rng(seed)
    positions = np.sort(rng.choice(width * height, count, replace=False))
    return Exceptions(width, positions, rng.integers(1, 256, (count, 3), np.uint8))


@pytest.mark.parametrize(
    ("width", "height", "count"), [(1, 1, 0), (50, 1, 1), (1, 50, 1), (313, 211, 1000), (1 << 15, 1 << 15, 3)]
)
def test_exceptions_round_trip(width: int, height: int, count: int) -> None:
    exceptions = some_exceptions(width, height, count)
    data = colorcodes.pack_exceptions(exceptions)
    assert (data == b"") == (count == 0)
    unpacked = colorcodes.unpack_exceptions(data, width, height)
    assert unpacked.width == width
    np.testing.assert_array_equal(unpacked.positions, exceptions.positions)
    np.testing.assert_array_equal(unpacked.residuals, exceptions.residuals)


def test_runs_of_exceptions_are_short() -> None:
    positions = (np.arange(40)[:, None] * 500 + np.arange(50) + 7000).ravel()
    exceptions = Exceptions(500, positions, np.full((2000, 3), 255, np.uint8))
    assert len(colorcodes.pack_exceptions(exceptions)) < 100


@settings(max_examples=100)
@given(data=st.data())
def test_regions_get_their_own_exceptions(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    exceptions = some_exceptions(width, height, data.draw(st.integers(0, width * height)))
    whole = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    part = whole[y : y + h, x : x + w].copy()
    before = whole.copy()
    colorcodes.apply_exceptions(whole, exceptions)
    colorcodes.apply_exceptions(part, exceptions, (x, y, w, h))
    np.testing.assert_array_equal(part, whole[y : y + h, x : x + w])
    assert (whole != before).any(axis=2).sum() == len(exceptions)


def packed(*content: int) -> bytes:
    """A DEFLATE stream of bytes."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(bytes(content)) + stream.flush()


# Two exceptions in 100 x 10 pixels, at 10 and 142; 20 are the most that are allowed.
RIGHT = (2, 10, 0x83, 0x01, 1, 2, 3, 4, 5, 6)


def test_the_layout_is_that_of_the_format() -> None:
    exceptions = colorcodes.unpack_exceptions(packed(*RIGHT), 100, 10)
    np.testing.assert_array_equal(exceptions.positions, [10, 142])
    np.testing.assert_array_equal(exceptions.residuals, [[1, 3, 5], [2, 4, 6]])
    assert zlib.decompress(colorcodes.pack_exceptions(exceptions), wbits=-15) == bytes(RIGHT)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (packed(), "truncated"),
        (packed(0), "claims 0 color exceptions"),
        (packed(21, *[0] * 21, *[1] * 63), "claims 21 color exceptions; 1 to 20 are allowed"),
        (packed(0xFF, 0xFF, 0xFF, 0xFF, 0x7F), "claims 34359738367 color exceptions"),
        (packed(0x80), "truncated"),
        (packed(2, 10), "truncated"),
        (packed(1, 0x80, 0x80), "truncated"),
        (packed(1, 0x80, 0x00, 1, 1, 1), "wrong form"),
        (packed(0x81, 0x00, 0, 1, 1, 1), "wrong form"),
        (packed(1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 1, 1, 1), "wrong form"),
        (packed(1, 0xE8, 0x07, 1, 1, 1), "outside the image"),
        (packed(2, 0xE7, 0x07, 0, 1, 1, 1, 1, 1, 1), "outside the image"),
        (packed(1, 5, 1, 1), "wrong length"),
        (packed(1, 5, 1, 1, 1, 1), "wrong length"),
        (packed(2, 5, 5, 1, 0, 0, 0, 0, 0), "changes nothing"),
        (packed(*RIGHT)[:-1], "wrong length"),
        (packed(*RIGHT) + b"\0", "wrong length"),
        (b"\xff" + packed(*RIGHT), "damaged"),
        (packed(*[1] * 166), "wrong length"),
    ],
)
def test_malformed_exceptions_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidFile, match=message):
        colorcodes.unpack_exceptions(data, 100, 10)


def test_pictures_too_small_for_exceptions_have_none() -> None:
    assert len(colorcodes.unpack_exceptions(b"", 7, 7)) == 0
    with pytest.raises(InvalidFile, match="1 to 0 are allowed"):
        colorcodes.unpack_exceptions(packed(1, 0, 1, 1, 1), 7, 7)


def test_bombs_take_no_memory() -> None:
    bomb = packed(*bytes(1 << 24))
    tracemalloc.start()
    with pytest.raises(InvalidFile, match="wrong length"):
        colorcodes.unpack_exceptions(bomb, 1000, 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 18


@settings(max_examples=300)
@given(data=st.one_of(st.binary(max_size=80).map(lambda content: packed(*content)), st.binary(max_size=80)))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        exceptions = colorcodes.unpack_exceptions(data, 40, 30)
    except InvalidFile:
        return
    assert len(exceptions) <= colorcodes.most_exceptions(40, 30)
    assert (np.diff(exceptions.positions, append=1200) > 0).all()
    colorcodes.apply_exceptions(np.zeros((30, 40, 3), np.uint8), exceptions)


@settings(max_examples=200)
@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_damaged_payloads_are_read_or_refused(at: int, flip: int) -> None:
    plain = bytearray(zlib.decompress(colorcodes.pack_exceptions(some_exceptions(300, 200, 900)), wbits=-15))
    plain[at % len(plain)] ^= flip
    try:
        exceptions = colorcodes.unpack_exceptions(packed(*plain), 300, 200)
    except InvalidFile:
        return
    assert len(exceptions) == 900
    colorcodes.apply_exceptions(np.zeros((200, 300, 3), np.uint8), exceptions)

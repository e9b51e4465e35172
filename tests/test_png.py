"""PNG: PngSuite, round trips, damage, and the chunks that carry metadata."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PillowImage

from gencodec.codec.formats import read_image
from gencodec.codec.image import Image, Metadata
from gencodec.codec.png import read_png, write_png
from gencodec.codec.scanlines import SIGNATURE, chunk, filter_rows, unfilter
from gencodec.errors import GencodecError, InvalidFile, UnsupportedImage, UsageError

SUITE = sorted((Path(__file__).parent / "data" / "pngsuite").glob("*.png"))
GOOD = [path for path in SUITE if not path.name.startswith("x")]
BROKEN = [path for path in SUITE if path.name.startswith("x")]


def build(*, ihdr: tuple = (2, 2, 8, 0, 0, 0, 0), idat: bytes | None = None, before: tuple = (), after: tuple = ()):
    """A PNG file put together by hand; by default two rows of two grey pixels."""
    data = zlib.compress(b"\0\1\2\0\3\4") if idat is None else idat
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *ihdr)), *before, (b"IDAT", data), *after, (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(kind, payload) for kind, payload in parts)


def by_imagecodecs(data: bytes) -> np.ndarray:
    pixels = imagecodecs.png_decode(data)
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels


def by_pillow(data: bytes, channels: int) -> np.ndarray:
    with PillowImage.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels])).reshape(
            picture.height, picture.width, channels
        )


def test_the_suite_is_there() -> None:
    assert (len(GOOD), len(BROKEN)) == (161, 14)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_pngsuite_pixels(path: Path) -> None:
    data = path.read_bytes()
    image = read_image(path)
    expected = by_imagecodecs(data)
    assert image.pixels.dtype == expected.dtype
    assert np.array_equal(image.pixels, expected)
    # Pillow compares the transparent color of 4-bit grey with samples that it has scaled already.
    if image.bit_depth <= 8 and path.stem != "tbbn0g04":
        assert np.array_equal(image.pixels, by_pillow(data, image.channels))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_pngsuite_header(path: Path) -> None:
    # The name ends in color type (0 grey, 2 RGB, 3 palette, 4 and 6 with alpha) and bit depth.
    color, depth = int(path.stem[-4]), int(path.stem[-2:])
    image = read_image(path)
    transparent = path.name.startswith(("tb", "tm", "tp1"))
    assert image.channels == {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[color] + transparent
    plain_grey = color == 0 and not transparent
    assert image.bit_depth == (depth if plain_grey or depth == 16 else 8)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_pngsuite_round_trip(path: Path) -> None:
    image = read_image(path)
    written = write_png(image)
    assert read_image(written) == image
    assert written[24] == image.bit_depth
    assert np.array_equal(by_imagecodecs(written), image.pixels)


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_pngsuite_files_are_refused(path: Path) -> None:
    with pytest.raises(InvalidFile) as caught:
        read_image(path)
    assert caught.value.exit_code == 3
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [path for path in GOOD if path.name.startswith("basi")], ids=lambda path: path.stem)
def test_interlacing_does_not_change_the_pixels(path: Path) -> None:
    assert read_image(path) == read_image(path.with_name(path.name.replace("basi", "basn")))


def test_reading_is_silent(capfd: pytest.CaptureFixture) -> None:
    for path in GOOD:
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_pngsuite_metadata() -> None:
    suite = {path.stem: read_image(path).metadata for path in GOOD}
    assert suite["g03n2c08"].gamma == 35000
    assert suite["g25n3p04"].gamma == 250000
    assert suite["ccwn2c08"].chromaticities == (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    assert suite["cdun2c08"].density == (1000, 1000, 1)
    assert suite["cdfn2c08"].density == (1, 4, 0)
    assert suite["exif2c08"].exif is not None
    assert suite["exif2c08"].exif.startswith((b"II*\0", b"MM\0*"))
    assert suite["z00n2c08"] == Metadata()


INTEGERS = st.integers(0, 2**31 - 1)
METADATA = st.builds(
    Metadata,
    icc=st.none() | st.binary(max_size=40),
    exif=st.none() | st.binary(max_size=40),
    xmp=st.none() | st.binary(max_size=40),
    srgb_intent=st.none() | st.integers(0, 3),
    gamma=st.none() | INTEGERS,
    chromaticities=st.none() | st.tuples(*[INTEGERS] * 8),
    density=st.none() | st.tuples(INTEGERS, INTEGERS, st.integers(0, 1)),
    cicp=st.none() | st.tuples(*[st.integers(0, 255)] * 4),
)


@st.composite
def images(draw: st.DrawFn) -> Image:
    """Any small image that PNG can hold."""
    channels = draw(st.integers(1, 4))
    depth = draw(st.sampled_from((1, 2, 4, 8, 16) if channels == 1 else (8, 16)))
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 12)), channels)
    top = (1 << depth) - 1
    samples = draw(arrays(np.uint8 if depth <= 8 else np.uint16, shape, elements=st.integers(0, top)))
    return Image(samples * np.uint8(255 // top) if depth < 8 else samples, depth, draw(METADATA))


@given(images())
def test_round_trip(image: Image) -> None:
    written = write_png(image)
    assert read_png(written) == image
    assert np.array_equal(by_imagecodecs(write_png(Image(image.pixels, image.bit_depth))), image.pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_round_trip_over_several_bands(channels: int, dtype: type) -> None:
    # 1.5 to 12 MB of rows that use all filters; bands of 1 MB meet within the image.
    rows, columns = np.mgrid[0:1200, 0:1300]
    ramp = (rows * 7 + columns * 3 + (rows * columns) % 11)[:, :, np.newaxis] * np.arange(1, channels + 1)
    image = Image.from_array(ramp.astype(dtype))
    written = write_png(image)
    assert read_png(written) == image
    assert np.array_equal(by_imagecodecs(written), image.pixels)


@pytest.mark.parametrize("pitch", [1, 2, 3, 4, 6, 8])
def test_every_filter_is_undone(pitch: int) -> None:
    """The five filters as the specification writes them, byte by byte, against `unfilter`."""
    random = np.random.default_rng(pitch)
    raw = random.integers(0, 256, (10, 5 * pitch), dtype=np.uint8)
    padded = np.zeros((11, 6 * pitch), int)
    padded[1:, pitch:] = raw
    lines = bytearray()
    for y in range(10):
        lines.append(y % 5)
        for x in range(5 * pitch):
            a, b, c = padded[y + 1, x], padded[y, x + pitch], padded[y, x]
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            lines.append((int(raw[y, x]) - (0, a, b, (a + b) // 2, paeth)[y % 5]) % 256)
    size = 5 * pitch + 1
    assert np.array_equal(unfilter(bytes(lines), pitch, None, 10), raw)
    assert np.array_equal(unfilter(bytes(lines[4 * size :]), pitch, raw[3], 6), raw[4:])


def test_rows_that_are_too_long_for_libpng() -> None:
    filtered = b"\1" + bytes(6 * 1_000_001)
    with pytest.raises(UnsupportedImage, match="1000000 pixels across"):
        unfilter(filtered, 6, None, 1)
    assert not unfilter(filtered, 3, None, 1).any()


@given(arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6))), st.sampled_from([1, 2, 3, 4, 6, 8]))
def test_filters_round_trip(rows: np.ndarray, pitch: int) -> None:
    rows = np.repeat(rows, pitch, axis=1)
    filtered = filter_rows(rows, pitch, np.zeros(rows.shape[1], np.uint8))
    assert np.array_equal(unfilter(filtered, pitch, None, len(rows)), rows)


def test_pillow_finds_what_is_written() -> None:
    metadata = Metadata(
        icc=b"not a real profile",
        exif=b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0",
        xmp=b"<x:xmpmeta/>",
        gamma=45455,
        density=(3937, 3937, 1),
    )
    with PillowImage.open(
        io.BytesIO(write_png(Image.from_array(np.zeros((2, 3, 3), np.uint8), metadata=metadata)))
    ) as picture:
        assert picture.info["icc_profile"] == metadata.icc
        assert picture.getexif()[0x0112] == 6
        assert picture.size == (3, 2)
        assert picture.info["XML:com.adobe.xmp"] == "<x:xmpmeta/>"
        assert picture.info["gamma"] == 0.45455
        assert picture.info["dpi"] == pytest.approx((100, 100), abs=0.1)


def test_what_pillow_writes_is_found() -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    target = io.BytesIO()
    PillowImage.new("RGB", (3, 2)).save(target, "PNG", icc_profile=b"profile", exif=exif, dpi=(100, 100))
    image = read_png(target.getvalue())
    assert image.metadata.icc == b"profile"
    assert image.metadata.exif is not None
    assert image.metadata.exif.startswith((b"II*\0", b"MM\0*"))
    assert image.metadata.density == (3937, 3937, 1)
    # Orientation 6 turns the picture; the pixels stay as they lie.
    assert (image.width, image.height) == (3, 2)


def test_compressed_xmp_is_read() -> None:
    payload = b"XML:com.adobe.xmp\0\1\0en\0translated\0" + zlib.compress(b"<xmp/>")
    other = (b"iTXt", b"Comment\0\0\0\0\0words")
    assert read_png(build(before=(other, (b"iTXt", payload)))).metadata == Metadata(xmp=b"<xmp/>")


def test_image_data_may_end_in_several_chunks_and_trailing_bytes() -> None:
    data = zlib.compress(b"\0\1\2\0\3\4")
    pieces = tuple((b"IDAT", data[at : at + 1]) for at in range(1, len(data)))
    image = read_png(build(idat=data[:1], after=(*pieces, (b"tEXt", b"a\0b"))) + b"trailing")
    assert image.pixels[:, :, 0].tolist() == [[1, 2], [3, 4]]


def test_transparent_color_of_small_depth() -> None:
    # Depth 2, samples 0 1 2 3; the key's high bits do not count.
    data = zlib.compress(b"\0\x1b")
    image = read_png(build(ihdr=(4, 1, 2, 0, 0, 0, 0), idat=data, before=((b"tRNS", b"\xff\xfe"),)))
    assert image.pixels[0].tolist() == [[0, 255], [85, 255], [170, 0], [255, 255]]
    assert image.bit_depth == 8


def test_transparent_color_of_16_bits_compares_all_bits() -> None:
    data = zlib.compress(b"\0\x12\x34\x12\x35")
    image = read_png(build(ihdr=(2, 1, 16, 0, 0, 0, 0), idat=data, before=((b"tRNS", b"\x12\x34"),)))
    assert image.pixels[0].tolist() == [[0x1234, 0], [0x1235, 65535]]


GREY_LINE = zlib.compress(b"\0\1\2\0\3\4")
PALETTE = (2, 2, 8, 3, 0, 0, 0)
DAMAGED = {
    "end too early": build(idat=zlib.compress(b"\0\1\2\0\3")),
    "data end too early": build(idat=GREY_LINE[:-8]),
    "data are damaged": build(idat=b"not deflated at all"),
    "unknown filter 5": build(idat=zlib.compress(b"\0\1\2\5\3\4")),
    "no image data": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)) + chunk(b"IEND", b""),
    "not begin with a header": SIGNATURE + chunk(b"IEND", b""),
    "header has 12 bytes": SIGNATURE + chunk(b"IHDR", bytes(12)),
    "interrupted": build(after=((b"tEXt", b"a\0b"), (b"IDAT", b""))),
    "unknown critical chunk ABCD": build(before=((b"ABCD", b""),)),
    "no palette": build(ihdr=PALETTE),
    "color 2 of a palette of 1|color 4 of a palette of 1": build(ihdr=PALETTE, before=((b"PLTE", b"abc"),)),
    "impossible length of 4": build(ihdr=PALETTE, before=((b"PLTE", b"abcd"),)),
    "palette is out of place": build(ihdr=PALETTE, before=((b"PLTE", bytes(15)),) * 2),
    "fit the palette": build(ihdr=PALETTE, before=((b"PLTE", bytes(15)), (b"tRNS", bytes(6)))),
    "transparency has 3 bytes": build(before=((b"tRNS", b"abc"),)),
    "after the image data": build(after=((b"tRNS", b"ab"),)),
    "impossible size": build(ihdr=(0, 2, 8, 0, 0, 0, 0)),
    "interlace method": build(ihdr=(2, 2, 8, 0, 0, 0, 2)),
    "far more than the data": build(ihdr=(30000, 30000, 8, 2, 0, 0, 0)),
    "gAMA has 3 bytes": build(before=((b"gAMA", b"abc"),)),
    "iCCP is damaged": build(before=((b"iCCP", b"name\0\0" + zlib.compress(b"profile")[:-5]),)),
    "iTXt is damaged": build(before=((b"iTXt", b"XML:com.adobe.xmp\0\0\0"),)),
    "no valid chunk": SIGNATURE + bytes(40),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_damage_under_right_checksums_is_refused(message: str) -> None:
    with pytest.raises(InvalidFile, match=message):
        read_png(DAMAGED[message])


def test_a_profile_that_inflates_without_end_is_refused() -> None:
    bomb = zlib.compress(bytes(1 << 27), 9)
    with pytest.raises(InvalidFile, match="iCCP is larger than"):
        read_png(build(before=((b"iCCP", b"name\0\0" + bomb),)))


def test_too_many_pixels_are_refused() -> None:
    with pytest.raises(UnsupportedImage, match="at most"):
        read_png(build(ihdr=(1 << 16, 1 << 16, 1, 0, 0, 0, 0), idat=bytes(600_000)))


def test_every_bit_flip_is_refused() -> None:
    data = write_png(Image.from_array(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), metadata=Metadata(gamma=45455)))
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(InvalidFile):
            read_image(bytes(flipped))


def test_every_truncation_is_refused() -> None:
    data = write_png(Image.from_array(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)))
    for length in range(len(data)):
        with pytest.raises(InvalidFile):
            read_image(data[:length])


def test_animations_are_refused() -> None:
    target = io.BytesIO()
    frames = [PillowImage.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(target, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedImage, match="animated PNG"):
        read_image(target.getvalue())


@pytest.mark.parametrize("depth", [3, 5, 9, 12, 15])
def test_depths_that_png_lacks_are_refused(depth: int) -> None:
    with pytest.raises(UsageError, match=f"no bit depth of {depth}"):
        write_png(Image(np.zeros((2, 2, 1), np.uint16), depth))


@given(st.sampled_from(GOOD), st.data())
@settings(max_examples=150)
def test_altered_chunks_never_escape_the_error_tree(path: Path, data: st.DataObject) -> None:
    """Change a byte of some chunk and make its checksum right again: an image or a gencodec error."""
    source = path.read_bytes()
    pieces, position = [], 8
    while position < len(source):
        (length,) = struct.unpack_from(">I", source, position)
        pieces.append((source[position + 4 : position + 8], bytearray(source[position + 8 : position + 8 + length])))
        position += 12 + length
    _, payload = pieces[data.draw(st.integers(0, len(pieces) - 1))]
    if payload:
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    altered = SIGNATURE + b"".join(chunk(kind, bytes(payload)) for kind, payload in pieces)
    with contextlib.suppress(GencodecError):
        assert read_image(altered).pixels.size

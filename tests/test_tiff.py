"""TIFF: the kinds that are read, the kinds that are refused, and round trips."""

import contextlib
import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from gencodec.codec.formats import encode_image, read_image
from gencodec.codec.image import Image, Metadata
from gencodec.errors import GencodecError, InvalidFile, UnsupportedImage, UsageError


def build(samples: np.ndarray, **options: Any) -> bytes:
    """A TIFF file by tifffile."""
    target = io.BytesIO()
    tifffile.imwrite(target, samples, metadata=None, **options)
    return target.getvalue()


def noise(*shape: int, top: int = 255, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, top + 1, shape).astype(dtype)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_round_trip(channels: int, dtype: type) -> None:
    metadata = Metadata(icc=b"profile of some bytes", xmp=b"<xmp/>", density=(11811, 2835, 1))
    image = Image.from_array(noise(37, 41, channels, top=np.iinfo(dtype).max, dtype=dtype), metadata=metadata)
    assert read_image(encode_image(image, "tiff")) == image


def test_pillow_reads_what_is_written() -> None:
    image = Image.from_array(noise(5, 7, 3), metadata=Metadata(density=(11811, 11811, 1)))
    with PillowImage.open(io.BytesIO(encode_image(image, "tiff"))) as picture:
        assert np.array_equal(np.asarray(picture), image.pixels)
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("compression", [None, "lzw", "adobe_deflate", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"rowsperstrip": 3}, {"byteorder": ">"}])
def test_compressions_and_layouts(compression: str | None, options: dict) -> None:
    for samples in (noise(20, 33), noise(20, 33, 3, top=65535, dtype=np.uint16)):
        photometric = "rgb" if samples.ndim == 3 else "minisblack"
        data = build(samples, compression=compression, photometric=photometric, **options)
        assert np.array_equal(read_image(data).pixels.squeeze(), samples)


def test_planes_apart() -> None:
    samples = noise(3, 20, 33)
    image = read_image(build(samples, photometric="rgb", planarconfig="separate"))
    assert np.array_equal(image.pixels, np.moveaxis(samples, 0, 2))


@pytest.mark.parametrize("depth", [1, 2, 4, 10, 12, 14])
def test_packed_depths(depth: int) -> None:
    top = (1 << depth) - 1
    samples = noise(9, 13, top=top, dtype=np.uint8 if depth < 8 else np.uint16)
    data = build(samples.astype(bool) if depth == 1 else samples, bitspersample=depth, photometric="minisblack")
    image = read_image(data)
    assert image.bit_depth == depth
    assert np.array_equal(image.pixels[:, :, 0], samples * (255 // top) if depth < 8 else samples)


def test_white_is_zero() -> None:
    samples = noise(9, 13)
    assert np.array_equal(read_image(build(samples, photometric="miniswhite")).pixels[:, :, 0], 255 - samples)


@pytest.mark.parametrize(("scale", "depth"), [(257, 8), (256, 8), (251, 16)])
def test_palettes(scale: int, depth: int) -> None:
    indices = noise(9, 13)
    colors = noise(3, 256) * np.uint16(scale)
    image = read_image(build(indices, photometric="palette", colormap=colors))
    assert image.bit_depth == depth
    expected = colors.T[indices]
    assert np.array_equal(image.pixels, expected // scale if depth == 8 else expected)


def test_palettes_of_two_colors() -> None:
    bits = noise(9, 13, top=1).astype(bool)
    colors = np.array([[10, 20, 30], [200, 100, 50]], np.uint16)
    palette = (320, 3, 6, tuple((257 * colors.T).ravel().tolist()), True)
    grey = build(bits, photometric="minisblack", extratags=[palette])
    photometric = struct.pack("<HHIH", 262, 3, 1, 1)
    assert photometric in grey
    data = grey.replace(photometric, struct.pack("<HHIH", 262, 3, 1, 3))
    assert np.array_equal(read_image(data).pixels, colors[bits.astype(np.uint8)])


def test_fax_compression() -> None:
    target = io.BytesIO()
    bits = noise(40, 70, top=1).astype(bool)
    PillowImage.fromarray(bits).save(target, "TIFF", compression="group4")
    image = read_image(target.getvalue())
    assert image.bit_depth == 1
    assert np.array_equal(image.pixels[:, :, 0] == 255, bits)


def test_orientation_is_kept_as_exif() -> None:
    data = build(noise(4, 6), extratags=[(274, 3, 1, 6, True)])
    image = read_image(data)
    assert (image.width, image.height) == (6, 4)
    assert image.metadata.exif is not None
    exif = PillowImage.Exif()
    exif.load(image.metadata.exif)
    assert exif[274] == 6


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_written(order: str) -> None:
    entries = struct.pack(order + "HHIHHHHIHH", 256, 3, 1, 6, 0, 274, 3, 1, 6, 0)
    exif = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2) + entries + bytes(4)
    data = encode_image(Image.from_array(noise(4, 6), metadata=Metadata(exif=exif, xmp=b"<xmp/>")), "tiff")
    with PillowImage.open(io.BytesIO(data)) as picture:
        assert picture.getexif()[274] == 6
    assert read_image(data).metadata.xmp == b"<xmp/>"


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"II*\0\x08\0\0\0\1\0", b"MM\0*\xff\xff\xff\xff\0\0", bytes(99)])
def test_exif_without_orientation_is_left_out(exif: bytes) -> None:
    image = Image.from_array(noise(4, 6), metadata=Metadata(exif=exif))
    assert read_image(encode_image(image, "tiff")) == Image(image.pixels)


@pytest.mark.parametrize(("unit", "resolution", "density"), [(2, 300, 11811), (3, 100, 10000), (1, 300, None)])
def test_density(unit: int, resolution: int, density: int | None) -> None:
    data = build(noise(4, 6), resolution=(resolution, resolution), resolutionunit=unit)
    assert read_image(data).metadata.density == (density and (density, density, 1))


UNSUPPORTED = {
    "several pages": build(noise(3, 20, 33), photometric="minisblack"),
    "color model 5": build(noise(20, 33, 4), photometric="separated"),
    "unsigned integers": build(np.zeros((20, 33), np.float32)),
    "unsigned integers of": build(np.zeros((20, 33), np.int16)),
    "of 1 to 16 bits": build(np.zeros((20, 33), np.uint32)),
    "premultiplied": build(noise(20, 33, 4), photometric="rgb", extrasamples=["assocalpha"]),
    "lossy JPEG data": build(noise(20, 33, 3), photometric="ycbcr", compression="jpeg"),
    "compression 34712": build(noise(20, 33), compression="jpeg2000"),
    "5 samples a pixel": build(noise(20, 33, 5), photometric="rgb", planarconfig="contig", extrasamples=[0, 0]),
}


@pytest.mark.parametrize("message", UNSUPPORTED)
def test_unsupported(message: str) -> None:
    with pytest.raises(UnsupportedImage, match=message):
        read_image(UNSUPPORTED[message])


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_jpeg_data_are_read_on_demand(photometric: str) -> None:
    data = build(np.full((16, 32, 3), (200, 100, 50), np.uint8), photometric=photometric, compression="jpeg")
    with PillowImage.open(io.BytesIO(data)) as picture:
        assert np.array_equal(read_image(data, allow_lossy=True).pixels, np.asarray(picture))


@pytest.mark.parametrize("compression", [None, "adobe_deflate"])
def test_every_truncation_is_refused(compression: str | None) -> None:
    data = build(noise(5, 6, 3), photometric="rgb", compression=compression)
    # The directory comes first, the samples last; without padding every byte of theirs counts.
    for length in range(len(data)):
        with pytest.raises(InvalidFile):
            read_image(data[:length])


def test_altered_bytes_never_escape_the_error_tree() -> None:
    random = np.random.default_rng(5)
    data = build(noise(9, 9, 3), photometric="rgb", compression="lzw", tile=(16, 16))
    for _ in range(400):
        altered = np.frombuffer(data, np.uint8).copy()
        altered[random.integers(0, len(altered), 2)] = random.integers(0, 256, 2)
        with contextlib.suppress(GencodecError):
            assert read_image(altered.tobytes()).pixels.size


def test_warnings_of_the_library_stay_silent(capfd: pytest.CaptureFixture) -> None:
    data = bytearray(build(noise(9, 9)))
    data[4:8] = b"\xf0\xff\xff\xff"
    with pytest.raises(InvalidFile):
        read_image(bytes(data))
    assert capfd.readouterr().err == ""


def test_odd_depths_are_not_written() -> None:
    with pytest.raises(UsageError, match="12 bits"):
        encode_image(Image(np.zeros((2, 2, 1), np.uint16), 12), "tiff")

"""Formats as a whole: recognition, what Pillow reads, refusals, targets, and claims not to be believed."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from gencodec.codec.formats import SUFFIXES, encode_image, format_of, read_image, write_image
from gencodec.codec.image import Image, Metadata
from gencodec.codec.scanlines import SIGNATURE, chunk
from gencodec.errors import GencodecError, InvalidFile, UnsupportedImage, UsageError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)


def by_pillow(picture: PillowImage.Image, name: str, **options: Any) -> bytes:
    """An image file written by Pillow."""
    target = io.BytesIO()
    picture.save(target, name, **options)
    return target.getvalue()


RGB = PillowImage.fromarray(noise(9, 13, 3))
RGBA = PillowImage.fromarray(noise(9, 13, 4))
GREY = PillowImage.fromarray(noise(9, 13))
BITS = PillowImage.fromarray(noise(9, 13) > 127)
PALETTE = GREY.convert("RGB").quantize(16)
CMYK = PillowImage.fromarray(noise(9, 13, 4), "CMYK")


@pytest.mark.parametrize(
    ("name", "picture", "options"),
    [
        ("BMP", RGB, {}),
        ("BMP", GREY, {}),
        ("BMP", BITS, {}),
        ("BMP", PALETTE, {}),
        ("GIF", GREY, {}),
        ("GIF", PALETTE, {}),
        ("PCX", RGB, {}),
        ("PCX", GREY, {}),
        ("PCX", PALETTE, {}),
        ("QOI", RGB, {}),
        ("QOI", RGBA, {}),
        ("WebP", RGB, {"lossless": True}),
        ("WebP", RGBA, {"lossless": True, "exact": True}),
        ("TIFF", RGB, {}),
        ("PPM", RGB, {}),
        ("PNG", PALETTE, {}),
    ],
)
def test_lossless_formats(name: str, picture: PillowImage.Image, options: dict) -> None:
    image = read_image(by_pillow(picture, name, **options))
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[image.channels]
    assert np.array_equal(image.pixels.squeeze(), np.asarray(picture.convert(mode)))
    assert image.bit_depth == (1 if picture is BITS else 8)


def test_transparent_gif() -> None:
    image = read_image(by_pillow(PALETTE, "GIF", transparency=3))
    assert image.channels == 4
    assert np.array_equal(image.pixels[:, :, 3] == 0, np.asarray(PALETTE) == 3)


@pytest.mark.parametrize("channels", [3, 4])
def test_webp_round_trip(channels: int) -> None:
    # Half of the alpha is zero: the colors below it must come back too.
    pixels = noise(17, 19, channels)
    pixels[:, :9, 3:] = 0
    metadata = Metadata(icc=b"profile!", exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0", xmp=b"<xmp/>")
    image = Image.from_array(pixels, metadata=metadata)
    assert read_image(encode_image(image, "webp")) == image


@pytest.mark.parametrize("channels", [1, 2])
def test_webp_writes_grey_as_rgb(channels: int) -> None:
    pixels = noise(5, 6, channels)
    again = read_image(encode_image(Image.from_array(pixels), "webp")).pixels
    assert np.array_equal(again[:, :, :3], np.repeat(pixels[:, :, :1], 3, axis=2))
    assert np.array_equal(again[:, :, 3:], pixels[:, :, 1:])


@pytest.mark.parametrize(("channels", "depth"), [(1, 1), (1, 8), (3, 8)])
def test_bmp_round_trip(channels: int, depth: int) -> None:
    pixels = noise(5, 6, channels) if depth == 8 else (noise(5, 6, 1) // 128) * np.uint8(255)
    image = Image(pixels, depth, Metadata(density=(2835, 3937, 1)))
    assert read_image(encode_image(image, "bmp")) == image


def test_bmp_keeps_colors_of_1_bit() -> None:
    image = Image((noise(5, 6, 3) // 128) * np.uint8(255), 1)
    np.testing.assert_array_equal(read_image(encode_image(image, "bmp")).pixels, image.pixels)


@pytest.mark.parametrize("density", [(0xFFFFFFFF, 2835, 1), (2835, 1 << 31, 1)])
def test_bmp_leaves_out_densities_that_it_cannot_hold(density: tuple[int, int, int]) -> None:
    image = Image(noise(5, 6, 3), 8, Metadata(density=density))
    assert read_image(encode_image(image, "bmp")) == Image(image.pixels)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("JPEG", by_pillow(RGB, "JPEG")),
        ("JPEG", by_pillow(GREY, "JPEG")),
        ("JPEG 2000", by_pillow(RGB, "JPEG2000")),
        ("AVIF", by_pillow(RGB, "AVIF")),
        ("WebP", by_pillow(RGB, "WebP")),
        ("WebP", by_pillow(RGBA, "WebP")),
    ],
)
def test_lossy_sources(name: str, data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match=rf"{name} file is lossy.*--force-lossy-source"):
        read_image(data)
    image = read_image(data, allow_lossy=True)
    with PillowImage.open(io.BytesIO(data)) as picture:
        assert np.array_equal(image.pixels.squeeze(), np.asarray(picture))


def test_depths_that_would_be_cut_are_refused() -> None:
    deep = noise(9, 13, 3).astype(np.uint16) << 2
    grey = np.ascontiguousarray(deep[:, :, 0])
    files = [
        imagecodecs.jpeg2k_encode(deep, level=0, codecformat=kind, bitspersample=10) for kind in ("jp2", "j2k")
    ] + [imagecodecs.avif_encode(deep, bitspersample=10)]
    for data in files:
        with pytest.raises(UnsupportedImage, match="more than 8 bits a sample are not supported"):
            read_image(bytes(data), allow_lossy=True)
    image = read_image(bytes(imagecodecs.jpeg2k_encode(grey << 6, level=0)), allow_lossy=True)
    assert np.array_equal(image.pixels[:, :, 0], grey << 6)


def test_jpeg_metadata_are_kept_and_orientation_not_applied() -> None:
    exif = PillowImage.Exif()
    exif[274] = 6
    data = by_pillow(RGB, "JPEG", exif=exif, icc_profile=b"profile", dpi=(300, 300))
    image = read_image(data, allow_lossy=True)
    assert (image.width, image.height) == RGB.size
    assert image.metadata.icc == b"profile"
    assert image.metadata.density == (11811, 11811, 1)
    assert image.metadata.exif is not None
    assert image.metadata.exif.startswith((b"II*\0", b"MM\0*"))


FRAMES = [PillowImage.new("RGB", (9, 9), color) for color in ("red", "blue", "green")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (by_pillow(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "animated GIF"),
        (by_pillow(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "animated PNG"),
        (
            by_pillow(FRAMES[0], "WebP", save_all=True, append_images=FRAMES[1:], lossless=True),
            "animated WebP",
        ),
        (by_pillow(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "several pages"),
        (by_pillow(CMYK, "JPEG"), "color model CMYK"),
        (by_pillow(CMYK, "TIFF"), "color model 5"),
        (b"\xff\x0a" + bytes(30), "JPEG XL"),
        (b"\0\0\0\x18ftypheic" + bytes(30), "HEIF"),
        (b"8BPS\0\1" + bytes(30), "Photoshop"),
    ],
)
def test_unsupported(data: bytes, message: str) -> None:
    with pytest.raises(UnsupportedImage, match=message) as caught:
        read_image(data, allow_lossy=True)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\0", b"hello, world", bytes(1000), b"GIF", b"%PDF-1.7", b"<svg/>"])
def test_other_files_are_invalid(data: bytes) -> None:
    with pytest.raises(InvalidFile, match=r"empty|known format"):
        read_image(data)


VALID = {
    "png": by_pillow(RGB, "PNG"),
    "bmp": by_pillow(RGB, "BMP"),
    "bits": by_pillow(BITS, "BMP"),
    "gif": by_pillow(PALETTE, "GIF"),
    "pcx": by_pillow(RGB, "PCX"),
    "qoi": by_pillow(RGBA, "QOI"),
    "webp": by_pillow(RGBA, "WebP", lossless=True, icc_profile=b"profile", xmp=b"<xmp/>"),
    "tiff": by_pillow(RGB, "TIFF", compression="tiff_lzw"),
    "ppm": by_pillow(RGB, "PPM"),
    "pam": encode_image(Image.from_array(noise(4, 4, 2)), "pam"),
    "jpeg": by_pillow(RGB, "JPEG"),
}


@pytest.mark.parametrize("name", ["png", "bmp", "bits", "gif", "pcx", "webp", "tiff", "ppm", "pam"])
def test_truncation_is_refused(name: str) -> None:
    # The last bytes of GIF and PCX hold no pixels.
    data = VALID[name]
    for length in [*range(min(60, len(data))), *range(60, len(data) - len(data) // 8, 7)]:
        with pytest.raises(InvalidFile):
            read_image(data[:length], allow_lossy=True)


@given(st.sampled_from(sorted(VALID)), st.data())
@settings(max_examples=300)
def test_damage_never_escapes_the_error_tree(name: str, data: st.DataObject) -> None:
    altered = bytearray(VALID[name])
    for _ in range(data.draw(st.integers(1, 3))):
        altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
    check_outcome(bytes(altered))


@given(st.sampled_from([b"", *(data[:12] for data in VALID.values())]), st.binary(max_size=100))
@settings(max_examples=200)
def test_any_bytes(start: bytes, rest: bytes) -> None:
    check_outcome(start + rest)


def check_outcome(data: bytes) -> None:
    """Any bytes give an image or a gencodec error of one line."""
    try:
        image = read_image(data, allow_lossy=True)
    except GencodecError as error:
        lines = str(error).splitlines()
    else:
        lines = [str(image.pixels.shape)]
    assert len(lines) == 1


def huge() -> list[bytes]:
    """Small files that claim 30000 x 30000 pixels (16384 x 16384 in WebP)."""
    side = 30000
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    bmp = b"BM" + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(6)
    gif = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    gif += b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\2\2\x44\1\0;"
    qoi = b"qoif" + struct.pack(">IIBB", side, side, 4, 0) + bytes(20)
    pcx = struct.pack("<BBBBHHHH", 10, 5, 1, 8, 0, 0, side - 1, side - 1).ljust(65, b"\0") + struct.pack("<BH", 3, side)
    bits = 0x3FFF | 0x3FFF << 14
    vp8l = b"VP8L" + struct.pack("<IBI", 10, 0x2F, bits) + bytes(5)
    vp8x = b"VP8X" + struct.pack("<II", 10, 0) + b"\xff\xff\x3f" * 2
    webps = [b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body for body in (vp8l, vp8x + vp8l)]
    tags = [
        (256, side),
        (257, side),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, side),
        (279, 20),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(40)
    tiled = tiff.replace(struct.pack("<HHII", 259, 4, 1, 1), struct.pack("<HHII", 259, 4, 1, 8))
    return [
        png,
        bmp,
        gif,
        qoi,
        pcx.ljust(200, b"\0"),
        *webps,
        tiff,
        tiled,
        b"P5 30000 30000 255\n",
        b"P4 32768 32768\n",
    ]


@pytest.mark.parametrize("index", range(11))
def test_claims_are_not_believed(index: int) -> None:
    """Under 200 MB: measured in a process of its own, which has no other peak."""
    program = (
        "import resource, sys\n"
        "from gencodec.codec import formats, pillow, png, pnm, tiff\n"
        "from gencodec.errors import InvalidFile\n"
        "import imagecodecs, tifffile\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try:\n"
        "    formats.read_image(sys.stdin.buffer)\n"
        "except InvalidFile:\n"
        "    print((peak() - before) // 1024)\n"
    )
    data = huge()[index]
    assert len(data) < 300
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, cwd=root, check=True)
    assert done.stderr == b""
    assert int(done.stdout) < 200


def test_sources(tmp_path: Path) -> None:
    image = Image.from_array(noise(4, 5, 3))
    data = encode_image(image)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert read_image(file) == image
    for source in (path, str(path), data, io.BytesIO(data)):
        assert read_image(source) == image


def test_wrong_sources(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "missing.png")
    with pytest.raises(UsageError, match="not int"):
        read_image(5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="text mode"):
        read_image(io.StringIO("text"))  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG", ""])
def test_targets(tmp_path: Path, suffix: str) -> None:
    image = Image.from_array(noise(4, 5) > 127) if suffix == ".pbm" else Image.from_array(noise(4, 5, 3))
    if suffix == ".pgm":
        image = Image.from_array(noise(4, 5))
    path = tmp_path / f"picture{suffix}"
    write_image(image, path)
    assert read_image(path) == image
    assert path.read_bytes() == encode_image(image, format_of(path))


def test_a_broken_off_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        write_image(Image.from_array(noise(4, 5, 3)), path)
    assert path.read_bytes() == b"before"


def test_target_file_object_and_named_format(tmp_path: Path) -> None:
    image = Image.from_array(noise(4, 5, 3))
    target = io.BytesIO()
    write_image(image, target)
    assert target.getvalue().startswith(SIGNATURE)
    write_image(image, tmp_path / "odd.suffix", format="ppm")
    assert (tmp_path / "odd.suffix").read_bytes().startswith(b"P6")


@pytest.mark.parametrize(
    ("image", "name", "message"),
    [
        (Image.from_array(noise(4, 5, 3)), "a.jpg", "suffix .jpg"),
        (Image.from_array(noise(4, 5, 4)), "a.bmp", "alpha"),
        (Image.from_array(np.zeros((4, 5, 3), np.uint16)), "a.webp", "16 bits"),
        (Image.from_array(np.zeros((4, 5, 3), np.uint16)), "a.bmp", "16 bits"),
        (Image.from_array(np.zeros((1, 16384, 3), np.uint8)), "a.webp", "16383"),
        (Image.from_array(noise(4, 5, 4)), "a.ppm", "alpha"),
    ],
)
def test_refused_targets_are_not_touched(tmp_path: Path, image: Image, name: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    with pytest.raises(UsageError, match=message):
        write_image(image, path)
    assert path.read_bytes() == b"before"


def test_unknown_format() -> None:
    with pytest.raises(UsageError, match="'jpeg' files cannot be written"):
        encode_image(Image.from_array(noise(2, 2)), "jpeg")

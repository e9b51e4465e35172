"""Image files that Pillow reads without loss (WebP, BMP, GIF, PCX, QOI) or that are lossy by nature (JPEG,
AVIF...).

Pillow's plugins are called directly: `PIL.Image.open` holds every file against a limit on pixels that is a
global of Pillow's and belongs to the application. What a header claims is checked here instead.
"""

from __future__ import annotations

import importlib
import io
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageFile

from gencodec.codec.image import FREE_EXPANSION, MAX_EXPANSION, Image, Metadata, check_claim
from gencodec.errors import GencodecError, InvalidFile, UnsupportedImage, UsageError

LOSSY_HINT = "lossless coding makes it larger; --force-lossy-source (allow_lossy=True) does so all the same"

_PLUGINS = {"WebP": "WebP", "BMP": "Bmp", "GIF": "Gif", "PCX": "Pcx", "QOI": "Qoi"} | {
    "JPEG": "Jpeg",
    "AVIF": "Avif",
    "JPEG 2000": "Jpeg2K",
}
_LOSSY = frozenset({"JPEG", "AVIF", "JPEG 2000"})
_MAX_WEBP_SIDE = 16383
# Where a JPEG 2000 codestream says how many components there are, before the depth of each; flags of an AVIF image.
_SIZ = re.compile(rb"\xff\x4f\xff\x51.{36}(..)", re.DOTALL)
_AV1_FLAGS = re.compile(rb"av1C\x81.(.)", re.DOTALL)
_HIGH_BITDEPTH = 0x40


def read_with_pillow(data: bytes, name: str, *, allow_lossy: bool = False) -> Image:
    """Read a file of the named format.

    Raises InvalidFile on a broken file; UnsupportedImage on animations, on CMYK and other color models, on depths
    that Pillow does not keep, and on lossy files unless `allow_lossy`.
    """
    if name in _LOSSY and not allow_lossy:
        raise UnsupportedImage(f"a {name} file is lossy already: {LOSSY_HINT}")
    if name == "WebP":
        _check_webp(data, allow_lossy)
    plugin = importlib.import_module(f"PIL.{_PLUGINS[name]}ImagePlugin")
    factory = getattr(plugin, f"{_PLUGINS[name]}ImageFile")
    try:
        with factory(io.BytesIO(data)) as picture:
            return _convert(picture, name, data)
    except GencodecError:
        raise
    except MemoryError as error:
        raise UnsupportedImage(f"the {name} file needs more memory than there is") from error
    except PillowImage.DecompressionBombError as error:
        raise UnsupportedImage(f"the {name} file has more pixels than Pillow is set to read") from error
    # The plugins answer damage with whatever their parsing ran into: SyntaxError, OSError, struct.error, and
    # more.
    except Exception as error:
        raise InvalidFile(f"the {name} file is damaged or truncated") from error


def write_with_pillow(image: Image, name: str) -> bytes:
    """Write a WebP (lossless) or BMP file.

    WebP keeps ICC profile, EXIF and XMP, BMP the density. WebP has no grey: equal red, green and blue are
    written. Raises UsageError on what the format cannot hold.
    """
    if image.pixels.dtype != np.uint8:
        raise UsageError(f"a {name} file cannot hold {image.bit_depth} bits a sample; a PAM file can")
    return _write_webp(image) if name == "WebP" else _write_bmp(image)


def _write_webp(image: Image) -> bytes:
    if max(image.width, image.height) > _MAX_WEBP_SIDE:
        raise UsageError(f"a WebP file has at most {_MAX_WEBP_SIDE} pixels a side")
    pixels = image.pixels
    if image.channels < 3:
        pixels = np.concatenate([np.repeat(pixels[:, :, :1], 3, axis=2), pixels[:, :, 1:]], axis=2)
    kept = image.metadata
    named = {"icc_profile": kept.icc, "exif": kept.exif, "xmp": kept.xmp}
    options: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    target = io.BytesIO()
    # `exact` keeps the colors of transparent pixels.
    PillowImage.fromarray(pixels).save(target, "WebP", lossless=True, exact=True, **options)
    return target.getvalue()


def _write_bmp(image: Image) -> bytes:
    if image.has_alpha:
        raise UsageError("a BMP file cannot hold an alpha channel; PNG, TIFF and WebP files can")
    pixels = image.pixels if image.channels == 3 else image.pixels[:, :, 0]
    picture = PillowImage.fromarray(pixels)
    if (image.bit_depth, image.channels) == (1, 1):
        picture = picture.convert("1", dither=PillowImage.Dither.NONE)
    options: dict[str, Any] = {}
    density = image.metadata.density
    if density is not None and density[2] == 1 and max(density[:2]) < 1 << 31:
        options["dpi"] = tuple(per_meter * 0.0254 for per_meter in density[:2])
    else:
        options["dpi"] = (0, 0)  # Pillow would make up 96
    target = io.BytesIO()
    picture.save(target, "BMP", **options)
    return target.getvalue()


def _check_webp(data: bytes, allow_lossy: bool) -> None:
    """Raise unless the file is complete, a still image, and lossless (or lossy files are allowed)."""
    chunks = dict(_riff_chunks(data))
    if b"ANIM" in chunks or b"ANMF" in chunks:
        raise UnsupportedImage("animated WebP files are not supported: only still images are")
    if b"VP8L" not in chunks and b"VP8 " not in chunks:
        raise InvalidFile("the WebP file has no image")
    if b"VP8L" not in chunks and not allow_lossy:
        raise UnsupportedImage(f"the WebP file is lossy already: {LOSSY_HINT}")
    for width, height in _webp_sizes(chunks):
        check_claim(width, height, 4 * width * height, FREE_EXPANSION + len(data) * MAX_EXPANSION)


def _webp_sizes(chunks: dict[bytes, bytes]) -> Iterator[tuple[int, int]]:
    """Yield every size that a WebP file claims, for its decoder takes the memory as soon as it is made."""
    if b"VP8X" in chunks:
        canvas = chunks[b"VP8X"].ljust(10, b"\0")
        yield 1 + int.from_bytes(canvas[4:7], "little"), 1 + int.from_bytes(canvas[7:10], "little")
    if b"VP8L" in chunks:
        bits = int.from_bytes(chunks[b"VP8L"][1:5], "little")
        yield 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if b"VP8 " in chunks:
        sides = chunks[b"VP8 "][6:10]
        yield int.from_bytes(sides[:2], "little") & 0x3FFF, int.from_bytes(sides[2:], "little") & 0x3FFF


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and first 16 bytes of each chunk of a WebP file; raises InvalidFile if it is truncated."""
    (size,) = struct.unpack_from("<I", data, 4)
    end = 8 + size
    if end > len(data):
        raise InvalidFile("the WebP file is truncated")
    position = 12
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, position)
        position += 8
        if position + length > end:
            raise InvalidFile("the WebP file is damaged")
        yield name, data[position : position + min(length, 16)]
        position += length + (length & 1)


def _convert(picture: ImageFile.ImageFile, name: str, data: bytes) -> Image:
    """Decode an opened file after checks on its kind and size."""
    if getattr(picture, "n_frames", 1) > 1:
        raise UnsupportedImage(f"animated {name} files are not supported: only still images are")
    width, height = picture.size
    check_claim(width, height, 4 * width * height, FREE_EXPANSION + len(data) * MAX_EXPANSION)
    mode = picture.mode
    if mode not in ("1", "L", "LA", "RGB", "RGBA", "P", "PA", "I;16"):
        raise UnsupportedImage(f"{name} files of color model {mode} are not supported")
    if mode != "I;16" and _is_deep(data, name):
        raise UnsupportedImage(f"{name} files of more than 8 bits a sample are not supported: Pillow cuts them to 8")
    picture.load()
    metadata = _metadata(picture.info)
    if mode in ("P", "PA") or "transparency" in picture.info:
        clear = mode == "PA" or "transparency" in picture.info
        return Image.from_array(np.asarray(picture.convert("RGBA" if clear else "RGB")), metadata=metadata)
    # np.asarray gives bool for mode "1", which is depth 1.
    return Image.from_array(np.asarray(picture), metadata=metadata)


def _is_deep(data: bytes, name: str) -> bool:
    """Whether a JPEG 2000 or AVIF file has more than 8 bits a sample (ISO/IEC 15444-1, A.5.1; AV1-ISOBMFF, 2.3.3)."""
    if name == "JPEG 2000" and (found := _SIZ.search(data)):
        end = found.end()
        return any(size & 0x7F > 7 for size in data[end : end + 3 * int.from_bytes(found[1]) : 3])
    return name == "AVIF" and any(flags[0] & _HIGH_BITDEPTH for flags in _AV1_FLAGS.findall(data))


def _metadata(info: dict[Any, Any]) -> Metadata:
    """Take over ICC profile, EXIF, XMP and density from what Pillow has found."""
    exif = info.get("exif")
    if isinstance(exif, bytes) and exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    density = None
    dpi = info.get("dpi")
    if dpi and all(0 < float(value) < 1e6 for value in dpi):
        x, y = (round(float(value) / 0.0254) for value in dpi)
        density = (x, y, 1) if min(x, y) > 0 else None
    icc, xmp = info.get("icc_profile"), info.get("xmp")
    return Metadata(icc=icc or None, exif=exif or None, xmp=xmp or None, density=density)

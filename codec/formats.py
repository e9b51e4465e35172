"""Image files <-> Image: which format a file has, and who reads and writes it.

The content decides on reading, the suffix on writing. Orientation in EXIF is kept, never applied.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

from gencodec.codec.atomic import write_file
from gencodec.codec.image import Image
from gencodec.errors import InvalidFile, UnsupportedImage, UsageError

Target = str | os.PathLike[str] | BinaryIO
Source = Target | bytes

SUFFIXES = {
    ".png": "png",
    ".pbm": "pbm",
    ".pgm": "pgm",
    ".ppm": "ppm",
    ".pnm": "pnm",
    ".pam": "pam",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
    ".webp": "webp",
}
"""The format written for each suffix."""

# Where the first bytes match, the format has this name; the first match counts.
_SIGNATURES = (
    (rb"\x8bGNC", "gencodec"),
    (rb"[\s\S]PNG|\x89", "PNG"),
    (rb"P[1-7][\s#]", "Netpbm"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"BM", "BMP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"qoif", "QOI"),
    (rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]", "PCX"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "JPEG 2000"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"....ftypavif", "AVIF"),
    (rb"....ftyp(?:avis|hei[cmsx]|hev[cmsx]|mif1|msf1)", "HEIF"),
    (rb"8BPS", "Photoshop"),
    (rb"v/1\x01|#\?RADIANCE", "floating point"),
)
_KINDS = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _SIGNATURES)
_UNREAD = frozenset({"JPEG XL", "HEIF", "Photoshop", "floating point"})


def read_image(source: Source, *, allow_lossy: bool = False) -> Image:
    """Read an image file given as a path, an open binary file, or its bytes.

    PNG, WebP, Netpbm (P1 to P7), TIFF, BMP, GIF, PCX and QOI are read without loss. JPEG, JPEG 2000, AVIF and
    lossy WebP only with `allow_lossy`. Raises InvalidFile on broken or unknown files, UnsupportedImage on
    valid ones that are refused, and OSError where a path cannot be read.
    """
    data = _load(source)
    kind = _kind(data)
    if kind == "PNG":
        from gencodec.codec.png import read_png

        return read_png(data)
    if kind == "Netpbm":
        from gencodec.codec.pnm import read_pnm

        return read_pnm(data)
    if kind == "TIFF":
        from gencodec.codec.tiff import read_tiff

        return read_tiff(data, allow_lossy=allow_lossy)
    from gencodec.codec.pillow import read_with_pillow

    return read_with_pillow(data, kind, allow_lossy=allow_lossy)


def write_image(image: Image, target: Target, *, format: str | None = None) -> None:  # noqa: A002
    """Write an image to a path or an open binary file.

    `format` is one of the values of SUFFIXES; by default the path's suffix decides, and without one PNG is
    written. Only PNG holds all metadata; other formats leave out what they have no place for. Raises
    UsageError where the format cannot hold the pixels; then nothing has been written.
    """
    if isinstance(target, str | os.PathLike):
        write_file(target, encode_image(image, format or format_of(target)))
    else:
        target.write(encode_image(image, format or "png"))


def encode_image(image: Image, format: str = "png") -> bytes:  # noqa: A002
    """Return the bytes of an image file; as `write_image`."""
    if format == "png":
        from gencodec.codec.png import write_png

        return write_png(image)
    if format in ("pbm", "pgm", "ppm", "pnm", "pam"):
        from gencodec.codec.pnm import write_pnm

        return write_pnm(image, format)
    if format == "tiff":
        from gencodec.codec.tiff import write_tiff

        return write_tiff(image)
    if format in ("webp", "bmp"):
        from gencodec.codec.pillow import write_with_pillow

        return write_with_pillow(image, "WebP" if format == "webp" else "BMP")
    known = ", ".join(dict.fromkeys(SUFFIXES.values()))
    raise UsageError(f"{format!r} files cannot be written; known are {known}")


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a path's suffix names, "png" if it has none; raises UsageError on an unknown suffix."""
    suffix = Path(path).suffix
    return format_named(suffix) if suffix else "png"


def format_named(suffix: str) -> str:
    """The format whose files have the suffix, given with or without its dot; raises UsageError where there is none."""
    suffix = f".{suffix.lower().removeprefix('.')}"
    if suffix not in SUFFIXES:
        raise UsageError(f"images with suffix {suffix} cannot be written; known are {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def _load(source: Source) -> bytes:
    """Return the bytes of a source."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return Path(source).read_bytes()
    if not hasattr(source, "read"):
        raise UsageError(f"an image is read from a path, an open file or bytes, not {type(source).__name__}")
    data = source.read()
    if not isinstance(data, bytes):
        raise UsageError("the image file is open in text mode; open it in binary mode")
    return data


def _kind(data: bytes) -> str:
    """Name the format of a file by its first bytes; raises where it is unknown or never read."""
    if not data:
        raise InvalidFile("the file is empty")
    head = data[:32]
    for pattern, name in _KINDS:
        if pattern.match(head):
            if name == "gencodec":
                raise InvalidFile("already a .gnc file: decompress it to have an image")
            if name in _UNREAD:
                raise UnsupportedImage(f"{name} images are not supported")
            return name
    raise InvalidFile("not an image file of a known format")

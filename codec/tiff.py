"""TIFF files with one page of integer samples and lossless compression: bytes <-> Image.

Source: TIFF 6.0 (Adobe, 1992) and its technical notes, through tifffile.
"""

from __future__ import annotations

import io
import logging
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.image import (
    FREE_EXPANSION,
    MAX_EXPANSION,
    PACKED_DEPTHS,
    Image,
    Metadata,
    Pixels,
    check_claim,
)
from gencodec.errors import GencodecError, InvalidFile, UnsupportedImage, UsageError

if TYPE_CHECKING:
    import tifffile

# None, CCITT (three kinds), LZW, Deflate (two numbers), PackBits, LZMA, Zstandard.
_LOSSLESS = frozenset({1, 2, 3, 4, 5, 8, 32946, 32773, 34925, 50000})
_JPEG = 7
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _ORIENTATION, _XMP = 282, 283, 296, 274, 700
_INCH, _CENTIMETER = 2, 3
_UNITS_PER_METER = {_INCH: 1 / 0.0254, _CENTIMETER: 100.0}


def read_tiff(data: bytes, *, allow_lossy: bool = False) -> Image:
    """Read a TIFF file: grey, RGB or palette, with or without alpha, 1 to 16 bits a sample.

    Raises InvalidFile on a broken file, UnsupportedImage on several pages, premultiplied alpha, other color
    models, floating point samples, and on lossy compression (but with `allow_lossy` JPEG data are read).
    """
    import tifffile  # here and not above, for it is slow to import

    _silence()
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            if len(file.pages) > 1:
                raise UnsupportedImage("TIFF files with several pages are not supported")
            page = file.pages[0]
            if not isinstance(page, tifffile.TiffPage):
                raise InvalidFile("the TIFF file is damaged")
            _check_kind(page, allow_lossy)
            _check_segments(page, len(data))
            samples = page.asarray(maxworkers=1)
            pixels, depth = _normalize(samples, page)
            return Image(pixels, depth, _metadata(page))
    except GencodecError:
        raise
    except MemoryError as error:
        raise UnsupportedImage("the TIFF file needs more memory than there is") from error
    # tifffile answers damage with whatever its parsing ran into: IndexError, struct.error, TypeError, and
    # more.
    except Exception as error:
        raise InvalidFile("the TIFF file is damaged or of an unknown kind") from error


def write_tiff(image: Image) -> bytes:
    """Write a TIFF file with Deflate compression; ICC profile, XMP, density and EXIF's orientation are kept.

    Depths 1, 2 and 4 are written as 8 bits. Raises UsageError on depths that neither 8 nor 16 bits can stand
    for.
    """
    import tifffile

    if image.pixels.dtype == np.uint16 and image.bit_depth != 16:
        raise UsageError(f"TIFF files of {image.bit_depth} bits a sample are not written; PAM files are")
    metadata = image.metadata
    options: dict[str, Any] = {}
    if metadata.density is not None and metadata.density[2] == 1:
        x, y, _ = metadata.density
        options |= {"resolution": ((x, 100), (y, 100)), "resolutionunit": _CENTIMETER}
    tags: list[tuple[Any, ...]] = []
    if metadata.exif is not None:
        tags.append((_ORIENTATION, 3, 1, _orientation(metadata.exif), True))
    if metadata.xmp is not None:
        tags.append((_XMP, 1, len(metadata.xmp), metadata.xmp, True))
    if image.has_alpha:
        options["extrasamples"] = [_UNASSOCIATED_ALPHA]
    grey = image.channels < 3
    target = io.BytesIO()
    tifffile.imwrite(
        target,
        image.pixels[:, :, 0] if image.channels == 1 else image.pixels,
        photometric=_MIN_IS_BLACK if grey else _RGB,
        planarconfig="contig",
        compression="adobe_deflate",
        predictor=True,
        iccprofile=metadata.icc,
        software=False,
        metadata=None,
        maxworkers=1,
        extratags=tags,
        **options,
    )
    return target.getvalue()


def _silence() -> None:
    """Keep tifffile's warnings off stderr where the application has set up no logging."""
    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _check_kind(page: tifffile.TiffPage, allow_lossy: bool) -> None:
    """Raise UnsupportedImage on kinds of pages that an Image cannot stand for."""
    compression, photometric = int(page.compression), int(page.photometric)
    jpeg = compression == _JPEG
    if jpeg and not allow_lossy:
        raise UnsupportedImage(
            "the TIFF file holds lossy JPEG data; --force-lossy-source (allow_lossy=True) takes it as it is"
        )
    if not jpeg and compression not in _LOSSLESS:
        raise UnsupportedImage(f"TIFF compression {compression} is not supported")
    known = {_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE} | ({_YCBCR} if jpeg else set())
    if photometric not in known:
        raise UnsupportedImage(f"TIFF color model {photometric} is not supported: grey, RGB and palettes are")
    if int(page.sampleformat) != 1 or not 1 <= page.bitspersample <= 16 or page.dtype is None:
        raise UnsupportedImage("only TIFF files with unsigned integers of 1 to 16 bits are supported")
    if _ASSOCIATED_ALPHA in map(int, page.extrasamples):
        raise UnsupportedImage("TIFF files with premultiplied alpha are not supported")
    colors = 3 if photometric in (_RGB, _YCBCR) else 1
    alpha = page.samplesperpixel - colors
    if alpha not in ((0,) if photometric == _PALETTE else (0, 1)) or page.imagedepth != 1:
        raise UnsupportedImage(f"TIFF files with {page.samplesperpixel} samples a pixel are not supported")


def _check_segments(page: tifffile.TiffPage, length: int) -> None:
    """Raise InvalidFile where strips or tiles are missing, or cannot hold what the header claims."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) != len(counts) or len(offsets) < math.prod(page.chunked):
        raise InvalidFile("the TIFF file lacks some of its strips")
    for offset, count in zip(offsets, counts, strict=True):
        if count == 0 or offset + count > length:
            raise InvalidFile("the TIFF file is truncated")
    held = min(sum(counts), length)
    bits = page.imagewidth * page.imagelength * page.samplesperpixel * page.bitspersample
    limit = FREE_EXPANSION + held * MAX_EXPANSION
    plain = int(page.compression) == 1
    check_claim(page.imagewidth, page.imagelength, bits // 8, held if plain else limit)
    # A lone tile may be larger than the image, and is decoded whole.
    check_claim(page.tilewidth, page.tilelength, page.tilewidth * page.tilelength, limit)


def _normalize(samples: NDArray[Any], page: tifffile.TiffPage) -> tuple[Pixels, int]:
    """Turn samples as tifffile gives them into pixels (H, W, C) and their bit depth."""
    height, width = page.imagelength, page.imagewidth
    depth = int(page.bitspersample)
    photometric = int(page.photometric)
    if samples.size != height * width * page.samplesperpixel:
        raise InvalidFile("the TIFF file has not as many samples as its header claims")
    if page.axes.startswith("S"):
        samples = np.moveaxis(samples.reshape(-1, height, width), 0, 2)
    samples = samples.reshape(height, width, -1)
    if photometric == _PALETTE:
        return _look_up(samples[:, :, 0], page)
    if photometric == _MIN_IS_WHITE:
        top = np.array((1 << depth) - 1, np.uint16)
        samples = np.concatenate([top - samples[:, :, :1], samples[:, :, 1:]], axis=2)
    if depth in PACKED_DEPTHS:
        scale = np.uint8(255 // ((1 << depth) - 1))
        return np.ascontiguousarray(samples, np.uint8) * scale, depth if samples.shape[2] == 1 else 8
    return np.ascontiguousarray(samples, np.uint16), depth


def _look_up(indices: NDArray[Any], page: tifffile.TiffPage) -> tuple[Pixels, int]:
    """Replace palette indices by colors: 8 bits where that holds them all, else 16."""
    indices = indices.astype(np.uint16)  # those of 1 bit are bool, which would be a mask
    colors = np.asarray(page.colormap, np.uint16).reshape(3, -1).T
    if int(indices.max()) >= len(colors):
        raise InvalidFile("a TIFF pixel has a color past the end of the palette")
    high, low = colors >> 8, colors & 255
    # Writers widen 8-bit colors by repeating the byte or by appending zeros.
    if (low == high).all() or not low.any():
        return high.astype(np.uint8)[indices], 8
    return colors[indices], 16


def _metadata(page: tifffile.TiffPage) -> Metadata:
    """Take over ICC profile, XMP, density, and the orientation as a small EXIF structure."""
    xmp = page.tags.valueof(_XMP)
    orientation = int(page.tags.valueof(_ORIENTATION) or 1)
    return Metadata(
        icc=bytes(page.iccprofile) if page.iccprofile else None,
        exif=_orientation_exif(orientation) if 2 <= orientation <= 8 else None,
        xmp=xmp.encode() if isinstance(xmp, str) else bytes(xmp) if xmp else None,
        density=_density(page),
    )


def _density(page: tifffile.TiffPage) -> tuple[int, int, int] | None:
    """Pixels per meter, where the file gives the resolution in inches or centimeters."""
    x, y = page.tags.valueof(_X_RESOLUTION), page.tags.valueof(_Y_RESOLUTION)
    unit = page.tags.valueof(_RESOLUTION_UNIT)
    scale = _UNITS_PER_METER.get(_INCH if unit is None else int(unit))
    if not x or not y or not scale or not x[1] or not y[1]:
        return None
    per_meter = [round(numerator / denominator * scale) for numerator, denominator in (x, y)]
    return (per_meter[0], per_meter[1], 1) if all(0 < value < 1 << 31 for value in per_meter) else None


def _orientation_exif(orientation: int) -> bytes:
    """An EXIF structure that holds nothing but the orientation."""
    entry = struct.pack("<HHIHH", _ORIENTATION, 3, 1, orientation, 0)
    return b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)


def _orientation(exif: bytes) -> int:
    """The orientation in the first directory of an EXIF structure, 1 where there is none."""
    order = ">" if exif.startswith(b"MM") else "<"
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for position in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number, value = struct.unpack_from(order + "HHIH", exif, position)
            if (tag, kind, number) == (_ORIENTATION, 3, 1) and 1 <= value <= 8:
                return value
    except struct.error:
        pass
    return 1

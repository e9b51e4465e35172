"""PNG scanlines: filtered bytes <-> samples, and the seven passes of Adam7.

The five filters work on bytes, at a distance of one whole pixel (the pitch). The bytes of any PNG row
therefore are those of an 8-bit picture of the same pitch, and that is what the decoding libraries are given:
Pillow up to 4 bytes a pixel, imagecodecs for the 6 and 8 bytes of 16-bit RGB and RGBA, which Pillow would cut
to 8 bits. Source: PNG specification, third edition, sections 7 to 9.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin

from gencodec.codec.image import Pixels
from gencodec.errors import InvalidFile, UnsupportedImage

MAX_LIBPNG_SIDE = 1_000_000
"""Of width and height, what libpng takes, which imagecodecs calls; Pillow does without."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"

WHOLE = ((0, 0, 1, 1),)
"""The one pass of an image that is not interlaced: x and y of its first pixel, step in x and y."""

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced image, as in WHOLE."""

# Pitch in bytes to the depth and color type of a picture with that pitch.
_CARRIERS = {1: (8, 0), 2: (8, 4), 3: (8, 2), 4: (8, 6), 6: (16, 2), 8: (16, 6)}


def chunk(kind: bytes, payload: bytes) -> bytes:
    """Write one PNG chunk: length, kind, payload, CRC-32 of kind and payload."""
    crc = zlib.crc32(payload, zlib.crc32(kind))
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", crc)


def passes(width: int, height: int, interlaced: bool) -> Iterator[tuple[tuple[slice, slice], int, int]]:
    """Yield each pass that has pixels: its rows and columns in the image, its height and its width."""
    for x, y, step_x, step_y in ADAM7 if interlaced else WHOLE:
        columns = -(-(width - x) // step_x)
        rows = -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            yield (slice(y, None, step_y), slice(x, None, step_x)), rows, columns


def row_bytes(width: int, bits: int) -> int:
    """Bytes of a row of `width` pixels of `bits` bits each, without the filter byte."""
    return (width * bits + 7) // 8


def unfilter(filtered: bytes, pitch: int, previous: NDArray[np.uint8] | None, rows: int) -> NDArray[np.uint8]:
    """Undo the filters of some consecutive rows.

    `filtered`: rows x (1 + row bytes), each row led by its filter number. `previous`: the unfiltered row
    above, None above the first. Returns uint8 (rows, row bytes). Raises InvalidFile on an unknown filter,
    UnsupportedImage on rows that are too long.
    """
    lines = np.frombuffer(filtered, np.uint8).reshape(rows, -1)
    kinds = lines[:, 0]
    if kinds.max() > 4:
        raise InvalidFile(f"the PNG image data use the unknown filter {kinds.max()}")
    if not kinds.any():
        return lines[:, 1:]
    width = lines.shape[1] - 1
    lead = b"" if previous is None else b"\0" + previous.tobytes()
    extra = 0 if previous is None else 1
    depth, color = _CARRIERS[pitch]
    if depth == 16 and width // pitch > MAX_LIBPNG_SIDE:
        raise UnsupportedImage(f"PNG images of 16-bit colors are read up to {MAX_LIBPNG_SIDE} pixels across")
    header = struct.pack(">IIBBBBB", width // pitch, rows + extra, depth, color, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(lead + filtered, 0))
    carrier = SIGNATURE + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")
    return _decode(carrier, depth).reshape(rows + extra, width)[extra:]


def _decode(png: bytes, depth: int) -> NDArray[np.uint8]:
    """Decode a well-formed PNG to the bytes of its rows."""
    if depth == 8:
        # Not Image.open: its limit on pixels is a global of Pillow's that belongs to the application.
        with PngImagePlugin.PngImageFile(io.BytesIO(png)) as picture:
            return np.asarray(picture)
    import imagecodecs  # here and not above, for it is slow to import and rarely needed

    return imagecodecs.png_decode(png).astype(">u2").view(np.uint8)


def filter_rows(rows: NDArray[np.uint8], pitch: int, previous: NDArray[np.uint8]) -> bytes:
    """Filter rows, each by the filter with the least sum of absolute differences.

    `rows`: uint8 (rows, row bytes). `previous`: the row above the first, zeros at the top of the image.
    Returns rows x (1 + row bytes), each row led by its filter number.
    """
    above = np.concatenate([previous[np.newaxis], rows[:-1]])
    left = np.zeros_like(rows)
    left[:, pitch:] = rows[:, :-pitch]
    corner = np.zeros_like(rows)
    corner[:, pitch:] = above[:, :-pitch]
    mean = (left & above) + ((left ^ above) >> 1)
    candidates = [rows, rows - left, rows - above, rows - mean, rows - _paeth(left, above, corner)]
    costs = [np.abs(candidate.view(np.int8).astype(np.int16)).sum(axis=1) for candidate in candidates]
    best = np.argmin(costs, axis=0)
    out = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    out[:, 0] = best
    for kind, candidate in enumerate(candidates):
        chosen = best == kind
        out[chosen, 1:] = candidate[chosen]
    return out.tobytes()


def _paeth(left: NDArray[np.uint8], above: NDArray[np.uint8], corner: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The neighbor nearest to left + above - corner; ties go to left, then above."""
    rise = above.astype(np.int16) - corner
    run = left.astype(np.int16) - corner
    to_left, to_above, to_corner = np.abs(rise), np.abs(run), np.abs(rise + run)
    take_left = (to_left <= to_above) & (to_left <= to_corner)
    return np.where(take_left, left, np.where(to_above <= to_corner, above, corner))


def unpack(rows: NDArray[np.uint8], width: int, channels: int, depth: int) -> Pixels:
    """Take samples out of row bytes: (rows, row bytes) -> (rows, width, channels).

    They are uint16 at depth 16, else uint8; those of less than 8 bits come as they are, not scaled.
    """
    if depth == 16:
        return np.ascontiguousarray(rows).view(">u2").astype(np.uint16).reshape(-1, width, channels)
    if depth == 8:
        return rows.reshape(-1, width, channels)
    bits = np.unpackbits(rows, axis=1).reshape(rows.shape[0], -1, depth)
    samples = bits[:, :width, 0]
    for place in range(1, depth):
        samples = np.left_shift(samples, 1) | bits[:, :width, place]
    return samples[:, :, np.newaxis]


def pack(samples: Pixels, depth: int) -> NDArray[np.uint8]:
    """Put samples of shape (rows, width, channels) into row bytes; the inverse of `unpack`."""
    rows = samples.shape[0]
    if depth == 16:
        return samples.astype(">u2").reshape(rows, -1).view(np.uint8)
    if depth == 8:
        return samples.astype(np.uint8, copy=False).reshape(rows, -1)
    places = np.arange(depth - 1, -1, -1, dtype=np.uint8)
    bits = (samples.reshape(rows, -1, 1).astype(np.uint8) >> places) & 1
    return np.packbits(bits.reshape(rows, -1), axis=1)

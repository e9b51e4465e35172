"""PNG files: bytes <-> Image, every color type and depth, with the chunks that carry color and metadata.

Chunks, checksums, interlacing, palettes and transparency are read here and strictly: a viewer may guess at
the missing part of a broken file, an archive may not. Source: PNG specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.chunks import metadata_of, write_metadata
from gencodec.codec.image import Image, Pixels, check_claim
from gencodec.codec.scanlines import (
    SIGNATURE,
    chunk,
    filter_rows,
    pack,
    passes,
    row_bytes,
    unfilter,
    unpack,
)
from gencodec.errors import InvalidFile, UnsupportedImage, UsageError

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
_COLOR_TYPES = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}

# Rows are worked on in bands of about this many bytes, so that memory is that of the result and little more.
_BAND = 1 << 20
_FEED = 1 << 16
# Deflate cannot shrink data by more than this factor (258 bytes in two bits).
_DEFLATE_LIMIT = 1032


@dataclass(frozen=True)
class Header:
    """The IHDR chunk: size, bits a sample, color type, whether interlaced by Adam7."""

    width: int
    height: int
    depth: int
    color: int
    interlaced: bool

    @property
    def channels(self) -> int:
        """Samples a pixel as they lie in the file: 1 for a palette."""
        return _CHANNELS[self.color]

    @property
    def pixel_bits(self) -> int:
        return self.channels * self.depth


@dataclass
class _Parts:
    """What the chunks of one file hold."""

    header: Header
    palette: bytes | None = None
    transparency: bytes | None = None
    data: list[memoryview] = field(default_factory=list)
    ancillary: dict[bytes, bytes] = field(default_factory=dict)


def read_png(data: bytes) -> Image:
    """Read a PNG file.

    Palettes become RGB, transparent colors an alpha channel. Depths 1, 2 and 4 of grey are kept in
    `bit_depth`. Raises InvalidFile on anything broken, UnsupportedImage on an animation.
    """
    parts = _collect(data)
    header = parts.header
    size = header.height * row_bytes(header.width, header.pixel_bits)
    check_claim(header.width, header.height, size, _DEFLATE_LIMIT * sum(map(len, parts.data)))
    metadata = metadata_of(parts.ancillary)
    pixels = _decode_pixels(parts)
    plain_grey = header.color == GREY and parts.transparency is None
    depth = header.depth if plain_grey or header.depth == 16 else 8
    return Image(pixels, depth, metadata)


def write_png(image: Image) -> bytes:
    """Write a PNG file with the image's bit depth and all its metadata.

    Raises UsageError on depths that PNG lacks (3, 5 to 7, 9 to 15).
    """
    depth = image.bit_depth
    if depth not in _DEPTHS[GREY]:
        raise UsageError(f"PNG has no bit depth of {depth}; PAM, PGM and PPM files have")
    if image.channels > 1:
        depth = max(depth, 8)
    fields = (image.width, image.height, depth, _COLOR_TYPES[image.channels], 0, 0, 0)
    out = [SIGNATURE, chunk(b"IHDR", struct.pack(">IIBBBBB", *fields))]
    out += [chunk(kind, payload) for kind, payload in write_metadata(image.metadata)]
    out += [chunk(b"IDAT", part) for part in _encode_pixels(image.pixels, depth)]
    out.append(chunk(b"IEND", b""))
    return b"".join(out)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and payload of each chunk up to IEND; raises InvalidFile on bad structure or checksum."""
    if not data.startswith(SIGNATURE):
        raise InvalidFile("not a PNG file: the signature is wrong")
    view = memoryview(data)
    position = len(SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise InvalidFile("the PNG file is truncated")
        length, kind = struct.unpack_from(">I4s", data, position)
        if not kind.isalpha():
            raise InvalidFile(f"the PNG file has no valid chunk at byte {position}")
        name = kind.decode("ascii")
        end = position + 12 + length
        if end > len(data):
            raise InvalidFile(f"the PNG file is truncated in its {name} chunk")
        payload = view[position + 8 : end - 4]
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(payload, zlib.crc32(kind)) != checksum:
            raise InvalidFile(f"the PNG file is damaged: the checksum of its {name} chunk is wrong")
        if kind == b"IEND":
            return
        yield kind, payload
        position = end


def _collect(data: bytes) -> _Parts:
    """Sort the chunks of a file; raises InvalidFile where one is missing, unknown or out of place."""
    chunks = _chunks(data)
    kind, payload = next(chunks, (b"", memoryview(b"")))
    if kind != b"IHDR":
        raise InvalidFile("the PNG file does not begin with a header")
    parts = _Parts(_header(payload))
    last = kind
    for kind, payload in chunks:
        if kind == b"IDAT":
            if parts.data and last != b"IDAT":
                raise InvalidFile("the PNG image data are interrupted by another chunk")
            parts.data.append(payload)
        else:
            _keep(parts, kind, payload)
        last = kind
    if not parts.data:
        raise InvalidFile("the PNG file has no image data")
    if parts.header.color == PALETTE and parts.palette is None:
        raise InvalidFile("the PNG file has no palette")
    return parts


def _keep(parts: _Parts, kind: bytes, payload: memoryview) -> None:
    """Put a chunk other than IHDR, IDAT and IEND in its place; the first of a kind counts."""
    if kind == b"PLTE":
        if parts.palette is not None or parts.data:
            raise InvalidFile("the PNG palette is out of place")
        if not payload or len(payload) % 3 or len(payload) > 768:
            raise InvalidFile(f"the PNG palette has an impossible length of {len(payload)} bytes")
        parts.palette = bytes(payload)
    elif kind == b"tRNS":
        if parts.data:
            raise InvalidFile("the PNG transparency comes after the image data")
        parts.transparency = _transparency(parts, bytes(payload))
    elif kind == b"acTL":
        if payload[:4] != b"\0\0\0\1":
            raise UnsupportedImage("animated PNG files are not supported: only still images are")
    elif not kind[0] & 0x20:
        raise InvalidFile(f"the PNG file has an unknown critical chunk {kind.decode('ascii')}")
    elif kind == b"iTXt":
        # One of many may be the XMP packet: keep them apart by keyword.
        parts.ancillary.setdefault(kind + bytes(payload[:80]).split(b"\0")[0], bytes(payload))
    else:
        parts.ancillary.setdefault(kind, bytes(payload))


def _transparency(parts: _Parts, payload: bytes) -> bytes | None:
    """Check a tRNS chunk against the color type; None where images with alpha have one all the same."""
    color = parts.header.color
    if color in (GREY_ALPHA, RGBA):
        return None
    expected = {GREY: 2, RGB: 6}.get(color)
    if expected is None:
        if parts.palette is None or not 1 <= len(payload) <= len(parts.palette) // 3:
            raise InvalidFile("the PNG transparency does not fit the palette")
    elif len(payload) != expected:
        raise InvalidFile(f"the PNG transparency has {len(payload)} bytes instead of {expected}")
    return payload


def _header(payload: memoryview) -> Header:
    """Read an IHDR chunk; raises InvalidFile on values that the specification does not know."""
    if len(payload) != 13:
        raise InvalidFile(f"the PNG header has {len(payload)} bytes instead of 13")
    width, height, depth, color, compression, filtering, interlace = struct.unpack(">IIBBBBB", payload)
    if not 1 <= width < 1 << 31 or not 1 <= height < 1 << 31:
        raise InvalidFile(f"the PNG header claims an impossible size of {width} x {height} pixels")
    if depth not in _DEPTHS.get(color, ()):
        raise InvalidFile(f"the PNG header has an unknown color type {color} with {depth} bits a sample")
    if compression or filtering or interlace > 1:
        raise InvalidFile("the PNG header names an unknown compression, filter or interlace method")
    return Header(width, height, depth, color, interlace == 1)


class _Inflater:
    """The image data of a file as one stream of inflated bytes."""

    def __init__(self, parts: list[memoryview]) -> None:
        self._stream = zlib.decompressobj()
        self._input = (part[at : at + _FEED] for part in parts for at in range(0, len(part), _FEED))

    def read(self, size: int) -> bytes:
        """Return exactly `size` more bytes; raises InvalidFile where there are less, or they are damaged."""
        out = bytearray()
        while len(out) < size:
            piece = self._stream.unconsumed_tail or next(self._input, b"")
            try:
                inflated = self._stream.decompress(piece, size - len(out))
            except zlib.error as error:
                raise InvalidFile("the PNG image data are damaged") from error
            if not inflated and not piece:
                raise InvalidFile("the PNG image data end too early")
            out += inflated
        return bytes(out)


def _decode_pixels(parts: _Parts) -> Pixels:
    """Decode the image data to samples (H, W, C): palette, transparency and small depths expanded."""
    header = parts.header
    channels = 3 if header.color == PALETTE else header.channels
    if parts.transparency is not None:
        channels += 1
    dtype = np.uint16 if header.depth == 16 else np.uint8
    pixels = np.empty((header.height, header.width, channels), dtype)
    stream = _Inflater(parts.data)
    for (rows, columns), height, width in passes(header.width, header.height, header.interlaced):
        target = pixels[rows, columns]
        start = 0
        for samples in _bands(stream, header, width, height):
            target[start : start + len(samples)] = _expand(samples, parts)
            start += len(samples)
    return pixels


def _bands(stream: _Inflater, header: Header, width: int, height: int) -> Iterator[Pixels]:
    """Yield the samples of one pass from top to bottom, some rows at a time."""
    length = row_bytes(width, header.pixel_bits)
    pitch = max(1, header.pixel_bits // 8)
    previous: NDArray[np.uint8] | None = None
    for start in range(0, height, step := max(1, _BAND // length)):
        rows = min(step, height - start)
        lines = unfilter(stream.read(rows * (length + 1)), pitch, previous, rows)
        previous = lines[-1]
        yield unpack(lines, width, header.channels, header.depth)


def _expand(samples: Pixels, parts: _Parts) -> Pixels:
    """Turn samples as they lie in the file into those of the image."""
    header = parts.header
    if header.color == PALETTE:
        return _look_up(samples, parts.palette or b"", parts.transparency)
    opaque = None
    if parts.transparency is not None:
        # Only the low bits of the transparent color count.
        mask = (1 << header.depth) - 1
        key = np.frombuffer(parts.transparency, ">u2") & mask
        opaque = (samples != key).any(axis=2, keepdims=True)
    if header.depth < 8:
        samples = samples * np.uint8(255 // ((1 << header.depth) - 1))
    if opaque is None:
        return samples
    alpha = opaque.astype(samples.dtype) * samples.dtype.type(np.iinfo(samples.dtype).max)
    return np.concatenate([samples, alpha], axis=2)


def _look_up(indices: Pixels, palette: bytes, transparency: bytes | None) -> Pixels:
    """Replace palette indices (h, w, 1) by colors; raises InvalidFile on an index past the palette's end."""
    table = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    if transparency is not None:
        alpha = np.full((len(table), 1), 255, np.uint8)
        alpha[: len(transparency), 0] = np.frombuffer(transparency, np.uint8)
        table = np.concatenate([table, alpha], axis=1)
    if indices.max() >= len(table):
        raise InvalidFile(f"a PNG pixel has color {indices.max()} of a palette of {len(table)}")
    return table[indices[:, :, 0]]


def _encode_pixels(pixels: Pixels, depth: int) -> Iterable[bytes]:
    """Yield the payloads of the IDAT chunks."""
    height, width, channels = pixels.shape
    length = row_bytes(width, channels * depth)
    pitch = max(1, channels * depth // 8)
    previous = np.zeros(length, np.uint8)
    stream = zlib.compressobj(6)
    # The filters need about ten times their rows: a smaller band stays in the cache.
    step = max(1, _BAND // 8 // length)
    ready = bytearray()
    for start in range(0, height, step):
        samples = pixels[start : start + step]
        if depth < 8:
            samples = samples // np.uint8(255 // ((1 << depth) - 1))
        rows = pack(samples, depth)
        # Filters do not help where a byte holds several pixels.
        lines = filter_rows(rows, pitch, previous) if depth >= 8 else _unfiltered(rows)
        previous = rows[-1]
        ready += stream.compress(lines)
        if len(ready) >= _BAND:
            yield bytes(ready)
            ready.clear()
    yield bytes(ready + stream.flush())


def _unfiltered(rows: NDArray[np.uint8]) -> bytes:
    """Lead every row by the number of the filter that does nothing."""
    return np.pad(rows, ((0, 0), (1, 0))).tobytes()

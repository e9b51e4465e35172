"""Ordinary lossless coders, for what the neural codec does not suit: samples <-> payload.

Each coder is a pair, encode_x and decode_x. What a payload would only repeat of the container (signatures,
sizes, lengths) is left out of it. A decoder compares the size in a payload with the size it must have before
it makes room for any sample.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from gencodec.codec.container import Coder
from gencodec.codec.image import Pixels
from gencodec.codec.repeats import FEW_REPEATS, bands, repeated_share
from gencodec.codec.scanlines import MAX_LIBPNG_SIDE, SIGNATURE, chunk
from gencodec.errors import InvalidFile

MAX_WEBP_SIDE = 16383
"""WebP holds 14 bits of width and of height."""

TINY_BYTES = 1 << 14
"""Up to this many bytes of samples, plain and deflated samples are tried; else only where JPEG XL gains
nothing."""

WEBP_HOPE = {True: 0.94, False: 0.7}
"""Where JPEG XL or the model takes less than this share of the bytes of `close_webp`, by whether few runs recur, WebP
at full effort is spared: it runs at 0.05 to 0.5 MP/s. Its own share is 0.94 to 1.00 on 48 photographs of Kodak and gb82
and 0.90 on one, whose JPEG XL takes 0.89 (on all 49 JPEG XL takes less than WebP); 0.72 to 1.01 on 18 screenshots,
drawings and renders."""

MAX_INFLATION = 1032
"""DEFLATE makes at most this many bytes of one."""

STRIPE, LEAST_STRIPE = 16, 1024
"""Rows of a stripe that `sampled_webp` looks at, and its least columns: less of each would cost WebP more than it does
in the whole picture."""
FEWEST_STRIPES = 24
"""Of which that looks at the rows, if there are as many."""

_PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_JXL_SIGNATURE = b"\xff\x0a"
_JXL_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


class Shape(NamedTuple):
    """Height, width, channels and bytes a sample (1 or 2) of the samples to decode."""

    height: int
    width: int
    channels: int
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Bytes of the samples in memory."""
        return self.height * self.width * self.channels * self.itemsize

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """The dtype of the samples in memory."""
        return np.dtype(np.uint8) if self.itemsize == 1 else np.dtype(np.uint16)


class Coded(NamedTuple):
    """A payload and the coder that wrote it."""

    coder: Coder
    payload: bytes


def encode(pixels: Pixels, *, least: int = 0, most: int | None = None) -> Coded:
    """Code samples (H, W, C) by whichever coder writes the fewest bytes, but at least `least` of them.

    A coder that cannot come below `most` bytes, which the caller has other means for, need not be tried.
    """
    if (pixels == pixels[0, 0]).all() and len(_encode_constant(pixels)) >= least:
        return Coded(Coder.CONSTANT, _encode_constant(pixels))
    candidates = [coded for coded in _candidates(pixels, most) if len(coded.payload) >= least]
    if not candidates:
        # At most 1 : 1032, so always long enough for the container.
        candidates = [Coded(Coder.DEFLATE, _encode_deflate(pixels))]
    return min(candidates, key=lambda coded: len(coded.payload))


def decode(coder: Coder, payload: bytes, shape: Shape) -> Pixels:
    """Decode samples of the shape given; raises InvalidFile where the payload does not hold just those."""
    decoder = _DECODERS.get(coder)
    if decoder is None:
        raise InvalidFile(f"samples cannot be decoded by the coder {coder.name}")
    return decoder(payload, shape)


def encode_by(coder: Coder, pixels: Pixels) -> bytes:
    """Code samples (H, W, C) by the coder given; they must be such as it can hold."""
    return _ENCODERS[coder](pixels)


def checksum(pixels: Pixels) -> int:
    """CRC-32 of the samples row by row, channels interleaved, 16-bit samples little-endian."""
    return zlib.crc32(np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).data)


def fits_webp(pixels: Pixels) -> bool:
    """Whether WebP can hold the samples."""
    return pixels.dtype == np.uint8 and max(pixels.shape[:2]) <= MAX_WEBP_SIDE


def fits_png(pixels: Pixels) -> bool:
    """Whether libpng takes the samples."""
    return max(pixels.shape[:2]) <= MAX_LIBPNG_SIDE


def _candidates(pixels: Pixels, most: int | None) -> Iterator[Coded]:
    """Yield what every coder worth trying makes of the samples."""
    jxl = encode_by(Coder.JXL, pixels)
    yield Coded(Coder.JXL, jxl)
    tiny = pixels.nbytes <= TINY_BYTES
    coders = [Coder.RAW, Coder.DEFLATE] if tiny or len(jxl) >= pixels.nbytes else []
    if not fits_webp(pixels):
        coders.append(Coder.PNG if fits_png(pixels) else Coder.DEFLATE)
    elif tiny or _webp_may_win(pixels, min(len(jxl), most or len(jxl))):
        coders.append(Coder.WEBP)
    yield from (Coded(coder, encode_by(coder, pixels)) for coder in coders)


def quick_webp(pixels: Pixels) -> int:
    """Bytes that WebP takes at hardly any effort."""
    return sum(len(encode_webp(band, quality=20, method=1)) for band in bands(pixels))


def has_stripes(pixels: Pixels) -> bool:
    """Whether the samples have enough rows, and wide ones, for `sampled_webp`."""
    return len(pixels) // STRIPE // 4 >= FEWEST_STRIPES and pixels.shape[1] >= LEAST_STRIPE


def sampled_webp(pixels: Pixels) -> int:
    """About as many as `quick_webp`, by one of every four stripes of rows, at random; they must be many and wide."""
    count = len(pixels) // STRIPE // 4
    tops = STRIPE * (4 * np.arange(count) + np.random.default_rng(0).integers(0, 4, count))
    found = sum(len(encode_webp(pixels[top : top + STRIPE], quality=20, method=1)) for top in tops.tolist())
    return found * len(pixels) // (count * STRIPE)


def close_webp(pixels: Pixels) -> int:
    """Bytes that WebP takes at little effort, mostly a few percent more than at full effort."""
    return len(encode_webp(pixels, quality=75, method=2))


def _webp_may_win(pixels: Pixels, size: int) -> bool:
    """Whether WebP at full effort might take fewer than `size` bytes."""
    return WEBP_HOPE[repeated_share(pixels) < FEW_REPEATS] * close_webp(pixels) < size


def _encode_raw(pixels: Pixels) -> bytes:
    """Samples row by row, channels interleaved, 16-bit samples little-endian."""
    return pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()


def _decode_raw(payload: bytes, shape: Shape) -> Pixels:
    if len(payload) != shape.nbytes:
        raise InvalidFile(f"a section has {len(payload)} bytes of samples instead of {shape.nbytes}")
    stored = np.frombuffer(payload, shape.dtype.newbyteorder("<"))
    return stored.astype(shape.dtype).reshape(shape[:3])


def _encode_deflate(pixels: Pixels) -> bytes:
    return deflate(_encode_raw(pixels))


def _decode_deflate(payload: bytes, shape: Shape) -> Pixels:
    return _decode_raw(inflate(payload, shape.nbytes), shape)


def deflate(data: bytes) -> bytes:
    """Write a raw DEFLATE stream (RFC 1951) of the data."""
    stream = zlib.compressobj(9, wbits=-15)
    return stream.compress(data) + stream.flush()


def inflate(payload: bytes, limit: int) -> bytes:
    """Read a raw DEFLATE stream; raises InvalidFile where it is damaged or makes more than `limit` bytes."""
    stream = zlib.decompressobj(wbits=-15)
    try:
        data = stream.decompress(payload, limit + 1)
    except zlib.error as error:
        raise InvalidFile("a section holds a damaged DEFLATE stream") from error
    if len(data) > limit or not stream.eof or stream.unused_data:
        raise InvalidFile("a section holds a DEFLATE stream of the wrong length")
    return data


def _encode_constant(pixels: Pixels) -> bytes:
    return _encode_raw(pixels[:1, :1])


def _decode_constant(payload: bytes, shape: Shape) -> Pixels:
    pixel = _decode_raw(payload, Shape(1, 1, shape.channels, shape.itemsize))
    return np.ascontiguousarray(np.broadcast_to(pixel, shape[:3]))


def encode_webp(pixels: Pixels, *, quality: int = 100, method: int = 6) -> bytes:
    """Write the content of a WebP file's only chunk, VP8L; grey becomes RGB. The samples must fit WebP."""
    channels = pixels.shape[2]
    if channels < 3:
        pixels = pixels[:, :, (0, 0, 0, 1)[: channels + 2]]
    file = io.BytesIO()
    picture = PillowImage.fromarray(np.ascontiguousarray(pixels))
    picture.save(file, "WEBP", lossless=True, quality=quality, method=method, exact=True)
    data = file.getbuffer()
    # RIFF, length, WEBP, VP8L, length; then the content, and a byte of padding where the length is odd.
    return bytes(data[20 : 20 + struct.unpack_from("<I", data, 16)[0]])


def _decode_webp(payload: bytes, shape: Shape) -> Pixels:
    if shape.itemsize != 1 or len(payload) < 5 or payload[0] != 0x2F:
        raise InvalidFile("a section holds a damaged WebP image")
    bits = int.from_bytes(payload[1:5], "little")
    _check_size("WebP", 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF), shape)
    body = b"VP8L" + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)
    file = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    samples = np.empty((shape.height, shape.width, 4 if shape.channels in (2, 4) else 3), np.uint8)
    _call_library("WebP", lambda codecs: codecs.webp_decode(file, hasalpha=samples.shape[2] == 4, out=samples))
    return samples if shape.channels > 2 else np.ascontiguousarray(samples[:, :, 2 : 2 + shape.channels])


def _encode_jxl(pixels: Pixels) -> bytes:
    """Write a bare JPEG XL codestream, modular and lossless."""
    import imagecodecs

    data = imagecodecs.jpegxl_encode(_for_library(pixels), lossless=True, effort=7, numthreads=1)
    return _jxl_codestream(bytes(data))


def _decode_jxl(payload: bytes, shape: Shape) -> Pixels:
    if payload[:2] != _JXL_SIGNATURE or len(payload) < 12:
        raise InvalidFile("a section holds a damaged JPEG XL image")
    _check_size("JPEG XL", *_jxl_size(int.from_bytes(payload[2:12], "little")), shape)
    samples = np.empty(shape[:3] if shape.channels > 1 else shape[:2], shape.dtype)
    _call_library("JPEG XL", lambda codecs: codecs.jpegxl_decode(payload, numthreads=1, out=samples))
    return samples.reshape(shape[:3])


def _jxl_codestream(data: bytes) -> bytes:
    """Take the codestream out of the boxes that libjxl puts around it for 16-bit samples (ISO/IEC
    18181-2)."""
    if data[:2] == _JXL_SIGNATURE:
        return data
    position, parts = 0, []
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if length == 1:
            length, start = struct.unpack_from(">Q", data, start)[0], start + 8
        position = position + length if length else len(data)
        if kind in (b"jxlc", b"jxlp"):
            # A partial codestream is led by its index.
            parts.append(data[start + (4 if kind == b"jxlp" else 0) : position])
    return b"".join(parts)


def _jxl_size(bits: int) -> tuple[int, int]:
    """Read height and width of the SizeHeader that the bits begin with (ISO/IEC 18181-1, section 9.2)."""

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    height = side()
    ratio = take(3)
    if not ratio:
        return height, side()
    numerator, denominator = _JXL_RATIOS[ratio]
    return height, height * numerator // denominator


def encode_png(pixels: Pixels, *, level: int = 9) -> bytes:
    """Write the content of a PNG file's IDAT chunks: a zlib stream of filtered rows."""
    import imagecodecs

    data = memoryview(imagecodecs.png_encode(_for_library(pixels), level=level))
    position, parts = len(SIGNATURE), []
    while position < len(data):
        length = struct.unpack_from(">I", data, position)[0]
        if data[position + 4 : position + 8] == b"IDAT":
            parts.append(data[position + 8 : position + 8 + length])
        position += 12 + length
    return b"".join(parts)


def _decode_png(payload: bytes, shape: Shape) -> Pixels:
    if len(payload) * MAX_INFLATION < shape.nbytes:
        raise InvalidFile("a section holds a truncated PNG image")
    color_type = _PNG_COLOR_TYPES[shape.channels]
    header = struct.pack(">IIBBBBB", shape.width, shape.height, 8 * shape.itemsize, color_type, 0, 0, 0)
    file = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", payload) + chunk(b"IEND", b"")
    samples = np.empty(shape[:3] if shape.channels > 1 else shape[:2], shape.dtype)
    _call_library("PNG", lambda codecs: codecs.png_decode(file, out=samples))
    return samples.reshape(shape[:3])


def _for_library(pixels: Pixels) -> Pixels:
    """Copy samples as imagecodecs wants them: grey without a channel axis, and with the strides of a new
    array."""
    return np.array(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, order="C")


def _check_size(name: str, height: int, width: int, shape: Shape) -> None:
    """Raise InvalidFile unless the size in a payload is the one it must have."""
    if (height, width) != shape[:2]:
        raise InvalidFile(f"a section's {name} image is {width} x {height} instead of {shape.width} x {shape.height}")


def _call_library(name: str, decoder: Callable[..., NDArray]) -> None:
    """Call a decoder of imagecodecs; whatever it raises on damaged data becomes InvalidFile."""
    import imagecodecs

    try:
        decoder(imagecodecs)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise InvalidFile(f"a section holds a damaged {name} image") from error


_ENCODERS: dict[Coder, Callable[[Pixels], bytes]] = {
    Coder.RAW: _encode_raw,
    Coder.DEFLATE: _encode_deflate,
    Coder.WEBP: encode_webp,
    Coder.JXL: _encode_jxl,
    Coder.PNG: encode_png,
    Coder.CONSTANT: _encode_constant,
}
_DECODERS: dict[Coder, Callable[[bytes, Shape], Pixels]] = {
    Coder.RAW: _decode_raw,
    Coder.DEFLATE: _decode_deflate,
    Coder.WEBP: _decode_webp,
    Coder.JXL: _decode_jxl,
    Coder.PNG: _decode_png,
    Coder.CONSTANT: _decode_constant,
}

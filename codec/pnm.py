"""The Netpbm formats P1 to P7 (PBM, PGM, PPM in text and binary, PAM): bytes <-> Image, 1 to 16 bits a
sample.

Source: the Netpbm manual pages pbm(5), pgm(5), ppm(5), pam(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.image import PACKED_DEPTHS, Image, Pixels, check_claim
from gencodec.codec.scanlines import row_bytes
from gencodec.errors import InvalidFile, UnsupportedImage, UsageError

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])"
_NUMBER = re.compile(_GAP + rb"+([0-9]{1,10})(?=(" + _GAP + rb"))")
# Possessive, for a line that has no end is read once.
_PAM_ENTRY = re.compile(rb"[ \t]*+([A-Z]++)[ \t]*+([^\n]*+)\n")
_PAM_COMMENT = re.compile(rb"(?:[ \t\r]*(?:#[^\n]*)?\n)+")
_TUPLES = {1: b"GRAYSCALE", 2: b"GRAYSCALE_ALPHA", 3: b"RGB", 4: b"RGB_ALPHA"}
_CHANNELS = {name: channels for channels, name in _TUPLES.items()}
_CHANNELS |= {b"BLACKANDWHITE": 1, b"BLACKANDWHITE_ALPHA": 2}
_PAM_KEYS = (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL")
_TEXT = b"123"


@dataclass(frozen=True)
class _Header:
    """What stands before the samples: digit after P, size, channels, bit depth, where the samples begin."""

    kind: bytes
    width: int
    height: int
    channels: int
    depth: int
    start: int

    @property
    def samples(self) -> int:
        return self.width * self.height * self.channels


def read_pnm(data: bytes) -> Image:
    """Read a PBM, PGM, PPM or PAM file.

    Raises InvalidFile on a broken file, UnsupportedImage where several images follow each other or where the
    greatest sample is not one less than a power of two.
    """
    header = _read_pam_header(data) if data[1:2] == b"7" else _read_header(data)
    # Samples of a bitmap take a bit at least, all others a byte.
    check_claim(header.width, header.height, header.samples, 8 * len(data))
    samples = _read_text(data, header) if header.kind in _TEXT else _read_binary(data, header)
    if int(samples.max()) >> header.depth:
        raise InvalidFile(f"a sample of the file exceeds its greatest value of {(1 << header.depth) - 1}")
    if header.kind in b"14":
        samples = 1 - samples
    pixels = samples.reshape(header.height, header.width, header.channels)
    return Image(_widen(pixels, header.depth), header.depth)


def write_pnm(image: Image, kind: str) -> bytes:
    """Write a binary file of the kind "pbm", "pgm", "ppm", "pnm" (whichever of these fits) or "pam".

    Metadata have no place in these formats. Raises UsageError where the image does not fit the kind.
    """
    digit = _digit(image, kind)
    depth = image.bit_depth
    top = (1 << depth) - 1
    if digit == 7:
        head = f"P7\nWIDTH {image.width}\nHEIGHT {image.height}\nDEPTH {image.channels}\nMAXVAL {top}\n"
        head += f"TUPLTYPE {_TUPLES[image.channels].decode()}\nENDHDR\n"
    else:
        size = f"P{digit}\n{image.width} {image.height}\n"
        head = size if digit == 4 else f"{size}{top}\n"
    samples = _narrow(image.pixels, depth)
    if digit == 4:
        body = np.packbits(1 - samples[:, :, 0], axis=1).tobytes()
    else:
        body = samples.astype(np.uint8 if depth <= 8 else ">u2", copy=False).tobytes()
    return head.encode("ascii") + body


def _digit(image: Image, kind: str) -> int:
    """The number after P for an image; raises UsageError where the kind cannot hold it."""
    if kind == "pam":
        return 7
    if image.has_alpha:
        raise UsageError(f"a {kind.upper()} file cannot hold an alpha channel; PAM and PNG files can")
    if kind == "pnm":
        kind = "ppm" if image.channels == 3 else "pbm" if image.bit_depth == 1 else "pgm"
    if (kind == "ppm") != (image.channels == 3):
        color = "color" if image.channels == 3 else "grey"
        raise UsageError(f"a {kind.upper()} file cannot hold a {color} image")
    if kind == "pbm" and image.bit_depth != 1:
        raise UsageError(f"a PBM file cannot hold {image.bit_depth} bits a sample")
    return {"pbm": 4, "pgm": 5, "ppm": 6}[kind]


def _widen(samples: Pixels, depth: int) -> Pixels:
    """Samples as they lie in the file -> those of an Image."""
    if depth not in PACKED_DEPTHS:
        return np.ascontiguousarray(samples, np.uint16)
    return np.ascontiguousarray(samples, np.uint8) * np.uint8(255 // ((1 << depth) - 1))


def _narrow(pixels: Pixels, depth: int) -> Pixels:
    """Samples of an Image -> those of the file; the inverse of `_widen`."""
    return pixels // np.uint8(255 // ((1 << depth) - 1)) if depth in PACKED_DEPTHS else pixels


def _depth(top: int) -> int:
    """The bit depth of a greatest sample value."""
    if not 1 <= top <= 65535:
        raise InvalidFile(f"the greatest sample value of {top} is impossible")
    if top & (top + 1):
        raise UnsupportedImage(f"a greatest sample of {top} is not supported: only 1, 3, 7 ... 65535 are")
    return top.bit_length()


def _read_header(data: bytes) -> _Header:
    """Read the header of P1 to P6."""
    kind = data[1:2]
    bitmap = kind in b"14"
    numbers: list[int] = []
    position = start = 2
    for _ in range(2 if bitmap else 3):
        match = _NUMBER.match(data, position)
        if match is None:
            raise InvalidFile("the header of the Netpbm file is damaged")
        numbers.append(int(match[1]))
        position, start = match.span(2)
    width, height = numbers[:2]
    if not width or not height:
        raise InvalidFile("the Netpbm file has no pixels")
    depth = 1 if bitmap else _depth(numbers[2])
    return _Header(kind, width, height, 3 if kind in b"36" else 1, depth, start)


def _read_pam_header(data: bytes) -> _Header:
    """Read the header of P7: one entry a line, up to ENDHDR."""
    entries: dict[bytes, bytes] = {}
    position = data.find(b"\n") + 1
    while True:
        comment = _PAM_COMMENT.match(data, position)
        position = comment.end() if comment else position
        match = _PAM_ENTRY.match(data, position)
        if match is None or position == 0:
            raise InvalidFile("the header of the PAM file is damaged")
        position = match.end()
        if match[1] == b"ENDHDR":
            break
        entries[match[1]] = match[2].rstrip(b" \t\r")
    try:
        width, height, channels, top = (int(entries[key]) for key in _PAM_KEYS)
    except (KeyError, ValueError) as error:
        raise InvalidFile("the header of the PAM file is damaged") from error
    if width < 1 or height < 1 or channels < 1:
        raise InvalidFile("the PAM file has no pixels")
    tuples = entries.get(b"TUPLTYPE", _TUPLES.get(channels, b""))
    if _CHANNELS.get(tuples) != channels:
        named = tuples[:40].decode("ascii", "replace")
        raise UnsupportedImage(f"PAM files with {channels} channels of type {named!r} are not supported")
    return _Header(b"7", width, height, channels, _depth(top), position)


def _read_binary(data: bytes, header: _Header) -> Pixels:
    """Read the samples of P4 to P7; raises where data are missing or another image follows."""
    if header.kind == b"4":
        length = row_bytes(header.width, 1) * header.height
    else:
        length = header.samples * (1 if header.depth <= 8 else 2)
    rest = data[header.start + length : header.start + length + 2]
    if len(data) - header.start < length:
        raise InvalidFile("the Netpbm file is truncated")
    if rest[:1] == b"P" and rest[1:].isdigit():
        raise UnsupportedImage("Netpbm files with several images are not supported")
    if header.kind == b"4":
        rows = np.frombuffer(data, np.uint8, length, header.start).reshape(header.height, -1)
        return np.unpackbits(rows, axis=1, count=header.width)
    if header.depth > 8:
        return np.frombuffer(data, ">u2", header.samples, header.start).astype(np.uint16)
    return np.frombuffer(data, np.uint8, header.samples, header.start)


def _read_text(data: bytes, header: _Header) -> Pixels:
    """Read the samples of P1 to P3, where each is a number; the digits of P1 need no space between them."""
    body = re.sub(rb"#[^\r\n]*", b" ", data[header.start - 1 :])
    characters = np.frombuffer(body, np.uint8)
    digits = characters - np.uint8(ord("0"))
    is_digit = digits < 10
    spaces = (characters == ord(" ")) | ((characters >= ord("\t")) & (characters <= ord("\r")))
    if not (is_digit | spaces).all():
        raise InvalidFile("the Netpbm file has something other than numbers for samples")
    values = digits[is_digit] if header.kind == b"1" else _numbers(digits, is_digit)
    if len(values) != header.samples:
        raise InvalidFile(f"the Netpbm file has {len(values)} samples instead of {header.samples}")
    return values.astype(np.uint16)


def _numbers(digits: NDArray[np.uint8], is_digit: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Decode decimal numbers: the digit at each character, if there is one -> the numbers in order."""
    edges = np.flatnonzero(np.diff(is_digit, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    longest = int((ends - starts).max(initial=0))
    if longest > 5:
        raise InvalidFile("the Netpbm file has a sample of more than five digits")
    values = np.zeros(len(starts), np.uint32)
    for place in range(longest):
        at = ends - 1 - place
        present = at >= starts
        values[present] += digits[at[present]].astype(np.uint32) * np.uint32(10**place)
    if values.max(initial=0) > 65535:
        raise InvalidFile("the Netpbm file has a sample above 65535")
    return values

"""PNG chunks that carry color and metadata <-> Metadata.

Kept: iCCP, sRGB, gAMA, cHRM, cICP, pHYs, eXIf and the iTXt that holds XMP. Other ancillary chunks (texts,
times, suggested palettes, backgrounds) are left out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

from gencodec.codec.image import Metadata
from gencodec.errors import InvalidFile

MAX_INFLATED = 1 << 26
"""The most bytes that a compressed profile or XMP packet may have when inflated."""

_XMP_KEYWORD = b"XML:com.adobe.xmp"
# Chunk, field of Metadata, layout, in the order of writing.
_FIXED = (
    (b"cICP", "cicp", struct.Struct(">4B")),
    (b"sRGB", "srgb_intent", struct.Struct(">B")),
    (b"gAMA", "gamma", struct.Struct(">I")),
    (b"cHRM", "chromaticities", struct.Struct(">8I")),
    (b"pHYs", "density", struct.Struct(">IIB")),
)


def metadata_of(chunks: dict[bytes, bytes]) -> Metadata:
    """Gather metadata from chunks by kind (iTXt: kind and keyword); raises InvalidFile on a damaged one."""
    values: dict[str, Any] = {}
    for kind, name, layout in _FIXED:
        if kind in chunks:
            if len(chunks[kind]) != layout.size:
                length = len(chunks[kind])
                raise InvalidFile(f"the PNG chunk {kind.decode()} has {length} bytes, not {layout.size}")
            found = layout.unpack(chunks[kind])
            values[name] = found[0] if len(found) == 1 else found
    if b"iCCP" in chunks:
        values["icc"] = _read_profile(chunks[b"iCCP"])
    if b"eXIf" in chunks:
        values["exif"] = chunks[b"eXIf"]
    if b"iTXt" + _XMP_KEYWORD in chunks:
        values["xmp"] = _read_xmp(chunks[b"iTXt" + _XMP_KEYWORD])
    return Metadata(**values)


def write_metadata(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and payload of the chunks that hold the metadata; all may stand before PLTE and IDAT."""
    if metadata.icc is not None:
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc, 9)
    for kind, name, layout in _FIXED:
        value = getattr(metadata, name)
        if value is not None:
            yield kind, layout.pack(*(value if isinstance(value, tuple) else (value,)))
    if metadata.exif is not None:
        yield b"eXIf", metadata.exif
    if metadata.xmp is not None:
        # No compression, no language, no translated keyword.
        yield b"iTXt", _XMP_KEYWORD + b"\0\0\0\0\0" + metadata.xmp


def _read_profile(payload: bytes) -> bytes:
    """Read an iCCP chunk: name, 0, method 0, deflated profile."""
    name, end, rest = payload.partition(b"\0")
    if not name or not end or rest[:1] != b"\0":
        raise InvalidFile("the PNG chunk iCCP is damaged")
    return _inflate(rest[1:], "iCCP")


def _read_xmp(payload: bytes) -> bytes:
    """Read the XMP packet of an iTXt chunk: keyword, 0, flag, method, language, 0, keyword, 0, text."""
    _, _, rest = payload.partition(b"\0")
    strings = rest[2:].split(b"\0", 2)
    if len(strings) != 3 or rest[0] > 1 or (rest[0] and rest[1]):
        raise InvalidFile("the PNG chunk iTXt is damaged")
    return _inflate(strings[2], "iTXt") if rest[0] else strings[2]


def _inflate(data: bytes, kind: str) -> bytes:
    """Inflate up to MAX_INFLATED bytes; raises InvalidFile where they are damaged, truncated or more."""
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(data, MAX_INFLATED + 1)
    except zlib.error as error:
        raise InvalidFile(f"the PNG chunk {kind} is damaged") from error
    if len(out) > MAX_INFLATED:
        raise InvalidFile(f"the PNG chunk {kind} is larger than {MAX_INFLATED} bytes")
    if not stream.eof:
        raise InvalidFile(f"the PNG chunk {kind} is damaged")
    return out

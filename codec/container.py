"""The .gnc container: a header, a table of sections and their payloads <-> bytes (docs/format.md)."""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gencodec.codec.image import MAX_PIXELS
from gencodec.errors import InvalidFile, UnsupportedImage

MAGIC = b"\x8bGNC\r\n\x1a\n"
VERSION = 3
FIRST_VERSION = 1
"""Files without what version 2 or 3 added are written as the version before, which older programs read."""
LOSSY_FLAG = 1
"""Of version 3: the samples are not those that were coded, and the checksum is that of what determines them."""

MAX_SECTIONS = 8
MAX_PAYLOAD = (1 << 32) - 1
"""The most bytes that one section can have: its length is a u32."""

FREE_PIXELS = 1 << 20
PIXELS_PER_BYTE = 1 << 16
"""An image may have FREE_PIXELS pixels, and PIXELS_PER_BYTE more for each byte of payload beside metadata that the
file holds. So what a file claims stays in proportion to what it is."""

# Magic; version, flags, channels, bit depth; width, height, CRC-32 of the samples; number of sections.
_FIXED = struct.Struct("<8s4B3IB")
# Kind, coder, length and CRC-32 of the payload.
_ENTRY = struct.Struct("<BBII")
# Wire id, first bytes of the weights' SHA-256, estimate.
_MODEL = struct.Struct("<H8sI")
_CRC = struct.Struct("<I")


class SectionKind(enum.IntEnum):
    """What a section holds. The numbers are written into files: never change or reuse one."""

    METADATA = 1
    COLOR = 2
    ALPHA = 3
    ADAPTATION = 4
    PIXELS = 5
    CODES = 6
    LEVELS = 7


class Coder(enum.IntEnum):
    """How a section is coded. The numbers are written into files: never change or reuse one."""

    RAW = 0
    DEFLATE = 1
    WEBP = 2
    JXL = 3
    PNG = 4
    CONSTANT = 5
    MODEL = 16
    CHANGES = 17


_ORDINARY = frozenset({Coder.RAW, Coder.DEFLATE, Coder.WEBP, Coder.JXL, Coder.PNG, Coder.CONSTANT})
_SECOND = frozenset({SectionKind.ADAPTATION, SectionKind.CODES, SectionKind.LEVELS})
"""Kinds that version 1 lacks: what they say is how the model coded the color."""
_CODERS: dict[SectionKind, frozenset[Coder]] = {
    SectionKind.METADATA: frozenset({Coder.RAW, Coder.DEFLATE}),
    SectionKind.COLOR: _ORDINARY | {Coder.MODEL},
    SectionKind.ALPHA: _ORDINARY,
    SectionKind.ADAPTATION: frozenset({Coder.CHANGES}),
    SectionKind.PIXELS: _ORDINARY,
    SectionKind.CODES: frozenset({Coder.RAW}),
    SectionKind.LEVELS: frozenset({Coder.RAW}),
}


@dataclass(frozen=True)
class ModelRef:
    """The model a section was coded by: its wire id and the first 8 bytes of the SHA-256 of its weights."""

    wire_id: int
    weights: bytes


@dataclass(frozen=True)
class Entry:
    """One row of the section table. `model` is set for the coder MODEL only, as is `estimate`, the bytes that
    the model itself expected the payload to take."""

    kind: SectionKind
    coder: Coder
    length: int
    crc: int
    model: ModelRef | None = None
    estimate: int = 0


@dataclass(frozen=True)
class Header:
    """All that stands before the payloads. `bytes` is the length of the header itself."""

    version: int
    width: int
    height: int
    channels: int
    bit_depth: int
    pixel_crc: int
    entries: tuple[Entry, ...]
    bytes: int
    lossy: bool = False

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads together."""
        return sum(entry.length for entry in self.entries)


@dataclass(frozen=True)
class Section:
    """One coded part of an image; `model` and `estimate` as in Entry."""

    kind: SectionKind
    coder: Coder
    payload: bytes
    model: ModelRef | None = None
    estimate: int = 0

    @property
    def file_bytes(self) -> int:
        """Bytes that this section adds to a file: its table row and its payload."""
        return _ENTRY.size + (_MODEL.size if self.model else 0) + len(self.payload)


@dataclass(frozen=True)
class Container:
    """A whole file: the size and checksum of the image, and its sections in the order of their kinds.

    Of a `lossy` one the checksum is that of the integers that its model's decoder finds, continued over alpha.
    """

    width: int
    height: int
    channels: int
    bit_depth: int
    pixel_crc: int
    sections: tuple[Section, ...]
    lossy: bool = False

    def section(self, kind: SectionKind) -> Section | None:
        """Return the section of this kind, or None where there is none."""
        return next((section for section in self.sections if section.kind == kind), None)


def least_payload(pixels: int) -> int:
    """Bytes of payload, beside metadata, that a file must hold to be allowed that many pixels."""
    return -(-max(0, pixels - FREE_PIXELS) // PIXELS_PER_BYTE)


def long_enough(sections: Iterable[Section], pixels: int) -> bool:
    """Whether these sections, none of them metadata, allow a file that many pixels."""
    return sum(len(section.payload) for section in sections) >= least_payload(pixels)


def write(container: Container) -> bytes:
    """Write a file; raises UnsupportedImage where a section is longer than a u32 can say."""
    for section in container.sections:
        if len(section.payload) > MAX_PAYLOAD:
            raise UnsupportedImage(f"the coded image is too large: {len(section.payload)} bytes in one section")
    header = _FIXED.pack(
        MAGIC,
        _least_version(container),
        LOSSY_FLAG if container.lossy else 0,
        container.channels,
        container.bit_depth,
        container.width,
        container.height,
        container.pixel_crc,
        len(container.sections),
    )
    header += b"".join(_write_entry(section) for section in container.sections)
    header += _CRC.pack(zlib.crc32(header))
    return b"".join((header, *(section.payload for section in container.sections)))


def _least_version(container: Container) -> int:
    """The first version that has what a file holds."""
    if container.lossy:
        return VERSION
    return FIRST_VERSION + any(section.kind in _SECOND for section in container.sections)


def read(data: bytes) -> Container:
    """Read a whole file; raises InvalidFile on what breaks the format's rules."""
    header = read_header(data)
    missing = header.bytes + header.payload_bytes - len(data)
    if missing > 0:
        raise InvalidFile(f"the file is truncated: {missing} bytes are missing")
    if missing < 0:
        raise InvalidFile(f"{-missing} bytes follow the end of the file's last section")
    return Container(
        header.width,
        header.height,
        header.channels,
        header.bit_depth,
        header.pixel_crc,
        tuple(_sections(data, header)),
        header.lossy,
    )


def read_header(data: bytes) -> Header:
    """Read the header of a file of which `data` is at least the first part that holds it.

    Raises InvalidFile. The payloads are neither needed nor checked.
    """
    _check_magic(data)
    if len(data) < _FIXED.size:
        raise InvalidFile("the file is truncated within its header")
    _, version, flags, channels, depth, width, height, pixel_crc, count = _FIXED.unpack_from(data)
    if not FIRST_VERSION <= version <= VERSION:
        raise InvalidFile(f"the file has format version {version}, and this gencodec reads up to version {VERSION}")
    if count > MAX_SECTIONS:
        raise InvalidFile(f"the file claims {count} sections, more than the {MAX_SECTIONS} allowed")
    rows, end = _split_table(data, count)
    if len(data) < end + _CRC.size:
        raise InvalidFile("the file is truncated within its header")
    if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise InvalidFile("the file is damaged: its header does not match its checksum")
    if flags & ~(LOSSY_FLAG if version == VERSION else 0):
        raise InvalidFile(f"the file sets reserved flags (0x{flags:02x})")
    entries = tuple(_read_entry(row) for row in rows)
    if version == FIRST_VERSION and any(entry.kind in _SECOND for entry in entries):
        raise InvalidFile(f"the file holds sections that format version {version} lacks")
    header = Header(
        version, width, height, channels, depth, pixel_crc, entries, end + _CRC.size, bool(flags & LOSSY_FLAG)
    )
    _check_image(header)
    _check_entries(channels, entries)
    if header.lossy:
        _check_lossy(header)
    return header


def _check_magic(data: bytes) -> None:
    """Raise InvalidFile unless the data begin with the magic, saying what became of it where that shows."""
    head = data[: len(MAGIC)]
    if head == MAGIC:
        return
    if not data:
        raise InvalidFile("the file is empty")
    if MAGIC.startswith(head):
        raise InvalidFile("the file is truncated within its first 8 bytes")
    if data[1:4] == MAGIC[1:4]:
        raise InvalidFile("the file is damaged in its first 8 bytes, as by a transfer in text mode")
    raise InvalidFile("this is not a gencodec file")


def _write_entry(section: Section) -> bytes:
    """Write one row of the section table."""
    row = _ENTRY.pack(section.kind, section.coder, len(section.payload), zlib.crc32(section.payload))
    if section.model is not None:
        row += _MODEL.pack(section.model.wire_id, section.model.weights, section.estimate)
    return row


def _split_table(data: bytes, count: int) -> tuple[list[bytes], int]:
    """Cut the section table into its rows; also returns where it ends. Rows of the coder MODEL are longer."""
    rows: list[bytes] = []
    position = _FIXED.size
    for _ in range(count):
        modelled = data[position + 1 : position + 2] == bytes((Coder.MODEL,))
        size = _ENTRY.size + (_MODEL.size if modelled else 0)
        rows.append(data[position : position + size])
        position += size
    return rows, position


def _read_entry(row: bytes) -> Entry:
    """Read one row of the section table; raises InvalidFile on an unknown kind or coder."""
    kind, coder, length, crc = _ENTRY.unpack_from(row)
    if kind not in list(SectionKind):
        raise InvalidFile(f"the file holds a section of unknown kind {kind}")
    if coder not in list(Coder):
        raise InvalidFile(f"the file holds a section of unknown coder {coder}")
    kind, coder = SectionKind(kind), Coder(coder)
    if coder not in _CODERS[kind]:
        raise InvalidFile(f"a section {kind.name} cannot be coded by {coder.name}")
    if coder is not Coder.MODEL:
        return Entry(kind, coder, length, crc)
    wire_id, weights, estimate = _MODEL.unpack_from(row, _ENTRY.size)
    return Entry(kind, coder, length, crc, ModelRef(wire_id, weights), estimate)


def _check_image(header: Header) -> None:
    """Raise InvalidFile unless the size, channels and depth are allowed and in proportion to the payloads."""
    if not 1 <= header.channels <= 4:
        raise InvalidFile(f"the file claims {header.channels} channels; 1 to 4 are allowed")
    if not 1 <= header.bit_depth <= 16:
        raise InvalidFile(f"the file claims a bit depth of {header.bit_depth}; 1 to 16 are allowed")
    pixels = header.width * header.height
    size = f"{header.width} x {header.height} pixels"
    if not 1 <= pixels <= MAX_PIXELS:
        raise InvalidFile(f"the file claims {size}; 1 to {MAX_PIXELS} pixels are allowed")
    held = sum(entry.length for entry in header.entries if entry.kind is not SectionKind.METADATA)
    if held < least_payload(pixels):
        raise InvalidFile(f"the file claims {size}, too many for {held} bytes of payload")


def _check_entries(channels: int, entries: Sequence[Entry]) -> None:
    """Raise InvalidFile unless the kinds ascend and the sections together hold every channel once."""
    kinds = [entry.kind for entry in entries]
    if kinds != sorted(set(kinds)):
        raise InvalidFile("the file's sections are repeated or out of order")
    split = [SectionKind.COLOR, SectionKind.ALPHA] if channels in (2, 4) else [SectionKind.COLOR]
    holding = [kind for kind in kinds if kind is not SectionKind.METADATA and kind not in _SECOND]
    if holding not in (split, [SectionKind.PIXELS]):
        names = ", ".join(kind.name for kind in kinds) or "none"
        raise InvalidFile(f"the file's sections ({names}) do not make up an image of {channels} channels")
    if _SECOND & set(kinds) and not any(entry.coder is Coder.MODEL for entry in entries):
        raise InvalidFile("the file says how a model coded its color, but no model did")
    if SectionKind.CODES in kinds and channels < 3:
        raise InvalidFile("the file holds color codes of an image without color")
    if {SectionKind.CODES, SectionKind.LEVELS} <= set(kinds):
        raise InvalidFile("the file holds both color codes and a list of gray levels")


def _check_lossy(header: Header) -> None:
    """Raise InvalidFile unless a model coded the color, of 8 bits, as it is."""
    if header.bit_depth != 8 or not any(entry.coder is Coder.MODEL for entry in header.entries):
        raise InvalidFile("the file claims to be lossy, but no model coded its color")
    if any(entry.kind in _SECOND for entry in header.entries):
        raise InvalidFile("the file claims to be lossy, but holds what lossless coding needs")


def _sections(data: bytes, header: Header) -> Iterator[Section]:
    """Yield the sections of a file whose length is right; raises InvalidFile on a damaged payload."""
    position = header.bytes
    for entry in header.entries:
        payload = data[position : position + entry.length]
        position += entry.length
        if zlib.crc32(payload) != entry.crc:
            raise InvalidFile(f"the file is damaged: its section {entry.kind.name} does not match its checksum")
        yield Section(entry.kind, entry.coder, payload, entry.model, entry.estimate)

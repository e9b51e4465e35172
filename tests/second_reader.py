"""A second reader of header and section table, written from docs/format.md alone."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

CHANNELS_WITHOUT_ALPHA = {1: 1, 2: 1, 3: 3, 4: 3}
ORDINARY = {0, 1, 2, 3, 4, 5}
CODERS_OF_KIND = {1: {0, 1}, 2: ORDINARY | {16}, 3: ORDINARY, 4: {17}, 5: ORDINARY, 6: {0}, 7: {0}}
VALUE_LENGTHS = {4: 1, 5: 4, 6: 32, 7: 9, 8: 4}


class Refused(Exception):
    """The document tells a reader to refuse the file."""


@dataclass
class Row:
    kind: int
    coder: int
    payload: bytes
    wire_id: int | None = None
    weights: bytes | None = None
    estimate: int | None = None


@dataclass
class File:
    channels: int
    depth: int
    width: int
    height: int
    sample_crc: int
    rows: list[Row]


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise Refused(reason)


def read(data: bytes) -> File:
    """Read everything but the samples."""
    require(data[:8] == bytes.fromhex("8B474E430D0A1A0A"), "magic")
    require(len(data) >= 25, "short header")
    version, flags, channels, depth = data[8:12]
    require(version in (1, 2, 3), "version")
    width, height, sample_crc = struct.unpack("<III", data[12:24])
    require(1 <= data[24] <= 8, "number of sections")
    table, position = [], 25
    for _ in range(data[24]):
        require(len(data) >= position + 10, "short table")
        size = 24 if data[position + 1] == 16 else 10
        table.append(data[position : position + size])
        position += size
    require(len(data) >= position + 4, "short header")
    require(struct.unpack("<I", data[position : position + 4])[0] == zlib.crc32(data[:position]), "header CRC")
    require(flags == 0 or (flags == 1 and version == 3), "flags")
    require(channels in CHANNELS_WITHOUT_ALPHA and 1 <= depth <= 16, "channels or depth")
    payloads = sum(struct.unpack("<I", row[2:6])[0] for row in table if row[0] != 1)
    require(1 <= width * height <= min(2**30, 2**20 + 65536 * payloads), "size")
    rows, position = read_payloads(data, position + 4, table)
    require(position == len(data), "trailing bytes")
    kinds = [row.kind for row in rows]
    require(kinds == sorted(set(kinds)), "order of kinds")
    shown = [kind for kind in kinds if kind not in (1, 4, 6, 7)]
    require(shown in ([5], [2] if channels in (1, 3) else [2, 3]), "kinds")
    if {4, 6, 7} & set(kinds):
        require(version > 1 and any(row.coder == 16 for row in rows), "ADAPTATION, CODES or LEVELS")
        require(6 not in kinds or channels > 2, "CODES without colors")
        require(not {6, 7} <= set(kinds), "CODES and LEVELS")
    return File(channels, depth, width, height, sample_crc, rows)


def read_payloads(data: bytes, position: int, table: list[bytes]) -> tuple[list[Row], int]:
    """Cut out and check the payloads."""
    rows = []
    for entry in table:
        kind, coder, length, crc = struct.unpack("<BBII", entry[:10])
        require(coder in CODERS_OF_KIND.get(kind, ()), "kind or coder")
        payload = data[position : position + length]
        require(len(payload) == length, "truncated")
        require(zlib.crc32(payload) == crc, "payload CRC")
        row = Row(kind, coder, payload)
        if coder == 16:
            row.wire_id, row.weights, row.estimate = struct.unpack("<H8sI", entry[10:])
        rows.append(row)
        position += length
    return rows, position


def inflated(row: Row, limit: int) -> bytes:
    """Return what RAW would hold, for the coders RAW and DEFLATE."""
    if row.coder == 0:
        return row.payload
    stream = zlib.decompressobj(-15)
    data = stream.decompress(row.payload, limit + 1)
    require(stream.eof and not stream.unused_data and len(data) <= limit, "DEFLATE")
    return data


def metadata(file: File) -> dict[int, bytes]:
    """Return the metadata values by tag."""
    found: dict[int, bytes] = {}
    for row in file.rows[:1]:
        data = inflated(row, 2**26) if row.kind == 1 else b""
        position = 0
        while position < len(data):
            require(position + 5 <= len(data), "short record")
            tag, length = struct.unpack("<BI", data[position : position + 5])
            value = data[position + 5 : position + 5 + length]
            require(1 <= tag <= 8 and tag > max(found, default=0), "tag")
            require(len(value) == length == VALUE_LENGTHS.get(tag, length), "value")
            found[tag] = value
            position += 5 + length
    return found


def samples(file: File) -> bytes | None:
    """Return the samples of an image in one section of RAW, DEFLATE or CONSTANT; None for other coders."""
    row = file.rows[-1]
    if row.kind in (3, 4, 6, 7) or row.coder not in (0, 1, 5):
        return None
    size = file.width * file.height * file.channels * (1 if file.depth in (1, 2, 4, 8) else 2)
    data = row.payload * (file.width * file.height) if row.coder == 5 else inflated(row, size)
    require(len(data) == size, "samples")
    require(zlib.crc32(data) == file.sample_crc, "sample CRC")
    return data

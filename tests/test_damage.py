"""Damaged, cut, forged and random files: one gencodec error each, in bounded time and memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gencodec
from gencodec import Image, InvalidFile, Metadata, UnknownModel
from gencodec.codec import choice
from gencodec.codec import container as gnc
from tests import second_reader
from tests.golden.make import FOLDER
from tests.stand_in import StandIn

ROOT = Path(__file__).resolve().parent.parent
COLOR_ROW = 25


@pytest.fixture
def neural_file(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file of three sections: METADATA, COLOR by the stand-in model, ALPHA."""
    StandIn().install(monkeypatch)
    monkeypatch.setattr(choice, "model_wins", lambda *_: True)
    pixels = np.random.default_rng(5).integers(0, 50, (40, 40, 4)).astype(np.uint8)
    return gencodec.compress(Image.from_array(pixels, metadata=Metadata(icc=bytes(range(200)), gamma=45455)))


def ordinary_files() -> Iterator[bytes]:
    """A golden file of every ordinary coder."""
    for name in (
        "raw-3",
        "deflate-3-16",
        "webp-4",
        "jxl-2",
        "jxl-3-16",
        "png-3-16",
        "pixel",
        "opaque",
        "metadata",
    ):
        yield (FOLDER / f"{name}.gnc").read_bytes()


def borders(data: bytes) -> list[int]:
    """Every offset at which a field of the header, a row, or a payload ends."""
    header = gnc.read_header(data)
    found = {0, 8, 9, 10, 11, 12, 16, 20, 24, 25, header.bytes - 4, header.bytes}
    row, payload = COLOR_ROW, header.bytes
    for entry in header.entries:
        row += 24 if entry.model else 10
        payload += entry.length
        found |= {row, payload}
    return sorted(found)


def forged(data: bytes, offset: int, value: bytes) -> bytes:
    """Put a value into the header or the table, and make the header's checksum right."""
    end = gnc.read_header(data).bytes - 4
    head = data[:offset] + value + data[offset + len(value) : end]
    return head + struct.pack("<I", zlib.crc32(head)) + data[end + 4 :]


def test_truncation(neural_file: bytes) -> None:
    for data in (neural_file, *ordinary_files()):
        ends = {*borders(data), *range(0, len(data), max(1, len(data) // 50)), len(data) - 1} - {len(data)}
        for end in ends:
            with pytest.raises(InvalidFile):
                gencodec.info(data[:end])
            with pytest.raises(InvalidFile):
                gencodec.decompress(data[:end])


def test_bytes_after_the_end(neural_file: bytes) -> None:
    with pytest.raises(InvalidFile, match="1 bytes follow"):
        gencodec.decompress(neural_file + b"\0")


def test_every_bit_flip_is_caught(neural_file: bytes) -> None:
    rng = np.random.default_rng(11)
    for data in (neural_file, *ordinary_files()):
        head = range(8 * gnc.read_header(data).bytes)
        for bit in {*head, *rng.integers(0, 8 * len(data), 300).tolist()}:
            altered = bytearray(data)
            altered[bit // 8] ^= 1 << bit % 8
            with pytest.raises(InvalidFile):
                gnc.read(bytes(altered))


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=300)
def test_random_bytes(data: bytes, with_magic: bool) -> None:
    with pytest.raises(InvalidFile):
        gencodec.decompress(gnc.MAGIC + data if with_magic else data)


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (8, b"\4", "format version 4"),
        (8, b"\0", "format version 0"),
        (9, b"\x80", "reserved flags"),
        (10, b"\0", "0 channels"),
        (10, b"\5", "5 channels"),
        (10, b"\3", "do not make up an image of 3 channels"),
        (11, b"\0", "bit depth of 0"),
        (11, b"\x11", "bit depth of 17"),
        (11, b"\x10", "8-bit samples only"),
        (12, b"\0\0\0\0", "0 x 40 pixels"),
        (12, b"\xff\xff\xff\xff", "4294967295 x 40 pixels"),
        (12, struct.pack("<II", 32768, 32768), "too many for"),
        (24, b"\1", "checksum"),
        (24, b"\x09", "9 sections"),
        (25, b"\0", "unknown kind 0"),
        (25, b"\x08", "unknown kind 8"),
        (25, b"\4", "ADAPTATION cannot be coded"),
        (25, b"\6", "sections that format version 1 lacks"),
        (26, b"\x11", "METADATA cannot be coded by CHANGES"),
        (25, b"\2", "repeated or out of order"),
        (26, b"\x0f", "unknown coder 15"),
        (26, b"\2", "METADATA cannot be coded by WEBP"),
        (27, b"\xff\xff\xff\xff", "truncated"),
        (20, b"\0\0\0\0", "do not match their checksum"),
    ],
)
def test_forged_headers(neural_file: bytes, offset: int, value: bytes, words: str) -> None:
    data = forged(neural_file, offset, value)
    with pytest.raises(InvalidFile, match=words) as caught:
        gencodec.decompress(data)
    assert "\n" not in str(caught.value)
    if offset != 20 and words != "8-bit samples only":
        with pytest.raises(second_reader.Refused):
            second_reader.read(data)


def test_no_sections() -> None:
    with pytest.raises(InvalidFile, match=r"sections \(none\) do not make up"):
        gnc.read(gnc.write(gnc.Container(1, 1, 1, 8, 0, ())))


def test_unknown_model_and_weights(neural_file: bytes) -> None:
    model = COLOR_ROW + 10 + 10
    for offset, value in ((model, b"\x34\x12"), (model + 2, b"\0\0")):
        data = forged(neural_file, offset, value)
        with pytest.raises(UnknownModel):
            gencodec.decompress(data)
        assert gencodec.info(data).model is None
        assert gencodec.info(data).wire_id is not None


def test_text_mode_transfer(neural_file: bytes) -> None:
    with pytest.raises(InvalidFile, match="text mode"):
        gencodec.decompress(neural_file.replace(b"\r\n", b"\n"))


def claims() -> Iterator[bytes]:
    """Files whose headers claim sizes that their payloads do not have, with every checksum right."""
    for data in ordinary_files():
        for width, height in ((30000, 30000), (1024, 1024), (2**31, 2**31), (1 << 20, 1)):
            yield forged(data, 12, struct.pack("<II", width, height))
    blank = (FOLDER / "pixel.gnc").read_bytes()
    sides, longest = struct.pack("<II", 2**15, 2**15), struct.pack("<I", 2**32 - 1)
    yield forged(blank, 12, sides + blank[20 : COLOR_ROW + 2] + longest)
    bomb = zlib.compressobj(9, wbits=-15)
    payload = bomb.compress(bytes(1 << 27)) + bomb.flush()
    section = gnc.Section(gnc.SectionKind.METADATA, gnc.Coder.DEFLATE, payload)
    color = gnc.Section(gnc.SectionKind.COLOR, gnc.Coder.RAW, b"\0")
    yield gnc.write(gnc.Container(1, 1, 1, 8, zlib.crc32(b"\0"), (section, color)))


def test_huge_claims_cost_nothing(tmp_path: Path) -> None:
    """Each file is refused, and the whole process stays under 200 MB."""
    for index, data in enumerate(claims()):
        (tmp_path / f"{index}.gnc").write_bytes(data)
    code = """
import resource, sys
import gencodec
for path in sys.argv[1:]:
    try:
        gencodec.decompress(path)
    except gencodec.InvalidFile:
        pass
    else:
        sys.exit(f"{path} was decoded")
if sys.platform == "linux":  # the usage of a process counts what its parent held when it was made
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peak = int(status["VmHWM"].split()[0]) >> 10
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
assert peak < 200, f"{peak} MB"
"""
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", code, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The container: what is written is read, by both readers, and the document's example is true."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gencodec import InvalidFile, decompress
from gencodec.codec import container as gnc
from gencodec.codec.container import Coder, Container, ModelRef, Section, SectionKind
from tests import second_reader
from tests.golden.make import FOLDER, MANIFEST
from tests.stand_in import real_model_exists

FORMAT = (Path(__file__).resolve().parent.parent / "docs/format.md").read_text()
GOLDEN = json.loads(MANIFEST.read_text())


def example() -> bytes:
    """The bytes of the document's worked example."""
    block = re.split(r"^## \d+\. An example$", FORMAT, flags=re.MULTILINE)[1].split("```")[1]
    return bytes.fromhex("".join(re.findall(r"^(?:[0-9A-F]{2} )+", block, re.MULTILINE)))


payloads = st.binary(max_size=40)
references = st.builds(ModelRef, st.integers(0, 0xFFFF), st.binary(min_size=8, max_size=8))
colors = st.one_of(
    st.builds(Section, st.just(SectionKind.COLOR), st.sampled_from([Coder.RAW, Coder.JXL, Coder.CONSTANT]), payloads),
    st.builds(
        Section,
        st.just(SectionKind.COLOR),
        st.just(Coder.MODEL),
        payloads,
        references,
        st.integers(0, 2**32 - 1),
    ),
)


@st.composite
def containers(draw: st.DrawFn) -> Container:
    """Any container that may be written."""
    channels = draw(st.integers(1, 4))
    sections = [Section(SectionKind.METADATA, draw(st.sampled_from([Coder.RAW, Coder.DEFLATE])), draw(payloads))]
    if draw(st.booleans()):
        sections.append(draw(colors))
        modelled = sections[-1].coder is Coder.MODEL
        if channels in (2, 4):
            sections.append(Section(SectionKind.ALPHA, Coder.WEBP, draw(payloads)))
        if modelled and draw(st.booleans()):
            sections.append(Section(SectionKind.ADAPTATION, Coder.CHANGES, draw(payloads)))
        if modelled and channels > 2 and draw(st.booleans()):
            sections.append(Section(SectionKind.CODES, Coder.RAW, draw(payloads)))
        elif modelled and draw(st.booleans()):
            sections.append(Section(SectionKind.LEVELS, Coder.RAW, draw(payloads)))
    else:
        sections.append(Section(SectionKind.PIXELS, Coder.PNG, draw(payloads)))
    side = st.integers(1, 1024)
    return Container(
        draw(side),
        draw(side),
        channels,
        draw(st.integers(1, 16)),
        draw(st.integers(0, 2**32 - 1)),
        tuple(sections[draw(st.integers(0, 1)) :]),
    )


@given(containers())
def test_round_trip(container: Container) -> None:
    assert gnc.read(gnc.write(container)) == container


@given(containers())
def test_second_reader_agrees(container: Container) -> None:
    file = second_reader.read(gnc.write(container))
    assert (file.width, file.height, file.channels) == (container.width, container.height, container.channels)
    assert (file.depth, file.sample_crc) == (container.bit_depth, container.pixel_crc)
    for row, section in zip(file.rows, container.sections, strict=True):
        assert (row.kind, row.coder, row.payload) == (section.kind, section.coder, section.payload)
        if section.model:
            reference = (section.model.wire_id, section.model.weights, section.estimate)
            assert (row.wire_id, row.weights, row.estimate) == reference


@given(containers(), st.data())
def test_readers_refuse_the_same(container: Container, data: st.DataObject) -> None:
    """Whatever one byte of header or table becomes, its checksum made right, both readers judge alike."""
    file = bytearray(gnc.write(container))
    end = gnc.read_header(bytes(file)).bytes - 4
    file[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    file[end : end + 4] = gnc.zlib.crc32(file[:end]).to_bytes(4, "little")
    try:
        gnc.read(bytes(file))
    except InvalidFile:
        with pytest.raises(second_reader.Refused):
            second_reader.read(bytes(file))
    else:
        second_reader.read(bytes(file))


@given(containers())
def test_header_needs_no_payload(container: Container) -> None:
    file = gnc.write(container)
    header = gnc.read_header(file)
    assert gnc.read_header(file[: header.bytes]) == header
    assert header.bytes + header.payload_bytes == len(file)
    assert len(file) == 29 + sum(section.file_bytes for section in container.sections)


MODELLED = Section(SectionKind.COLOR, Coder.MODEL, b"color", ModelRef(1, bytes(8)))
ALPHA = Section(SectionKind.ALPHA, Coder.RAW, b"alpha")
ADAPTATION = Section(SectionKind.ADAPTATION, Coder.CHANGES, b"changes")
CODES = Section(SectionKind.CODES, Coder.RAW, b"codes")
USED = Section(SectionKind.LEVELS, Coder.RAW, b"levels")


def written(*sections: Section, channels: int = 3) -> bytes:
    """A file with these sections, whether or not it may have them."""
    return gnc.write(Container(4, 4, channels, 8, 0, sections))


def with_version(file: bytes, version: int) -> bytes:
    """The file with another version in its header, and the header's checksum made right."""
    end = gnc.read_header(file).bytes - 4
    head = file[:8] + bytes([version]) + file[9:end]
    return head + gnc.zlib.crc32(head).to_bytes(4, "little") + file[end + 4 :]


@pytest.mark.parametrize("added", [(), (ADAPTATION,), (CODES,), (USED,), (ADAPTATION, CODES)])
@pytest.mark.parametrize("channels", [3, 4])
def test_the_version_is_the_first_that_has_all_sections(added: tuple[Section, ...], channels: int) -> None:
    sections = (MODELLED, ALPHA, *added) if channels == 4 else (MODELLED, *added)
    data = written(*sections, channels=channels)
    assert data[8] == gnc.read_header(data).version == (2 if added else 1)
    assert gnc.read(data).sections == sections
    if added:
        with pytest.raises(InvalidFile, match="sections that format version 1 lacks"):
            gnc.read_header(with_version(data, 1))
    for version in (0, 4, 255):
        with pytest.raises(InvalidFile, match=f"version {version}, and this gencodec reads up to version 3"):
            gnc.read_header(with_version(data, version))


ORDINARY = Section(SectionKind.COLOR, Coder.RAW, b"color")
PIXELS = Section(SectionKind.PIXELS, Coder.RAW, b"pixels")


@pytest.mark.parametrize(
    ("sections", "channels", "words"),
    [
        ((ORDINARY, ADAPTATION), 3, "but no model did"),
        ((ORDINARY, CODES), 3, "but no model did"),
        ((ORDINARY, USED), 3, "but no model did"),
        ((ADAPTATION, PIXELS), 3, "but no model did"),
        ((PIXELS, CODES), 4, "but no model did"),
        ((ADAPTATION,), 3, "do not make up an image"),
        ((CODES,), 3, "do not make up an image"),
        ((MODELLED, ADAPTATION, PIXELS), 3, "do not make up an image"),
        ((MODELLED, ADAPTATION), 4, "do not make up an image"),
        ((MODELLED, CODES), 1, "an image without color"),
        ((MODELLED, ALPHA, CODES), 2, "an image without color"),
        ((MODELLED, CODES, USED), 3, "both color codes and a list of gray levels"),
        ((ADAPTATION, MODELLED), 3, "out of order"),
        ((MODELLED, CODES, ADAPTATION), 3, "out of order"),
        ((MODELLED, ADAPTATION, ALPHA), 4, "out of order"),
        ((CODES, MODELLED), 3, "out of order"),
        ((MODELLED, ADAPTATION, ADAPTATION), 3, "repeated"),
        ((MODELLED, CODES, CODES), 3, "repeated"),
    ],
)
def test_sections_of_version_2_where_they_may_not_stand(
    sections: tuple[Section, ...], channels: int, words: str
) -> None:
    data = written(*sections, channels=channels)
    with pytest.raises(InvalidFile, match=words):
        gnc.read_header(data)
    with pytest.raises(second_reader.Refused):
        second_reader.read(data)


@pytest.mark.parametrize("kind", [SectionKind.ADAPTATION, SectionKind.CODES, SectionKind.LEVELS])
@pytest.mark.parametrize("coder", [coder for coder in Coder if coder is not Coder.MODEL])
def test_sections_of_version_2_have_one_coder(kind: SectionKind, coder: Coder) -> None:
    data = written(MODELLED, Section(kind, coder, b"data"))
    if coder is (Coder.CHANGES if kind is SectionKind.ADAPTATION else Coder.RAW):
        assert gnc.read(data).section(kind)
        return
    with pytest.raises(InvalidFile, match=f"{kind.name} cannot be coded by {coder.name}"):
        gnc.read_header(data)


def test_nothing_else_is_coded_by_changes() -> None:
    for kind in (SectionKind.METADATA, SectionKind.COLOR, SectionKind.ALPHA, SectionKind.PIXELS):
        with pytest.raises(InvalidFile, match=f"{kind.name} cannot be coded by CHANGES"):
            gnc.read_header(written(Section(kind, Coder.CHANGES, b"data")))


def test_metadata_buy_no_pixels() -> None:
    color = Section(SectionKind.COLOR, Coder.RAW, bytes(48))
    metadata = Section(SectionKind.METADATA, Coder.RAW, bytes(48))
    data = gnc.write(Container(2048, 2048, 3, 8, 0, (metadata, color)))
    assert gnc.read(data).sections == (metadata, color)
    assert len(second_reader.read(data).rows) == 2
    shorter = gnc.write(Container(2048, 2048, 3, 8, 0, (metadata, Section(SectionKind.COLOR, Coder.RAW, bytes(47)))))
    with pytest.raises(InvalidFile, match="2048 x 2048 pixels, too many for 47 bytes of payload"):
        gnc.read_header(shorter)
    with pytest.raises(second_reader.Refused, match="size"):
        second_reader.read(shorter)


def test_overhead_is_small() -> None:
    color = Section(SectionKind.COLOR, Coder.MODEL, b"x" * 1000, ModelRef(1, bytes(8)), 990)
    assert len(gnc.write(Container(768, 512, 3, 8, 0, (color,)))) == 1053


def test_documented_example() -> None:
    image = decompress(example())
    assert image.pixels.tolist() == [[[10], [20], [30]]]
    assert image.metadata.srgb_intent == 0
    file = second_reader.read(example())
    assert second_reader.samples(file) == bytes([10, 20, 30])
    assert second_reader.metadata(file) == {4: b"\0"}


def test_document_names_every_number() -> None:
    for kind in SectionKind:
        assert f"| {kind.value} | {kind.name} |" in FORMAT
    for coder in Coder:
        assert f"| {coder.value} | {coder.name} |" in FORMAT


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_file(name: str) -> None:
    """Files of older versions decode to what they did."""
    data, expected = (FOLDER / name).read_bytes(), GOLDEN[name]
    sections = second_reader.read(data).rows
    if any(row.coder == Coder.MODEL for row in sections) and not real_model_exists():
        pytest.skip("no model is installed")
    image = decompress(data)
    stored = image.pixels.astype(image.pixels.dtype.newbyteorder("<"))
    assert list(image.pixels.shape) == expected["shape"]
    assert image.bit_depth == expected["bit_depth"]
    assert image.metadata.to_bytes().hex() == expected["metadata"]
    if "means" in expected:
        assert np.abs(image.pixels.mean((0, 1)) - expected["means"]).max() < 1
        return
    assert hashlib.sha256(stored.tobytes()).hexdigest() == expected["samples_sha256"]
    assert second_reader.samples(second_reader.read(data)) in (None, stored.tobytes())


def test_golden_files_are_all_listed() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.gnc")) == sorted(GOLDEN)
    assert np.unique([entry["bit_depth"] for entry in GOLDEN.values()]).tolist() == [1, 8, 12, 16]

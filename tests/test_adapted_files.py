"""Files that carry changes of weights: read and written alike by every setting, and refused when damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import gencodec
from gencodec import Image, InvalidFile
from gencodec.codec import adaptation, choice, photo, samples
from gencodec.codec import container as gnc
from gencodec.codec.container import Coder, Section, SectionKind
from gencodec.runtime import Model, load
from tests.test_adaptation import LARGEST, no_changes, picture, random_changes, small_changes


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return picture(70, 150)


@pytest.fixture(scope="module")
def adapted_file(adaptive: Model, pixels: NDArray[np.uint8]) -> bytes:
    """A file of `pixels` by changed weights."""
    changes, coarseness = small_changes(adaptive, seed=3)
    changed = adaptation.applied(adaptive, changes, coarseness)
    reference = gnc.ModelRef(adaptive.card.wire_id, adaptive.card.weights_prefix)
    color = Section(SectionKind.COLOR, Coder.MODEL, photo.encode(pixels, changed).payload, reference)
    section = Section(SectionKind.ADAPTATION, Coder.CHANGES, adaptation.pack(changes, coarseness))
    crc = samples.ordinary.checksum(pixels)
    return gnc.write(gnc.Container(150, 70, 3, 8, crc, (color, section)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimize", [True, False])
def test_every_setting_reads_a_file_of_changed_weights(
    adapted_file: bytes, adaptive_file: Path, pixels: NDArray[np.uint8], threads: int, optimize: bool
) -> None:
    model = load(adaptive_file, threads=threads, device="cpu", optimize=optimize)
    found = samples.decode(gnc.read(adapted_file), lambda _: model)
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_setting_writes_the_same_bytes_by_changed_weights(
    adaptive_file: Path, adapted_file: bytes, pixels: NDArray[np.uint8], threads: int
) -> None:
    expected = gnc.read(adapted_file).sections[0].payload
    for optimize in (True, False):
        model = load(adaptive_file, threads=threads, device="cpu", optimize=optimize)
        changed = adaptation.applied(model, *small_changes(model, seed=3))
        assert photo.encode(pixels, changed).payload == expected


@pytest.mark.parametrize("region", [(0, 0, 1, 1), (149, 69, 1, 1), (60, 30, 70, 30)])
def test_a_region_of_a_file_of_changed_weights(
    adapted_file: bytes, adaptive_file: Path, pixels: NDArray[np.uint8], region: tuple[int, int, int, int]
) -> None:
    x, y, width, height = region
    part = gencodec.decompress(adapted_file, model=str(adaptive_file), region=region, threads=1, device="cpu")
    np.testing.assert_array_equal(part.pixels, pixels[y : y + height, x : x + width])


def test_info_and_verify_know_changed_weights(adapted_file: bytes, adaptive_file: Path) -> None:
    found = gencodec.verify(adapted_file, model=str(adaptive_file), threads=1, device="cpu")
    assert found == gencodec.info(adapted_file, model=str(adaptive_file))
    assert (found.version, found.model) == (2, str(adaptive_file))
    assert [section.kind for section in found.sections] == [SectionKind.COLOR, SectionKind.ADAPTATION]
    assert found.sections[1].coder is Coder.CHANGES


def with_changes(file: bytes, payload: bytes) -> bytes:
    """The file with another section ADAPTATION, all checksums made right."""
    container = gnc.read(file)
    color, section = container.sections
    return gnc.write(replace(container, sections=(color, replace(section, payload=payload))))


def test_other_changes_never_give_the_picture_or_another_error(
    adapted_file: bytes, adaptive: Model, adaptive_file: Path
) -> None:
    payload = gnc.read(adapted_file).sections[1].payload
    altered = [payload[:-1], payload[:-4], payload + b"\1\0\0\0", b"", b"\0", bytes([payload[0] ^ 1]) + payload[1:]]
    altered += [adaptation.pack(no_changes(adaptive), 0), adaptation.pack(random_changes(adaptive, 1, 1.0, LARGEST), 0)]
    rng = np.random.default_rng(0)
    for _ in range(8):
        flipped = bytearray(payload)
        flipped[rng.integers(1, len(payload))] ^= 1 << rng.integers(8)
        altered.append(bytes(flipped))
    for other in altered:
        with pytest.raises(InvalidFile):
            gencodec.decompress(with_changes(adapted_file, other), model=str(adaptive_file), threads=1, device="cpu")


def test_a_model_that_does_not_adapt_refuses_the_file(adapted_file: bytes) -> None:
    container = gnc.read(adapted_file)
    for name in ("photo-base.1",):
        model = load(name, threads=1, device="cpu")
        with pytest.raises(InvalidFile):
            samples.decode(container, lambda _, model=model: model)


def test_changed_weights_go_with_alpha(
    adaptive: Model, adaptive_file: Path, monkeypatch: pytest.MonkeyPatch, pixels: NDArray[np.uint8]
) -> None:
    """All of it through the front door: an image with alpha whose model was adapted."""
    monkeypatch.setattr(choice, "model_wins", lambda *_: True)
    alpha = (np.arange(70)[:, None] * np.ones((1, 150))).astype(np.uint8)
    image = Image.from_array(np.dstack([pixels, alpha]))
    data = gencodec.compress(image, model=str(adaptive_file), effort=2, threads=1, device="cpu")
    kinds = [section.kind for section in gencodec.info(data).sections]
    assert kinds == [SectionKind.COLOR, SectionKind.ALPHA, SectionKind.ADAPTATION]
    assert gencodec.decompress(data, model=str(adaptive_file), threads=2, device="cpu") == image

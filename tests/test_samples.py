"""Pictures that were made of luma and chroma codes: coded as these by a model of their own, and made colors again."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import gencodec
from gencodec import Image, InvalidFile
from gencodec.codec import choice, colorcodes, samples
from gencodec.codec import container as gnc
from gencodec.codec.colorcodes import SYSTEMS
from gencodec.codec.container import Coder, SectionKind
from gencodec.runtime import Model, registry

Pixels = NDArray[np.uint8]


def made_of_codes(height: int = 40, width: int = 50, colors: int = 3, system: int = 1) -> Pixels:
    """A picture as a decoder makes it of codes, but for a few pixels; with alpha if there are four colors."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:height, :width]
    luma = 90 + 50 * ((x // 3 + y // 5) % 2) + 25 * np.sin(x / 20)
    planes = np.dstack([128 + 14 * np.sin(y / 9), luma, 128 + 12 * np.cos(x / 11)])
    codes = (planes + rng.normal(0, 3, planes.shape)).round().astype(np.uint8)
    picture = colorcodes.to_pixels(codes, SYSTEMS[system])
    picture[7, 11] ^= 1
    picture[height - 3, width - 5, 2] ^= 3
    alpha = (x % 256).astype(np.uint8)
    return np.dstack([picture, alpha]) if colors == 4 else picture


@pytest.fixture(autouse=True)
def model_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of a few hundred weights does not win against ordinary coders."""
    monkeypatch.setattr(choice, "model_wins", lambda *_: True)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tiny_file: Path, adaptive_file: Path) -> None:
    """Models as they ship: `own` for colors, others for codes, which adapt, for little time and for large pictures."""
    cards = [
        replace(
            registry.MODELS[0],
            name=name,
            wire_id=wire_id,
            file=file,
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            aliases=aliases,
            for_codes=for_codes,
        )
        for name, wire_id, file, aliases, for_codes in (
            ("photo-own.1", 60001, tiny_file, ("own",), "photo-owncodes.1"),
            ("photo-owncodes.1", 60002, adaptive_file, (), ""),
            ("photo-ownquick.1", 60003, tiny_file, (), ""),
            ("photo-quickcodes.1", 60004, adaptive_file, (), ""),
            ("photo-ownmedium.1", 60006, tiny_file, (), ""),
            ("photo-ownlarge.1", 60005, tiny_file, (), ""),
            ("photo-ownlarge_slow.1", 60007, tiny_file, (), ""),
        )
    ]
    smaller = {name: f"photo-own{name}.1" for name in ("quick", "medium", "large", "large_slow")}
    cards[0] = replace(cards[0], **smaller)
    cards[1] = replace(cards[1], quick="photo-quickcodes.1", large="photo-quickcodes.1")
    monkeypatch.setattr(registry, "MODELS", (*registry.MODELS, *cards))


def kinds(data: bytes) -> list[SectionKind]:
    return [section.kind for section in gencodec.info(data).sections]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("effort", [1, 2])
@pytest.mark.parametrize("colors", [3, 4])
def test_color_codes_are_coded_by_their_own_model(effort: int, colors: int) -> None:
    picture = made_of_codes(64, 130, colors)
    data = gencodec.compress(picture, model="own", effort=effort, threads=1, device="cpu")
    absent = {SectionKind.ALPHA} if colors == 3 else set()
    absent |= {SectionKind.ADAPTATION} if effort == 1 else set()
    expected = [SectionKind.COLOR, SectionKind.ALPHA, SectionKind.ADAPTATION, SectionKind.CODES]
    assert kinds(data) == [kind for kind in expected if kind not in absent]
    found = gencodec.info(data)
    model = "photo-quickcodes.1" if effort == 1 else "photo-owncodes.1"
    assert (found.version, found.model, found.color_codes) == (2, model, SYSTEMS[1].name)
    assert found.sections[-1].coder is Coder.RAW
    assert gencodec.decompress(data, threads=2, device="cpu") == Image.from_array(picture)
    for x, y, width, height in ((11, 7, 1, 1), (90, 20, 40, 44)):
        part = gencodec.decompress(data, region=(x, y, width, height), threads=1, device="cpu")
        np.testing.assert_array_equal(part.pixels, picture[y : y + height, x : x + width])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("system", range(len(SYSTEMS)))
def test_every_system_is_found(system: int) -> None:
    picture = made_of_codes(system=system)
    data = gencodec.compress(picture, model="own", effort=1, threads=1, device="cpu")
    assert gencodec.info(data).color_codes == SYSTEMS[system].name
    np.testing.assert_array_equal(gencodec.decompress(data, threads=1, device="cpu").pixels, picture)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("model", ["own", "photo-own.1"])
def test_colors_stay_colors(model: str) -> None:
    """By a model's full name all of them, by its alias those that are not made of codes, and greys."""
    picture = made_of_codes()
    noise = np.random.default_rng(0).integers(0, 12, picture.shape, np.uint8)
    pictures = [picture + noise, picture[..., 1:2]] + ([picture] if model == "photo-own.1" else [])
    for pixels in pictures:
        data = gencodec.compress(pixels, model=model, effort=1, threads=1, device="cpu")
        found = gencodec.info(data)
        assert kinds(data) == [SectionKind.COLOR]
        expected = "photo-ownquick.1" if model == "own" else "photo-own.1"
        assert (found.version, found.model, found.color_codes) == (1, expected, None)
        np.testing.assert_array_equal(gencodec.decompress(data, threads=1, device="cpu").pixels, pixels)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("model", "effort", "large", "expected"),
    [
        ("own", 1, False, "photo-ownquick.1"),
        ("own", 2, False, "photo-ownmedium.1"),
        ("own", 4, False, "photo-ownmedium.1"),
        ("own", 5, False, "photo-own.1"),
        ("own", 9, False, "photo-own.1"),
        ("own", 9, True, "photo-ownlarge_slow.1"),
        ("own", 1, True, "photo-ownquick.1"),
        ("own", 2, True, "photo-ownlarge.1"),
        ("own", 5, True, "photo-ownlarge.1"),
        ("own", 6, True, "photo-ownlarge_slow.1"),
        ("photo-own.1", 1, True, "photo-own.1"),
        ("photo-own.1", 5, True, "photo-own.1"),
    ],
)
def test_effort_and_size_choose_the_model(
    monkeypatch: pytest.MonkeyPatch, model: str, effort: int, large: bool, expected: str
) -> None:
    pixels = np.ascontiguousarray(made_of_codes()[..., 1:2])
    monkeypatch.setattr(choice, "LARGE", pixels.size - large)
    data = gencodec.compress(pixels, model=model, effort=effort, threads=1, device="cpu")
    assert gencodec.info(data).model == expected


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("effort", "expected"), [(5, "photo-quickcodes.1"), (6, "photo-owncodes.1")])
def test_large_pictures_of_codes_have_models_of_their_own(
    monkeypatch: pytest.MonkeyPatch, effort: int, expected: str
) -> None:
    monkeypatch.setattr(choice, "LARGE", 0)
    monkeypatch.setattr(choice, "model_wins", lambda *_: True)
    data = gencodec.compress(made_of_codes(), model="own", effort=effort, threads=1, device="cpu")
    assert gencodec.info(data).model == expected


@pytest.mark.parametrize("suits", [True, False])
def test_models_are_loaded_only_where_they_are_needed(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, suits: bool
) -> None:
    loaded: list[str] = []

    def loading(name: str) -> Model:
        loaded.append(name)
        return tiny

    means = samples.Means(lambda: loading("colors"), lambda: loading("codes"), 1)
    picture = made_of_codes()
    for pixels in (picture, picture[..., :1]) if suits else (picture // 128 * 128, picture.astype(np.uint16)):
        samples.encode(pixels, means)
    assert loaded == (["codes", "colors"] if suits else [])


def with_codes(data: bytes, payload: bytes) -> bytes:
    """The file with another section CODES, all checksums made right."""
    container = gnc.read(data)
    *others, codes = container.sections
    return gnc.write(replace(container, sections=(*others, replace(codes, payload=payload))))


@pytest.mark.usefixtures("installed")
def test_damaged_codes_are_refused() -> None:
    data = gencodec.compress(made_of_codes(), model="own", effort=1, threads=1, device="cpu")
    payload = gnc.read(data).sections[-1].payload
    for other, words in (
        (b"", "CODES is empty"),
        (b"\0" + payload[1:], "unknown system 0"),
        (b"\xff" + payload[1:], "unknown system 255"),
        (payload[:-1], "."),
        (payload + b"\0", "."),
        (payload[:1], "do not match their checksum"),
        (bytes([SYSTEMS[0].wire_id]) + payload[1:], "do not match their checksum"),
    ):
        with pytest.raises(InvalidFile, match=words):
            gencodec.decompress(with_codes(data, other), threads=1, device="cpu")
    for other in (b"", b"\0", b"\xff"):
        with pytest.raises(InvalidFile):
            gencodec.info(with_codes(data, other))

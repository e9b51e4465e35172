"""Symmetries: what is turned is turned back, parts stay parts, and the cheapest one is chosen where it pays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import gencodec
from gencodec.codec import choice, photo, symmetry
from gencodec.codec.container import SectionKind
from gencodec.codec.photo import PhotoCodec
from gencodec.codec.tiling import Box
from gencodec.runtime import Model

Pixels = NDArray[np.uint8]
ALL = range(symmetry.SYMMETRIES)


def numbered(height: int, width: int, channels: int = 1) -> Pixels:
    """A picture no part of which looks like another, as long as it is small."""
    count = height * width * channels
    return (np.arange(count) * 37 % 256).astype(np.uint8).reshape(height, width, channels)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(ALL))
def test_what_is_turned_is_turned_back(height: int, width: int, which: int) -> None:
    pixels = numbered(height, width, 3)
    turned = symmetry.turned(pixels, which)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(symmetry.turned_back(turned, which), pixels)


def test_there_are_eight() -> None:
    pixels = numbered(4, 4)
    assert len({symmetry.turned(pixels, which).tobytes() for which in ALL}) == 8
    np.testing.assert_array_equal(symmetry.turned(pixels, 0), pixels)


@given(st.data())
def test_a_part_lies_where_its_box_does(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y)))
    which = data.draw(st.sampled_from(ALL))
    pixels = numbered(height, width)
    part = pixels[y : y + box.height, x : x + box.width]
    there = symmetry.turned_box(box, which, width, height)
    turned = symmetry.turned(pixels, which)[there.y : there.y + there.height, there.x : there.x + there.width]
    np.testing.assert_array_equal(turned, symmetry.turned(part, which))


@pytest.mark.parametrize("which", ALL)
def test_a_payload_tells_how_its_picture_was_turned(tiny: Model, which: int) -> None:
    pixels = numbered(21, 34, 3)
    payload = photo.encode(symmetry.turned(pixels, which), tiny, turn=which).payload  # type: ignore[arg-type]
    np.testing.assert_array_equal(photo.decode(payload, (21, 34, 3), tiny), pixels)
    part = photo.decode(payload, (21, 34, 3), tiny, region=(5, 2, 20, 7))
    np.testing.assert_array_equal(part, pixels[2:9, 5:25])


@pytest.mark.parametrize("which", [1, 6])
def test_files_hold_turned_pictures(adaptive: Model, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    """With changes of weights, fitted to the picture as it was turned, and with alpha, which is not turned."""
    monkeypatch.setattr(symmetry, "chosen", lambda *_: which)
    monkeypatch.setattr(choice, "model_wins", lambda *_: True)
    rng = np.random.default_rng(0)
    slopes = np.add.outer(np.arange(100), 2 * np.arange(140))[..., None] // 3 + [0, 9, 20, 60]
    pixels = np.clip(slopes + rng.integers(0, 9, (100, 140, 4)), 0, 255).astype(np.uint8)
    card = adaptive.card
    data = gencodec.compress(pixels, model=str(card.file), effort=2, threads=1, device="cpu")
    kinds = [section.kind for section in gencodec.info(data).sections]
    assert kinds == [SectionKind.COLOR, SectionKind.ALPHA, SectionKind.ADAPTATION]
    for region in (None, (17, 40, 60, 31)):
        found = gencodec.decompress(data, model=str(card.file), region=region, threads=1, device="cpu").pixels
        expected = pixels if region is None else pixels[40:71, 17:77]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("which", ALL)
def test_the_cheapest_is_chosen_where_it_pays(tiny: Model, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    pixels = numbered(40, 50, 3)
    wanted = symmetry.turned(pixels, which).tobytes()
    cost = 900.0
    monkeypatch.setattr(PhotoCodec, "bits", lambda _, part: cost if part.tobytes() == wanted else 1000.0)
    assert symmetry.chosen(pixels, tiny, effort=6) == which
    cost = 1000 * (1 - symmetry.PAYS / 2)
    assert symmetry.chosen(pixels, tiny, effort=6) == 0


def test_little_effort_and_large_pictures_choose_none(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def bits(*_: object) -> float:
        raise AssertionError

    monkeypatch.setattr(PhotoCodec, "bits", bits)
    pixels = numbered(40, 50, 3)
    assert [symmetry.chosen(pixels, tiny, effort) for effort in range(1, 6)] == [0] * 5  # a narrow network
    monkeypatch.setattr(symmetry, "LARGE", pixels.shape[0] * pixels.shape[1] - 1)
    assert symmetry.chosen(pixels, tiny, effort=9) == 0


def test_bits_of_a_part_are_the_codecs(tiny: Model) -> None:
    pixels = numbered(30, 40, 3)
    found = PhotoCodec(tiny).bits(pixels)
    assert found == pytest.approx(photo.encode(pixels, tiny).estimate_bits)

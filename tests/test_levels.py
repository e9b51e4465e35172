"""Gray levels that a picture leaves out: found, left out of what the model codes, and put back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import gencodec
from gencodec import InvalidFile
from gencodec.codec import choice, formats, levels
from gencodec.codec import container as gnc
from gencodec.codec.container import SectionKind
from gencodec.codec.levels import BITMAP, SHARED, Levels
from gencodec.codec.tables import LEVELS

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photograph() -> Pixels:
    return formats.read_image(Path(__file__).parents[1] / "examples" / "coast.png").pixels  # type: ignore[return-value]


def stretched(pixels: Pixels, factor: float) -> Pixels:
    """More contrast, as a picture editor gives it to 8-bit samples."""
    return np.clip(np.rint((pixels.astype(float) - 110) * factor + 110), 0, 255).astype(np.uint8)


@st.composite
def some_levels(draw: st.DrawFn) -> Levels:
    channels = draw(st.sampled_from([1, 3]))
    used = draw(arrays(bool, (channels, LEVELS)))
    used[:, draw(st.integers(0, LEVELS - 1))] = True
    if draw(st.booleans()):
        used[:] = used[0]
    return Levels(used, tuple(draw(st.lists(st.booleans(), min_size=channels, max_size=channels))))


@given(some_levels())
def test_levels_that_are_used_are_numbered_without_gaps(found: Levels) -> None:
    for used, numbers, back, high in zip(found.used, found.numbers, found.levels, found.high, strict=True):
        own = np.flatnonzero(used)
        assert (np.diff(numbers[own].astype(int)) == 1).all()
        np.testing.assert_array_equal(back[numbers[own]], own)
        kept = own[-1] if high else own[0]
        assert numbers[kept] == kept
        assert set(back) <= set(own)  # a damaged number stands for a level that is used


@given(some_levels())
def test_packed_levels_are_unpacked(found: Levels) -> None:
    payload = found.pack()
    assert len(payload) == 1 + BITMAP * (1 if payload[0] & SHARED else len(found.used))
    again = levels.unpack(payload, len(found.used))
    np.testing.assert_array_equal(again.used, found.used)
    assert again.high == found.high


def test_photographs_leave_out_nothing(photograph: Pixels) -> None:
    assert levels.find(photograph) is None
    assert levels.find(photograph[:40, :40]) is None  # where chance leaves gaps
    assert levels.find(stretched(photograph, 0.8)) is None
    assert levels.find(np.full((50, 50, 3), 7, np.uint8)) is None


@pytest.mark.parametrize("factor", [1.06, 1.2, 1.5, 2.0])
def test_stretched_ones_become_what_they_were(photograph: Pixels, factor: float) -> None:
    pixels = stretched(photograph, factor)
    found = levels.find(pixels)
    assert found is not None
    numbers = levels.mapped(pixels, found.numbers)
    np.testing.assert_array_equal(levels.mapped(numbers, found.levels), pixels)
    inner = (pixels > 0) & (pixels < 255)
    for channel in range(3):  # up to a shift of all levels
        difference = (photograph.astype(int) - numbers)[..., channel][inner[..., channel]]
        assert np.ptp(difference) <= 1


def test_channels_without_gaps_keep_their_levels(photograph: Pixels) -> None:
    pixels = photograph.copy()
    pixels[..., 2:] = stretched(pixels[..., 2:], 1.3)
    found = levels.find(pixels)
    assert found is not None
    assert found.used[:2].all()
    assert not found.used[2].all()
    np.testing.assert_array_equal(found.numbers[0], np.arange(LEVELS))
    np.testing.assert_array_equal(levels.find(pixels[..., 2:]).used, found.used[2:])  # type: ignore[union-attr]


def compressed(pixels: Pixels) -> bytes:
    return gencodec.compress(pixels, effort=1, threads=1, device="cpu")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_files_leave_them_out(photograph: Pixels, monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    monkeypatch.setattr(choice, "model_wins", lambda *_: True)
    pixels = stretched(photograph[:150, :170], 1.4)
    pixels = pixels[..., :1] if channels < 3 else pixels
    if channels in (2, 4):
        pixels = np.dstack([pixels, photograph[:150, :170, 1]])
    data = compressed(np.ascontiguousarray(pixels))
    found = gencodec.info(data)
    assert found.version == 2
    assert SectionKind.LEVELS in [section.kind for section in found.sections]
    image = gencodec.decompress(data, threads=1, device="cpu")
    np.testing.assert_array_equal(image.pixels.reshape(pixels.shape), pixels)
    part = gencodec.decompress(data, region=(31, 20, 50, 9), threads=1, device="cpu")
    np.testing.assert_array_equal(part.pixels.reshape(9, 50, -1), pixels.reshape(150, 170, -1)[20:29, 31:81])
    monkeypatch.setattr(levels, "find", lambda _: None)
    assert len(data) < 0.97 * len(compressed(np.ascontiguousarray(pixels)))


def test_damaged_lists_are_refused(photograph: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "model_wins", lambda *_: True)
    container = gnc.read(compressed(stretched(photograph[:120, :120], 1.4)))
    *others, listed = container.sections
    payload = listed.payload
    for other, words in (
        (b"", "list of gray levels is damaged"),
        (payload[:-1], "list of gray levels is damaged"),
        (payload + b"\0", "list of gray levels is damaged"),
        (bytes((payload[0] | 8,)) + payload[1:], "list of gray levels is damaged"),
        (payload[:1] + bytes(len(payload) - 1), "list of gray levels is empty"),
        (payload[:-1] + bytes((payload[-1] ^ 0x55,)), "do not match their checksum"),
    ):
        changed = replace(container, sections=(*others, replace(listed, payload=other)))
        with pytest.raises(InvalidFile, match=words):
            gencodec.decompress(gnc.write(changed), threads=1, device="cpu")
        if "checksum" not in words:
            with pytest.raises(InvalidFile, match=words):
                gencodec.info(gnc.write(changed))

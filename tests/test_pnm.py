"""The Netpbm formats: text and binary, every bit depth, damage."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PillowImage

from gencodec.codec.formats import read_image
from gencodec.codec.image import PACKED_DEPTHS, Image
from gencodec.codec.pnm import read_pnm, write_pnm
from gencodec.errors import InvalidFile, UnsupportedImage, UsageError

EXAMPLES = {
    b"P1\n# a comment\n3 2\n1 0 1\n0 1 0\n": (1, [[[0], [255], [0]], [[255], [0], [255]]]),
    b"P1 3 2 101010": (1, [[[0], [255], [0]], [[255], [0], [255]]]),
    b"P2\n2 2\n15\n0 1\n# in between\n14 15": (4, [[[0], [17]], [[238], [255]]]),
    b"P2 2 1 1023 0 1023": (10, [[[0], [1023]]]),
    b"P3\n2 1\n255\n1 2 3 004 05 6\n": (8, [[[1, 2, 3], [4, 5, 6]]]),
    b"P4\n10 2\n\xff\xc0\x00\x3f": (1, [[[0]] * 10, [[255]] * 10]),
    b"P5 2 1 255\n\x07\x0a": (8, [[[7], [10]]]),
    b"P5#comment\n2 # another\n1\n3\n\x00\x02": (2, [[[0], [170]]]),
    b"P5 2 1 255#comment\n\x07\x0a": (8, [[[7], [10]]]),
    b"P4 3#comment\n1#another\n\xa0": (1, [[[0], [255], [0]]]),
    b"P2 2 1 255#comment\n7 10": (8, [[[7], [10]]]),
    b"P5\n2 1\n4095\n\x0f\xff\x00\x01": (12, [[[4095], [1]]]),
    b"P5\n2 1\n7\n\x07\x01": (3, [[[7], [1]]]),
    b"P6\n1 1\n65535\n\1\2\3\4\5\6": (16, [[[0x0102, 0x0304, 0x0506]]]),
    b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n\1\2\3\4": (
        8,
        [[[1, 2, 3, 4]]],
    ),
    b"P7\n# words\nHEIGHT 1\nWIDTH 2\n\nMAXVAL 1\nDEPTH 1\nTUPLTYPE BLACKANDWHITE\nENDHDR\n\0\1": (
        1,
        [[[0], [255]]],
    ),
    b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 2\nMAXVAL 65535\nENDHDR\n\1\2\3\4": (16, [[[0x0102, 0x0304]]]),
}


@pytest.mark.parametrize("data", EXAMPLES, ids=lambda data: data[:12])
def test_examples(data: bytes) -> None:
    depth, pixels = EXAMPLES[data]
    image = read_image(data)
    assert image.bit_depth == depth
    assert image.pixels.dtype == (np.uint8 if depth in PACKED_DEPTHS else np.uint16)
    assert image.pixels.tolist() == pixels


REFUSED = {
    b"P5 2 2 255\n\1\2\3": (InvalidFile, "truncated"),
    b"P4 9 1\n\1": (InvalidFile, "truncated"),
    b"P6 30000 30000 255\n\1\2\3": (InvalidFile, "far more"),
    b"P1 30000 30000\n1": (InvalidFile, "far more"),
    b"P5 99999 99999 255\n\1": (InvalidFile, "far more"),
    b"P5 0 2 255\n": (InvalidFile, "no pixels"),
    b"P5 2 255\n\1\2": (InvalidFile, "truncated|header"),
    b"P5 2 x 255\n\1\2": (InvalidFile, "header"),
    b"P5 2 2 0\n\1\2\3\4": (InvalidFile, "impossible"),
    b"P5 2 2 65536\n\1\2\3\4": (InvalidFile, "impossible"),
    b"P5 2 2 2": (InvalidFile, "header"),
    b"P5 2 2 255#no end": (InvalidFile, "header"),
    b"P5 2 2 100\n\1\2\3\4": (UnsupportedImage, "greatest sample of 100"),
    b"P5 2 1 15\n\1\x10": (InvalidFile, "exceeds"),
    b"P5 2 1 255\n\1\2P5 2 1 255\n\1\2": (UnsupportedImage, "several"),
    b"P2 2 1 255\n1 two": (InvalidFile, "other than numbers"),
    b"P2 2 1 255\n1 2 3": (InvalidFile, "3 samples instead of 2"),
    b"P2 2 1 255\n1 256": (InvalidFile, "exceeds"),
    b"P2 2 1 65535\n1 65536": (InvalidFile, "above 65535"),
    b"P2 2 1 65535\n1 999999": (InvalidFile, "more than five digits"),
    b"P1 2 1\n1 2": (InvalidFile, "exceeds"),
    b"P7\nWIDTH 1\nHEIGHT 1\nMAXVAL 255\nENDHDR\n\1": (InvalidFile, "header"),
    b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\n\1": (InvalidFile, "header"),
    b"P7\nWIDTH -1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\1": (InvalidFile, "no pixels"),
    b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 5\nMAXVAL 255\nENDHDR\n\1\1\1\1\1": (UnsupportedImage, "5 channels"),
    b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE HSV\nENDHDR\n\1\1\1": (UnsupportedImage, "'HSV'"),
}


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: data[:16])
def test_refused(data: bytes) -> None:
    kind, message = REFUSED[data]
    with pytest.raises(kind, match=message):
        read_image(data)


@pytest.mark.parametrize("data", [b"P7\nWIDTH", b"P7\n", b"P5"])
@pytest.mark.parametrize("rest", [b" ", b"#", b"\n#", b"A"])
def test_long_headers_are_read_through(data: bytes, rest: bytes) -> None:
    # a reader whose time grows faster than the header would not come to the end of it
    with pytest.raises(InvalidFile, match="header"):
        read_image(data + b" " + rest * 50_000)


@given(st.data(), st.integers(1, 16), st.integers(1, 4))
def test_pam_round_trip(data: st.DataObject, depth: int, channels: int) -> None:
    shape = (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)), channels)
    top = (1 << depth) - 1
    samples = data.draw(arrays(np.uint8 if depth in PACKED_DEPTHS else np.uint16, shape, elements=st.integers(0, top)))
    image = Image(samples * np.uint8(255 // top) if depth in PACKED_DEPTHS else samples, depth)
    assert read_pnm(write_pnm(image, "pam")) == image
    if channels in (1, 3):
        assert read_pnm(write_pnm(image, "pnm")) == image


@pytest.mark.parametrize(
    ("kind", "channels", "depth", "start"),
    [
        ("pbm", 1, 1, b"P4\n11 3\n"),
        ("pgm", 1, 1, b"P5\n11 3\n1\n"),
        ("pgm", 1, 12, b"P5\n11 3\n4095\n"),
        ("ppm", 3, 8, b"P6\n11 3\n255\n"),
        ("pnm", 1, 1, b"P4\n11 3\n"),
        ("pnm", 1, 2, b"P5\n11 3\n3\n"),
        ("pnm", 3, 16, b"P6\n11 3\n65535\n"),
        ("pam", 2, 8, b"P7\nWIDTH 11\nHEIGHT 3\nDEPTH 2\nMAXVAL 255\nTUPLTYPE GRAYSCALE_ALPHA\nENDHDR\n"),
    ],
)
def test_kinds(kind: str, channels: int, depth: int, start: bytes) -> None:
    top = 255 if depth in PACKED_DEPTHS else (1 << depth) - 1
    pixels = np.zeros((3, 11, channels), np.uint8 if top == 255 else np.uint16)
    pixels[::2, ::3] = top
    image = Image(pixels, depth)
    written = write_pnm(image, kind)
    assert written.startswith(start)
    assert read_pnm(written) == image


@pytest.mark.parametrize(("kind", "channels"), [("pbm", 1), ("pgm", 1), ("ppm", 3)])
def test_pillow_agrees(kind: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (5, 11, channels), dtype=np.uint8) * np.uint8(255)
    with PillowImage.open(io.BytesIO(write_pnm(Image(pixels, 1 if kind == "pbm" else 8), kind))) as picture:
        assert np.array_equal(np.asarray(picture.convert("L" if channels == 1 else "RGB")), pixels.squeeze())


@pytest.mark.parametrize(("kind", "channels", "depth"), [("pgm", 3, 8), ("ppm", 1, 8), ("pbm", 1, 8), ("pnm", 4, 8)])
def test_what_a_kind_cannot_hold(kind: str, channels: int, depth: int) -> None:
    with pytest.raises(UsageError, match=f"{kind.upper()} file cannot hold"):
        write_pnm(Image(np.zeros((2, 2, channels), np.uint8), depth), kind)

"""Image and Metadata: what they accept, what they refuse, and the bytes of metadata."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gencodec.codec.image import MAX_PIXELS, Image, Metadata, check_claim
from gencodec.errors import InvalidFile, UnsupportedImage, UsageError

U8, U32 = st.integers(0, 255), st.integers(0, 2**32 - 1)
METADATA = st.builds(
    Metadata,
    icc=st.none() | st.binary(max_size=40),
    exif=st.none() | st.binary(max_size=40),
    xmp=st.none() | st.binary(max_size=40),
    srgb_intent=st.none() | U8,
    gamma=st.none() | U32,
    chromaticities=st.none() | st.tuples(*[U32] * 8),
    density=st.none() | st.tuples(U32, U32, U8),
    cicp=st.none() | st.tuples(U8, U8, U8, U8),
)


@given(METADATA)
def test_metadata_round_trip(metadata: Metadata) -> None:
    assert Metadata.from_bytes(metadata.to_bytes()) == metadata


@given(st.binary(max_size=60))
def test_metadata_of_any_bytes_is_canonical_or_refused(data: bytes) -> None:
    try:
        metadata = Metadata.from_bytes(data)
    except InvalidFile:
        return
    assert metadata.to_bytes() == data


def test_metadata_bytes_are_as_documented() -> None:
    metadata = Metadata(exif=b"II", gamma=45455, density=(2835, 2836, 1))
    expected = struct.pack("<BI2s", 2, 2, b"II") + struct.pack("<BII", 5, 4, 45455)
    assert metadata.to_bytes() == expected + struct.pack("<BIIIB", 7, 9, 2835, 2836, 1)


def test_metadata_records_carry_their_documented_tags() -> None:
    full = Metadata(b"a", b"b", b"c", 0, 1, (1, 2, 3, 4, 5, 6, 7, 8), (1, 1, 1), (9, 16, 0, 1)).to_bytes()
    tags, position = [], 0
    while position < len(full):
        tags.append(full[position])
        position += 5 + int.from_bytes(full[position + 1 : position + 5], "little")
    assert tags == [1, 2, 3, 4, 5, 6, 7, 8]


def test_empty_metadata_take_no_bytes() -> None:
    assert Metadata().to_bytes() == b""
    assert not Metadata()
    assert Metadata(srgb_intent=0)


def test_every_truncation_of_metadata_is_noticed() -> None:
    data = Metadata(gamma=45455, density=(1, 1, 0)).to_bytes()
    borders = {0, 9, len(data)}
    for length in range(len(data) + 1):
        if length not in borders:
            with pytest.raises(InvalidFile, match="truncated"):
                Metadata.from_bytes(data[:length])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<BI", 1, 2**32 - 1) + b"abc", "truncated"),
        (struct.pack("<BI", 99, 0), "unknown kind 99"),
        (struct.pack("<BI", 0, 0), "unknown kind 0"),
        (struct.pack("<BIB", 4, 1, 0) + struct.pack("<BI", 1, 0), "out of order"),
        (struct.pack("<BIB", 4, 1, 0) * 2, "out of order"),
        (struct.pack("<BIB", 5, 1, 0), "gamma has 1 bytes instead of 4"),
    ],
)
def test_damaged_metadata_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidFile, match=message):
        Metadata.from_bytes(data)


@pytest.mark.parametrize(
    "values",
    [
        {"gamma": -1},
        {"gamma": 2**32},
        {"srgb_intent": 256},
        {"density": (1, 2)},
        {"icc": "text"},
        {"chromaticities": 5},
    ],
)
def test_metadata_values_are_checked(values: dict) -> None:
    with pytest.raises(UsageError, match=f"metadata {next(iter(values))}"):
        Metadata(**values)


def test_numbers_of_other_kinds_make_the_same_image() -> None:
    pixels = np.zeros((2, 2, 1), np.uint8)
    one = Image(pixels, 8, Metadata(density=(5, 6, 1), gamma=7))
    values: dict[str, Any] = {"density": [5, np.int64(6), True], "gamma": np.uint32(7)}
    other = Image.from_array(pixels, bit_depth=np.int64(8), metadata=Metadata(**values))  # type: ignore[arg-type]
    assert one == other
    assert type(other.bit_depth) is type(other.metadata.gamma) is int
    deep = np.full((2, 2, 1), 4000, np.uint16)
    assert Image(deep, np.uint8(12)) == Image(deep, 12)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="bit depth"):
        Image(np.full((2, 2, 1), 255, np.uint8), bit_depth=True)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (3, 5, 1), (3, 5, 2), (3, 5, 3), (3, 5, 4)])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.dtype(">u2"), np.dtype("<u2")])
def test_from_array(shape: tuple[int, ...], dtype: np.dtype) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    image = Image.from_array(array)
    channels = shape[2] if len(shape) == 3 else 1
    assert (image.height, image.width, image.channels) == (*shape[:2], channels)
    assert image.has_alpha == (channels in (2, 4))
    assert image.bit_depth == {"b": 1, "u": 8 * array.dtype.itemsize}[array.dtype.kind]
    assert image.pixels.dtype.isnative
    scale = 255 if dtype is bool else 1
    assert np.array_equal(image.pixels.reshape(shape), array.astype(int) * scale)


def test_from_array_makes_arrays_contiguous() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)[:, ::-2]
    with pytest.raises(UsageError, match="contiguous"):
        Image(array[:, :, np.newaxis])
    image = Image.from_array(array)
    assert image.pixels.flags.c_contiguous
    assert np.array_equal(image.pixels[:, :, 0], array)


def test_from_array_does_not_copy_without_need() -> None:
    array = np.zeros((4, 4, 3), np.uint8)
    assert np.shares_memory(Image.from_array(array).pixels, array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([[1, 2], [3, 4]], "not list"),
        (None, "not NoneType"),
        (np.zeros((2, 2)), "not float64"),
        (np.zeros((2, 2), np.int8), "not int8"),
        (np.zeros((2, 2), np.uint32), "not uint32"),
        (np.zeros(4, np.uint8), "shape"),
        (np.zeros((2, 2, 2, 2), np.uint8), "shape"),
        (np.zeros((2, 2, 5), np.uint8), "channels, not 5"),
        (np.zeros((2, 2, 0), np.uint8), "channels, not 0"),
        (np.zeros((0, 2, 3), np.uint8), "at least one pixel"),
        (np.zeros((2, 0, 3), np.uint8), "at least one pixel"),
        (np.broadcast_to(np.uint8(0), (MAX_PIXELS // 2 + 1, 2, 1)), "at most"),
    ],
)
def test_other_arrays_are_refused(array: Any, message: str) -> None:
    # The constructor must refuse a huge broadcast array before anything copies it.
    make = Image if isinstance(array, np.ndarray) and array.size > MAX_PIXELS else Image.from_array
    with pytest.raises(UsageError, match=message):
        make(array)


def test_claims_are_checked_against_data_and_limit() -> None:
    check_claim(1 << 15, 1 << 15, 100, 100)
    with pytest.raises(InvalidFile, match="32768 x 32768 pixels, far more"):
        check_claim(1 << 15, 1 << 15, 101, 100)
    with pytest.raises(UnsupportedImage, match="at most 1073741824"):
        check_claim(1 << 15, (1 << 15) + 1, 100, 100)


@pytest.mark.parametrize(
    ("sample", "dtype", "depth", "fits"),
    [
        (255, np.uint8, 1, True),
        (254, np.uint8, 1, False),
        (85, np.uint8, 2, True),
        (17, np.uint8, 2, False),
        (17, np.uint8, 4, True),
        (16, np.uint8, 4, False),
        (7, np.uint16, 3, True),
        (8, np.uint16, 3, False),
        (4095, np.uint16, 12, True),
        (4096, np.uint16, 12, False),
        (65535, np.uint16, 16, True),
        (1, np.uint8, 12, False),
        (1, np.uint16, 8, False),
        (0, np.uint8, 0, False),
        (0, np.uint16, 17, False),
    ],
)
def test_samples_must_fit_the_bit_depth(sample: int, dtype: type, depth: int, fits: bool) -> None:
    pixels = np.full((2, 3, 1), sample, dtype)
    if fits:
        assert Image(pixels, depth).bit_depth == depth
    else:
        with pytest.raises(UsageError):
            Image(pixels, depth)


def test_equality_sees_every_part() -> None:
    image = Image.from_array(np.zeros((2, 3), np.uint8))
    assert image == Image.from_array(np.zeros((2, 3, 1), np.uint8))
    assert image != Image.from_array(np.zeros((3, 2), np.uint8))
    assert image != Image.from_array(np.zeros((2, 3), np.uint16))
    assert image != Image.from_array(np.zeros((2, 3), np.uint8), bit_depth=4)
    assert image != Image.from_array(np.zeros((2, 3), np.uint8), metadata=Metadata(gamma=1))
    assert image != "image"
    with pytest.raises(TypeError):
        hash(image)

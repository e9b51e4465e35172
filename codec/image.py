"""An image in memory: its samples, the bit depth they came with, and what must be kept beside them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gencodec.errors import InvalidFile, UnsupportedImage, UsageError

MAX_PIXELS = 1 << 30
"""The most pixels (height x width) an image may have."""

PACKED_DEPTHS = (1, 2, 4, 8)
"""Bit depths whose samples are held as uint8, scaled to 0..255; all others are held as uint16, as is."""

MAX_EXPANSION = 1 << 14
FREE_EXPANSION = 1 << 26
"""n bytes may claim FREE_EXPANSION + n * MAX_EXPANSION bytes of samples where their format sets no limit."""

Pixels = NDArray[np.uint8 | np.uint16]

_RECORD = struct.Struct("<BI")
# Tag, field and layout of a metadata record; no layout means plain bytes. Tags are written into files: never
# renumber.
_RECORDS: tuple[tuple[int, str, struct.Struct | None], ...] = (
    (1, "icc", None),
    (2, "exif", None),
    (3, "xmp", None),
    (4, "srgb_intent", struct.Struct("<B")),
    (5, "gamma", struct.Struct("<I")),
    (6, "chromaticities", struct.Struct("<8I")),
    (7, "density", struct.Struct("<IIB")),
    (8, "cicp", struct.Struct("<4B")),
)
_SCALARS = frozenset({"srgb_intent", "gamma"})


@dataclass(frozen=True)
class Metadata:
    """What is kept of an image beside its samples; None means absent.

    `icc`: the ICC profile. `exif`: a TIFF structure, without the "Exif" prefix that JPEG puts before it.
    `xmp`: the XMP packet. `srgb_intent`: rendering intent of PNG's sRGB chunk. `gamma`: encoding gamma times
    100000, as PNG's gAMA. `chromaticities`: x and y of white, red, green, blue times 100000, as PNG's cHRM.
    `density`: pixels per unit in x and y, and the unit (1 is the metre, 0 unknown), as PNG's pHYs.
    `cicp`: colour primaries, transfer function, matrix, full range, as PNG's cICP.
    Raises UsageError where a value does not fit its layout in `to_bytes`.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    srgb_intent: int | None = None
    gamma: int | None = None
    chromaticities: tuple[int, int, int, int, int, int, int, int] | None = None
    density: tuple[int, int, int] | None = None
    cicp: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        for _, name, layout in _RECORDS:
            value = getattr(self, name)
            if value is not None:  # numbers as they will be read: of Python's own kinds, several of them in a tuple
                object.__setattr__(self, name, _unpack(name, layout, _pack(name, layout, value)))

    def __bool__(self) -> bool:
        return any(getattr(self, entry.name) is not None for entry in fields(self))

    def to_bytes(self) -> bytes:
        """Write the one canonical form: records (tag u8, length u32, payload) by ascending tag; b"" when
        empty.

        All integers are little-endian.
        """
        out = bytearray()
        for tag, name, layout in _RECORDS:
            value = getattr(self, name)
            if value is not None:
                payload = _pack(name, layout, value)
                out += _RECORD.pack(tag, len(payload)) + payload
        return bytes(out)

    @classmethod
    def from_bytes(cls, data: bytes) -> Metadata:
        """Read what `to_bytes` wrote; raises InvalidFile on anything else."""
        layouts = {tag: (name, layout) for tag, name, layout in _RECORDS}
        values: dict[str, Any] = {}
        last = 0
        for tag, payload in _records(data):
            if tag not in layouts:
                raise InvalidFile(f"the metadata hold a record of unknown kind {tag}")
            if tag <= last:
                raise InvalidFile(f"the metadata records are out of order at kind {tag}")
            last = tag
            name, layout = layouts[tag]
            values[name] = _unpack(name, layout, payload)
        return cls(**values)


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and payload of each metadata record; raises InvalidFile where the data end too early."""
    position = 0
    while position < len(data):
        if position + _RECORD.size > len(data):
            raise InvalidFile("the metadata are truncated")
        tag, length = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        if length > len(data) - position:
            raise InvalidFile("the metadata are truncated")
        yield tag, bytes(data[position : position + length])
        position += length


def _pack(name: str, layout: struct.Struct | None, value: Any) -> bytes:
    """Write one metadata value; raises UsageError where it does not fit."""
    if layout is None:
        if not isinstance(value, bytes):
            raise UsageError(f"metadata {name} must be bytes, not {type(value).__name__}")
        return value
    try:
        return layout.pack(*((value,) if name in _SCALARS else value))
    except (struct.error, TypeError) as error:
        raise UsageError(f"metadata {name} cannot be {value!r}") from error


def _unpack(name: str, layout: struct.Struct | None, payload: bytes) -> Any:
    """Read one metadata value; raises InvalidFile where the length is wrong."""
    if layout is None:
        return payload
    if len(payload) != layout.size:
        raise InvalidFile(f"the metadata record {name} has {len(payload)} bytes instead of {layout.size}")
    values = layout.unpack(payload)
    return values[0] if name in _SCALARS else values


@dataclass(frozen=True, eq=False)
class Image:
    """Samples of shape (height, width, channels) with their bit depth and metadata.

    Channels are grey; grey and alpha; red, green, blue; or red, green, blue, alpha. Alpha is not
    premultiplied. Depths 1, 2, 4 and 8 are uint8 scaled to 0..255 (so that depth 2 holds only 0, 85, 170,
    255); other depths up to 16 are uint16 as they are, below 2**bit_depth. Raises UsageError where the parts
    do not agree.
    """

    pixels: Pixels
    bit_depth: int = 8
    metadata: Metadata = field(default_factory=Metadata)

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, np.ndarray):
            raise UsageError(f"pixels must be a numpy array, not {type(self.pixels).__name__}")
        _check_shape(self.pixels)
        object.__setattr__(self, "bit_depth", _checked_depth(self.pixels, self.bit_depth))

    @classmethod
    def from_array(
        cls, array: NDArray[Any], *, bit_depth: int | None = None, metadata: Metadata | None = None
    ) -> Image:
        """Make an image of an array of shape (H, W) or (H, W, C) and dtype bool, uint8 or uint16.

        bool becomes depth 1 (False is black); `bit_depth` otherwise defaults to 8 or 16, by dtype. The
        samples are copied only where they are not contiguous already. Raises UsageError on other arrays and
        on lists.
        """
        if not isinstance(array, np.ndarray):
            raise UsageError(f"pixels must be a numpy array, not {type(array).__name__}")
        if array.ndim == 2:
            array = array[:, :, np.newaxis]
        if array.dtype == np.bool_:
            array, natural = array.astype(np.uint8) * np.uint8(255), 1
        elif array.dtype.kind == "u" and array.dtype.itemsize in (1, 2):
            natural = 8 * array.dtype.itemsize
            # Foreign byte order is turned to the native one here.
            array = array.astype(np.uint8 if natural == 8 else np.uint16, copy=False)
        else:
            raise UsageError(f"pixels must be bool, uint8 or uint16, not {array.dtype}")
        depth = natural if bit_depth is None else bit_depth
        return cls(np.ascontiguousarray(array), depth, Metadata() if metadata is None else metadata)

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[2])

    @property
    def has_alpha(self) -> bool:
        return self.channels in (2, 4)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        return (
            self.bit_depth == other.bit_depth
            and self.metadata == other.metadata
            and self.pixels.dtype == other.pixels.dtype
            and np.array_equal(self.pixels, other.pixels)
        )

    __hash__ = None  # type: ignore[assignment]


def check_claim(width: int, height: int, size: int, limit: int) -> None:
    """Check what a header claims before memory is taken for it.

    `size`: bytes of all samples; `limit`: the most that the file's data can yield. Raises UnsupportedImage
    above MAX_PIXELS and InvalidFile above `limit`.
    """
    if size > limit:
        raise InvalidFile(f"the header claims {width} x {height} pixels, far more than the data can hold")
    if width * height > MAX_PIXELS:
        raise UnsupportedImage(f"the image has {width} x {height} pixels; at most {MAX_PIXELS} are supported")


def _check_shape(pixels: Pixels) -> None:
    """Raise UsageError unless the array is (H, W, C), not empty, not too large, and contiguous."""
    shape = pixels.shape
    if len(shape) != 3:
        raise UsageError(f"pixels must have the shape (height, width, channels), not {shape}")
    if not 1 <= shape[2] <= 4:
        raise UsageError(f"pixels must have 1 to 4 channels, not {shape[2]}")
    if min(shape[:2]) < 1:
        raise UsageError(f"an image needs at least one pixel; this one is {shape[1]} x {shape[0]}")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise UsageError(f"an image has at most {MAX_PIXELS} pixels; this one is {shape[1]} x {shape[0]}")
    if not pixels.flags.c_contiguous:
        raise UsageError("pixels must be contiguous; Image.from_array makes them so")


def _checked_depth(pixels: Pixels, given: int) -> int:
    """The bit depth in a plain integer; raises UsageError unless every sample is one that it can hold."""
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or not 1 <= given <= 16:
        raise UsageError(f"the bit depth must be 1 to 16, not {given}")
    bit_depth = int(given)
    expected = np.uint8 if bit_depth in PACKED_DEPTHS else np.uint16
    if pixels.dtype != expected:
        raise UsageError(f"samples of depth {bit_depth} must be {expected.__name__}, not {pixels.dtype}")
    if bit_depth < 8 and expected is np.uint8:
        if (pixels % np.uint8(255 // ((1 << bit_depth) - 1))).any():
            raise UsageError(f"the samples are not those of a {bit_depth}-bit image scaled to 0..255")
    elif bit_depth not in (8, 16) and int(cast(Any, pixels.max())) >> bit_depth:
        raise UsageError(f"a sample exceeds the bit depth of {bit_depth}")
    return bit_depth

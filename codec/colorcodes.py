"""RGB pictures that a decoder made of 8-bit luma and chroma codes <-> those codes (docs/format.md).

A decoder's fixed formula reaches only every fourth to ninth color of the RGB cube, so that a picture made by it has
less in it than its samples show. Photo CD, JPEG and lossy WebP each have such a formula, a `ColorCodes`; `detect` finds
which of them a picture obeys. Codes are held as planes (height, width, 3) uint8 in the order red chroma, luma, blue
chroma. Pixels that the formula does not give are exceptions, kept beside the planes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gencodec.codec import ordinary
from gencodec.errors import InvalidFile

BAND_PIXELS = 1 << 16
"""Pixels that are looked at together: few enough for the caches."""

EXCEPTION_SPACING = 50
"""A picture has at most one exception to so many pixels; with more of them its RGB is the better thing to code."""

SAMPLES = (1 << 10, 20000)
"""Pixels that `detect` looks at, first and then."""

LEAST_COLORS = 500
LEAST_SHARE = 0.97
LEAST_COLOR_SHARE = 0.9
"""A picture obeys a formula if of the pixels looked at, clipped and gray ones aside, LEAST_SHARE are colors that the
formula gives, among them LEAST_COLORS different ones, which are LEAST_COLOR_SHARE of all different ones. Of arbitrary
colors a formula gives a quarter at most."""

_FRACTION = 16
_FAR = 1 << 29

# Where channels are clipped, many codes give the same color. Taken is the one nearest to those that an unclipped color,
# _BEYOND outside the range, would have, at these costs a step of each plane, and with a luma at most _REACH from it if
# there is such a one. Where two channels are at 255 the third counts as _PULL higher, so that luma and red chroma stay
# constant in bright skies, where only blue varies: on the clipped pixels of seven Kodak pictures this took 1 to 4 %
# fewer bits (residuals under contexts) on five and as many on two. Codes near to those of unclipped neighbors took 2 to
# 7 % fewer on most pictures, but 10 to 17 % more on kodim20, half of which is clipped.
_BEYOND = 2.0
_COSTS = (3.0, 3.0, 1.0)
_REACH = 8
_PULL = 64

Codes = NDArray[np.uint8]
Rgb = NDArray[np.uint8]
Region = tuple[int, int, int, int]
_Ints = NDArray[np.int64]
_Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ColorCodes:
    """A formula that makes RGB of luma and chroma codes; `wire_id` is written into files, never change or reuse one.

    With Y, r and b the codes of luma, red and blue chroma, and each result clipped to 0..255:
    R = (luma[Y] + red[r]) >> shift, G = (luma[Y] - green_red[r] - green_blue[b]) >> shift and
    B = (luma[Y] + blue[b]) >> shift. All tables are (256,) int64 and rise. Steps of `red` and `blue` are above
    1 << shift, so that Y and R fix r unless R is clipped; those of `green_blue` are below it. Unclipped colors have one
    triple of codes at most.
    """

    name: str
    wire_id: int
    shift: int
    luma: _Ints
    red: _Ints
    blue: _Ints
    green_red: _Ints
    green_blue: _Ints

    @cached_property
    def reds(self) -> Rgb:
        """R of luma << 8 | red chroma; uint8 (65536,)."""
        return _clip((self.luma[:, None] + self.red) >> self.shift).ravel()

    @cached_property
    def blues(self) -> Rgb:
        """B of luma << 8 | blue chroma; uint8 (65536,)."""
        return _clip((self.luma[:, None] + self.blue) >> self.shift).ravel()

    @cached_property
    def green_chroma(self) -> NDArray[np.int32]:
        """What green loses by red chroma << 8 | blue chroma; int32 (65536,)."""
        return (self.green_red[:, None] + self.green_blue).astype(np.int32).ravel()

    @cached_property
    def red_ends(self) -> tuple[_Ints, _Ints]:
        """First and last red chroma that gives luma << 8 | R, the first after the last if none does."""
        return self._ends(self.red)

    @cached_property
    def blue_ends(self) -> tuple[_Ints, _Ints]:
        """First and last blue chroma that gives luma << 8 | B, the first after the last if none does."""
        return self._ends(self.blue)

    @cached_property
    def inverse(self) -> tuple[NDArray[np.int32], NDArray[np.int32], Codes, Codes]:
        """Of luma << 8 | R: luma's part in green less that of the red chroma; of luma << 8 | B: the blue chroma's.

        Where no chroma gives the color these are so far out that no green fits. Then come the two chroma codes.
        """
        (red, last_red), (blue, last_blue) = self.red_ends, self.blue_ends
        red_code, blue_code = _clip(red), _clip(blue)
        green = np.repeat(self.luma, 256) - self.green_red[red_code]
        from_red = np.where(red == last_red, green, -_FAR).astype(np.int32)
        from_blue = np.where(blue == last_blue, self.green_blue[blue_code], _FAR).astype(np.int32)
        return from_red, from_blue, red_code, blue_code

    @cached_property
    def linear(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Matrix (3, 3) and offset (3,) with which RGB @ matrix + offset is near the codes."""
        ends = (self.luma, self.red, self.blue, self.green_red, self.green_blue)
        luma, red, blue, green_red, green_blue = ((e[-1] - e[0]) / (255 << self.shift) for e in ends)
        matrix = np.linalg.inv(np.array([[red, -green_red, 0], [luma, luma, luma], [0, -green_blue, blue]]))
        codes = np.mgrid[0:256:15, 0:256:15, 0:256:15].reshape(3, -1).T
        return matrix, (codes - self._unclipped(codes) @ matrix).mean(0)

    def _unclipped(self, codes: _Ints) -> _Ints:
        """RGB (n, 3) of codes (n, 3) before it is clipped."""
        red, luma, blue = codes.T
        light = self.luma[luma]
        green = light - self.green_red[red] - self.green_blue[blue]
        return np.stack([light + self.red[red], green, light + self.blue[blue]], axis=1) >> self.shift

    def _ends(self, chroma: _Ints) -> tuple[_Ints, _Ints]:
        """First and last chroma code for luma << 8 | level."""
        level = np.arange(256) << self.shift
        first = np.searchsorted(chroma, level - self.luma[:, None])
        last = np.searchsorted(chroma, level + (1 << self.shift) - self.luma[:, None]) - 1
        first[:, 0], last[:, 255] = 0, 255  # clipped
        return first.ravel(), last.ravel()


@dataclass(frozen=True, eq=False)
class Exceptions:
    """Pixels of a picture of that width whose colors the codes do not give.

    `positions`: (n,) int64, row * width + column, ascending. `residuals`: (n, 3) uint8, the pixel's RGB less the RGB
    that its codes give, modulo 256; none is (0, 0, 0).
    """

    width: int
    positions: _Ints
    residuals: Rgb

    def __len__(self) -> int:
        return len(self.positions)


def _photo_cd() -> ColorCodes:
    """Photo CD's PhotoYCC for 8-bit video, in the 16-bit fixed point of the decoder that made the Kodak pictures.

    Coefficients 1.3584, 2.2179, 1.8215, 0.194 and 0.509; green takes the chroma after rounding down.
    """
    codes = np.arange(256)
    red, blue = 119374 * (codes - 137), 145352 * (codes - 156)
    return ColorCodes("photo-cd", 1, 16, 89024 * codes, red, blue, 33358 * (red >> 16), 12714 * (blue >> 16))


def _jfif() -> ColorCodes:
    """JFIF's YCbCr in the 16-bit fixed point of libjpeg (jdcolor.c), which libjpeg-turbo keeps bit for bit."""
    codes = np.arange(256)
    chroma, half = codes - 128, 1 << 15
    red, blue = 91881 * chroma + half, 116130 * chroma + half
    return ColorCodes("jfif", 2, 16, codes << 16, red, blue, 46802 * chroma - half, 22554 * chroma)


def _vp8() -> ColorCodes:
    """The YUV of lossy WebP in the fixed point of libwebp (src/dsp/yuv.h)."""
    codes = np.arange(256)
    red, blue = (26149 * codes >> 8) - 14234, (33050 * codes >> 8) - 17685
    return ColorCodes("vp8", 3, 6, 19077 * codes >> 8, red, blue, (13320 * codes >> 8) - 8708, 6419 * codes >> 8)


SYSTEMS = (_photo_cd(), _jfif(), _vp8())


def find_system(wire_id: int) -> ColorCodes:
    """Return the system of a wire id; raises InvalidFile where there is none."""
    for system in SYSTEMS:
        if system.wire_id == wire_id:
            return system
    raise InvalidFile(f"the file holds color codes of an unknown system {wire_id}")


def detect(pixels: Rgb) -> ColorCodes | None:
    """Tell by which system an RGB picture (H, W, 3) uint8 was made, from a sample of its pixels; None if by none.

    Pictures of few colors, and gray ones, have nothing to gain and count as made by none.
    """
    systems: tuple[ColorCodes, ...] = SYSTEMS
    for count in SAMPLES:
        sample = _sample(pixels, count)
        least = LEAST_COLORS * count // SAMPLES[-1]
        systems = tuple(system for system in systems if _obeys(sample, system, least))
        if not systems:
            return None
    return systems[0]


def to_codes(pixels: Rgb, system: ColorCodes) -> tuple[Codes, Exceptions] | None:
    """Find codes (H, W, 3) uint8 that give an RGB picture (H, W, 3) uint8, and the exceptions, exactly.

    None if there are more exceptions than a file may have, as soon as that shows.
    """
    height, width, _ = pixels.shape
    limit = most_exceptions(width, height)
    planes = np.empty((height * width, 3), np.uint8)
    clipped = _ClippedColors(system)
    found: list[tuple[_Ints, Rgb]] = []
    count = 0
    for start, band in _bands(pixels):
        codes = planes[start : start + len(band)]
        missed = np.flatnonzero(~_fill(codes, band, system, clipped))
        count += len(missed)
        if count > limit:
            return None
        codes[missed] = _near(band[missed], system)
        residuals = band[missed] - _rgb(codes[missed], system)
        found.append((missed + start, residuals))
    positions, residuals = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return planes.reshape(pixels.shape), Exceptions(width, positions, residuals)


def to_pixels(planes: Codes, system: ColorCodes) -> Rgb:
    """Make RGB (H, W, 3) uint8 of codes (H, W, 3) uint8 by the system's formula."""
    pixels = np.empty((planes.shape[0] * planes.shape[1], 3), np.uint8)
    for start, band in _bands(planes):
        pixels[start : start + len(band)] = _rgb(band, system)
    return pixels.reshape(planes.shape)


def most_exceptions(width: int, height: int) -> int:
    """The most exceptions that a picture of this size may have."""
    return width * height // EXCEPTION_SPACING


def apply_exceptions(pixels: Rgb, exceptions: Exceptions, region: Region | None = None) -> None:
    """Correct in place the RGB (h, w, 3) uint8 that `to_pixels` made of a region (x, y, w, h), or of all planes."""
    height, width, _ = pixels.shape
    left, top = (0, 0) if region is None else region[:2]
    first, last = np.searchsorted(exceptions.positions, [top * exceptions.width, (top + height) * exceptions.width])
    row, column = np.divmod(exceptions.positions[first:last], exceptions.width)
    inside = (left <= column) & (column < left + width)
    pixels[row[inside] - top, column[inside] - left] += exceptions.residuals[first:last][inside]


def pack_exceptions(exceptions: Exceptions) -> bytes:
    """Write exceptions as a file holds them; b"" if there are none."""
    if not len(exceptions):
        return b""
    gaps = np.diff(exceptions.positions, prepend=-1) - 1
    numbers = np.concatenate([[len(exceptions)], gaps])
    return ordinary.deflate(_write_numbers(numbers) + exceptions.residuals.T.tobytes())


def unpack_exceptions(data: bytes, width: int, height: int) -> Exceptions:
    """Read what `pack_exceptions` wrote of a picture of this size; raises InvalidFile on anything else."""
    if not data:
        return Exceptions(width, np.zeros(0, np.int64), np.zeros((0, 3), np.uint8))
    limit = most_exceptions(width, height)
    plain = np.frombuffer(ordinary.inflate(data, 5 + 8 * limit), np.uint8)
    count = int(_read_numbers(plain, 1)[0][0])
    if not 1 <= count <= limit:
        raise InvalidFile(f"the file claims {count} color exceptions; 1 to {limit} are allowed")
    numbers, end = _read_numbers(plain, count + 1)
    positions = np.cumsum(numbers[1:] + 1) - 1
    if positions[-1] >= width * height:
        raise InvalidFile("the file holds color exceptions outside the image")
    if len(plain) - end != 3 * count:
        raise InvalidFile("the file's color exceptions have the wrong length")
    residuals = np.ascontiguousarray(plain[end:].reshape(3, count).T)
    if not residuals.any(axis=1).all():
        raise InvalidFile("the file holds a color exception that changes nothing")
    return Exceptions(width, positions, residuals)


class _ClippedColors:
    """Codes of colors with a channel at 0 or 255, found once for each color.

    Such colors are the faces of the cube, and are numbered by (face << 16 | the two other channels).
    """

    def __init__(self, system: ColorCodes):
        self.system = system
        self.codes = np.zeros((6 << 16, 3), np.uint8)
        self.known = np.zeros(6 << 16, np.bool_)
        self.given = np.zeros(6 << 16, np.bool_)

    def find(self, colors: Rgb) -> tuple[Codes, _Flags]:
        """Codes (n, 3) uint8 of clipped colors (n, 3), and whether they give the colors; others are undefined."""
        extreme = (colors == 0) | (colors == 255)
        axis = np.where(extreme[:, 0], 0, np.where(extreme[:, 1], 1, 2))
        at = np.arange(len(colors))
        first, second, third = (colors[at, (axis + turn) % 3].astype(np.int64) for turn in range(3))
        number = (2 * axis + (first == 255)) << 16 | second << 8 | third
        fresh = at[~self.known[number]]
        fresh = fresh[np.unique(number[fresh], return_index=True)[1]]
        if len(fresh):
            self.known[number[fresh]] = True
            self.codes[number[fresh]], self.given[number[fresh]] = _choose(colors[fresh], self.system)
        return self.codes[number], self.given[number]


def _choose(colors: Rgb, system: ColorCodes) -> tuple[Codes, _Flags]:
    """Choose the smoothest of all codes that give clipped colors (n, 3), as said above; also tell if there are any."""
    matrix, offset = system.linear
    aim = colors.astype(np.float64)
    pair = (colors == 255).sum(1) == 2
    aim[pair] = np.minimum(aim[pair] + _PULL, 255)
    aim[aim == 255] = 255 + _BEYOND
    aim[colors == 0] = -_BEYOND
    aim = aim @ matrix + offset
    near = np.clip(np.rint(aim[:, 1:2]).astype(np.int64) + np.arange(-_REACH, _REACH + 1), 0, 255)
    codes, given = np.empty_like(colors), np.zeros(len(colors), np.bool_)
    for luma in (near, np.broadcast_to(np.arange(256), (len(colors), 256))):
        rest = np.flatnonzero(~given)
        some = max(1, BAND_PIXELS // luma.shape[1])
        for at in np.split(rest, range(some, len(rest), some)):
            codes[at], given[at] = _nearest(colors[at], aim[at], luma[at], system)
    return codes, given


def _nearest(colors: Rgb, aim: NDArray[np.float64], luma: _Ints, system: ColorCodes) -> tuple[Codes, _Flags]:
    """The codes nearest to `aim` (n, 3) that give the colors (n, 3) with one of the lumas (n, m), and if any do.

    For each luma red chroma is moved no further than needed, and then blue chroma. Steps of `green_blue` are short
    enough that blue chroma never jumps over the range that green leaves it, so that codes are found if there are any.
    """
    red, green, blue = (colors[:, channel, None].astype(np.int64) for channel in range(3))
    red_from, red_to = (end[luma << 8 | red] for end in system.red_ends)
    blue_from, blue_to = (end[luma << 8 | blue] for end in system.blue_ends)
    given = (red_from <= red_to) & (blue_from <= blue_to)
    light = system.luma[luma]
    above = np.where(green == 255, -_FAR, light - ((green + 1) << system.shift))
    below = np.where(green == 0, _FAR, light - (green << system.shift))
    # What green loses by both chromas must be more than `above`, and `below` at most.
    most, least = system.green_blue[np.clip(blue_to, 0, 255)], system.green_blue[np.clip(blue_from, 0, 255)]
    red_from = np.maximum(red_from, np.searchsorted(system.green_red, above - most, "right"))
    red_to = np.minimum(red_to, np.searchsorted(system.green_red, below - least, "right") - 1)
    given &= red_from <= red_to
    r = np.clip(np.clip(np.rint(aim[:, :1]).astype(np.int64), red_from, red_to), 0, 255)
    lost = system.green_red[r]
    blue_from = np.maximum(blue_from, np.searchsorted(system.green_blue, above - lost, "right"))
    blue_to = np.minimum(blue_to, np.searchsorted(system.green_blue, below - lost, "right") - 1)
    given &= blue_from <= blue_to
    b = np.clip(np.clip(np.rint(aim[:, 2:]).astype(np.int64), blue_from, blue_to), 0, 255)
    candidates = np.stack([r, luma, b], axis=2)
    cost = np.where(given, abs(candidates - aim[:, None]) @ np.array(_COSTS), np.inf)
    best = np.arange(len(colors)), cost.argmin(axis=1)
    return candidates[best].astype(np.uint8), given[best]


def _fill(codes: Codes, colors: Rgb, system: ColorCodes, clipped: _ClippedColors) -> _Flags:
    """Put the codes of colors (n, 3) into `codes` (n, 3), and tell which of them give their color."""
    given = _fill_unclipped(codes, colors, system)
    red, green, blue = (colors[:, channel] - np.uint8(1) >= 254 for channel in range(3))
    ends = np.flatnonzero(red | green | blue)
    if len(ends):
        codes[ends], given[ends] = clipped.find(colors[ends])
    return given


def _fill_unclipped(codes: Codes, colors: Rgb, system: ColorCodes) -> _Flags:
    """As `_fill`, where no color is clipped."""
    given = _invert(codes, colors, system, 0)
    for step in (-1, 1):
        rest = np.flatnonzero(~given)
        some = np.empty((len(rest), 3), np.uint8)
        given[rest] = _invert(some, colors[rest], system, step)
        codes[rest] = some
    return given


def _invert(codes: Codes, colors: Rgb, system: ColorCodes, step: int) -> _Flags:
    """Put into `codes` (n, 3) those of unclipped colors (n, 3), and tell which of them give their color.

    Luma is taken to be the nearest to its linear estimate, which it nearly always is, or `step` beside it.
    """
    matrix, offset = system.linear
    red, green, blue = (colors[:, channel].astype(np.int32) for channel in range(3))
    weights = np.rint(matrix[:, 1] * (1 << _FRACTION)).astype(np.int32)
    luma = weights[0] * red
    luma += weights[1] * green
    luma += weights[2] * blue
    luma += np.int32(round((float(offset[1]) + 0.5 + step) * (1 << _FRACTION)))
    luma >>= _FRACTION
    np.clip(luma, 0, 255, out=luma)
    codes[:, 1] = luma
    luma <<= 8
    from_red, from_blue, red_code, blue_code = system.inverse
    at_red, at_blue = (luma | red).astype(np.intp), (luma | blue).astype(np.intp)
    codes[:, 0] = red_code.take(at_red)
    codes[:, 2] = blue_code.take(at_blue)
    excess = from_red.take(at_red)
    excess -= from_blue.take(at_blue)
    excess -= green << system.shift
    return excess.view(np.uint32) < (1 << system.shift)


def _near(colors: Rgb, system: ColorCodes) -> Codes:
    """Codes (n, 3) near to those that would give the colors (n, 3)."""
    matrix, offset = system.linear
    return _clip(np.rint(colors @ matrix + offset))


def _rgb(codes: Codes, system: ColorCodes) -> Rgb:
    """RGB (n, 3) uint8 of codes (n, 3)."""
    red, luma, blue = (codes[:, plane].astype(np.intp) for plane in range(3))
    pixels = np.empty((len(codes), 3), np.uint8)
    green = system.luma.astype(np.int32).take(luma)
    luma <<= 8
    pixels[:, 0] = system.reds.take(luma | red)
    pixels[:, 2] = system.blues.take(luma | blue)
    red <<= 8
    green -= system.green_chroma.take(red | blue)
    green >>= system.shift
    pixels[:, 1] = np.clip(green, 0, 255, out=green)
    return pixels


def _sample(pixels: Rgb, count: int) -> Rgb:
    """At most so many pixels (n, 3), spread over the picture without a pattern, less the clipped and gray ones."""
    total = pixels.shape[0] * pixels.shape[1]
    # Multiples of the golden ratio are spread evenly however few are taken.
    at = np.arange(total) if total <= count else (np.arange(count) * 0.6180339887498949 % 1 * total).astype(np.int64)
    sample = pixels[at // pixels.shape[1], at % pixels.shape[1]]
    red, green, blue = sample.T
    inside = (sample >= 3) & (sample <= 252)
    return sample[inside[:, 0] & inside[:, 1] & inside[:, 2] & ((red != green) | (green != blue))]


def _obeys(sample: Rgb, system: ColorCodes, least: int) -> bool:
    """Whether a system gives the colors (n, 3), and at least so many different ones that it is not by chance."""
    colors, counts = np.unique(sample.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32), return_counts=True)
    if len(colors) < least:
        return False
    colors = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1).astype(np.uint8)
    given = _fill_unclipped(np.empty_like(colors), colors, system)
    many = given.sum() >= max(least, LEAST_COLOR_SHARE * len(colors))
    return bool(many and counts[given].sum() >= LEAST_SHARE * len(sample))


def _bands(samples: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Cut (H, W, 3) into bands (n, 3) of pixels, each with the number of its first."""
    flat = samples.reshape(-1, 3)
    for start in range(0, len(flat), BAND_PIXELS):
        yield start, flat[start : start + BAND_PIXELS]


def _clip(values: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.uint8]:
    """Clip to what a byte holds."""
    return np.clip(values, 0, 255).astype(np.uint8)


def _write_numbers(numbers: _Ints) -> bytes:
    """Write numbers below 2**35 as LEB128: 7 bits a byte, the lowest first, the top bit set in all but the last."""
    sizes = 1 + np.searchsorted(1 << 7 * np.arange(1, 5), numbers, "right")
    ends = np.cumsum(sizes)
    data = np.zeros(ends[-1], np.uint8)
    for place in range(5):
        longer = sizes > place
        more = (sizes[longer] > place + 1) << 7
        data[ends[longer] - sizes[longer] + place] = numbers[longer] >> 7 * place & 127 | more
    return data.tobytes()


def _read_numbers(data: NDArray[np.uint8], count: int) -> tuple[_Ints, int]:
    """Read so many LEB128 numbers and where they end; raises InvalidFile unless each has its shortest form."""
    ends = np.flatnonzero(data < 128)[:count]
    if len(ends) < count:
        raise InvalidFile("the file's color exceptions are truncated")
    sizes = np.diff(ends, prepend=-1)
    if sizes.max() > 5 or ((sizes > 1) & (data[ends] == 0)).any():
        raise InvalidFile("the file's color exceptions hold a number of the wrong form")
    numbers = np.zeros(count, np.int64)
    for place in range(5):
        longer = sizes > place
        byte = data[ends[longer] - sizes[longer] + 1 + place]
        numbers[longer] |= (byte & 127).astype(np.int64) << 7 * place
    return numbers, int(ends[-1]) + 1

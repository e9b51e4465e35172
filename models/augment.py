"""Makes clean photographs look like the world's: rescaled, toned, noisy, chroma-subsampled, once JPEG.

Every function takes and returns an array (height, width, 3) of RGB gray levels, float32 in 0..255 unless it
says otherwise, and draws its choices from the generator it is given.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.floating]
Pixels = NDArray[np.uint8]
Resampling = Image.Resampling

FILTERS = (Resampling.LANCZOS, Resampling.BICUBIC, Resampling.BILINEAR, Resampling.HAMMING, Resampling.BOX)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
PHOTO_CD = np.array([1.8215, 1.3584, 2.2179], np.float32)
"""Gray levels in a unit of Photo CD's red chroma, luma and blue chroma."""


@dataclass(frozen=True)
class Chances:
    """How often each change is made."""

    toned: float = 0.5
    refocused: float = 0.25
    noisy: float = 0.4
    subsampled: float = 0.35
    compressed: float = 0.1
    gray: float = 0.03


WIDE = Chances()
"""For learning: everything that can happen to a photograph, more often than it does."""
MILD = Chances(toned=0.15, refocused=0.12, noisy=0.2, subsampled=0.12, compressed=0.04, gray=0.02)
"""For the end of a training: about as often as among the pictures that people keep without loss."""


def augmented(photo: Pixels, size: int, rng: np.random.Generator, chances: Chances = WIDE) -> Pixels:
    """A random `size` x `size` picture made of a part of `photo` (uint8, at least `size` in both directions)."""
    pixels = rescaled(oriented(photo, rng), size, rng)
    picture = pixels.astype(np.float32)
    if rng.random() < chances.toned:
        picture = toned(picture, rng)
    if rng.random() < chances.refocused:
        picture = refocused(picture, rng)
    if rng.random() < chances.noisy:
        picture = noisy(picture, rng)
    if rng.random() < chances.subsampled:
        picture = chroma_subsampled(picture, rng)
    pixels = quantized(picture)
    if rng.random() < chances.compressed:
        pixels = compressed(pixels, rng)
    if rng.random() < chances.gray:
        pixels = np.repeat(quantized(pixels @ LUMA)[..., None], 3, 2)
    return pixels


def coded(photo: Pixels, size: int, rng: np.random.Generator, chances: Chances = WIDE) -> Pixels:
    """A random `size` x `size` picture as the codes that a decoder made pixels of: red chroma, luma, blue chroma.

    They are those of Photo CD, or those of JPEG, after the decoder has upsampled the chroma.
    """
    chances = replace(chances, subsampled=0.0, compressed=0.0, gray=0.0)
    pixels = augmented(photo, size, rng, chances)
    if rng.random() < 0.4:
        image = as_jpeg(pixels, (80, 99), rng)
        image.draft("YCbCr", image.size)
        return np.asarray(image)[..., [2, 0, 1]]
    picture = pixels.astype(np.float32) + rng.uniform(-0.5, 0.5, pixels.shape).astype(np.float32)
    luma = picture @ LUMA
    red, blue = (picture[..., channel] - luma for channel in (0, 2))
    planes = [red + 128 * PHOTO_CD[0], luma, blue + 128 * PHOTO_CD[2]]
    codes = [plane / unit for plane, unit in zip(planes, PHOTO_CD, strict=True)]
    if rng.random() < 0.85:
        start = tuple(int(rng.random() < chance) for chance in (0.25, 0.25))
        between = int(rng.integers(3))
        for i in (0, 2):
            moved = np.roll(codes[i], start, (0, 1))
            codes[i] = np.roll(interpolated(moved, between), (-start[0], -start[1]), (0, 1))
    return quantized(np.stack(codes, -1))


def interpolated(plane: Picture, between: int) -> Picture:
    """Every other code of every other row kept, those between made of their neighbors in whole numbers.

    `between`: 0 rounds down and 1 up, along rows and then columns; 2 takes the mean of four at once.
    """
    kept = np.rint(smooth(plane[..., None], 0.6)[..., 0]).astype(np.int32)
    east, south = np.roll(kept, -2, 1), np.roll(kept, -2, 0)
    up = 1 if between == 1 else 0
    result = kept.copy()
    result[:, 1::2] = (kept + east + up)[:, ::2] >> 1
    row = (kept + south + up) >> 1
    result[1::2, ::2] = row[::2, ::2]
    if between == 2:
        result[1::2, 1::2] = (kept + east + south + np.roll(east, -2, 0) + 2)[::2, ::2] >> 2
    else:
        result[1::2, 1::2] = (row + np.roll(row, -2, 1) + up)[::2, ::2] >> 1
    return result.astype(np.float32)


def quantized(picture: NDArray[np.floating]) -> Pixels:
    """Rounded to gray levels, uint8."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def oriented(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """One of the eight symmetries of a square; upright ones are likelier."""
    if rng.random() < 0.5:
        photo = photo[:, ::-1]
    if rng.random() < 0.2:
        photo = photo[::-1]
    return photo.transpose(1, 0, 2) if rng.random() < 0.25 else photo


def rescaled(photo: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """A random part, at its own scale or resampled by 0.4 to 1.7, sometimes JPEG-coded before."""
    largest = min(photo.shape[:2])
    factor = 1.0
    if rng.random() < 0.6:
        factor = float(np.exp(rng.uniform(np.log(0.4), np.log(1.7))))
    extent = int(np.clip(round(size / factor), 16, largest))
    top, left = (int(rng.integers(0, n - extent + 1)) for n in photo.shape[:2])
    part = np.ascontiguousarray(photo[top : top + extent, left : left + extent])
    if rng.random() < 0.08:
        part = compressed(part, rng)
    if extent == size:
        return part
    image = Image.fromarray(part).resize((size, size), FILTERS[rng.integers(len(FILTERS))])
    return np.asarray(image)


def toned(picture: Picture, rng: np.random.Generator) -> Picture:
    """Other gamma, contrast, brightness, white balance and saturation."""
    picture = 255 * (picture / 255) ** np.exp(rng.normal(0, 0.3))
    picture = (picture - 128) * np.exp(rng.normal(-0.1, 0.25)) + 128 + rng.normal(0, 15)
    picture = picture * np.exp(rng.normal(0, 0.06, 3))
    gray = (picture @ LUMA)[..., None]
    return (gray + (picture - gray) * np.exp(rng.normal(-0.1, 0.3))).astype(np.float32)


def refocused(picture: Picture, rng: np.random.Generator) -> Picture:
    """Blurred or sharpened."""
    blurred = smooth(picture, float(rng.uniform(0.4, 1.3)))
    if rng.random() < 0.5:
        return blurred
    return picture + (picture - blurred) * np.float32(rng.uniform(0.3, 1.5))


def smooth(picture: Picture, radius: float) -> Picture:
    """Gaussian blur of any number of channels, with fractions kept."""
    taps = np.exp(-0.5 * (np.arange(-4, 5) / radius) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (0, 1):
        padded = np.pad(picture, [(4, 4) if a == axis else (0, 0) for a in range(3)], mode="edge")
        size = picture.shape[axis]
        picture = sum(t * np.take(padded, range(i, i + size), axis) for i, t in enumerate(taps))  # type: ignore[assignment]
    return picture


def noisy(picture: Picture, rng: np.random.Generator) -> Picture:
    """Sensor noise or film grain: white or correlated, per channel or shared, growing with the signal or not."""
    strength = np.exp(rng.uniform(np.log(0.5), np.log(9)))
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    shared = rng.random()
    noise = np.float32(np.sqrt(1 - shared)) * noise + np.float32(np.sqrt(shared)) * noise[..., :1]
    if rng.random() < 0.5:
        noise = smooth(noise, float(rng.uniform(0.4, 1.1)))
        noise /= noise.std() + 1e-6
    if rng.random() < 0.5:
        noise = noise * np.sqrt(np.clip(picture, 4, 255) / 128)
    return (picture + strength * noise).astype(np.float32)


def chroma_subsampled(picture: Picture, rng: np.random.Generator) -> Picture:
    """Color differences at half the resolution (4:2:0 or 4:2:2), brought back as a decoder or a scanner would."""
    luma = picture @ LUMA
    chroma = picture[..., [2, 0]] - luma[..., None]
    start = tuple(int(rng.random() < chance) for chance in (0.25, 0.2))  # mostly the grid begins with the picture
    chroma = np.roll(chroma, start, (0, 1))
    vertical = 2 if rng.random() < 0.85 else 1
    coarse = rng.random() < 0.7  # stored as integers, as files do
    way = int(rng.integers(6))
    blue, red = (
        np.roll(halved_and_back(chroma[..., i], vertical, coarse, way), (-start[0], -start[1]), (0, 1)) + luma
        for i in range(2)
    )
    green = (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1]
    return np.stack([red, green, blue], -1)


def halved_and_back(plane: Picture, vertical: int, coarse: bool, way: int) -> Picture:
    """A plane (height, width) at half its width and 1 / `vertical` of its height, and upsampled again.

    `way` 0 to 2 are Pillow's filters, with samples in the middle of what they stand for; from 3 on samples lie on
    pixels, and the pixels between are their neighbors' means, as in Photo CD scans and MPEG-2.
    """
    height, width = plane.shape
    if way < 3:
        small = Image.fromarray(plane.astype(np.float32)).resize((width // 2, height // vertical), Resampling.BOX)
        if coarse:
            small = Image.fromarray(np.rint(np.asarray(small)))
        upsampler = (Resampling.NEAREST, Resampling.BILINEAR, Resampling.BICUBIC)[way]
        return np.asarray(small.resize((width, height), upsampler))
    for axis in (0, 1)[2 - vertical :]:
        plane = (np.roll(plane, 1, axis) + 2 * plane + np.roll(plane, -1, axis)) / 4 if way < 5 else plane
    small_plane = plane[::vertical, ::2]
    if coarse:
        small_plane = np.rint(small_plane)
    for axis, extent in ((0, height), (1, width))[2 - vertical :]:
        doubled = np.repeat(small_plane, 2, axis)
        between = (small_plane + np.roll(small_plane, -1, axis)) / 2
        odd = (slice(None),) * axis + (slice(1, None, 2),)
        doubled[odd] = between
        small_plane = np.take(doubled, range(extent), axis)
    return small_plane


def compressed(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """What JPEG of quality 75 to 98 leaves of `pixels`, uint8."""
    return np.asarray(as_jpeg(pixels, (75, 98), rng))


def as_jpeg(pixels: Pixels, qualities: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """`pixels` as a JPEG file that is opened and not yet decoded, of a quality between two, the last included."""
    buffer = io.BytesIO()
    quality, subsampling = int(rng.integers(*qualities, endpoint=True)), int(rng.integers(0, 3))
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(buffer)

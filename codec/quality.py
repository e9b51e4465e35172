"""From what a user wants of a lossy file, a quality, a size or an accuracy, to the sections of a container."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

import numpy as np

from gencodec.codec import choice, codecs, lossy, samples
from gencodec.codec.container import Section, long_enough
from gencodec.codec.image import Image
from gencodec.errors import GencodecError, UsageError

if TYPE_CHECKING:
    from gencodec.codec.groups import Progress
    from gencodec.runtime import Model

DEFAULT = 50.0
TOLERANCE = 0.05
"""Share by which a file's size may miss its target."""

Coded = tuple[tuple[Section, ...], int]
"""The sections of an image, and its checksum."""


@dataclass(frozen=True)
class Wish:
    """One of: a quality from 1 to 100, bits a pixel of the whole file, a least PSNR in dB of the colors."""

    quality: float | None = None
    bpp: float | None = None
    psnr: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.quality, self.bpp, self.psnr) if value is not None]
        if len(given) > 1:
            raise UsageError("a quality, a size and a PSNR exclude each other as targets")
        if self.quality is not None and not lossy.LOWEST <= self.quality <= lossy.HIGHEST:
            raise UsageError(f"the quality is from {lossy.LOWEST} to {lossy.HIGHEST}, not {self.quality:g}")
        if not all(np.isfinite(value) and value > 0 for value in given):
            raise UsageError("a target is a number above 0")

    @property
    def given(self) -> bool:
        """Whether anything is wished for."""
        return self != Wish()


class Attempts:
    """What an image comes to at a model's quality levels, each coded once."""

    def __init__(self, image: Image, model: Model, progress: Progress | None, file_bytes: Callable[[Coded], int]):
        """`file_bytes`: of the whole file that some sections make."""
        self.image, self.model, self.progress = image, model, progress
        self.codec = codecs.lossy_codec_of(model)
        with codecs.checked(model):
            self.levels = self.codec.levels(model)
        self.file_bytes = file_bytes
        self.coded: Callable[[int], Coded] = cache(self._coded)

    def _coded(self, level: int) -> Coded:
        return samples.encode_lossy(self.image.pixels, self.image.bit_depth, self.model, level, self.progress)

    def bpp(self, level: int) -> float:
        """Bits a pixel of the whole file."""
        return 8 * self.file_bytes(self.coded(level)) / (self.image.width * self.image.height)

    def psnr(self, level: int) -> float:
        """Of the colors, in dB."""
        color = samples.color_of(self.image.pixels)
        payload = samples.color_payload(self.coded(level)[0])
        with codecs.checked(self.model):
            decoded = self.codec.decode(payload, cast(tuple[int, int, int], color.shape), self.model)
        return lossy.psnr(decoded.pixels, color)


def encode(
    image: Image,
    model: Model,
    wish: Wish,
    file_bytes: Callable[[Coded], int],
    *,
    progress: Progress | None = None,
) -> Coded | None:
    """Code an image as a wish says; None where its file would be larger than a lossless one or too short for so many
    pixels.

    Raises `UnsupportedImage` for samples of other than 8 bits, and `GencodecError` for a size or PSNR that no quality
    of the model comes to.
    """
    attempts = Attempts(image, model, progress, file_bytes)
    coded = attempts.coded(chosen(attempts, wish))
    if not long_enough(coded[0], image.width * image.height):
        return None
    color = samples.color_of(image.pixels)
    if choice.suits_model(color):
        return coded
    exact = samples.encode_ordinary(image.pixels)
    return None if file_bytes((exact, 0)) <= file_bytes(coded) else coded


def chosen(attempts: Attempts, wish: Wish) -> int:
    """The quality level for a wish. Raises `GencodecError` where there is none."""
    levels = attempts.levels
    if wish.bpp is not None:
        reached = lossy.first_reaching(attempts.bpp, wish.bpp, levels)
        near = min({max(0, reached - 1), reached}, key=lambda level: abs(attempts.bpp(level) - cast(float, wish.bpp)))
        found = attempts.bpp(near)
        if abs(found / wish.bpp - 1) > TOLERANCE:
            raise GencodecError(f"no quality gives {wish.bpp:g} bits a pixel; the nearest gives {found:.3f}")
        return near
    if wish.psnr is not None:
        level = lossy.first_reaching(attempts.psnr, wish.psnr, levels)
        if (found := attempts.psnr(level)) < wish.psnr:
            raise GencodecError(f"no quality gives a PSNR of {wish.psnr:g} dB; the highest gives {found:.2f}")
        return level
    return lossy.level_of(DEFAULT if wish.quality is None else wish.quality, levels)

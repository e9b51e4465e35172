"""Pictures out of a model: samples, what lies between two pictures, and latent traversals. No torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from gencodec.codec import codecs, traversal
from gencodec.codec.codecs import pixels_of, planes_of
from gencodec.errors import UsageError

if TYPE_CHECKING:
    from gencodec.codec.image import Image
    from gencodec.runtime import Model

Pixels = NDArray[np.uint8]
GAP = 2
"""Pixels between the pictures of a grid."""
MOST = 4096
"""Pictures that are made at a time."""


def samples(model: Model, count: int, seed: int, temperature: float = 1.0) -> Pixels:
    """`count` pictures (count, tile, tile, 3), red, green, blue: what the model's decoder makes of random bits.

    A `temperature` below 1 narrows the distributions, towards what the model thinks likeliest. Raises `UsageError`
    for families that do not generate, and for numbers out of range.
    """
    check(seed, temperature)
    check_count(count)
    with codecs.checked(model):
        if model.family == codecs.SPRITES:
            decoder = traversal.SpriteDecoder(model)
            return decoder.pictures(decoder.sampled(count, seed, temperature))
        return codecs.sample(model, count, seed, temperature)


def traversed(model: Model, steps: int, seed: int, temperature: float = 1.0) -> Pixels:
    """Pictures (rows, steps, side, side, 3): in every row one latent rises, as `gencodec.codec.traversal` has it.

    `seed` and `temperature` are those of the latents that stay. Raises `UsageError` for families without such
    latents, and for numbers out of range.
    """
    check(seed, temperature)
    with codecs.checked(model):
        return traversal.traversal(model, steps, seed, temperature)


def check(seed: int, temperature: float) -> None:
    """Raise `UsageError` for numbers out of range."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise UsageError(f"the temperature is a number above 0, not {temperature}")
    if seed < 0:
        raise UsageError(f"the seed is not negative, as {seed} is")


def check_count(count: int, least: int = 1) -> None:
    """Raise `UsageError` for more pictures than are made at a time, or fewer than `least`."""
    if count > MOST:
        raise UsageError(f"at most {MOST} pictures can be made at a time, not {count}")
    if count < least:
        raise UsageError(f"the number of pictures is at least {least}, not {count}")


def between(model: Model, a: Image, b: Image, count: int) -> Pixels:
    """`count` pictures (count, tile, tile, 3) along the line from `a` to `b` in the model's latents, ends included.

    Of both, the model is given their middle, as `picture` cuts it. Raises `UsageError` for families without latents,
    and for a count out of range.
    """
    check_count(count, least=2)
    if model.family not in codecs.BITS_BACK:
        raise UsageError(f"the family {model.family} of the model {model.card.name} has no latents to go between")
    shares, parts = np.linspace(0, 1, count), range(0, count, codecs.BATCH)
    with codecs.checked(model):
        codec = codecs.tile_codec(model)
        ends = np.stack([picture(image, codec.tile) for image in (a, b)])
        latents = [on_the_line(latent, shares) for latent in codec.latents(planes_of(ends))]
        return pixels_of(np.concatenate([codec.decoded([z[i : i + codecs.BATCH] for z in latents]) for i in parts]))


def on_the_line(ends: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Latents (n, ...) at each of n shares of the way between two, (2, ...), rounded."""
    weights = shares.reshape(-1, *[1] * (ends.ndim - 1))
    return np.rint(ends[0] * (1 - weights) + ends[1] * weights).astype(np.int64)


def picture(image: Image, side: int) -> Pixels:
    """The largest square in the middle of an image, scaled to (side, side, 3); grey becomes RGB, alpha is left out."""
    pixels = image.pixels
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * (255 / ((1 << image.bit_depth) - 1))).astype(np.uint8)
    colors = pixels[..., :3] if image.channels >= 3 else np.repeat(pixels[..., :1], 3, 2)
    most = min(image.height, image.width)
    top, left = (image.height - most) // 2, (image.width - most) // 2
    square = PillowImage.fromarray(np.ascontiguousarray(colors[top : top + most, left : left + most]))
    return np.asarray(square.resize((side, side), PillowImage.Resampling.LANCZOS))


def grid(pictures: Pixels, columns: int | None = None) -> Pixels:
    """Pictures (n, height, width, 3) side by side, row by row, black between them; as a square by default."""
    count, height, width, _ = pictures.shape
    columns = columns or math.isqrt(count - 1) + 1
    rows = -(-count // columns)
    canvas = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), np.uint8)
    for index, part in enumerate(pictures):
        y, x = (place * (side + GAP) for place, side in zip(divmod(index, columns), (height, width), strict=True))
        canvas[y : y + height, x : x + width] = part
    return cast(Pixels, canvas)

"""The codecs that are compared: pixels <-> whole files, each by its own library."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import features

import gencodec
from gencodec import runtime
from gencodec.codec import colorcodes
from gencodec.codec.api import DEFAULT_EFFORT
from gencodec.codec.image import Pixels

REFERENCE = "JPEG XL e7"
"""The codec that sizes and speeds are given relative to."""
MAX_WEBP_SIDE = 16383


def made_of_codes(pixels: Pixels) -> bool:
    """Whether gencodec finds that a picture was made of luma and chroma codes."""
    if pixels.dtype != np.uint8 or pixels.shape[2] != 3:
        return False
    return colorcodes.detect(cast(NDArray[np.uint8], pixels)) is not None


@dataclass(frozen=True)
class Contender:
    """A codec by its two directions; `holds` tells which samples it can keep without loss."""

    name: str
    version: str
    encode: Callable[[Pixels], bytes]
    decode: Callable[[bytes], Pixels]
    holds: Callable[[Pixels], bool] = lambda _: True


def contenders(
    efforts: tuple[int, ...], own_efforts: tuple[int, ...], *, threads: int, model: str, device: str
) -> Iterator[Contender]:
    """Yield gencodec, also at other efforts and on colors alone, JPEG XL at its efforts, WebP and PNG.

    WebP and PNG know no threads.
    """

    def own(name: str, used: str, effort: int, holds: Callable[[Pixels], bool] = lambda _: True) -> Contender:
        return Contender(
            name,
            gencodec.__version__,
            lambda pixels: gencodec.compress(pixels, model=used, effort=effort, threads=threads, device=device),
            lambda data: gencodec.decompress(data, threads=threads, device=device).pixels,
            holds,
        )

    yield own("gencodec", model, DEFAULT_EFFORT)
    for effort in own_efforts:
        yield own(f"gencodec effort {effort}", model, effort)
    card = runtime.find_model(model)
    if own_efforts and card.for_codes and model != card.name:
        # by its full name a model does not look for codes; elsewhere the files are those of the first line
        yield own("gencodec without color codes", card.name, DEFAULT_EFFORT, made_of_codes)
    for effort in efforts:
        yield _jpegxl(effort, threads)
    yield Contender("WebP", f"libwebp {features.version('webp')}", encode_webp, _decode_pillow, fits_webp)
    yield Contender("PNG", f"{imagecodecs.png_version()}, Pillow {PillowImage.__version__}", encode_png, _decode_png)


def fits_webp(pixels: Pixels) -> bool:
    """Whether WebP can hold the samples."""
    return pixels.dtype == np.uint8 and max(pixels.shape[:2]) <= MAX_WEBP_SIDE


def encode_webp(pixels: Pixels) -> bytes:
    """Write lossless WebP at full effort; grey becomes RGB."""
    return _save(pixels, "WEBP", lossless=True, quality=100, method=6, exact=True)


def encode_png(pixels: Pixels) -> bytes:
    """Write PNG by Pillow, optimized; by libpng at level 9 what Pillow would cut down to 8 bits."""
    if pixels.dtype == np.uint16 and pixels.shape[2] > 1:
        return bytes(imagecodecs.png_encode(_plain(pixels), level=9))
    return _save(pixels, "PNG", optimize=True)


def _jpegxl(effort: int, threads: int) -> Contender:
    def encode(pixels: Pixels) -> bytes:
        return bytes(imagecodecs.jpegxl_encode(_plain(pixels), lossless=True, effort=effort, numthreads=threads))

    def decode(data: bytes) -> Pixels:
        return imagecodecs.jpegxl_decode(data, numthreads=threads)

    return Contender(f"JPEG XL e{effort}", imagecodecs.jpegxl_version(), encode, decode)


def _plain(pixels: Pixels) -> Pixels:
    """Copy samples as the libraries want them: grey without a channel axis, strides of a new array."""
    return np.array(pixels[..., 0] if pixels.shape[2] == 1 else pixels, order="C")


def _save(pixels: Pixels, format_name: str, **options: object) -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(_plain(pixels)).save(file, format_name, **options)
    return file.getvalue()


def _decode_pillow(data: bytes) -> Pixels:
    return np.asarray(PillowImage.open(io.BytesIO(data)))


def _decode_png(data: bytes) -> Pixels:
    return imagecodecs.png_decode(data)


def same(pixels: Pixels, decoded: Pixels) -> bool:
    """Whether both are the same picture: grey counts as RGB of equal parts, no alpha as opaque."""
    return pixels.dtype == decoded.dtype and np.array_equal(_rgba(pixels), _rgba(decoded))


def _rgba(pixels: Pixels) -> Pixels:
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    opaque = np.full_like(pixels[..., :1], np.iinfo(pixels.dtype).max)
    places = {1: (0, 0, 0, 1), 2: (0, 0, 0, 1), 3: (0, 1, 2, 3), 4: (0, 1, 2, 3)}[pixels.shape[2]]
    return np.concatenate([pixels, opaque], axis=2)[..., places]

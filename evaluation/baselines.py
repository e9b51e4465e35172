"""The ordinary codecs: PNG, WebP, JPEG XL, AVIF, JPEG, JPEG-LS and JPEG 2000, each by its own library.

Of lossless ones PNG and WebP get their best setting, JPEG XL effort 7 or the one that its name says, and all a color
transform where the format has one. Lossy ones are measured over a sweep of their own scale of quality, which for JPEG
XL is the distance.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import features

from gencodec.codec.image import Image
from gencodec.errors import UnsupportedImage

if TYPE_CHECKING:
    from gencodec.evaluation.protocol import Estimate

Samples = NDArray[Any]

MAX_WEBP_SIDE = 16383
JXL_EFFORT = 7
"""What `jxl` and `jxl-lossy` mean; `jxl-e1` to `jxl-e9` are lossless at others."""
_JXL = re.compile(r"jxl-e([1-9])")


@dataclass(frozen=True)
class Baseline:
    """An ordinary codec by its two directions, over samples (height, width, channels).

    `write` takes the samples as libraries want them, grey without a channel axis. `depths`: the bytes a sample may
    have; `channels`: how many the format holds.
    """

    codec: str
    version: str
    settings: str
    write: Callable[[Samples], bytes]
    read: Callable[[bytes], Samples]
    quality: float | None = None
    missing: str = ""
    depths: tuple[int, ...] = (1,)
    channels: tuple[int, ...] = (1, 2, 3, 4)
    max_side: int = 1 << 30

    @property
    def lossless(self) -> bool:
        return self.quality is None

    def encode(self, image: Image) -> bytes:
        """Return the whole file. Raises UnsupportedImage."""
        pixels = image.pixels
        if pixels.dtype.itemsize not in self.depths:
            raise UnsupportedImage(f"{self.codec} does not take samples of {8 * pixels.dtype.itemsize} bits")
        if pixels.shape[2] not in self.channels:
            raise UnsupportedImage(f"{self.codec} does not take {pixels.shape[2]} channels")
        if max(pixels.shape[:2]) > self.max_side:
            raise UnsupportedImage(f"{self.codec} does not take sides above {self.max_side} pixels")
        return self.write(np.array(pixels[..., 0] if pixels.shape[2] == 1 else pixels, order="C"))

    def decode(self, data: bytes) -> Image:
        """Return the samples of a file; its bit depth is that of their type."""
        return Image.from_array(self.read(data))

    def estimate(self, data: bytes) -> Estimate | None:  # noqa: ARG002
        """None: no model speaks of its own code length."""
        return None


# lossless


def _png(threads: int) -> Baseline:  # noqa: ARG001
    version = f"{imagecodecs.png_version()}, Pillow {PillowImage.__version__}"
    return Baseline("png", version, "optimized, level 9", _write_png, imagecodecs.png_decode, depths=(1, 2))


def _write_png(pixels: Samples) -> bytes:
    """Write PNG by Pillow, optimized; by libpng at level 9 what Pillow would cut down to 8 bits."""
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        return bytes(imagecodecs.png_encode(pixels, level=9))
    return _save("PNG", pixels, optimize=True)


def _webp(threads: int) -> Baseline:  # noqa: ARG001
    write = partial(_save, "WEBP", lossless=True, quality=100, method=6, exact=True)
    settings = "lossless, method 6, quality 100, exact"
    return Baseline("webp", _libwebp(), settings, write, _read_pillow, max_side=MAX_WEBP_SIDE, missing=_lacks("webp"))


def _jxl(threads: int, effort: int = JXL_EFFORT, codec: str = "jxl") -> Baseline:
    write = partial(imagecodecs.jpegxl_encode, lossless=True, effort=effort, numthreads=threads)
    read = partial(imagecodecs.jpegxl_decode, numthreads=threads)
    settings = f"lossless, effort {effort}, {threads} threads"
    return Baseline(codec, _libjxl(), settings, _bytes(write), read, depths=(1, 2), missing=_lacks_codec("JPEGXL"))


def _jpeg_ls(threads: int) -> Baseline:  # noqa: ARG001
    version, missing = imagecodecs.jpegls_version(), _lacks_codec("JPEGLS")
    settings = "lossless, red and blue as differences from green"
    return Baseline("jpeg-ls", version, settings, _write_jpegls, _read_jpegls, channels=(1, 3), missing=missing)


def _write_jpegls(pixels: Samples) -> bytes:
    """Write JPEG-LS of G, R - G + 128 and B - G + 128 modulo 256: the transform HP1 of its second part."""
    if pixels.ndim == 3:
        red, green, blue = (pixels[..., channel] for channel in range(3))
        pixels = np.stack([green, red - green + np.uint8(128), blue - green + np.uint8(128)], axis=2)
    return bytes(imagecodecs.jpegls_encode(pixels))


def _read_jpegls(data: bytes) -> Samples:
    pixels = imagecodecs.jpegls_decode(data)
    if pixels.ndim == 2:
        return pixels
    green, red, blue = (pixels[..., channel] for channel in range(3))
    return np.stack([red + green + np.uint8(128), green, blue + green + np.uint8(128)], axis=2)


def _jpeg2000(threads: int) -> Baseline:
    write = partial(imagecodecs.jpeg2k_encode, level=0, reversible=True, mct=True, numthreads=threads)
    read = partial(imagecodecs.jpeg2k_decode, numthreads=threads)
    version, missing = imagecodecs.jpeg2k_version(), _lacks_codec("JPEG2K")
    settings = f"lossless, reversible color transform and wavelet, {threads} threads"
    return Baseline("jpeg2000", version, settings, _bytes(write), read, depths=(1, 2), missing=missing)


# lossy


def _jpeg(quality: float, threads: int) -> Baseline:  # noqa: ARG001
    write = partial(_save, "JPEG", quality=int(quality), optimize=True, progressive=True)
    version = f"libjpeg-turbo {features.version('libjpeg_turbo') or features.version('jpg')}"
    settings = f"quality {quality:g}, 4:2:0, progressive, optimized"
    missing = _lacks("jpg")
    return Baseline("jpeg", version, settings, write, _read_pillow, quality, missing, channels=(1, 3))


def _webp_lossy(quality: float, threads: int) -> Baseline:  # noqa: ARG001
    write = partial(_save, "WEBP", quality=int(quality), method=6)
    settings, missing = f"quality {quality:g}, 4:2:0, method 6", _lacks("webp")
    return Baseline("webp-lossy", _libwebp(), settings, write, _read_pillow, quality, missing, max_side=MAX_WEBP_SIDE)


def _avif(quality: float, threads: int) -> Baseline:
    write = partial(_save, "AVIF", quality=int(quality), subsampling="4:4:4", speed=6, max_threads=threads)
    version = f"libavif {features.version('avif')}"
    settings = f"quality {quality:g}, 4:4:4, speed 6, {threads} threads"
    return Baseline("avif", version, settings, write, _read_pillow, quality, _lacks("avif"))


def _jxl_lossy(quality: float, threads: int) -> Baseline:
    write = partial(imagecodecs.jpegxl_encode, distance=quality, effort=JXL_EFFORT, numthreads=threads)
    read = partial(imagecodecs.jpegxl_decode, numthreads=threads)
    settings, missing = f"distance {quality:g}, effort {JXL_EFFORT}, {threads} threads", _lacks_codec("JPEGXL")
    return Baseline("jxl-lossy", _libjxl(), settings, _bytes(write), read, quality, missing)


LOSSLESS: dict[str, Callable[[int], Baseline]] = {
    "png": _png,
    "webp": _webp,
    "jxl": _jxl,
    "jxl-e9": partial(_jxl, effort=9, codec="jxl-e9"),
    "jpeg-ls": _jpeg_ls,
    "jpeg2000": _jpeg2000,
}
LOSSY: dict[str, tuple[float, ...]] = {
    "jpeg": (5, 10, 20, 30, 45, 60, 75, 85, 92),
    "webp-lossy": (1, 5, 15, 30, 50, 70, 80, 90, 96),
    "avif": (10, 20, 30, 40, 50, 60, 70, 80, 90),
    "jxl-lossy": (14, 10, 7, 5, 3.5, 2.5, 1.5, 1, 0.5),
}
"""The lossy ones, each with its sweep: on photographs from about 0.1 to 2 bits per pixel."""
_SWEPT: dict[str, Callable[[float, int], Baseline]] = {
    "jpeg": _jpeg,
    "webp-lossy": _webp_lossy,
    "avif": _avif,
    "jxl-lossy": _jxl_lossy,
}


def names() -> list[str]:
    """The names of all baselines, without `jxl-e1` to `jxl-e8`, which are known, too."""
    return [*LOSSLESS, *LOSSY]


def known(name: str) -> bool:
    """Whether a baseline has that name."""
    return name in LOSSLESS or name in LOSSY or _JXL.fullmatch(name) is not None


def sweep(name: str) -> Sequence[float | None]:
    """The qualities at which a baseline is measured: none for a lossless one."""
    return LOSSY.get(name, (None,))


def make(name: str, quality: float | None, threads: int) -> Baseline:
    """The baseline of a known name, a lossy one at a quality."""
    if quality is not None:
        made = _SWEPT[name](quality, threads)
    elif name in LOSSLESS:
        made = LOSSLESS[name](threads)
    else:
        effort = _JXL.fullmatch(name)
        assert effort
        made = _jxl(threads, int(effort[1]), name)
    return replace(made, version="", settings="") if made.missing else made


def _save(kind: str, pixels: Samples, **options: Any) -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _read_pillow(data: bytes) -> Samples:
    return np.asarray(PillowImage.open(io.BytesIO(data)))


def _bytes(write: Callable[[Samples], Any]) -> Callable[[Samples], bytes]:
    """The function with bytes as its result, whatever buffer the library returns."""
    return lambda pixels: bytes(write(pixels))


def _libwebp() -> str:
    return f"libwebp {features.version('webp')}"


def _libjxl() -> str:
    return str(imagecodecs.jpegxl_version())


def _lacks(feature: str) -> str:
    """Why Pillow cannot do it, empty if it can."""
    return "" if features.check(feature) else f"this build of Pillow has no {feature}"


def _lacks_codec(name: str) -> str:
    """Why imagecodecs cannot do it, empty if it can."""
    return "" if getattr(imagecodecs, name).available else f"this build of imagecodecs has no {name}"

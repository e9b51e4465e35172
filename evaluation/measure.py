"""One image by one codec: its whole file, decoded and compared, with all that a table may want to know."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gencodec.errors import GencodecError, UnsupportedImage
from gencodec.evaluation import memory, metrics

if TYPE_CHECKING:
    from gencodec.codec.image import Image
    from gencodec.evaluation.protocol import Contender


@dataclass(frozen=True)
class Row:
    """One image as one contender coded it. Where it failed, `error` says why, and where the format cannot hold such an
    image, `skipped`; figures are then None.

    `sha256`: of the image's file, or of its samples in an array. `bpsp`, `bpp`: bits of the whole file per sample and
    per pixel. `estimate_bits`: what the model itself expected, `initial_bits` of them before the first choice;
    `overhead`: the share by which the file exceeds the estimate, None with an alpha plane, of which the estimate does
    not speak. `encode_mps`, `decode_mps`: megapixels a second. `peak_bytes`: memory that coding and decoding added.
    `identical`: whether every sample came back. `psnr` (dB) and `ms_ssim`: of lossy files, over the color; None also
    where nothing differs, and `ms_ssim` for images that are too small for it.
    """

    image: str
    sha256: str
    contender: str
    codec: str
    quality: float | None
    lossless: bool
    version: str
    settings: str
    machine: str
    width: int | None = None
    height: int | None = None
    channels: int | None = None
    bit_depth: int | None = None
    bytes: int | None = None
    bpsp: float | None = None
    bpp: float | None = None
    estimate_bits: float | None = None
    initial_bits: float | None = None
    overhead: float | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    encode_mps: float | None = None
    decode_mps: float | None = None
    peak_bytes: int | None = None
    identical: bool | None = None
    psnr: float | None = None
    ms_ssim: float | None = None
    skipped: str = ""
    error: str = ""

    @property
    def done(self) -> bool:
        """Whether there are figures."""
        return self.bytes is not None and not self.error

    @property
    def unread(self) -> bool:
        """Whether it is the image that is at fault, before any contender saw it."""
        return bool(self.error) and self.width is None

    @property
    def key(self) -> tuple[str, ...]:
        """What a row's figures depend on: where it is the same, they need not be measured again."""
        return self.image, self.sha256, self.contender, self.version, self.settings, self.machine


def row(image: str, sha256: str, machine: str, name: str, contender: Contender) -> dict[str, Any]:
    """The part of a row that is known before anything is measured."""
    fields = ("codec", "quality", "lossless", "version", "settings")
    known = {field: getattr(contender, field) for field in fields}
    return {"image": image, "sha256": sha256, "machine": machine, "contender": name, **known}


def measure(image: Image, contender: Contender, known: dict[str, Any]) -> Row:
    """Encode, decode and compare. Failures of the contender are in the row, whatever they are."""
    shape = {key: getattr(image, key) for key in ("width", "height", "channels", "bit_depth")}
    try:
        return Row(**known, **shape, **_figures(image, contender))
    except UnsupportedImage as error:
        return Row(**known, **shape, skipped=str(error))
    except (GencodecError, MemoryError) as error:
        return Row(**known, **shape, error=str(error) or type(error).__name__)
    except Exception as error:  # a foreign library's: anything; it must not end the run
        return Row(**known, **shape, error=f"{type(error).__name__}: {error}")


def _figures(image: Image, contender: Contender) -> dict[str, Any]:
    """What was measured. Raises what the contender raises."""
    with memory.peak() as peak:
        begin = time.perf_counter()
        data = contender.encode(image)
        middle = time.perf_counter()
        decoded = contender.decode(data)
        end = time.perf_counter()
    pixels, bits = image.width * image.height, 8 * len(data)
    estimate = contender.estimate(data)
    identical = same(image.pixels, decoded.pixels)
    found: dict[str, Any] = {
        "bytes": len(data),
        "bpsp": bits / (pixels * image.channels),
        "bpp": bits / pixels,
        "encode_seconds": middle - begin,
        "decode_seconds": end - middle,
        "encode_mps": pixels / 1e6 / (middle - begin),
        "decode_mps": pixels / 1e6 / (end - middle),
        "peak_bytes": peak.bytes,
        "identical": identical,
    }
    if estimate:
        found |= {"estimate_bits": float(estimate.bits), "initial_bits": estimate.initial_bits}
        found["overhead"] = None if image.has_alpha else bits / estimate.bits - 1
    if contender.lossless and not identical:
        found["error"] = "the decoded pixels are not those of the image"
    return found if contender.lossless else found | distortion(image.pixels, decoded.pixels)


def distortion(pixels: NDArray[Any], decoded: NDArray[Any]) -> dict[str, float | None]:
    """PSNR and MS-SSIM of the color of samples (height, width, channels). Raises GencodecError for other shapes."""
    expected, found = metrics.color(pixels), metrics.color(decoded)
    if expected.shape[2] == 1 and found.shape[2] == 3:
        expected = np.repeat(expected, 3, axis=2)  # a format without grey
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise GencodecError(f"the decoded image is {found.shape} of {found.dtype}, not {expected.shape}")
    psnr = metrics.psnr(expected, found)
    if math.isinf(psnr):
        return {"psnr": None, "ms_ssim": None}
    return {"psnr": psnr, "ms_ssim": metrics.ms_ssim(expected, found)}


def same(pixels: NDArray[Any], decoded: NDArray[Any]) -> bool:
    """Whether both are the same picture: grey counts as RGB of equal parts, no alpha as opaque."""
    return pixels.dtype == decoded.dtype and np.array_equal(_rgba(pixels), _rgba(decoded))


def _rgba(pixels: NDArray[Any]) -> NDArray[Any]:
    opaque = np.full_like(pixels[..., :1], np.iinfo(pixels.dtype).max)
    places = {1: (0, 0, 0, 1), 2: (0, 0, 0, 1), 3: (0, 1, 2, 3), 4: (0, 1, 2, 3)}[pixels.shape[2]]
    return np.concatenate([pixels, opaque], axis=2)[..., places]

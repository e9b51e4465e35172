"""Large photographs, made of small ones, and what the codecs need for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import imagecodecs
import numpy as np
import process
from contenders import Contender
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps
from sets import code, images, say

from gencodec.codec.image import Pixels

CELL = (1536, 1024)
NOISE = 1.5
MADE = (
    f"photographs of the first folder, each scaled (bicubic) and cropped to {CELL[0]} x {CELL[1]},"
    f" side by side, with normal noise of {NOISE} levels"
)
SPEED_SIZE = (3456, 2304)
MEMORY_SIZE = (4256, 2832)


def photograph(folder: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Lay the photographs of a folder side by side as one of `size` (width, height), RGB."""
    columns, rows = (-(-side // cell) for side, cell in zip(size, CELL, strict=True))
    chosen = [pixels for _, pixels in zip(range(columns * rows), _photographs(folder), strict=False)]
    cells = [_scaled(chosen[i % len(chosen)]) for i in range(columns * rows)]
    whole = np.vstack([np.hstack(cells[row * columns : (row + 1) * columns]) for row in range(rows)])
    whole = whole[: size[1], : size[0]]
    noise = np.random.default_rng(1).normal(0, NOISE, whole.shape)
    return np.clip(np.rint(whole + noise), 0, 255).astype(np.uint8)


def speed(folder: Path, codecs: Sequence[Contender], size: tuple[int, int] = SPEED_SIZE) -> dict[str, object]:
    """Code one large photograph by every codec given: bytes and megapixels a second."""
    pixels = photograph(folder, size)
    megapixels = pixels.shape[0] * pixels.shape[1] / 1e6
    found: dict[str, object] = {"width": size[0], "height": size[1], "made_of": MADE}
    for codec in codecs:
        say(f"{megapixels:.1f} megapixels by {codec.name}")
        _, coded = code(codec, pixels, "the large photograph")
        found[codec.name] = {
            "bytes": coded.bytes,
            "encode_mps": megapixels / coded.encode_seconds,
            "decode_mps": megapixels / coded.decode_seconds,
        }
    return found


def memory(folder: Path, threads: int, device: str, size: tuple[int, int] = MEMORY_SIZE) -> dict[str, object]:
    """Compress and decompress one large photograph by the command line: seconds and peak bytes."""
    return {"width": size[0], "height": size[1], "made_of": MADE} | _processes(
        photograph(folder, size), threads, device
    )


def one_process(folder: Path, threads: int, device: str) -> dict[str, object]:
    """Compress and decompress the first image of a folder by the command line, start-up and all."""
    name, pixels = next(images(folder))
    return {"file": name} | _processes(pixels, threads, device)


def _processes(pixels: Pixels, threads: int, device: str) -> dict[str, object]:
    """Run `compress` and `decompress` once each, after a start that brings the program into the cache."""
    options = ("--quiet", "-f", "--threads", str(threads), "--device", device)
    with tempfile.TemporaryDirectory() as place:
        source, packed, target = (str(Path(place) / name) for name in ("a.png", "a.png.gnc", "b.png"))
        Path(source).write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels.squeeze()), level=1))
        say(f"{pixels.shape[0] * pixels.shape[1] / 1e6:.1f} megapixels by the command line")
        process.gencodec("--version")
        compress = process.gencodec("compress", source, "-o", packed, *options)
        decompress = process.gencodec("decompress", packed, "-o", target, *options)
    return {"compress": asdict(compress), "decompress": asdict(decompress)}


def _photographs(folder: Path) -> Iterator[Pixels]:
    return (pixels for _, pixels in images(folder) if pixels.shape[2] == 3 and pixels.dtype == np.uint8)


def _scaled(pixels: Pixels) -> NDArray[np.uint8]:
    picture = PillowImage.fromarray(np.rot90(pixels) if pixels.shape[0] > pixels.shape[1] else pixels)
    return np.asarray(ImageOps.fit(picture, CELL, PillowImage.Resampling.BICUBIC))

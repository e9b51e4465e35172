"""Large photographs, made of small ones, and what the codecs need for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pages
import process
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps

from gencodec.codec import formats
from gencodec.codec.image import Image
from gencodec.errors import GencodecError
from gencodec.evaluation import run
from gencodec.evaluation.contenders import Entry
from gencodec.evaluation.corpus import Picture
from gencodec.evaluation.protocol import Options

CELL = (1536, 1024)
NOISE = 1.5
MADE = (
    f"photographs of the first folder, each scaled (bicubic) and cropped to {CELL[0]} x {CELL[1]},"
    f" side by side, with normal noise of {NOISE} levels"
)
SIZE = (3456, 2304)
LARGER = (4256, 2832)


def photograph(pictures: Sequence[Picture], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Lay photographs side by side as one of `size` (width, height), RGB."""
    columns, rows = (-(-side // cell) for side, cell in zip(size, CELL, strict=True))
    chosen = [pixels for _, pixels in zip(range(columns * rows), map(_scaled, _rgb(pictures)), strict=False)]
    cells = [chosen[i % len(chosen)] for i in range(columns * rows)]
    whole = np.vstack([np.hstack(cells[row * columns : (row + 1) * columns]) for row in range(rows)])
    whole = whole[: size[1], : size[0]]
    noise = np.random.default_rng(1).normal(0, NOISE, whole.shape)
    return np.clip(np.rint(whole + noise), 0, 255).astype(np.uint8)


def speed(
    pictures: Sequence[Picture], entries: Sequence[Entry], options: Options, size: tuple[int, int]
) -> dict[str, Any]:
    """Code one large photograph of `size` (width, height) by every contender: bytes and megapixels a second."""
    pixels = photograph(pictures, size)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "large.png"
        formats.write_image(Image.from_array(pixels), path)
        rows = run.run([Picture("large", path)], entries, options, listen=pages.show).rows
    figures = ("bytes", "encode_mps", "decode_mps")
    found = {row.contender: {key: getattr(row, key) for key in figures} for row in rows}
    return {"width": size[0], "height": size[1], "made_of": MADE} | found


def memory(pictures: Sequence[Picture], options: Options) -> dict[str, Any]:
    """Compress and decompress one large photograph by the command line: seconds and peak bytes."""
    size = {"width": LARGER[0], "height": LARGER[1], "made_of": MADE}
    return size | _processes(Image.from_array(photograph(pictures, LARGER)), options)


def one_process(pictures: Sequence[Picture], options: Options) -> dict[str, Any]:
    """Compress and decompress the first image by the command line, start-up and all."""
    return {"file": pictures[0].path.name} | _processes(pictures[0].read(), options)


def _processes(image: Image, options: Options) -> dict[str, Any]:
    """Run `compress` and `decompress` once each, after a start that brings the program into the cache."""
    flags = ("--quiet", "-f", "--threads", str(options.threads), "--device", options.device)
    with tempfile.TemporaryDirectory() as place:
        source, packed, target = (str(Path(place) / name) for name in ("a.png", "a.png.gnc", "b.png"))
        formats.write_image(image, source)
        process.gencodec("--version")
        compress = process.gencodec("compress", source, "-o", packed, *flags)
        decompress = process.gencodec("decompress", packed, "-o", target, *flags)
    return {"compress": asdict(compress), "decompress": asdict(decompress)}


def _rgb(pictures: Sequence[Picture]) -> Iterator[NDArray[np.uint8]]:
    """The pixels of the pictures of 8 bits and three channels."""
    for picture in pictures:
        try:
            pixels = picture.read().pixels
        except GencodecError:
            continue
        if pixels.shape[2] == 3 and pixels.dtype == np.uint8:
            yield pixels.astype(np.uint8, copy=False)


def _scaled(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = PillowImage.fromarray(np.rot90(pixels) if pixels.shape[0] > pixels.shape[1] else pixels)
    return np.asarray(ImageOps.fit(picture, CELL, PillowImage.Resampling.BICUBIC))

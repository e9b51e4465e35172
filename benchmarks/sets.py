"""Folders of images: every image by every codec, and what that amounts to for the folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from contenders import REFERENCE, Contender, same

import gencodec
from gencodec.codec import formats
from gencodec.codec.image import Pixels


@dataclass(frozen=True)
class Coded:
    """One image as one codec wrote it; whole bytes, wall seconds."""

    bytes: int
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Picture:
    """One image: its size, what every codec that holds it made of it, and what gencodec's file says."""

    file: str
    pixels: int
    samples: int
    coded: dict[str, Coded]
    coder: str
    color_bytes: int
    """Of the section that holds the color."""
    estimate_bits: int | None


def images(folder: Path) -> Iterator[tuple[str, Pixels]]:
    """Yield name and samples of the images of a folder, by name; says on stderr what it leaves out."""
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in formats.SUFFIXES):
        try:
            yield path.name, formats.read_image(path).pixels
        except gencodec.GencodecError as error:
            say(f"{path}: left out: {error}")


def measure_folder(folder: Path, codecs: Sequence[Contender]) -> list[Picture]:
    """Code every image of a folder by every codec that holds it. Raises SystemExit where pixels differ."""
    found = []
    for name, pixels in images(folder):
        coded, info = {}, None
        for codec in codecs:
            if not codec.holds(pixels):
                continue
            data, coded[codec.name] = code(codec, pixels, name)
            if codec.name == "gencodec":
                info = gencodec.info(data)
        assert info is not None
        color = next(s for s in info.sections if s.kind.name in ("COLOR", "PIXELS"))
        height, width, channels = pixels.shape
        size = (height * width, height * width * channels)
        found.append(Picture(name, *size, coded, color.coder.name, color.bytes, info.estimate_bits))
        say(f"{name}: " + ", ".join(f"{codec} {c.bytes}" for codec, c in coded.items()))
    if not found:
        raise SystemExit(f"{folder} has no images")
    return found


def code(codec: Contender, pixels: Pixels, name: str) -> tuple[bytes, Coded]:
    """Encode and decode, timed. Raises SystemExit where the pixels differ."""
    begin = time.perf_counter()
    data = codec.encode(pixels)
    middle = time.perf_counter()
    decoded = codec.decode(data)
    end = time.perf_counter()
    if not same(pixels, decoded):
        raise SystemExit(f"{codec.name} does not give back the pixels of {name}")
    return data, Coded(len(data), middle - begin, end - middle)


def warm_up(codecs: Sequence[Contender]) -> None:
    """Load libraries and models before anything is timed."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    for codec in codecs:
        code(codec, noise, "warm-up")


def summarize(pictures: Sequence[Picture], codecs: Sequence[str]) -> dict[str, object]:
    """Add up a folder: for every codec its totals, over the images that it holds."""
    return {
        "images": len(pictures),
        "pixels": sum(picture.pixels for picture in pictures),
        "codecs": {name: totals(pictures, name) for name in codecs},
        "model": estimates(pictures),
        "largest_excess_bytes": max(map(excess, pictures)) if {"WebP", "PNG"} <= set(codecs) else None,
    }


def totals(pictures: Sequence[Picture], name: str) -> dict[str, float | None] | None:
    """Add up what one codec made of the images that it holds; None if it holds none.

    Ratios to the reference are over the same images: of the bytes, of the mean bits per sub-pixel, and of the
    speeds.
    """
    held = [picture for picture in pictures if name in picture.coded]
    if not held:
        return None
    own, reference = _sums(held, name), _sums(held, REFERENCE)
    ratios = {f"{key}_ratio": own[key] / reference[key] for key in own}
    return {"images": len(held), **own, **ratios}


def _sums(pictures: Sequence[Picture], name: str) -> dict[str, float]:
    coded = [picture.coded[name] for picture in pictures]
    size = sum(c.bytes for c in coded)
    megapixels = sum(picture.pixels for picture in pictures) / 1e6
    rates = [8 * c.bytes / picture.samples for c, picture in zip(coded, pictures, strict=True)]
    return {
        "bytes": size,
        "bpsp_over_images": sum(rates) / len(rates),
        "bpsp_over_bytes": 8 * size / sum(picture.samples for picture in pictures),
        "encode_mps": megapixels / sum(c.encode_seconds for c in coded),
        "decode_mps": megapixels / sum(c.decode_seconds for c in coded),
    }


def estimates(pictures: Sequence[Picture]) -> dict[str, float | int]:
    """Compare what holds the color with the exact model's own estimate, where the model coded it."""
    held = [(p.color_bytes, p.estimate_bits / 8) for p in pictures if p.estimate_bits]
    if not held:
        return {"images": 0}
    size, estimate = (sum(column) for column in zip(*held, strict=True))
    worst = max(size / estimate - 1 for size, estimate in held)
    return {"images": len(held), "overhead": size / estimate - 1, "largest_overhead": worst}


def excess(picture: Picture) -> int:
    """Bytes of the gencodec file beyond those of WebP, or of PNG where WebP cannot hold the samples."""
    coded = picture.coded
    return coded["gencodec"].bytes - coded["WebP" if "WebP" in coded else "PNG"].bytes


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)

"""Pictures to look at: where a codec does best and worst, and what lossy ones leave of a detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.image import Image
from gencodec.errors import GencodecError
from gencodec.evaluation import contenders, summary
from gencodec.evaluation.contenders import Entry
from gencodec.evaluation.corpus import Picture
from gencodec.evaluation.measure import Row
from gencodec.evaluation.protocol import Options
from gencodec.evaluation.store import Results

COUNT = 2
"""Images shown at each end."""
THUMBNAIL, CROP = 240, 128
"""Sides in pixels."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Panel:
    """A picture to be shown, uint8 (height, width, 3), and what is said below it."""

    caption: str
    pixels: Pixels


@dataclass(frozen=True)
class Sample:
    """One image: what is remarkable about it, a small view, and details."""

    title: str
    thumbnail: Panel
    crops: list[Panel]


def lossless(results: Results, pictures: Sequence[Picture]) -> list[Sample]:
    """Where the first lossless model, or codec, does best and worst against the reference; empty without both."""
    names = [name for name, entry in results.contenders.items() if entry["lossless"] and results.of(name)]
    ours = next((name for name in names if results.contenders[name]["model"]), None)
    base = next((n for n in (summary.reference(results), *names) if n and n != ours), None)
    if ours is None or base is None:
        return []
    theirs = {row.image: row for row in results.of(base)}
    ratios = {
        row.image: (row.bytes or 0) / (other.bytes or 1)
        for row in results.of(ours)
        if (other := theirs.get(row.image)) is not None
    }
    found = []
    for image, word in _ends(ratios):
        rates = {name: row.bpsp for name in names for row in results.of(name) if row.image == image}
        text = ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items())
        view = _view(pictures, image)
        if view is not None:
            title = f"{word}: {image}, {ours} takes {ratios[image]:.3f} of {base}"
            place = detail(view, np.roll(view, 1, axis=1))
            found.append(
                Sample(title, Panel(f"bpsp: {text}", thumbnail(view)), [Panel("its busiest part", view[place])])
            )
    return found


def lossy(results: Results, pictures: Sequence[Picture]) -> list[Sample]:
    """Where the first lossy model, or codec, is best and worst by PSNR, each beside all others at about its bytes."""
    sweeps = _sweeps(results)
    ours = next((codec for codec, (entry, _) in sweeps.items() if entry["model"]), next(iter(sweeps), None))
    if ours is None:
        return []
    middle = sweeps[ours][1][len(sweeps[ours][1]) // 2]
    psnr = {row.image: row.psnr for row in middle.values() if row.psnr is not None}
    found = []
    for image, word in _ends({name: -value for name, value in psnr.items()}):
        view = _view(pictures, image)
        if view is None:
            continue
        chosen = {codec: _nearest(rows, middle[image]) for codec, (_, rows) in sweeps.items()}
        made = {codec: (row, _decoded(results, row, pictures)) for codec, row in chosen.items() if row}
        crops = _crops(view, {codec: pair for codec, pair in made.items() if pair[1] is not None}, ours)
        title = f"{word}: {image}, {ours} at {middle[image].bpp:.3f} bpp has {psnr[image]:.2f} dB"
        found.append(Sample(title, Panel(f"{view.shape[1]} x {view.shape[0]} pixels", thumbnail(view)), crops))
    return found


def _sweeps(results: Results) -> dict[str, tuple[dict[str, Any], list[dict[str, Row]]]]:
    """Of every lossy codec an entry, and its rows by image, one quality after the other, by rate."""
    found: dict[str, tuple[dict[str, Any], list[dict[str, Row]]]] = {}
    for name, entry in results.contenders.items():
        rows = {row.image: row for row in results.of(name)}
        if not entry["lossless"] and rows:
            found.setdefault(entry["codec"], (entry, []))[1].append(rows)
    for _, sweep in found.values():
        sweep.sort(key=lambda rows: sum(row.bpp or 0 for row in rows.values()) / len(rows))
    return found


def _ends(values: Mapping[str, float]) -> list[tuple[str, str]]:
    """Names of the least and the greatest values, each with the word best or worst."""
    order = sorted(values, key=lambda name: values[name])
    count = min(COUNT, len(order) // 2) or min(1, len(order))
    worst = [name for name in reversed(order[-count:]) if name not in order[:count]]
    return [(name, "best") for name in order[:count]] + [(name, "worst") for name in worst]


def _nearest(sweep: Sequence[Mapping[str, Row]], target: Row) -> Row | None:
    """Of a codec's files of an image the one nearest in bytes."""
    rows = [rows[target.image] for rows in sweep if target.image in rows]
    return min(rows, key=lambda row: abs((row.bytes or 0) - (target.bytes or 0)), default=None)


def _crops(view: Pixels, made: Mapping[str, tuple[Row, Any]], ours: str) -> list[Panel]:
    """The detail in which ours errs most: as it is, and as every codec leaves it."""
    if ours not in made:
        return []
    place = detail(view, made[ours][1])
    panels = [Panel("original", view[place])]
    for codec, (row, pixels) in made.items():
        psnr = f", {row.psnr:.2f} dB" if row.psnr is not None else ""
        panels.append(Panel(f"{codec}, {row.bpp:.3f} bpp{psnr}", pixels[place]))
    return panels


def detail(view: Pixels, decoded: Pixels, side: int = CROP) -> tuple[slice, slice]:
    """The square in which two pictures (height, width, 3) differ most, on a grid of half its side."""
    errors = np.square(view.astype(np.float64) - decoded).sum(2).cumsum(0).cumsum(1)
    errors = np.pad(errors, ((1, 0), (1, 0)))
    height, width = (min(side, length) for length in view.shape[:2])
    tops, lefts = (
        np.unique(np.append(np.arange(0, length - part, max(1, side // 2)), length - part))
        for length, part in zip(view.shape[:2], (height, width), strict=True)
    )
    rows, columns = np.ix_(tops, lefts)
    sums = (
        errors[rows + height, columns + width]
        - errors[rows, columns + width]
        - errors[rows + height, columns]
        + errors[rows, columns]
    )
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return slice(tops[top], tops[top] + height), slice(lefts[left], lefts[left] + width)


def _view(pictures: Sequence[Picture], name: str) -> Pixels | None:
    """The picture as it is shown; None where it cannot be read any more."""
    image = _read(pictures, name)
    return None if image is None else shown(image)


def _read(pictures: Sequence[Picture], name: str) -> Image | None:
    picture = next((picture for picture in pictures if picture.name == name), None)
    try:
        return picture.read() if picture else None
    except (GencodecError, OSError):
        return None


def _decoded(results: Results, row: Row, pictures: Sequence[Picture]) -> Pixels | None:
    """What a contender made of a picture, made once more; None where that fails now."""
    options = Options(results.settings["threads"], results.settings["device"])
    entry = Entry(row.codec, row.quality, results.contenders[row.contender]["model"])
    image = _read(pictures, row.image)
    try:
        contender = contenders.make(entry, options)
        return shown(contender.decode(contender.encode(image))) if image else None
    except (GencodecError, OSError):
        return None


def shown(image: Image) -> Pixels:
    """An image as uint8 (height, width, 3), on white where it is transparent."""
    pixels = image.pixels.astype(np.float64)
    if image.pixels.dtype == np.uint16:
        pixels *= 255 / ((1 << image.bit_depth) - 1)
    color = np.repeat(pixels[..., :1], 3, axis=2) if image.channels < 3 else pixels[..., :3]
    if image.has_alpha:
        alpha = pixels[..., -1:] / 255
        color = color * alpha + 255 * (1 - alpha)
    return np.rint(color).astype(np.uint8)


def thumbnail(pixels: Pixels, side: int = THUMBNAIL) -> Pixels:
    """The picture within a square of `side` pixels."""
    from PIL import Image as PillowImage

    picture = PillowImage.fromarray(pixels)
    picture.thumbnail((side, side))
    return np.asarray(picture)

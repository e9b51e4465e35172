"""What the rows of a run amount to: means over images and over bytes, ratios to a named codec, curves and BD-rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gencodec.evaluation.measure import Row

if TYPE_CHECKING:
    from gencodec.evaluation.store import Results

REFERENCES = ("jxl", "webp", "png")
"""Sizes and speeds of lossless codecs are given relative to the first of these that was measured."""
ANCHORS = ("webp-lossy", "jpeg", "avif")
"""BD-rates likewise."""


@dataclass(frozen=True)
class Totals:
    """One contender's images added up.

    Rates in bits per sample (`bpsp`) and per pixel (`bpp`): of each image, then the mean, and of all bytes over all
    samples. Speeds in megapixels a second, of all pixels over all seconds. `overhead`: of all files against their
    models' estimates, and `largest_overhead` that of one file, None without estimates. `initial_share`: of the bytes,
    what bits-back codes directly. `psnr` and `ms_ssim` are means over images.
    """

    images: int
    bytes: int
    bpsp_over_images: float
    bpsp_over_bytes: float
    bpp_over_images: float
    bpp_over_bytes: float
    encode_seconds: float
    decode_seconds: float
    slowest_decode_seconds: float
    encode_mps: float
    decode_mps: float
    peak_bytes: int | None
    modelled: int
    overhead: float | None
    largest_overhead: float | None
    initial_share: float | None
    psnr: float | None
    ms_ssim: float | None


def totals(rows: Sequence[Row]) -> Totals | None:
    """Add up finished rows of one contender; None if there are none."""
    rows = [row for row in rows if row.done]
    if not rows:
        return None
    size = _sum(row.bytes for row in rows)
    pixels = _sum((row.width or 0) * (row.height or 0) for row in rows)
    samples = sum((row.width or 0) * (row.height or 0) * (row.channels or 0) for row in rows)
    encode, decode = (_sum(getattr(row, f"{way}_seconds") for row in rows) for way in ("encode", "decode"))
    modelled = [row for row in rows if row.overhead is not None]
    estimate = _sum(row.estimate_bits for row in modelled)
    initial = [row.initial_bits for row in rows if row.initial_bits is not None]
    return Totals(
        images=len(rows),
        bytes=int(size),
        bpsp_over_images=mean(row.bpsp for row in rows) or 0.0,
        bpsp_over_bytes=8 * size / samples,
        bpp_over_images=mean(row.bpp for row in rows) or 0.0,
        bpp_over_bytes=8 * size / pixels,
        encode_seconds=encode / len(rows),
        decode_seconds=decode / len(rows),
        slowest_decode_seconds=max(row.decode_seconds or 0.0 for row in rows),
        encode_mps=pixels / 1e6 / encode,
        decode_mps=pixels / 1e6 / decode,
        peak_bytes=max((row.peak_bytes for row in rows if row.peak_bytes is not None), default=None),
        modelled=len(modelled),
        overhead=8 * _sum(row.bytes for row in modelled) / estimate - 1 if modelled else None,
        largest_overhead=max((row.overhead or 0.0 for row in modelled), default=None),
        initial_share=sum(initial) / (8 * size) if initial else None,
        psnr=mean(row.psnr for row in rows),
        ms_ssim=mean(row.ms_ssim for row in rows),
    )


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def part(results: Results, group: str) -> Results:
    """The results on the images of one folder."""
    rows = [row for row in results.rows if row.image.startswith(f"{group}/")]
    images = {name: reason for name, reason in results.images.items() if name.startswith(f"{group}/")}
    return replace(results, rows=rows, images=images)


def ratios(results: Results, contender: str, reference: str) -> dict[str, float] | None:
    """Bytes and speeds of one contender relative to another's, over the images that both have; None without such."""
    theirs = {row.image: row for row in results.of(reference)}
    ours = [row for row in results.of(contender) if row.image in theirs]
    own, other = totals(ours), totals([theirs[row.image] for row in ours])
    if own is None or other is None:
        return None
    return {key: getattr(own, key) / getattr(other, key) for key in ("bytes", "encode_mps", "decode_mps")}


def reference(results: Results, candidates: Sequence[str] = REFERENCES) -> str | None:
    """The first of the candidates that has rows, else the first lossless contender that has; None without any."""
    lossless = [name for name, entry in results.contenders.items() if entry["lossless"]]
    return next((name for name in (*candidates, *lossless) if name in lossless and results.of(name)), None)


# rate and distortion


@dataclass(frozen=True)
class Point:
    """A lossy codec at one quality: means over images of bits per pixel, PSNR in dB, and MS-SSIM."""

    bpp: float
    psnr: float | None
    ms_ssim: float | None
    quality: float | None = None


def curves(results: Results, images: set[str] | None = None) -> dict[str, list[Point]]:
    """The curve of every lossy codec over the images that all its qualities have; perhaps of `images` only."""
    found: dict[str, list[list[Row]]] = {}
    for name, entry in results.contenders.items():
        rows = [row for row in results.of(name) if images is None or row.image in images]
        if not entry["lossless"] and rows:
            found.setdefault(entry["codec"], []).append(rows)
    return {codec: curve(sweep) for codec, sweep in found.items()}


def curve(sweep: Sequence[Sequence[Row]]) -> list[Point]:
    """The points of a codec's rows, one list a quality, over the images that all of these have."""
    held = set.intersection(*({row.image for row in rows} for rows in sweep))
    points = []
    for rows in sweep:
        common = [row for row in rows if row.image in held]
        if common:
            psnr, ms_ssim = mean(row.psnr for row in common), mean(row.ms_ssim for row in common)
            points.append(Point(mean(row.bpp for row in common) or 0.0, psnr, ms_ssim, common[0].quality))
    return sorted(points, key=lambda point: point.bpp)


def bd_rate(anchor: Sequence[Point], test: Sequence[Point], metric: str = "psnr") -> float | None:
    """BD-rate: by what share more bytes the test takes for the anchor's quality, over the qualities that both reach.

    `metric` is psnr, or ms_ssim, which is taken in dB. By piecewise cubic Hermite interpolation of the log rate, as in
    the common test conditions of JCT-VC. None where the curves have fewer than two points, or no quality in common.
    Raises ImportError without the package bjontegaard.
    """
    import bjontegaard
    import numpy as np

    sides = [_increasing(curve, metric) for curve in (anchor, test)]
    if min(map(len, sides)) < 2:
        return None
    (rate_a, quality_a), (rate_b, quality_b) = (np.array(side).T for side in sides)
    if max(quality_a[0], quality_b[0]) >= min(quality_a[-1], quality_b[-1]):
        return None
    found = bjontegaard.bd_rate(
        rate_a, quality_a, rate_b, quality_b, method="pchip", require_matching_points=False, min_overlap=0
    )
    return float(found) / 100  # type: ignore[arg-type]


def within(points: Sequence[Point], low: float, high: float) -> list[Point]:
    """The points of a curve from `low` to `high` bits per pixel, and those beside them, for a BD-rate there."""
    below = [point for point in points if point.bpp < low][-1:]
    above = [point for point in points if point.bpp > high][:1]
    return [*below, *(point for point in points if low <= point.bpp <= high), *above]


def decibels(ms_ssim: float) -> float:
    """MS-SSIM on a logarithmic scale, on which differences near 1 show."""
    from math import log10

    return -10 * log10(max(1 - ms_ssim, 1e-9))


def _increasing(points: Sequence[Point], metric: str) -> list[tuple[float, float]]:
    """Rates and qualities of a curve, without points that are no better than a cheaper one."""
    found: list[tuple[float, float]] = []
    for point in points:
        value = getattr(point, metric)
        if value is None:
            continue
        value = decibels(value) if metric == "ms_ssim" else value
        if not found or (point.bpp > found[-1][0] and value > found[-1][1]):
            found.append((point.bpp, value))
    return found


def _sum(values: Iterable[float | None]) -> float:
    return sum(value for value in values if value is not None)

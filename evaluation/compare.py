"""Two runs beside each other: what changed, and how sure that is, by the paired bootstrap over images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from gencodec.evaluation import summary
from gencodec.evaluation.measure import Row
from gencodec.evaluation.store import Results

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Change:
    """How one codec changed from the first run to the second: the share by which it takes more.

    `measure` is "bytes" over all images, or for lossy codecs "BD-rate", the mean over the images. `low` and `high`
    bound the change with 95 % confidence, as for other images of the same kind. The speeds are ratios.
    """

    codec: str
    measure: str
    images: int
    change: float
    low: float
    high: float
    encode_speed: float
    decode_speed: float


@dataclass(frozen=True)
class Comparison:
    """The changes of all codecs that both runs have; what one has alone; and what failed in the second run alone."""

    changes: list[Change]
    unmatched: list[str]
    broken: list[str]

    def worst(self) -> float:
        """The largest change; minus infinity where there is nothing to compare."""
        return max((change.change for change in self.changes), default=-inf)


def compare(first: Results, second: Results) -> Comparison:
    """Compare over the images that both runs have with the same content. Raises ImportError for lossy codecs without
    the package bjontegaard.
    """
    changes, unmatched = [], []
    a, b = _by_codec(first), _by_codec(second)
    for codec in dict.fromkeys([*a, *b]):
        found = _change(codec, a[codec], b[codec]) if codec in a and codec in b else None
        if found:
            changes.append(found)
        else:
            unmatched.append(codec)
    done = {(row.image, row.contender) for row in first.rows if row.done}
    broken = [row for row in second.rows if row.error and (row.image, row.contender) in done]
    # An image that was gone before the run began has a reason, and no row.
    lost = {image for image, _ in done} - {row.image for row in second.rows}
    unread = [f"{image}: {reason}" for image, reason in second.images.items() if reason and image in lost]
    return Comparison(changes, unmatched, unread + [f"{row.image} by {row.contender}: {row.error}" for row in broken])


Sweep = dict[float | None, dict[tuple[str, str], Row]]
"""A codec's rows by quality and by image with its hash."""


def _by_codec(results: Results) -> dict[str, Sweep]:
    found: dict[str, Sweep] = {}
    for row in results.rows:
        if row.done:
            found.setdefault(row.codec, {}).setdefault(row.quality, {})[row.image, row.sha256] = row
    return found


def _change(codec: str, a: Sweep, b: Sweep) -> Change | None:
    """The change of one codec; None where the runs have no image, or no quality, in common."""
    images = sorted(set.intersection(*(set(rows) for sweep in (a, b) for rows in sweep.values())))
    if not images:
        return None
    sides = [[rows[image] for rows in sweep.values() for image in images] for sweep in (a, b)]
    own, other = (summary.totals(side) for side in sides)
    assert own is not None
    assert other is not None
    speeds = other.encode_mps / own.encode_mps, other.decode_mps / own.decode_mps
    if None in a and None in b:
        sizes = np.array([[sweep[None][image].bytes for image in images] for sweep in (a, b)], float)
        return Change(codec, "bytes", len(images), *_bootstrap(sizes, _growth), *speeds)
    rates = [rate for image in images if (rate := _bd_rate(a, b, image)) is not None]
    if not rates:
        return None
    return Change(codec, "BD-rate", len(rates), *_bootstrap(np.array([rates]), _mean), *speeds)


def _bd_rate(a: Sweep, b: Sweep, image: tuple[str, str]) -> float | None:
    """How much more the second run takes for one image at equal PSNR."""
    first, second = (summary.curve([[rows[image]] for rows in sweep.values()]) for sweep in (a, b))
    return summary.bd_rate(first, second)


def _growth(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share by which the bytes (2, ..., images) grow from the first to the second."""
    total = sizes.sum(-1)
    return total[1] / total[0] - 1


def _mean(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    return rates[0].mean(-1)


def _bootstrap(
    values: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> tuple[float, float, float]:
    """A statistic of values (sides, images), and the bounds of its percentile bootstrap over images."""
    count = values.shape[1]
    chosen = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    low, high = np.quantile(statistic(values[:, chosen]), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(statistic(values)), float(low), float(high)


def table(comparison: Comparison) -> list[list[str]]:
    """The changes as a table, what grew most first."""
    heads = ["codec", "images", "measure", "change", "95 % confidence", "encode speed", "decode speed"]
    lines = [
        [
            change.codec,
            str(change.images),
            change.measure,
            f"{change.change:+.3%}",
            f"{change.low:+.3%} to {change.high:+.3%}",
            f"{change.encode_speed:.2f} times",
            f"{change.decode_speed:.2f} times",
        ]
        for change in sorted(comparison.changes, key=lambda change: -change.change)
    ]
    return [heads, *lines]

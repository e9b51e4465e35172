"""Plots of a run as SVG. They need matplotlib, which gencodec[evaluate] brings."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gencodec.evaluation import summary
from gencodec.evaluation.store import Results
from gencodec.evaluation.summary import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, OTHERS = "#0b6e4f", "#8a8f98"
CYCLE = ("#0b6e4f", "#c1440e", "#2a5caa", "#8e44ad", "#b8860b", "#17808a", "#b03060", "#5b6770", "#6b8e23", "#000000")
LINES = ("-", "--", ":")
STYLE = {
    "svg.fonttype": "none",  # letters as letters: small, and to be searched
    "svg.hashsalt": "gencodec",  # the same figures give the same file
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e6ea",
    "axes.axisbelow": True,
}
AXES = {"psnr": "PSNR, dB, red, green and blue", "ms_ssim": "MS-SSIM, dB: -10 log10(1 - MS-SSIM)"}


def rate_bars(results: Results) -> str:
    """Bits per sample of the lossless contenders, mean over images, the smallest on top; empty without any."""
    found = [(name, t) for name in _lossless(results) if (t := summary.totals(results.of(name)))]
    if not found:
        return ""
    found.sort(key=lambda item: -item[1].bpsp_over_images)
    names = [name for name, _ in found]
    rates = [totals.bpsp_over_images for _, totals in found]
    with _figure(7.2, 0.8 + 0.34 * len(found)) as (figure, axes):
        bars = axes.barh(names, rates, color=[_color(results, name) for name in names], height=0.7)
        axes.bar_label(bars, [f"{rate:.3f}" for rate in rates], padding=3)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("bits per sub-pixel, mean over images")
        axes.set_xlim(0, max(rates) * 1.1)
        return _svg(figure)


def speeds(results: Results, way: str) -> str:
    """Speed (`encode` or `decode`) of the lossless contenders against their rate; empty without any."""
    found = [(name, t) for name in _lossless(results) if (t := summary.totals(results.of(name)))]
    if not found:
        return ""
    with _figure(5.4, 4) as (figure, axes):
        for name, totals in found:
            x, y = getattr(totals, f"{way}_mps"), totals.bpsp_over_images
            axes.scatter([x], [y], color=_color(results, name), zorder=3)
            axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=9)
        axes.set_xscale("log")
        axes.margins(0.18, 0.12)
        axes.set_xlabel(f"megapixels {way}d a second")
        axes.set_ylabel("bits per sub-pixel")
        return _svg(figure)


def rate_distortion(
    curves: Mapping[str, Sequence[Point]],
    metric: str,
    published: Mapping[str, Sequence[Point]] | None = None,
    limit: float = 2.0,
) -> str:
    """Curves of lossy codecs, psnr or ms_ssim against bits per pixel up to `limit`; `published` ones dotted."""
    with _figure(5.8, 4.6) as (figure, axes):
        for index, (name, points) in enumerate(curves.items()):
            color, line = CYCLE[index % len(CYCLE)], LINES[index // len(CYCLE) % len(LINES)]
            axes.plot(*_line(points, metric, limit), line, color=color, marker="o", markersize=3, label=name)
        for index, (name, points) in enumerate((published or {}).items()):
            color = CYCLE[-1 - index % len(CYCLE)]
            axes.plot(*_line(points, metric, limit), ":", color=color, marker="x", markersize=4, label=name)
        axes.set_xlabel("bits per pixel, whole files, mean over images")
        axes.set_ylabel(AXES[metric])
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=9)
        return _svg(figure)


def _line(points: Sequence[Point], metric: str, limit: float) -> tuple[list[float], list[float]]:
    """Places of the points that have the metric, up to the limit."""
    held = [(p.bpp, getattr(p, metric)) for p in points if p.bpp <= limit and getattr(p, metric) is not None]
    values = [summary.decibels(value) if metric == "ms_ssim" else value for _, value in held]
    return [rate for rate, _ in held], values


def _lossless(results: Results) -> list[str]:
    return [name for name, entry in results.contenders.items() if entry["lossless"]]


def _color(results: Results, name: str) -> str:
    return OURS if results.contenders[name]["model"] else OTHERS


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure of that size in inches, in the style of all plots. Raises ImportError."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = STYLE
    with matplotlib.rc_context(style):
        figure = Figure((width, height), layout="constrained")
        yield figure, figure.subplots()


def _svg(figure: Figure) -> str:
    """The figure as an SVG element, without what stands before it in a file."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]

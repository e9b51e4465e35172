"""Tables in words: for a terminal, for Markdown pages, for the report."""

from __future__ import annotations

from collections.abc import Sequence

from gencodec.evaluation import summary
from gencodec.evaluation.store import Results
from gencodec.evaluation.summary import Point

Table = list[list[str]]
"""Rows of cells; the first row is the heads, the first column the names."""

RULES = (
    "Every size is that of a whole file, header included; every file was decoded, and compared (lossless) or measured"
    " against the original (lossy).",
    "bpsp: bits per sub-pixel, that is per sample; bpp: bits per pixel. Means over images weigh each image alike,"
    " means over bytes each sample.",
    "Baselines have a color transform where their format knows one; their settings and versions are named.",
    "The model's estimate is its own code length; the overhead is what the whole file takes beyond it. Of bits-back"
    " codecs the initial bits are in the file, and counted.",
    "Speeds are of the same run on the same machine, once libraries and models are loaded, and are best read as ratios."
    " Memory is what coding and decoding added to the process at its highest.",
    "PSNR is of one mean square error over red, green and blue, MS-SSIM the mean over the three; both then are means"
    " over images. BD-rate: bytes more than the anchor for equal quality, over the qualities that both reach.",
)


def lossless(results: Results) -> Table:
    """One line a lossless contender, the smallest first; those that are missing, or have no image, say so."""
    base = summary.reference(results)
    table = [["codec", "images", "bpsp over images", "over bytes", f"bytes to {base or '-'}", "overhead"]]
    table[0] += ["encode MP/s", "decode MP/s", "memory MB", "version"]
    lines: list[tuple[float, list[str]]] = []
    for name, entry in results.contenders.items():
        if not entry["lossless"]:
            continue
        found = summary.totals(results.of(name))
        if found is None:
            lines.append((float("inf"), [name, "0", *["-"] * 7, entry["missing"] or entry["version"]]))
            continue
        to = summary.ratios(results, name, base) if base else None
        cells = [str(found.images), f"{found.bpsp_over_images:.3f}", f"{found.bpsp_over_bytes:.3f}"]
        cells += [f"{to['bytes']:.3f}" if to else "-", _share(found.overhead)]
        cells += [f"{found.encode_mps:.2f}", f"{found.decode_mps:.2f}", _megabytes(found.peak_bytes)]
        lines.append((found.bpsp_over_bytes, [name, *cells, entry["version"]]))
    return table + [line for _, line in sorted(lines, key=lambda line: line[0])] if lines else []


def lossy(results: Results) -> Table:
    """One line a lossy codec: its range, and BD-rates against the anchors; empty without lossy codecs."""
    curves = summary.curves(results)
    codecs = {entry["codec"]: entry for entry in results.contenders.values() if not entry["lossless"]}
    if not codecs:
        return []
    anchors = [name for name in summary.ANCHORS if name in curves]
    table = [["codec", "bpp", "PSNR dB", "MS-SSIM"]]
    table[0] += [f"BD-rate to {name}, {metric}" for name in anchors for metric in ("PSNR", "MS-SSIM")] + ["version"]
    for codec, entry in codecs.items():
        points = curves.get(codec)
        if not points:
            reason = entry["missing"] or entry["version"]
            table.append([codec, *["-"] * (len(table[0]) - 2), reason])
            continue
        cells = [_range(points, "bpp", 2), _range(points, "psnr", 1), _range(points, "ms_ssim", 3)]
        rates = [
            "anchor" if name == codec else bd(curves[name], points, metric)
            for name in anchors
            for metric in ("psnr", "ms_ssim")
        ]
        table.append([codec, *cells, *rates, entry["version"]])
    return table


def bd(anchor: Sequence[Point], points: Sequence[Point], metric: str) -> str:
    """A BD-rate as a cell."""
    try:
        return _share(summary.bd_rate(anchor, points, metric), 1)
    except ImportError:
        return "needs gencodec[evaluate]"


def markdown(table: Table) -> str:
    """A table of Markdown, numbers to the right."""
    if not table:
        return ""
    head, *lines = table
    marks = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, marks, *lines]) + "\n"


def plain(table: Table) -> str:
    """A table for a terminal."""
    if not table:
        return ""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others[:-1], cells[-1]]))
    return "\n".join(lines) + "\n"


def _range(points: Sequence[Point], key: str, digits: int) -> str:
    known = [value for point in points if (value := getattr(point, key)) is not None]
    return f"{min(known):.{digits}f} to {max(known):.{digits}f}" if known else "-"


def _share(share: float | None, digits: int = 2) -> str:
    return "-" if share is None else f"{share:+.{digits}%}"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"

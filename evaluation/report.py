"""The report: one HTML file that holds all it shows, without scripts and without anything to fetch."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from gencodec.codec.atomic import write_file
from gencodec.evaluation import plots, samples, summary, tables
from gencodec.evaluation.corpus import Picture
from gencodec.evaluation.samples import Panel, Sample
from gencodec.evaluation.store import PAGE, Results

FAILURES_SHOWN = 50
MISSING = "Plots and BD-rates need more packages: <code>pip install 'gencodec[evaluate]'</code>."

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2126; background: #fff; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; }
p.lead { color: #59636e; margin: .2rem 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e4e6ea; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
tr.ours td { background: #eef7f3; font-weight: 600; }
svg { max-width: 100%; height: auto; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: 0 0 1rem; } figcaption { font-size: .82rem; color: #59636e; max-width: 16rem; }
img.crop { image-rendering: pixelated; width: 16rem; } li { margin-bottom: .3rem; }
"""


def write(results: Results, folder: Path, pictures: Sequence[Picture] = ()) -> Path:
    """Write the report of a run into a folder; `pictures` are shown where they can still be read. Raises OSError."""
    path = folder / PAGE
    write_file(path, page(results, pictures).encode())
    return path


def page(results: Results, pictures: Sequence[Picture] = ()) -> str:
    """The whole page."""
    good = sum(not reason for reason in results.images.values())
    machine, settings = results.machine, results.settings
    lead = (
        f"{good} images, {len(results.contenders)} contenders, gencodec {results.version}, {results.date}; on"
        f" {machine['processor']}, {machine['cores']} cores, {settings['threads']} threads a codec,"
        f" {settings['jobs']} at a time, device {settings['device']}. Images: SHA-256 {results.corpus[:16]}."
    )
    parts = [
        _section("Lossless", _table(tables.lossless(results), results)),
        _section("Rates", _plots(lambda: [plots.rate_bars(results)])),
        _section("Speed against rate", _plots(lambda: [plots.speeds(results, way) for way in ("encode", "decode")])),
        _section("Lossy", _table(tables.lossy(results), results)),
        _section("Rate and distortion", _rate_distortion(results)),
        _section("Best and worst images, lossless", _samples(samples.lossless(results, pictures))),
        _section("Best and worst images, lossy", _samples(samples.lossy(results, pictures))),
        _section("Failures and what was left out", _failures(results)),
        _section("Contenders", _table(_settings(results), results)),
        _section(
            "How it was measured", "<ul>" + "".join(f"<li>{escape(rule)}</li>" for rule in tables.RULES) + "</ul>"
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>gencodec evaluate</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n<body><h1>Compression rates</h1><p class=lead>{escape(lead)}</p>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    """A heading and what belongs to it; nothing where there is nothing."""
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>" if content else ""


def _table(table: tables.Table, results: Results) -> str:
    """A table; the lines of gencodec's models stand out."""
    if not table:
        return ""
    ours = {entry["codec"] for entry in results.contenders.values() if entry["model"]}
    head, *lines = table
    body = "".join(f"<tr{' class=ours' if line[0] in ours else ''}>{_cells('td', line)}</tr>\n" for line in lines)
    return f"<div class=scroll><table><thead><tr>{_cells('th', head)}</tr></thead><tbody>\n{body}</tbody></table></div>"


def _cells(tag: str, line: list[str]) -> str:
    return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line)


def _settings(results: Results) -> tables.Table:
    """Every contender with its settings, a sweep as its ends."""
    sweeps: dict[str, list[dict[str, str]]] = {}
    for entry in results.contenders.values():
        sweeps.setdefault(entry["codec"], []).append(entry)
    lines = []
    for codec, entries in sweeps.items():
        settings = entries[0]["missing"] or " ... ".join(
            dict.fromkeys(e["settings"] for e in (entries[0], entries[-1]))
        )
        lines.append([codec, str(len(entries)), f"{entries[0]['version']}: {settings}".removeprefix(": ")])
    return [["codec", "settings", "version and settings"], *lines]


def _plots(draw: Callable[[], list[str]]) -> str:
    """Plots beside each other, or what they need."""
    try:
        found = [plot for plot in draw() if plot]
    except ImportError:
        return f"<p>{MISSING}</p>"
    return f"<div class=row>{''.join(found)}</div>" if found else ""


def _rate_distortion(results: Results) -> str:
    curves = summary.curves(results)
    return _plots(lambda: [plots.rate_distortion(curves, metric) for metric in ("psnr", "ms_ssim")]) if curves else ""


def _samples(found: list[Sample]) -> str:
    parts = []
    for sample in found:
        figures = _figure(sample.thumbnail, "thumbnail") + "".join(_figure(panel, "crop") for panel in sample.crops)
        parts.append(f"<h3>{escape(sample.title)}</h3><div class=row>{figures}</div>")
    return "\n".join(parts)


def _figure(panel: Panel, kind: str) -> str:
    height, width = panel.pixels.shape[:2]
    caption = escape(panel.caption)
    image = f'<img class={kind} width={width} height={height} alt="{caption}" src="{_png(panel)}">'
    if kind == "crop":
        image = f'<img class=crop alt="{caption}" src="{_png(panel)}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _png(panel: Panel) -> str:
    """The picture as a data URL."""
    from PIL import Image as PillowImage

    file = io.BytesIO()
    PillowImage.fromarray(panel.pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _failures(results: Results) -> str:
    """What failed, and what formats do not hold; long lists are cut."""
    skipped: dict[str, int] = {}
    for row in results.rows:
        if row.skipped:
            skipped[row.skipped] = skipped.get(row.skipped, 0) + 1
    lines = [*results.failures[:FAILURES_SHOWN], *(f"{reason}: {count} images" for reason, count in skipped.items())]
    if len(results.failures) > FAILURES_SHOWN:
        lines.append(f"and {len(results.failures) - FAILURES_SHOWN} failures more: results.json names them")
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""

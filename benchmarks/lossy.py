"""gencodec's lossy models beside JPEG, WebP, AVIF and JPEG XL in one run, and beside points that others have published.

    python benchmarks/lossy.py KODAK --report report --plots docs/results --page docs/results.md

PSNR-RGB, MS-SSIM and bytes of whole files; BD-rates over the rates that the tables name.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import lossless
import numpy as np
import pages
import published
from PIL import Image as PillowImage

from gencodec import runtime
from gencodec.codec import codecs, vq
from gencodec.codec.api import DEFAULT_LOSSY
from gencodec.codec.image import Image
from gencodec.codec.lossy import level_of
from gencodec.evaluation import baselines, contenders, corpus, metrics, ours, plots, run, samples, summary, tables
from gencodec.evaluation.corpus import Picture
from gencodec.evaluation.measure import Row
from gencodec.evaluation.protocol import Options
from gencodec.evaluation.store import Results
from gencodec.evaluation.summary import Point

OTHERS = ("jpeg", "webp-lossy", "avif", "jxl-lossy")
ANCHORS = ("jpeg", "webp-lossy", "avif")
"""BD-rates are taken against these."""
BESIDE = ("webp-lossy", "avif")
"""Details of these are shown beside ours."""
QUALITIES = (1, 10, 25, 40, 55, 70, 85, 100)
RANGE = (0.15, 1.2)
"""Bits per pixel over which BD-rates are taken."""
SHOWN = 3
"""Images of which a detail is shown."""
SHOWN_BPP, SIDE, GAP = 0.3, 192, 6
"""The rate, nearest to which our file is shown, the side of a detail, and the gap between two, in pixels."""


def arguments() -> argparse.Namespace:
    parser = pages.parser(__doc__)
    parser.add_argument("--models", nargs="*", metavar="NAME", help="names or ONNX files; default: all lossy that ship")
    parser.add_argument("--plots", type=Path, default=Path("docs/results"), metavar="DIR", help="where plots go")
    return parser.parse_args()


def shipped() -> list[str]:
    """The lossy models that ship, the default first: details are shown of it."""
    found = [card for card in runtime.list_models() if card.family in codecs.LOSSY]
    return [card.name for card in sorted(found, key=lambda card: DEFAULT_LOSSY not in card.aliases)]


def measure(args: argparse.Namespace) -> tuple[Results, list[Picture]]:
    """All rows, and the pictures."""
    options = Options(args.threads, args.device, QUALITIES)
    pictures = corpus.find(args.folders, every=args.every)
    models = shipped() if args.models is None else args.models
    entries = contenders.entries(models, OTHERS, options)
    return run.run(pictures, entries, options, args.report, listen=pages.show), pictures


def markdown(results: Results, pictures: Sequence[Picture], plots_at: Path, page: Path | None) -> str:
    """Write plots of every folder, and details of the first; the text that shows them."""
    plots_at.mkdir(parents=True, exist_ok=True)
    found = lossless.sets(results)
    parts = [curves_of(name, part, plots_at, page) for name, part in found.items()]
    first = [picture for picture in pictures if picture.group == pictures[0].group]
    parts += [f"![{text}]({pages.link(path, page)})\n\n{text}\n" for path, text in details(results, first, plots_at)]
    return "\n".join([*parts, legend(results)])


def curves_of(name: str, results: Results, plots_at: Path, page: Path | None) -> str:
    """The table and the two plots of one folder."""
    curves = summary.curves(results)
    whole = name == "kodak" and len(results.images) == published.IMAGES
    others = published.KODAK if whole else {}  # means over fewer images say nothing beside these
    images = f"{len(results.images)} image" + "s" * (len(results.images) > 1)
    parts = [f"### {name}, {images}, with loss\n", tables.markdown(table(results, curves, others))]
    parts += [f"- {codec}: {text}." for codec in curves if (text := savings(results, codec))] + [""]
    for metric, title in (("psnr", "PSNR"), ("ms_ssim", "MS-SSIM")):
        path = plots_at / f"{name}-{metric.replace('_', '-')}.svg"
        path.write_text(plots.rate_distortion(curves, metric, others))
        parts.append(f"![{name}: {title} against bits per pixel]({pages.link(path, page)})\n")
    return "\n".join(parts)


def table(
    results: Results, curves: Mapping[str, Sequence[Point]], others: Mapping[str, Sequence[Point]]
) -> tables.Table:
    """A line a codec: its range, its BD-rates, its estimate, and its times."""
    found = [["", "bpp", *(f"to {anchor}, {metric}" for anchor in ANCHORS for metric in ("PSNR", "MS-SSIM"))]]
    found[0] += ["file over estimate", "encode s", "decode s"]
    for name, points in {**curves, **others}.items():
        ends = f"{points[0].bpp:.3f} to {points[-1].bpp:.3f}"
        rates = [
            tables.bd(summary.within(curves[anchor], *RANGE), summary.within(points, *RANGE), metric)
            for anchor in ANCHORS
            for metric in ("psnr", "ms_ssim")
        ]
        totals = summary.totals([row for row in results.rows if row.codec == name])
        overhead = "" if totals is None or totals.overhead is None else f"{totals.overhead:+.2%}"
        seconds = [f"{totals.encode_seconds:.2f}", f"{totals.decode_seconds:.2f}"] if totals else ["", ""]
        found.append([name, ends, *rates, overhead, *seconds])
    return found


def savings(results: Results, codec: str) -> str:
    """How much smaller a VQ-VAE's files are than codes of one length; empty for other codecs."""
    rows = [row for row in results.rows if row.codec == codec and row.done]
    if not results.contenders[rows[0].contender]["model"] or ours.parse(codec)[0].family not in vq.FAMILIES:
        return ""
    model = vq.VQCodec(runtime.load(codec))
    bits = sum(
        model.fixed_bits(level_of(row.quality or 0, model.levels), row.height or 0, row.width or 0) for row in rows
    )
    return f"files are {1 - 8 * sum(row.bytes or 0 for row in rows) / bits:.1%} smaller than codes of one length"


def legend(results: Results) -> str:
    low, high = RANGE
    return (
        f"BD-rates, below 0 for smaller files, over {low} to {high} bits per pixel of whole files, means over images;"
        f" of published points as they stand. Seconds an image, mean over the sweep, {results.settings['threads']}"
        f" threads, on {results.machine['processor']}, {results.machine['cores']} cores. Published points, from"
        " CompressAI's repository, stand beside all of Kodak only (`benchmarks/published.py`). Made by"
        " `benchmarks/lossy.py`.\n"
    )


# details


def details(results: Results, pictures: Sequence[Picture], place: Path) -> list[tuple[Path, str]]:
    """Side by side a detail of the original, of ours, and of WebP and AVIF at as many bytes: files and captions."""
    codec = next((e["codec"] for e in results.contenders.values() if e["model"] and not e["lossless"]), None)
    if codec is None:
        return []
    found = []
    for picture in pictures[:: max(1, len(pictures) // SHOWN)][:SHOWN]:
        rows = [row for row in results.rows if row.codec == codec and row.image == picture.name and row.done]
        row = min(rows, key=lambda row: abs((row.bpp or 0) - SHOWN_BPP))
        path = place / f"detail-{picture.path.stem}.png"
        found.append((path, detail(results, picture, row, path)))
    return found


def detail(results: Results, picture: Picture, row: Row, path: Path) -> str:
    """Write the detail where ours errs most; what it shows."""
    options = Options(results.settings["threads"], results.settings["device"])
    image = picture.read()
    contender = contenders.make(contenders.Entry(row.codec, row.quality, True), options)
    decoded = {row.codec: (row.bytes or 0, contender.decode(contender.encode(image)))}
    decoded |= {codec: at_bytes(codec, image, row.bytes or 0, options.threads) for codec in BESIDE}
    original = samples.shown(image)
    views = [original, *(samples.shown(found) for _, found in decoded.values())]
    rows, columns = samples.detail(original, views[1], SIDE)
    gap = np.full((rows.stop - rows.start, GAP, 3), 255, np.uint8)
    parts = [part for view in views for part in (gap, view[rows, columns])][1:]
    PillowImage.fromarray(np.hstack(parts)).save(path, optimize=True)
    texts = [
        f"{codec} {size} bytes, {metrics.psnr(metrics.color(image.pixels), metrics.color(found.pixels)):.2f} dB"
        for codec, (size, found) in decoded.items()
    ]
    return f"{picture.path.name}: original; {'; '.join(texts)}"


def at_bytes(codec: str, image: Image, size: int, threads: int) -> tuple[int, Image]:
    """The largest file of a codec with qualities from 1 to 100 that is no larger than `size`, or its smallest."""
    low, high = 1, 100
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(baselines.make(codec, middle, threads).encode(image)) <= size
        low, high = (middle, high) if fits else (low, middle - 1)
    contender = baselines.make(codec, low, threads)
    data = contender.encode(image)
    return len(data), contender.decode(data)


def main() -> None:
    args = arguments()
    results, pictures = measure(args)
    text = markdown(results, pictures, args.plots, args.page)
    if args.page:
        pages.insert(args.page, "lossy", text)
    else:
        print(text)


if __name__ == "__main__":
    main()

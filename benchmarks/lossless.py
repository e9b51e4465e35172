"""gencodec beside JPEG XL, WebP and PNG in one run: sizes, speeds and memory of whole, decoded files.

    python benchmarks/lossless.py KODAK GB82 MISC --efforts 1 -o results.json --page README.md

Speeds in the table are those of the first folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import large
import pages

from gencodec import runtime
from gencodec.evaluation import contenders, corpus, run, store, summary
from gencodec.evaluation.measure import Row
from gencodec.evaluation.protocol import Options
from gencodec.evaluation.store import Results

REFERENCE = "jxl"
"""The codec that sizes and speeds are given relative to."""


def arguments() -> argparse.Namespace:
    parser = pages.parser(__doc__)
    parser.add_argument("--e9", action="store_true", help="JPEG XL at effort 9 too")
    parser.add_argument("--efforts", type=int, nargs="*", default=[], help="of gencodec, besides the default")
    parser.add_argument("--model", default="photo")
    parser.add_argument("--wheel", type=Path, help="a built wheel, for its size")
    parser.add_argument("--sets-only", action="store_true", help="no large photographs and no processes")
    parser.add_argument("-o", "--output", type=Path, help="where the JSON goes (default: standard output)")
    return parser.parse_args()


def models(args: argparse.Namespace) -> list[str]:
    """The model, at other efforts too, and by its full name, by which it does not look for color codes."""
    card = runtime.find_model(args.model)
    plain = [card.name] if args.efforts and card.for_codes and args.model != card.name else []
    return [*by_effort(args), *plain]


def by_effort(args: argparse.Namespace) -> list[str]:
    """The model at the default effort and at others."""
    return [args.model, *(f"{args.model}@{effort}" for effort in args.efforts)]


def measure(args: argparse.Namespace) -> tuple[Results, dict[str, Any]]:
    """All rows, and what else the arguments ask for."""
    options = Options(args.threads, args.device)
    baselines = [REFERENCE, *(["jxl-e9"] if args.e9 else []), "webp", "png"]
    pictures = corpus.find(args.folders, every=args.every)
    entries = contenders.entries(models(args), baselines, options)
    results = run.run(pictures, entries, options, args.report, listen=pages.show)
    first = [picture for picture in pictures if picture.group == pictures[0].group]
    whole = not args.sets_only
    sizes = {large.SIZE: by_effort(args), large.LARGER: [args.model]} if whole else {}
    return results, {
        "large": [
            large.speed(first, contenders.entries(names, [REFERENCE], options), options, size)
            for size, names in sizes.items()
        ],
        "memory": large.memory(first, options) if whole else None,
        "process": large.one_process(first, options) if whole else None,
        "wheel_bytes": args.wheel.stat().st_size if args.wheel else None,
    }


def sets(results: Results) -> dict[str, Results]:
    """The results of each folder, by its name."""
    groups = dict.fromkeys(name.partition("/")[0] for name in results.images)
    return {group: summary.part(results, group) for group in groups}


def markdown(results: Results, others: dict[str, Any]) -> str:
    """Write the table of all codecs and folders, and below it what else was measured."""
    found = sets(results)
    first = next(iter(found.values()))
    table = [["", *(f"{name}, {len(part.images)} images" for name, part in found.items())]]
    table[0] += ["encode MP/s", "decode MP/s"]
    table.append(["---", *("---:" for _ in table[0][1:])])
    for name, entry in results.contenders.items():
        title = f"**{name}**" if entry["model"] else f"{name} ({entry['version']})"
        table.append([title, *(size(part, name) for part in found.values()), *speeds(first, name)])
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n".join(lines) + f"\n\n{legend(results, next(iter(found)))}\n\n{facts(found, others)}\n"


def size(part: Results, name: str) -> str:
    """Bits per sub-pixel, and in brackets the bytes relative to the reference."""
    totals, ratios = summary.totals(part.of(name)), summary.ratios(part, name, REFERENCE)
    if totals is None or ratios is None:
        return "-"
    count = "" if totals.images == len(part.images) else f", {totals.images} images"
    return f"{totals.bpsp_over_images:.3f} ({ratios['bytes']:.3f}{count})"


def speeds(part: Results, name: str) -> list[str]:
    """Speeds, and in brackets relative to the reference."""
    totals, ratios = summary.totals(part.of(name)), summary.ratios(part, name, REFERENCE)
    ways = ("encode_mps", "decode_mps")
    return [f"{getattr(totals, way):.2f} ({ratios[way]:.2f})" if totals and ratios else "-" for way in ways]


def legend(results: Results, first: str) -> str:
    machine = results.machine
    return (
        f"Bits per sub-pixel of whole files, mean over the images; in brackets, bytes relative to {REFERENCE}, JPEG XL"
        f" at effort 7, over the same images. Speeds on {first}, in brackets relative to {REFERENCE}. All of one run,"
        f" {results.settings['threads']} threads for gencodec and JPEG XL, on {machine['processor']},"
        f" {machine['cores']} cores; every file decoded and compared. `photo@1`: at effort 1;"
        f" `{runtime.find_model('photo').name}`: without looking for color codes. Made by `benchmarks/lossless.py`."
    )


def facts(found: dict[str, Results], others: dict[str, Any]) -> str:
    """One line for each further figure that was measured."""
    lines = [set_facts(name, part) for name, part in found.items()]
    lines += [
        f"{name}, mean of the images' own ratios to {REFERENCE}: {own_ratios(part)}" for name, part in found.items()
    ]
    for photo in others["large"]:
        speeds = ", ".join(
            f"{codec} {found['encode_mps']:.2f} and {found['decode_mps']:.2f}"
            for codec, found in photo.items()
            if isinstance(found, dict)
        )
        lines.append(f"a photo of {photo['width']} x {photo['height']} pixels, encode and decode MP/s: {speeds}")
    lines += [process_facts(figures) for key in ("memory", "process") if (figures := others[key])]
    if others["wheel_bytes"]:
        lines.append(f"the wheel, weights of all families included: {others['wheel_bytes'] / 1e6:.2f} MB")
    return "\n".join(f"- {line[0].upper()}{line[1:]}." for line in lines)


def set_facts(name: str, part: Results) -> str:
    model = next(name for name, entry in part.contenders.items() if entry["model"])
    rows = part.of(model)
    totals, least = summary.totals(rows), excess(part, rows)
    limit = "WebP, or than PNG where WebP cannot hold the image"
    text = f"{name}: no file is more than {least} bytes larger than {limit}"
    if least < 0:
        text = f"{name}: every file is smaller than {limit}, by {-least} bytes at least"
    if totals is None or totals.overhead is None:
        return text
    count = f"{totals.modelled} of {len(part.images)} images are coded by the model"
    return f"{text}; {count}, which take more than its own estimate by {totals.overhead:.2%}"


def own_ratios(part: Results) -> str:
    """Each model's bytes relative to the reference image by image, and then the mean."""
    reference = {row.image: row.bytes or 1 for row in part.of(REFERENCE)}
    models = [name for name, entry in part.contenders.items() if entry["model"]]
    ratios = ([(row.bytes or 0) / reference[row.image] for row in part.of(name)] for name in models)
    return ", ".join(f"{name} {sum(own) / len(own):.3f}" for name, own in zip(models, ratios, strict=True))


def excess(part: Results, rows: Sequence[Row]) -> int:
    """The most bytes of a file beyond those of WebP, or of PNG where WebP cannot hold the samples."""
    limits = {row.image: row.bytes or 0 for codec in ("png", "webp") for row in part.of(codec)}
    return max((row.bytes or 0) - limits[row.image] for row in rows)


def process_facts(found: dict[str, Any]) -> str:
    what = found.get("file") or f"a photo of {found['width']} x {found['height']} pixels"
    ways = ", ".join(
        f"`gencodec {way}` {found[way]['seconds']:.1f} s and {found[way]['peak_bytes'] / 1e6:.0f} MB at most"
        for way in ("compress", "decompress")
    )
    return f"whole processes, {what}: {ways}"


def main() -> None:
    args = arguments()
    results, others = measure(args)
    totals = {
        group: {name: asdict(found) for name in results.contenders if (found := summary.totals(part.of(name)))}
        for group, part in sets(results).items()
    }
    pages.write({"sets": totals} | others | {"run": json.loads(store.as_json(results))}, args.output)
    if args.page:
        pages.insert(args.page, "results", markdown(results, others))


if __name__ == "__main__":
    main()

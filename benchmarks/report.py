"""The results as Markdown, and their place in the README."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from contenders import REFERENCE


def insert(page: Path, mark: str, text: str) -> None:
    """Replace what stands between a file's marks of a name. Raises SystemExit where it has none."""
    marked = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    content = page.read_text()
    if not marked.search(content):
        raise SystemExit(f"{page} has no <!-- {mark} --> and <!-- /{mark} -->")
    page.write_text(marked.sub(lambda marks: marks[1] + text + marks[2], content))


def markdown(results: dict[str, Any]) -> str:
    """Write the table of all codecs and folders, and below it what else was measured."""
    sets: dict[str, Any] = results["sets"]
    heads = [f"{name}, {found['images']} images" for name, found in sets.items()]
    rows = [["", *heads, "encode MP/s", "decode MP/s"]]
    rows.append(["---", *("---:" for _ in rows[0][1:])])
    for codec in results["codecs"]:
        cells = [_size(found, codec) for found in sets.values()]
        rows.append([_title(codec, results), *cells, *_speeds(next(iter(sets.values())), codec)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{table}\n\n{_legend(results)}\n\n{_facts(results)}\n"


def _title(codec: str, results: dict[str, Any]) -> str:
    own = codec.startswith("gencodec")
    return f"**{codec}**" if own else f"{codec} ({results['codecs'][codec]})"


def _size(found: dict[str, Any], codec: str) -> str:
    """Bits per sub-pixel, and in brackets the bytes relative to the reference."""
    totals = found["codecs"][codec]
    if totals is None:
        return "-"
    part = "" if totals["images"] == found["images"] else f", {totals['images']} images"
    return f"{totals['bpsp_over_images']:.3f} ({totals['bytes_ratio']:.3f}{part})"


def _speeds(found: dict[str, Any], codec: str) -> list[str]:
    """Speeds, and in brackets relative to the reference."""
    totals = found["codecs"][codec]
    ways = ("encode_mps", "decode_mps")
    return ["-" if totals is None else f"{totals[w]:.2f} ({totals[f'{w}_ratio']:.2f})" for w in ways]


def _legend(results: dict[str, Any]) -> str:
    machine, first = results["machine"], next(iter(results["sets"]))
    return (
        f"Bits per sub-pixel of whole files, mean over the images; in brackets, bytes relative to {REFERENCE}"
        f" over the same images. Speeds on {first}, in brackets relative to {REFERENCE}. All of one run,"
        f" {results['threads']} threads for gencodec and JPEG XL, on {machine['processor']},"
        f" {machine['cores']} cores; every file decoded and compared. gencodec with the model"
        f" {results['model']['name']} and the one for color codes. Made by `benchmarks/lossless.py`."
    )


def _facts(results: dict[str, Any]) -> str:
    """One line for each further figure that was measured."""
    facts = [_set_facts(name, found) for name, found in results["sets"].items()]
    for key, found in results["float_model"].items():
        facts.append(f"{key}: the exact graph takes {found['loss']:+.2%} against the float model")
    if large := results["large"]:
        width, height = large["width"], large["height"]
        speeds = ", ".join(
            f"{codec} {found['encode_mps']:.2f} and {found['decode_mps']:.2f}"
            for codec, found in large.items()
            if isinstance(found, dict)
        )
        facts.append(f"a photo of {width} x {height} pixels, encode and decode MP/s: {speeds}")
    for key in ("memory", "process"):
        if found := results[key]:
            facts.append(_process_facts(found))
    if results["wheel_bytes"]:
        facts.append(f"the wheel, weights included: {results['wheel_bytes'] / 1e6:.2f} MB")
    return "\n".join(f"- {fact[0].upper()}{fact[1:]}." for fact in facts)


def _set_facts(name: str, found: dict[str, Any]) -> str:
    model, least = found["model"], found["largest_excess_bytes"]
    limit = "WebP, or than PNG where WebP cannot hold the image"
    if least is None:
        return f"{name}: {model['images']} of {found['images']} images are coded by the model"
    text = f"{name}: no file is more than {least} bytes larger than {limit}"
    if least < 0:
        text = f"{name}: every file is smaller than {limit}, by {-least} bytes at least"
    if not model["images"]:
        return text
    count = f"{model['images']} of {found['images']} images are coded by the model"
    return f"{text}; {count}, which take more than its own estimate by {model['overhead']:.2%}"


def _process_facts(found: dict[str, Any]) -> str:
    what = found.get("file") or f"a photo of {found['width']} x {found['height']} pixels"
    ways = ", ".join(
        f"`gencodec {way}` {found[way]['seconds']:.1f} s and {found[way]['peak_bytes'] / 1e6:.0f} MB at most"
        for way in ("compress", "decompress")
    )
    return f"whole processes, {what}: {ways}"

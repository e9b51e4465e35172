"""gencodec beside JPEG XL, WebP and PNG in one run: sizes, speeds and memory of whole, decoded files.

    python benchmarks/lossless.py --kodak DIR --gb82 DIR --misc DIR -o results.json --readme README.md

Folders are given as --kodak, --gb82 and --misc, or as NAME=DIR; speeds in the table are those of the first.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import contenders
import large
import machine
import report
import sets

import gencodec
from gencodec import runtime

NAMED = ("kodak", "gb82", "misc")
LARGE = ("gencodec", "gencodec effort 1", contenders.REFERENCE)
"""What codes large photographs too."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in NAMED:
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("folders", nargs="*", metavar="NAME=DIR", help="further folders of images")
    parser.add_argument("--e9", action="store_true", help="JPEG XL at effort 9 too")
    parser.add_argument("--efforts", type=int, nargs="*", default=[], help="of gencodec, besides the default")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="of the codecs, besides gencodec and the reference")
    parser.add_argument("--threads", type=int, default=2, help="of gencodec and JPEG XL (default: 2)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="photo")
    parser.add_argument("--checkpoint", type=Path, help="compare with the float model of this checkpoint")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=INT", help="sizes of its network")
    parser.add_argument("--wheel", type=Path, help="a built wheel, for its size")
    parser.add_argument("--sets-only", action="store_true", help="no large photographs and no processes")
    parser.add_argument("-o", "--output", type=Path, help="where the JSON goes (default: standard output)")
    parser.add_argument("--readme", type=Path, help="file whose marked part becomes the table")
    args = parser.parse_args()
    if not folders(args):
        parser.error("no folder of images is given")
    return args


def folders(args: argparse.Namespace) -> dict[str, Path]:
    """The folders by name, in the order of the table."""
    named = {name: getattr(args, name) for name in NAMED if getattr(args, name)}
    return named | {name: Path(path) for name, _, path in (text.partition("=") for text in args.folders)}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all that the arguments ask for."""
    efforts = (7, 9) if args.e9 else (7,)
    codecs = list(
        contenders.contenders(efforts, tuple(args.efforts), threads=args.threads, model=args.model, device=args.device)
    )
    if args.only is not None:
        codecs = [c for c in codecs if c.name in ("gencodec", contenders.REFERENCE, *args.only)]
    names = [codec.name for codec in codecs]
    sets.warm_up(codecs)
    pictures = {name: sets.measure_folder(folder, codecs) for name, folder in folders(args).items()}
    card = runtime.find_model(args.model)
    first = next(iter(folders(args).values()))
    whole = not args.sets_only
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "threads": args.threads,
        "device": args.device,
        "gencodec": gencodec.__version__,
        "model": {"name": card.name, "sha256": card.sha256},
        "codecs": {codec.name: codec.version for codec in codecs},
        "sets": {name: sets.summarize(found, names) for name, found in pictures.items()},
        "float_model": float_model(args) if args.checkpoint else {},
        "large": large.speed(first, [c for c in codecs if c.name in LARGE]) if whole else None,
        "memory": large.memory(first, args.threads, args.device) if whole else None,
        "process": large.one_process(first, args.threads, args.device) if whole else None,
        "wheel_bytes": args.wheel.stat().st_size if args.wheel else None,
        "files": {name: [asdict(picture) for picture in found] for name, found in pictures.items()},
    }


def float_model(args: argparse.Namespace) -> dict[str, Any]:
    """Compare with the float model, for every folder that has images for it."""
    import floats

    found = {
        name: floats.compare(args.checkpoint, args.set, folder, args.model, threads=args.threads)
        for name, folder in folders(args).items()
    }
    return {name: figures for name, figures in found.items() if figures["images"]}


def main() -> None:
    args = arguments()
    results = measure(args)
    text = json.dumps(results, indent=1) + "\n"
    if args.output:
        args.output.write_text(text)
    else:
        print(text, end="")
    if args.readme:
        report.insert(args.readme, "results", report.markdown(results))


if __name__ == "__main__":
    main()

"""Bits per dimension of CIFAR-10's test images beside the papers' figures: really coded, decoded and compared.

    python benchmarks/cifar.py --data cifar10 --model glow=glow.onnx --checkpoint glow=glow.pt

Each image is a tile of 32 x 32 of its own: models must have been exported from a training on such tiles. Families that
code by bits-back push all images on one stack by their codec, as bits-back is meant (Townsend et al. 2019, section 3);
what the stack held before is given apart. PixelCNN and PixelRNN code a strip of tiles, which know nothing of each
other, as one picture.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pages
from families import TITLES, pairs
from numpy.typing import NDArray

from gencodec import runtime
from gencodec.codec.bitsback import GROUP, RESERVE, words_of
from gencodec.codec.codecs import BITS_BACK, checked, codec_of, planes_of, tile_codec
from gencodec.codec.coder import IntervalCoder
from gencodec.evaluation import machine
from gencodec.runtime import Model

PAPERS = {
    "nice": 4.48,
    "realnvp": 3.49,
    "glow": 3.35,
    "pixelrnn": 3.00,
    "pixelcnn": 3.03,
    "vae": 4.51,
    "nvae": 2.91,
}
"""Bits per dimension as published, of PixelCNN the gated one; without it 3.14."""
SIDE = 32
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Coded:
    """Images as one model coded them: bytes, those that the stack held before, bits expected, seconds."""

    bytes: int
    initial_bytes: int
    estimate_bits: float
    encode_seconds: float
    decode_seconds: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with test_x.npy")
    parser.add_argument("--model", nargs="+", required=True, metavar="FAMILY=FILE", help="exported models")
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="FAMILY=FILE", help="for what the training took")
    parser.add_argument("--count", type=int, default=1000, help="of the first test images (default: 1000)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, help="where the JSON goes (default: standard output)")
    parser.add_argument("--page", type=Path, help="file whose part between cifar marks becomes the table")
    args = parser.parse_args()
    args.model, args.checkpoint = pairs(parser, args.model), pairs(parser, args.checkpoint)
    if not (args.data / "test_x.npy").is_file():
        parser.error(f"{args.data} has no test_x.npy")
    return args


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Code the images by every model."""
    images = np.load(args.data / "test_x.npy", mmap_mode="r")[: args.count]
    found = {}
    for family, file in args.model.items():
        model = runtime.load(file, threads=args.threads, device=args.device)
        if model.family != family or model.config["tile"] != SIDE:
            raise SystemExit(f"{file} is of {model.family} for tiles of {model.config['tile']}, not {family} of {SIDE}")
        coded = on_a_stack(model, images) if family in BITS_BACK else as_a_strip(model, images)
        rate = 8 * (coded.bytes - coded.initial_bytes) / images.size
        found[family] = asdict(coded) | {"bits_per_dimension": rate, "paper": PAPERS[family]}
        if family in args.checkpoint:
            found[family] |= training(args.checkpoint[family], family)
        text = f"{TITLES[family]}: {rate:.3f} bits per dimension, {PAPERS[family]} in its paper"
        print(text, file=sys.stderr, flush=True)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "threads": args.threads,
        "images": len(images),
        "families": found,
    }


def on_a_stack(model: Model, images: Pixels) -> Coded:
    """Push images (n, 32, 32, 3) on a stack of random bits, and pop them. Raises SystemExit where they differ."""
    codec, tiles = tile_codec(model), planes_of(images)
    initial = np.random.default_rng(0).bytes(int(RESERVE * codec.demand * GROUP / 8) + 1)
    stack = IntervalCoder(words_of(initial))
    before = len(stack.to_bytes())
    begin = time.perf_counter()
    starts = range(0, len(tiles), GROUP)
    for start in starts:
        codec.push(stack, tiles[start : start + GROUP])
    data, bits = stack.to_bytes(), stack.bits
    middle = time.perf_counter()
    stack = IntervalCoder.from_bytes(data)
    for start in reversed(starts):
        expected = tiles[start : start + GROUP]
        check(codec.pop(stack, len(expected)), expected, model)
    end = time.perf_counter()
    return Coded(len(data), before, bits, middle - begin, end - middle)


def as_a_strip(model: Model, images: Pixels) -> Coded:
    """Code images (n, 32, 32, 3) as one picture of them below each other. Raises SystemExit where pixels differ."""
    strip = np.ascontiguousarray(images.reshape(-1, SIDE, 3))
    codec = codec_of(model)
    with checked(model):
        begin = time.perf_counter()
        encoded = codec.encode(strip, model)
        middle = time.perf_counter()
        decoded = codec.decode(encoded.payload, (len(strip), SIDE, 3), model)
        end = time.perf_counter()
    check(decoded, strip, model)
    return Coded(len(encoded.payload), 0, encoded.estimate_bits, middle - begin, end - middle)


def check(decoded: Pixels, expected: Pixels, model: Model) -> None:
    """Raise SystemExit unless both are the same."""
    if not np.array_equal(decoded, expected):
        raise SystemExit(f"{model.card.name} does not give back the pixels")


def training(checkpoint: Path, family: str) -> dict[str, float]:
    """What a training took, by its checkpoint. Needs torch."""
    import torch

    from gencodec.models.families import find_family

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network = find_family(family).restored(state["config"])
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "steps": state["steps"],
        "minutes": state["seconds"] / 60,
    }


HEADS = ("", "bits/dim, coded", "estimated", "in its paper", "bytes", "initial bytes", "parameters", "training")


def markdown(results: dict[str, Any]) -> str:
    """Write the table, the best family first, and what it says."""
    lines = ["| " + " | ".join(HEADS) + " |", "| --- |" + " ---: |" * (len(HEADS) - 1)]
    samples = results["images"] * SIDE * SIDE * 3
    for family, found in sorted(results["families"].items(), key=lambda item: item[1]["bits_per_dimension"]):
        rates = (found["bits_per_dimension"], found["estimate_bits"] / samples)
        net, initial = found["bytes"] - found["initial_bytes"], found["initial_bytes"]
        taken = ["", ""]
        if "parameters" in found:
            taken = [f"{found['parameters']}", f"{found['minutes']:.0f} min, {found['steps']} steps"]
        cells = [TITLES[family], *(f"{rate:.3f}" for rate in rates), f"{found['paper']:.2f}", f"{net}", f"{initial}"]
        lines.append("| " + " | ".join([*cells, *taken]) + " |")
    legend = (
        f"The first {results['images']} test images of CIFAR-10, each a tile of its own, coded, decoded and compared;"
        f" bytes without the initial ones, which bits-back gives back. Made by `benchmarks/cifar.py`."
    )
    return "\n".join(lines) + f"\n\n{legend}\n"


def main() -> None:
    args = arguments()
    results = measure(args)
    pages.write(results, args.output)
    if args.page:
        pages.insert(args.page, "cifar", markdown(results))


if __name__ == "__main__":
    main()

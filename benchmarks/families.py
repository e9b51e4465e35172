"""The families of models beside PNG, WebP and JPEG XL in one run: whole files of photographs, decoded and compared.

    python benchmarks/families.py KODAK --every 4 -o families.json --page docs/models/README.md
    python benchmarks/families.py KODAK --checkpoint glow=glow.pt    # the exact graph against the float network too

Every model that ships is measured, but for the photo codec; --models names others, by name or by ONNX file.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import machine
import numpy as np
import sets
from contenders import REFERENCE, Contender, contenders
from numpy.typing import NDArray
from report import insert

import gencodec
from gencodec import runtime
from gencodec.codec.bitsback import Grid
from gencodec.codec.codecs import AUTOREGRESSIVE, BITS_BACK
from gencodec.codec.image import Pixels
from gencodec.runtime import ModelCard

TITLES = {
    "pixelcnn": "PixelCNN",
    "pixelrnn": "PixelRNN",
    "nice": "NICE",
    "realnvp": "RealNVP",
    "glow": "Glow",
    "vae": "VAE",
    "nvae": "NVAE",
}
OTHERS = ("PNG", "WebP", REFERENCE)
WARM_UP = 64
"""Side of the picture that is coded before anything is timed."""
BATCH = 1 << 16
"""Pixels that the float network takes at a time."""


@dataclass(frozen=True)
class Row:
    """One picture as one model coded it, and the code lengths in bits that were to be expected, 0 where not known."""

    file: str
    samples: int
    bytes: int
    encode_seconds: float
    decode_seconds: float
    estimate: float = 0.0
    """By the exact graph's own probabilities."""
    initial: float = 0.0
    """Of the bytes, bits of tiles that are coded directly, for others to draw from."""
    smooth: float = 0.0
    """By the float network."""
    integer: float = 0.0
    """By the same network in integer arithmetic."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="photographs")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th of them")
    parser.add_argument("--models", nargs="*", metavar="NAME", help="names or ONNX files; default: all that ship")
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="FAMILY=FILE", help="of the float networks")
    parser.add_argument("--threads", type=int, default=2, help="of gencodec and JPEG XL (default: 2)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, help="where the JSON goes (default: standard output)")
    parser.add_argument("--page", type=Path, help="file whose part between families marks becomes the table")
    args = parser.parse_args()
    args.checkpoint = pairs(parser, args.checkpoint)
    if args.every < 1:
        parser.error("--every is at least 1")
    return args


def pairs(parser: argparse.ArgumentParser, texts: list[str]) -> dict[str, Path]:
    """Files by family, of FAMILY=FILE."""
    found = {}
    for text in texts:
        family, mark, file = text.partition("=")
        if family not in TITLES or not mark or not Path(file).is_file():
            parser.error(f"{text!r} is not FAMILY=FILE of a file, of the families {', '.join(TITLES)}")
        found[family] = Path(file)
    return found


def chosen(names: list[str] | None) -> list[ModelCard]:
    """The models to measure."""
    if names:
        return [runtime.find_model(name) for name in names]
    return [card for card in runtime.list_models() if card.family in (*AUTOREGRESSIVE, *BITS_BACK)]


def own(card: ModelCard, threads: int, device: str) -> Contender:
    """gencodec with one model."""
    named = str(card.file)

    def encode(pixels: Pixels) -> bytes:
        return gencodec.compress(pixels, model=card.name, threads=threads, device=device)

    def decode(data: bytes) -> Pixels:
        return gencodec.decompress(data, model=named, threads=threads, device=device).pixels

    return Contender(card.name, gencodec.__version__, encode, decode)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all that the arguments ask for."""
    cards = {card.name: card for card in chosen(args.models)}
    references = contenders((7,), (), threads=args.threads, model="photo", device=args.device)
    codecs = [own(card, args.threads, args.device) for card in cards.values()]
    codecs += [codec for codec in references if codec.name in OTHERS]
    networks = {
        name: Floating(args.checkpoint[card.family], card, args.threads)
        for name, card in cards.items()
        if card.family in args.checkpoint
    }
    noise = np.random.default_rng(0).integers(0, 256, (WARM_UP, WARM_UP, 3), np.uint8)
    for codec in codecs:
        sets.code(codec, noise, "warm-up")
    rows: dict[str, list[Row]] = {codec.name: [] for codec in codecs}
    for name, pixels in islice(sets.images(args.folder), 0, None, args.every):
        for codec in codecs:
            rows[codec.name].append(row(codec, pixels, name, cards.get(codec.name), networks.get(codec.name)))
        sets.say(f"{name}: " + ", ".join(f"{codec} {found[-1].bytes}" for codec, found in rows.items()))
    if not next(iter(rows.values())):
        raise SystemExit(f"{args.folder} has no images")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "threads": args.threads,
        "folder": args.folder.name,
        "every": args.every,
        "versions": {codec.name: codec.version for codec in codecs},
        "families": {name: card.family for name, card in cards.items()},
        "totals": {name: totals(found, rows) for name, found in rows.items()},
        "files": {name: [asdict(one) for one in found] for name, found in rows.items()},
    }


def row(codec: Contender, pixels: Pixels, name: str, card: ModelCard | None, network: Floating | None) -> Row:
    """Code one picture by one codec, and ask the model, if it is one, and its float network what they expect."""
    data, coded = sets.code(codec, pixels, name)
    figures = (name, pixels.size, coded.bytes, coded.encode_seconds, coded.decode_seconds)
    if card is None:
        return Row(*figures)
    info = gencodec.info(data, model=str(card.file))
    if not info.estimate_bits:
        raise SystemExit(f"{card.name} has not coded {name}, which is no picture of 8 bits")
    smooth, integer = network.bits(pixels) if network else (0.0, 0.0)
    return Row(*figures, float(info.estimate_bits), float(info.initial_bits or 0), smooth, integer)


class Floating:
    """A checkpoint's network, for the code length of the tiles that the codec cuts pictures into. Needs torch."""

    def __init__(self, checkpoint: Path, card: ModelCard, threads: int):
        import torch

        from gencodec.models.families import find_family

        torch.set_num_threads(threads)
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        self.network = find_family(card.family).restored(state["config"]).eval()
        self.network.load_state_dict(state["averaged"])
        self.tile = int(runtime.load(card, threads=threads).config["tile"])
        self.padded = card.family in BITS_BACK

    def bits(self, pixels: Pixels) -> tuple[float, float]:
        """Bits of samples (height, width, 3), smooth and in integer arithmetic."""
        import torch

        from gencodec.models.quantize import set_exact

        found = []
        for exact in (False, True):
            set_exact(self.network, exact)
            torch.manual_seed(1)
            with torch.no_grad():
                found.append(sum(self.tiles_bits(tiles) for tiles in self.cut(pixels)))
        return found[0], found[1]

    def tiles_bits(self, tiles: NDArray[np.uint8]) -> float:
        """Bits of tiles (n, 3, height, width)."""
        import torch

        x = torch.from_numpy(np.ascontiguousarray(tiles.transpose(1, 0, 2, 3))).float()
        return float(self.network(x).mean(dtype=torch.float64)) * x.numel()

    def cut(self, pixels: Pixels) -> list[NDArray[np.uint8]]:
        """Batches of tiles (n, 3, height, width) of one shape; at edges smaller, or with the last pixels repeated."""
        grid = Grid(pixels.shape[1], pixels.shape[0], self.tile)
        whole = grid.cut(pixels.astype(np.uint8), range(grid.count))
        parts: dict[tuple[int, int], list[NDArray[np.uint8]]] = {}
        for index, tile in enumerate(whole):
            rows, columns = grid.place(index)
            shape = tile.shape[1:] if self.padded else (rows.stop - rows.start, columns.stop - columns.start)
            parts.setdefault(shape, []).append(tile[:, : shape[0], : shape[1]])
        size = max(1, BATCH // self.tile**2)
        return [np.stack(same[i : i + size]) for same in parts.values() for i in range(0, len(same), size)]


def totals(found: list[Row], rows: dict[str, list[Row]]) -> dict[str, float]:
    """Add up the pictures of one codec; ratios are of bytes, shares of the code length that they are named after."""
    count, size = len(found), sum(one.bytes for one in found)
    samples, estimate, smooth = (sum(getattr(one, key) for one in found) for key in ("samples", "estimate", "smooth"))
    result = {
        "images": count,
        "bytes": size,
        "bpsp_over_images": sum(8 * one.bytes / one.samples for one in found) / count,
        "bpsp_over_bytes": 8 * size / samples,
        "encode_seconds": sum(one.encode_seconds for one in found) / count,
        "decode_seconds": sum(one.decode_seconds for one in found) / count,
        "slowest_decode_seconds": max(one.decode_seconds for one in found),
    }
    result |= {f"to_{name}": size / sum(one.bytes for one in rows[name]) for name in OTHERS}
    if estimate:
        result["overhead"] = 8 * size / estimate - 1
        result["largest_overhead"] = max(8 * one.bytes / one.estimate - 1 for one in found)
        result["initial_share"] = sum(one.initial for one in found) / (8 * size)
    if smooth:
        result["float_bpsp"] = smooth / samples
        result["integer_over_float"] = sum(one.integer for one in found) / smooth - 1
        result["exact_over_float"] = estimate / smooth - 1
    return result


HEADS = (
    "",
    "bpsp",
    "to PNG",
    "to WebP",
    f"to {REFERENCE}",
    "file over estimate",
    "exact over float",
    "encode s",
    "decode s",
)


def markdown(results: dict[str, Any]) -> str:
    """Write the table, the best codec first, and what it says."""
    lines = ["| " + " | ".join(HEADS) + " |", "| --- |" + " ---: |" * (len(HEADS) - 1)]
    order = sorted(results["totals"], key=lambda name: results["totals"][name]["bytes"])
    lines += ["| " + " | ".join(cells(name, results)) + " |" for name in order]
    first = next(iter(results["totals"].values()))
    every = "" if results["every"] == 1 else f", every {results['every']}th"
    legend = (
        f"Bits per sub-pixel of whole files, mean over {first['images']} images of {results['folder']}{every}, and"
        f" their bytes relative to three other codecs'. File over estimate: bytes, header and initial bits included,"
        f" against the model's own code length. Seconds an image, {results['threads']} threads, on"
        f" {results['machine']['processor']}, {results['machine']['cores']} cores; one run, every file decoded and"
        f" compared. Made by `benchmarks/families.py`."
    )
    return "\n".join(lines) + f"\n\n{legend}\n"


def cells(name: str, results: dict[str, Any]) -> list[str]:
    """One codec's line."""
    found, family = results["totals"][name], results["families"].get(name)
    title = f"**{TITLES.get(family, family)}** (`{name}`)" if family else f"{name} ({results['versions'][name]})"
    ratios = [f"{found[f'to_{other}']:.3f}" for other in OTHERS]
    shares = [f"{found[key]:+.2%}" if key in found else "" for key in ("overhead", "exact_over_float")]
    seconds = [f"{found[key]:.1f}" for key in ("encode_seconds", "decode_seconds")]
    return [title, f"{found['bpsp_over_images']:.3f}", *ratios, *shares, *seconds]


def write(results: dict[str, Any], output: Path | None) -> None:
    """Write the results as JSON to a file or standard output."""
    text = json.dumps(results, indent=1) + "\n"
    if output:
        output.write_text(text)
    else:
        print(text, end="")


def main() -> None:
    args = arguments()
    results = measure(args)
    write(results, args.output)
    if args.page:
        insert(args.page, "families", markdown(results))


if __name__ == "__main__":
    main()

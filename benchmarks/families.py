"""The families of models beside PNG, WebP and JPEG XL in one run: whole files of photographs, decoded and compared.

    python benchmarks/families.py KODAK --every 4 -o families.json --page docs/models/README.md
    python benchmarks/families.py KODAK --checkpoint glow=glow.pt    # the exact graph against the float network too

Every lossless model that ships is measured, but for the photo codec; --models names others, by name or by ONNX file.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pages
from numpy.typing import NDArray

from gencodec import runtime
from gencodec.codec.bitsback import Grid
from gencodec.codec.codecs import AUTOREGRESSIVE, BITS_BACK
from gencodec.codec.image import Pixels
from gencodec.codec.tiling import TILE
from gencodec.evaluation import contenders, corpus, ours, run, store, summary
from gencodec.evaluation.corpus import Picture
from gencodec.evaluation.protocol import Options
from gencodec.evaluation.store import Results
from gencodec.runtime import ModelCard

TITLES = {
    "photo": "photo",
    "pixelcnn": "PixelCNN",
    "pixelrnn": "PixelRNN",
    "nice": "NICE",
    "realnvp": "RealNVP",
    "glow": "Glow",
    "vae": "VAE",
    "nvae": "NVAE",
}
OTHERS = ("png", "webp", "jxl")
BATCH = 1 << 16
"""Pixels that the float network takes at a time."""

Floats = dict[str, dict[str, float]]
"""By model: `float_bits` of the float network over all pictures, and `integer_bits` of it in integer arithmetic."""


def arguments() -> argparse.Namespace:
    parser = pages.parser(__doc__)
    parser.add_argument("--models", nargs="*", metavar="NAME", help="names or ONNX files; default: all that ship")
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="FAMILY=FILE", help="of the float networks")
    parser.add_argument("-o", "--output", type=Path, help="where the JSON goes (default: standard output)")
    args = parser.parse_args()
    args.checkpoint = pairs(parser, args.checkpoint)
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


def chosen(names: list[str] | None) -> list[str]:
    """The models to measure."""
    return names or [card.name for card in runtime.list_models() if card.family in (*AUTOREGRESSIVE, *BITS_BACK)]


def measure(args: argparse.Namespace) -> tuple[Results, Floats]:
    """All rows, and the code lengths of the float networks whose checkpoints are given."""
    models, options = chosen(args.models), Options(args.threads, args.device)
    pictures = corpus.find(args.folders, every=args.every)
    entries = contenders.entries(models, OTHERS, options)
    results = run.run(pictures, entries, options, args.report, listen=pages.show)
    cards = {name: ours.parse(name)[0] for name in models}
    return results, {
        name: floats(Floating(args.checkpoint[card.family], card, args.threads), pictures)
        for name, card in cards.items()
        if card.family in args.checkpoint
    }


def floats(network: Floating, pictures: list[Picture]) -> dict[str, float]:
    """Code lengths of all pictures by the float network."""
    found = [network.bits(picture.read().pixels) for picture in pictures]
    smooth, integer = map(sum, zip(*found, strict=True))
    return {"float_bits": smooth, "integer_bits": integer}


class Floating:
    """A checkpoint's network, for the code length of the tiles that the codec cuts pictures into. Needs torch."""

    def __init__(self, checkpoint: Path, card: ModelCard, threads: int):
        import torch

        from gencodec.models.families import find_family

        torch.set_num_threads(threads)
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        self.network = find_family(card.family).restored(state["config"]).eval()
        self.network.load_state_dict(state["averaged"])
        # photo's codec chooses the sides of its tiles, which are about as long
        self.tile = int(runtime.load(card, threads=threads).config.get("tile", TILE))
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


HEADS = (
    "",
    "bpsp",
    *(f"to {name}" for name in OTHERS),
    "file over estimate",
    "exact over float",
    "encode s",
    "decode s",
)


def markdown(results: Results, networks: Floats, args: argparse.Namespace) -> str:
    """Write the table, the best codec first, and what it says."""
    lines = ["| " + " | ".join(HEADS) + " |", "| --- |" + " ---: |" * (len(HEADS) - 1)]
    found = {name: totals for name in results.contenders if (totals := summary.totals(results.of(name)))}
    for name in sorted(found, key=lambda name: found[name].bytes):
        lines.append("| " + " | ".join(cells(name, results, networks)) + " |")
    every = "" if args.every == 1 else f", every {args.every}th"
    sets = " and ".join(Path(folder).resolve().name for folder in args.folders)
    legend = (
        f"Bits per sub-pixel of whole files, mean over {len(results.images)} images of {sets}{every}, and their bytes"
        f" relative to three other codecs'. File over estimate: bytes, header and initial bits included, against the"
        f" model's own code length. Seconds an image, {results.settings['threads']} threads, on"
        f" {results.machine['processor']}, {results.machine['cores']} cores; one run, every file decoded and compared."
        f" Made by `benchmarks/families.py`."
    )
    return "\n".join(lines) + f"\n\n{legend}\n"


def cells(name: str, results: Results, networks: Floats) -> list[str]:
    """One codec's line."""
    found, entry = summary.totals(results.of(name)), results.contenders[name]
    assert found is not None
    title = f"{name} ({entry['version']})"
    if entry["model"]:
        family = ours.parse(name)[0].family
        title = f"**{TITLES.get(family, family)}** (`{name}`)"
    ratios = [summary.ratios(results, name, other) for other in OTHERS]
    estimate = sum(row.estimate_bits or 0 for row in results.of(name))
    exact = f"{estimate / networks[name]['float_bits'] - 1:+.2%}" if name in networks else ""
    overhead = "" if found.overhead is None else f"{found.overhead:+.2%}"
    seconds = [f"{found.encode_seconds:.1f}", f"{found.decode_seconds:.1f}"]
    sizes = [f"{ratio['bytes']:.3f}" if ratio else "-" for ratio in ratios]
    return [title, f"{found.bpsp_over_images:.3f}", *sizes, overhead, exact, *seconds]


def main() -> None:
    args = arguments()
    results, networks = measure(args)
    totals = {name: asdict(found) for name in results.contenders if (found := summary.totals(results.of(name)))}
    pages.write({"totals": totals, "floats": networks, "run": json.loads(store.as_json(results))}, args.output)
    if args.page:
        pages.insert(args.page, "families", markdown(results, networks, args))


if __name__ == "__main__":
    main()

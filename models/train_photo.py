"""Trains the `photo` network: `python -m gencodec.models.train_photo --data FOLDER --checkpoint FILE --minutes 40`."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn

from gencodec.models.augment import MILD, WIDE
from gencodec.models.data import Tiles, batches, held_out_tiles, load_photos, split
from gencodec.models.photo import Photo, PhotoConfig
from gencodec.models.training import Schedule, Trainer


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of lossless photographs")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--start", type=Path, help="checkpoint whose weights to start from")
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--exact", action="store_true", help="quantization-aware fine-tuning")
    parser.add_argument("--mild", action="store_true", help="augment less, for the end of a training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=INT", help="sizes of the network")
    return parser.parse_args()


def configured(settings: list[str]) -> PhotoConfig:
    """The default sizes with `NAME=INT` settings applied."""
    known = {f.name for f in fields(PhotoConfig)}
    pairs = dict(s.split("=") for s in settings)
    if unknown := pairs.keys() - known:
        raise SystemExit(f"unknown sizes: {', '.join(sorted(unknown))}")
    return replace(PhotoConfig(), **{k: int(v) for k, v in pairs.items()})


def main() -> None:
    """Train as the command line says."""
    args = arguments()
    torch.manual_seed(args.seed)
    schedule = Schedule(minutes=args.minutes, rate=args.rate, exact=args.exact)
    trainer = Trainer(Photo(configured(args.set)), schedule, args.checkpoint, args.device)
    if args.start:
        trainer.start_from(args.start)
    if args.resume:
        trainer.resume()
    train, held_out = split(load_photos(args.data))
    tiles = held_out_tiles(held_out).to(args.device, torch.float32)

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return float(torch.stack([model(part).mean() for part in tiles.split(8, 1)]).mean())

    # a resumed run draws other tiles, not the same ones again
    chances = MILD if args.mild else WIDE
    source = Tiles(train, args.batch, args.size, args.seed + trainer.steps, chances=chances)
    trainer.run(batches(source), evaluate, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()

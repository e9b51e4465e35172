"""Exports a trained `photo` checkpoint: `python -m gencodec.export.release CHECKPOINT -o photo-base.1.onnx`."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from gencodec.export.photo import export_photo
from gencodec.models.photo import Photo
from gencodec.models.train_photo import configured


def main() -> None:
    """Write the exact graph of the checkpoint's averaged weights, and print its SHA-256."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--licence", default="Apache-2.0")
    parser.add_argument("--data", default="unknown", help="what the weights were trained on")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=INT", help="sizes of the network")
    args = parser.parse_args()
    state = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    photo = Photo(configured(args.set))
    photo.load_state_dict(state["averaged"])
    export_photo(photo, args.output, {"licence": args.licence, "data": args.data, "steps": str(state["steps"])})
    print(hashlib.sha256(args.output.read_bytes()).hexdigest(), args.output.stat().st_size, "bytes")  # noqa: T201


if __name__ == "__main__":
    main()

"""Checkpoints of trainings -> ONNX files, as `gencodec export` makes them."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from gencodec.errors import InvalidFile, UsageError
from gencodec.export.autoregressive import export_autoregressive
from gencodec.export.flow import export_flow
from gencodec.export.latents import export_latents
from gencodec.export.lossy import export_lossy
from gencodec.export.photo import export_photo
from gencodec.export.sprites import export_sprites
from gencodec.export.vq import export_vq
from gencodec.models.data import held_out_tiles, load_photos, split
from gencodec.models.families import find_family

Exporter = Callable[[nn.Module, Path, dict[str, str], Tensor | None], None]
EXPORTERS = cast(
    dict[str, Exporter],  # each takes its own family's network
    {
        "photo": export_photo,
        **dict.fromkeys(("pixelcnn", "pixelrnn"), export_autoregressive),
        **dict.fromkeys(("nice", "realnvp", "glow"), export_flow),
        **dict.fromkeys(("vae", "nvae"), export_latents),
        **dict.fromkeys(("beta-vae", "nvae-lossy"), export_lossy),
        "beta-vae-sprites": export_sprites,
        **dict.fromkeys(("vq-vae", "vq-vae-2"), export_vq),
    },
)
EVERY = 4
"""Of the held-out tiles, so many-th ones tell how sensitive weights are."""


def export(
    checkpoint: Path, target: Path, *, licence: str, trained_on: str, photos: Path | None = None, codes: bool = False
) -> None:
    """Write the exact graph of a checkpoint's averaged weights.

    With `photos`, a folder of photographs, the model can be fitted to pictures, and the step for that is written
    beside it; `codes` says that it codes luma and chroma codes. Raises `InvalidFile` for what is no checkpoint,
    `UsageError` for a folder without photographs, `InexactGraph` for a network that cannot be proved exact.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        family = find_family(state.get("family", "photo"))
        network = family.restored(state.get("config", {}))
        network.load_state_dict(state["averaged"])
        steps = int(state["steps"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise InvalidFile("this is not a checkpoint of a training") from error
    tiles = None
    if photos is not None:
        pictures = load_photos(photos)
        if not pictures:
            raise UsageError(f"{photos} has no photographs")
        tiles = held_out_tiles(split(pictures)[1], codes=codes)[:, ::EVERY].float()
    card = {"licence": licence, "data": trained_on, "steps": str(steps)}
    with tempfile.TemporaryDirectory(dir=target.resolve().parent) as place:  # no half-written model
        EXPORTERS[family.name](network, Path(place) / target.name, card, tiles)
        for made in Path(place).iterdir():
            os.replace(made, target.resolve().parent / made.name)

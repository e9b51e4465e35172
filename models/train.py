"""Trainings from a folder of photographs to a checkpoint, as `gencodec train` runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from gencodec.errors import UsageError
from gencodec.models.augment import MILD, WIDE
from gencodec.models.data import BLOCK, Tiles, batches, held_out_tiles, load_photos, split
from gencodec.models.families import Family
from gencodec.models.training import Schedule, Trainer

LEAST_PHOTOS = 2
"""One to learn from, one held out."""


@dataclass(frozen=True)
class Course:
    """What to train on, and how."""

    data: Path
    checkpoint: Path
    schedule: Schedule
    start: Path | None = None
    """A checkpoint whose weights to start from."""
    resume: bool = False
    """Go on from the checkpoint, to the end of the schedule."""
    mild: bool = False
    """Change photographs less, as for the end of a training."""
    codes: bool = False
    """Learn luma and chroma codes instead of colors."""
    batch: int = 8
    size: int = 64
    """Side of the tiles."""
    seed: int = 1
    device: str = "cpu"


def train(
    family: Family, sizes: list[str], course: Course, log: Callable[[str], None], progress: Callable[[float], None]
) -> None:
    """Train until the schedule ends; the checkpoint is written as it goes, and when interrupted.

    `log` takes a line at every evaluation, `progress` the share of the time spent. Raises `UsageError`.
    """
    torch.manual_seed(course.seed)
    config = family.configured(sizes)
    about = {"family": family.name, "config": asdict(config)}
    trainer = Trainer(family.build(config), course.schedule, course.checkpoint, course.device, about)
    try:
        if course.start:
            trainer.start_from(course.start)
        if course.resume:
            trainer.resume()
    except RuntimeError as error:
        raise UsageError(f"the checkpoint does not fit a {family.name} network of these sizes") from error
    photos, held_out = split(load_photos(course.data))
    if len(photos) + len(held_out) < LEAST_PHOTOS:
        raise UsageError(f"{course.data} has too few pictures of {BLOCK} x {BLOCK} pixels and more to train on")
    tiles = held_out_tiles(held_out, codes=course.codes).to(course.device, torch.float32)

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return float(torch.stack([model(part).mean() for part in tiles.split(8, 1)]).mean())

    # a resumed run draws other tiles, not the same ones again
    chances = MILD if course.mild else WIDE
    seed = course.seed + trainer.steps
    source = Tiles(photos, course.batch, course.size, seed, chances=chances, codes=course.codes)
    try:
        trainer.run(batches(source), evaluate, log, progress)
    except KeyboardInterrupt:
        trainer.save()
        raise

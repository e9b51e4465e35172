"""Trainings from a folder of pictures to a checkpoint, as `gencodec train` runs them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gencodec.errors import UsageError
from gencodec.models.augment import MILD, WIDE
from gencodec.models.data import (
    BLOCK,
    SET_SIDE,
    Batches,
    Draw,
    Small,
    Tiles,
    batches,
    cut_up,
    held_out_pictures,
    held_out_tiles,
    is_generated,
    is_set,
    load_photos,
    load_set,
    split,
    thinned,
)
from gencodec.models.families import Family
from gencodec.models.parallel import Processes, joined
from gencodec.models.photo import Photo
from gencodec.models.revive import revive
from gencodec.models.training import Schedule, Trainer, seed_of

LEAST_PHOTOS = 2
"""One to learn from, one held out."""
SIZE = 64
"""Side of the tiles of families that do not say."""
STEP = 1 << 15
"""Pixels a step, where no batch is given."""
EVALUATED = 1 << 18
"""Pixels that an evaluation takes at most, of tiles that are cut to the size that is trained."""
TOGETHER = 1 << 17
"""Pixels that are evaluated at a time."""
EVALUATION_SEED = 7
REVIVED_BY = 4
"""Of the held-out tiles, so many-th ones tell which features are silent."""
WHOLE = "photo"
"""The family whose held-out blocks stay whole: its context is larger than tiles."""


@dataclass(frozen=True)
class Course:
    """What to train on, and how."""

    data: Path
    checkpoint: Path
    schedule: Schedule
    start: Path | None = None
    """A checkpoint whose weights to start from."""
    revive: bool = False
    """Give features that are always zero at the start new weights (`gencodec.models.revive`)."""
    resume: bool = False
    """Go on from the checkpoint, to the end of the schedule."""
    mild: bool = False
    """Change photographs less, as for the end of a training."""
    codes: bool = False
    """Learn luma and chroma codes instead of colors."""
    batch: int | None = None
    """Tiles a step of every process; by default as many as make STEP pixels."""
    size: int | None = None
    """Side of the tiles; by default that of the set's pictures or the family's tiles."""
    seed: int = 1
    device: str = "cpu"


def train(
    family: Family, sizes: list[str], course: Course, log: Callable[[str], None], progress: Callable[[float], None]
) -> None:
    """Train until the schedule ends; the checkpoint is written as it goes, and when interrupted.

    `log` takes a line at every evaluation, `progress` the share of the budget spent. Raises `UsageError`, and
    `GencodecError` for a training that diverges.
    """
    with joined(course.device) as processes:
        torch.manual_seed(seed_of(course.seed))
        config = chosen_sizes(family, sizes, course)
        trainer = prepared(family, config, course, processes)
        size = course.size or side_of(config, course.data)
        draw = Draw(course.batch or max(1, STEP // size**2), size, course.seed, processes.rank, trainer.steps)
        source, tiles = pictures(course, draw, whole=family.name == WHOLE)
        tiles = tiles.to(processes.device, torch.float32)
        if course.revive:
            begin_lively(trainer, tiles)
        trainer.run(batches(source), lambda model: held_out_bits(model, tiles), log, progress)


def chosen_sizes(family: Family, sizes: list[str], course: Course) -> Any:
    """The network's config: of the sizes given, or of the checkpoint that the course begins with, or the default.

    Raises `UsageError`.
    """
    former = course.checkpoint if course.resume else course.start
    if former is None:
        return family.configured(sizes)
    with fitting(family):
        state = torch.load(former, map_location="cpu", weights_only=True)
        if state.get("family", family.name) != family.name:
            raise UsageError(f"the checkpoint {former} is of the family {state['family']}, not {family.name}")
        if sizes:
            return family.configured(sizes)
        return family.sized(state.get("config", {}))


def prepared(family: Family, config: Any, course: Course, processes: Processes) -> Trainer:
    """The trainer where the course begins. Raises `UsageError` for a checkpoint of another network."""
    about = {"family": family.name, "config": asdict(config)}
    network = family.build(config)
    trainer = Trainer(network, course.schedule, course.checkpoint, about, seed=course.seed, processes=processes)
    with fitting(family):
        if course.start:
            trainer.start_from(course.start, partial(weights_for, family, config))
        if course.resume:
            trainer.resume()
    return trainer


def begin_lively(trainer: Trainer, tiles: Tensor) -> None:
    """Give silent features new weights before the first step. Raises `UsageError` for other families than `photo`."""
    if not isinstance(trainer.model, Photo):
        raise UsageError("only networks of the photo family can have features revived")
    if not trainer.steps:
        revive(trainer.model, tiles[:, ::REVIVED_BY])
        trainer.averaged.load_state_dict(trainer.model.state_dict())


def weights_for(family: Family, config: Any, state: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's averaged weights for a network of the sizes `config`, grown where these are larger."""
    former = family.sized(state.get("config", {}))
    if former == config or family.grow is None:
        return state["averaged"]
    return family.grow(former, config, state["averaged"])


@contextmanager
def fitting(family: Family) -> Iterator[None]:
    """What fails in the block fails because a checkpoint is of another network, or none. Raises `UsageError`."""
    try:
        yield
    except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"the checkpoint does not fit a {family.name} network of these sizes") from error


def side_of(config: Any, folder: Path) -> int:
    """Side of the tiles to train on, where none is given."""
    return SET_SIDE if is_set(folder) and not is_generated(folder) else getattr(config, "tile", SIZE)


def pictures(course: Course, draw: Draw, *, whole: bool) -> tuple[Batches, Tensor]:
    """Batches to train on and held-out tiles (3, n, side, side) uint8, blocks of photographs left `whole` or cut up.

    Raises `UsageError` for a folder that does not hold enough, and for `codes` of what is no photograph.
    """
    if is_set(course.data):
        if course.codes:
            raise UsageError(f"{course.data} holds small pictures; codes are made of photographs")
        known, held_out = load_set(course.data)
        return Small(known, draw), thinned(held_out_pictures(held_out, draw.size), EVALUATED)
    photos, held_out = split(load_photos(course.data))
    if len(photos) + len(held_out) < LEAST_PHOTOS:
        raise UsageError(f"{course.data} has too few pictures of {BLOCK} x {BLOCK} pixels and more to train on")
    source = Tiles(photos, draw, chances=MILD if course.mild else WIDE, codes=course.codes)
    tiles = held_out_tiles(held_out, codes=course.codes)
    return source, tiles if whole else thinned(cut_up(tiles, draw.size), EVALUATED)


def held_out_bits(model: nn.Module, tiles: Tensor) -> float:
    """Mean code length in bits of tiles (3, n, height, width); what a network draws at random is always the same."""
    torch.manual_seed(EVALUATION_SEED)
    together = max(1, TOGETHER // (tiles.shape[2] * tiles.shape[3]))
    with torch.no_grad():
        bits = [model(part).mean(dtype=torch.float64) * part.shape[1] for part in tiles.split(together, 1)]
    return float(torch.stack(bits).sum()) / tiles.shape[1]

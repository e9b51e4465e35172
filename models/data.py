"""Pictures on disk -> endless batches of training tiles, each a function of the seed and the step alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from gencodec.errors import UsageError
from gencodec.models.augment import MILD, WIDE, Chances, augmented, coded
from gencodec.models.sprites import Sprites, chosen

Pixels = NDArray[np.uint8]

SUFFIXES = {".png", ".webp", ".ppm", ".bmp", ".tif", ".tiff"}
BLOCK = 128
"""Side of an augmented picture, from which several tiles are cut."""
POOL = 64
"""Augmented pictures at hand at a time."""
COLOR_ORDER = (1, 0, 2)
"""Green, red, blue: the order in which the codec codes colors."""
SETS = ("cifar10", "mnist")
"""Sets of small pictures that have names."""
GENERATED = Path("sprites")
"""The set of `gencodec.models.sprites`, which has no folder. A folder of that name is one like others."""
PLACE = "GENCODEC_DATA"
"""Environment variable that names the folder of the sets."""
ARRAYS = ("train_x.npy", "test_x.npy")
SET_SIDE = 32
"""Side of the tiles of sets of small pictures."""
HELD_OUT = 1000
"""Pictures of a set's test part that are held out."""


@dataclass(frozen=True)
class Draw:
    """Which tiles a training takes: so many of a side, by a seed, for one of its processes, from a step on."""

    batch: int
    size: int
    seed: int
    rank: int = 0
    first: int = 0

    def generator(self, stream: int, number: int) -> np.random.Generator:
        """The random numbers of block (stream 0) or batch (stream 1) `number`."""
        return np.random.default_rng((self.seed, self.rank, stream, number))


class Batches(IterableDataset[torch.Tensor]):
    """Endless batches (3, batch, size, size) uint8, colors in coding order, of the steps from `draw.first` on."""

    def __init__(self, draw: Draw):
        self.draw = draw

    def __iter__(self) -> Iterator[torch.Tensor]:
        for step in count(self.draw.first):
            tiles = self.tiles(step, self.draw.generator(1, step))
            yield torch.from_numpy(np.stack(tiles, 1))

    def tiles(self, step: int, rng: np.random.Generator) -> list[Pixels]:
        """The tiles (3, size, size) of one step; steps are asked for in order, without gaps."""
        raise NotImplementedError

    def cut(self, picture: Pixels, rng: np.random.Generator) -> Pixels:
        """A part of `picture` (3, height, width) at even offsets, so that the phase of subsampled chroma stays."""
        size = self.draw.size
        top, left = (2 * int(rng.integers((side - size) // 2 + 1)) for side in picture.shape[1:])
        return picture[:, top : top + size, left : left + size]


class Tiles(Batches):
    """Batches of tiles of freshly augmented photographs.

    Tiles are cut from a pool of augmented blocks, of which `renewed` are replaced a step: at step k it holds the
    blocks from `renewed * k` on, each made from random numbers of its own.
    """

    def __init__(
        self, photos: list[Pixels], draw: Draw, renewed: int = 2, chances: Chances = WIDE, codes: bool = False
    ):
        """`codes`: luma and chroma codes instead of colors."""
        super().__init__(draw)
        self.photos, self.renewed = photos, renewed
        self.chances, self.make = chances, coded if codes else augmented
        self.pool: dict[int, Pixels] = {}

    def tiles(self, step: int, rng: np.random.Generator) -> list[Pixels]:
        oldest = self.renewed * step
        for number in range(oldest, oldest + POOL):
            if number not in self.pool:
                self.pool[number] = self.block(number)
        for number in [number for number in self.pool if not oldest <= number < oldest + POOL]:
            del self.pool[number]
        return [self.cut(self.pool[oldest + int(i)], rng) for i in rng.integers(POOL, size=self.draw.batch)]

    def block(self, number: int) -> Pixels:
        """One augmented picture, (3, BLOCK, BLOCK)."""
        rng = self.draw.generator(0, number)
        pixels = self.make(self.photos[rng.integers(len(self.photos))], BLOCK, rng, self.chances)
        return np.ascontiguousarray(pixels[..., COLOR_ORDER].transpose(2, 0, 1))


class Small(Batches):
    """Batches of a set of small pictures (n, height, width[, 3]); those with colors are mirrored now and then."""

    def __init__(self, pictures: Pixels | Sprites, draw: Draw):
        super().__init__(draw)
        self.pictures = pictures

    def tiles(self, step: int, rng: np.random.Generator) -> list[Pixels]:  # noqa: ARG002
        chosen = self.pictures[np.sort(rng.integers(len(self.pictures), size=self.draw.batch))]
        found = []
        for picture in padded(chosen, self.draw.size).transpose(1, 0, 2, 3):
            tile = self.cut(picture, rng)
            found.append(tile[..., ::-1] if chosen.ndim == 4 and rng.random() < 0.5 else tile)
        return found


def padded(pictures: Pixels, size: int) -> Pixels:
    """Pictures (n, height, width[, 3]) as planes in coding order (3, n, height, width), at least `size` on a side.

    Grey is repeated for every color; around smaller pictures stand zeros, as many on either side.
    """
    planes = np.stack([pictures] * 3) if pictures.ndim == 3 else pictures[..., COLOR_ORDER].transpose(3, 0, 1, 2)
    missing = [max(0, size - side) for side in planes.shape[2:]]
    return np.pad(planes, [(0, 0), (0, 0), *((n // 2, n - n // 2) for n in missing)])


def batches(source: Batches) -> Iterator[torch.Tensor]:
    """The batches of `source`, made by another process."""
    loader = DataLoader(source, batch_size=None, num_workers=1, prefetch_factor=8, worker_init_fn=_leave_interrupts)
    return iter(loader)


def _leave_interrupts(_: int) -> None:
    """Leave it to the training to end: an interrupt from the terminal reaches all processes at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


# what is on disk


def find_data(name: str) -> Path:
    """The folder called `name`, or that of the set of that name in $GENCODEC_DATA. Raises `UsageError`.

    A set that is generated has a name in place of a folder.
    """
    if Path(name).is_dir() or is_generated(Path(name)):
        return Path(name)
    place = os.environ.get(PLACE)
    if name in SETS and place and (Path(place) / name).is_dir():
        return Path(place) / name
    known = f", nor one in {place or f'${PLACE}'}" if name in SETS else ""
    raise UsageError(f"there is no folder {name}{known}")


def is_generated(folder: Path) -> bool:
    """Whether this is no folder, but the name of the set that is generated."""
    return folder == GENERATED and not folder.exists()


def is_set(folder: Path) -> bool:
    """Whether a folder holds a set of small pictures, as arrays, or stands for one that is generated."""
    return is_generated(folder) or any((folder / name).is_file() for name in ARRAYS)


def load_set(folder: Path) -> tuple[Pixels | Sprites, Pixels]:
    """Training and held-out pictures of a set, uint8 (n, height, width) or (n, height, width, 3).

    Those of a set that is generated are not held out, but it has so many that few of them are trained on. Raises
    `UsageError` where the folder does not hold such arrays.
    """
    if is_generated(folder):
        sprites = Sprites()
        return sprites, sprites[chosen(HELD_OUT, seed=0)]
    found = []
    for name in ARRAYS:
        try:
            array = np.load(folder / name, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UsageError(f"{folder / name} is not a readable array") from error
        if array.dtype != np.uint8 or array.shape[3:] not in ((), (3,)) or array.ndim < 3 or not len(array):
            raise UsageError(f"{folder / name} holds {array.dtype} {array.shape}, not uint8 (n, height, width[, 3])")
        found.append(array)
    return found[0], found[1][:HELD_OUT]


def load_photos(folder: Path, limit: int | None = None) -> list[Pixels]:
    """All pictures in `folder` that are at least a block wide and high, (height, width, 3) uint8, by name."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)[:limit]
    photos = (np.asarray(Image.open(path).convert("RGB")) for path in paths)
    return [photo for photo in photos if min(photo.shape[:2]) >= BLOCK]


def split(photos: list[Pixels], every: int = 24) -> tuple[list[Pixels], list[Pixels]]:
    """Training and held-out photographs: every `every`-th is held out."""
    return [p for i, p in enumerate(photos) if i % every], photos[::every]


# what is held out


def held_out_tiles(photos: list[Pixels], seed: int = 7, *, codes: bool = False) -> torch.Tensor:
    """A fixed set of blocks, half of them as photographed and half augmented; (3, 2 * photos, BLOCK, BLOCK) uint8.

    `codes`: all of them are made, as luma and chroma codes.
    """
    rng = np.random.default_rng(seed)
    make = coded if codes else augmented
    plain = [coded(p, BLOCK, rng, MILD) if codes else p[:BLOCK, :BLOCK] for p in photos]
    blocks = np.stack([*plain, *(make(p, BLOCK, rng) for p in photos)])
    return torch.from_numpy(np.ascontiguousarray(blocks[..., COLOR_ORDER].transpose(3, 0, 1, 2)))


def held_out_pictures(pictures: Pixels, size: int) -> torch.Tensor:
    """A set's held-out pictures as tiles (3, n, size, size) uint8, from the top left of larger ones."""
    planes = padded(pictures, size)[..., :size, :size]
    return torch.from_numpy(np.ascontiguousarray(planes))


def cut_up(tiles: torch.Tensor, size: int) -> torch.Tensor:
    """Tiles (3, n, height, width) cut into whole ones of a smaller side, (3, more, size, size), row by row."""
    parts = tiles.unfold(2, size, size).unfold(3, size, size)
    return parts.reshape(3, -1, size, size)


def thinned(tiles: torch.Tensor, pixels: int) -> torch.Tensor:
    """Every so-many-th of tiles (3, n, height, width), so that they hold at most so many pixels together, or one."""
    most = max(1, pixels // (tiles.shape[2] * tiles.shape[3]))
    return tiles[:, :: -(-tiles.shape[1] // most)]

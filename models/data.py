"""Photographs on disk -> endless batches of training tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from gencodec.models.augment import MILD, WIDE, Chances, augmented, coded

SUFFIXES = {".png", ".webp", ".ppm", ".bmp", ".tif", ".tiff"}
BLOCK = 128
"""Side of an augmented picture, from which several tiles are cut."""
POOL = 64
"""Augmented pictures at hand at a time."""
COLOR_ORDER = (1, 0, 2)
"""Green, red, blue: the order in which the codec codes colors."""


def load_photos(folder: Path, limit: int | None = None) -> list[NDArray[np.uint8]]:
    """All pictures in `folder` that are at least a block wide and high, (height, width, 3) uint8, by name."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)[:limit]
    photos = (np.asarray(Image.open(path).convert("RGB")) for path in paths)
    return [photo for photo in photos if min(photo.shape[:2]) >= BLOCK]


def split(photos: list[NDArray[np.uint8]], every: int = 24) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Training and held-out photographs: every `every`-th is held out."""
    return [p for i, p in enumerate(photos) if i % every], photos[::every]


class Tiles(IterableDataset[torch.Tensor]):
    """Endless batches (3, batch, size, size) uint8, colors in coding order, of freshly augmented tiles."""

    def __init__(
        self,
        photos: list[NDArray[np.uint8]],
        batch: int,
        size: int,
        seed: int,
        renewed: int = 2,
        chances: Chances = WIDE,
        codes: bool = False,
    ):
        """`codes`: luma and chroma codes instead of colors."""
        self.photos, self.batch, self.size, self.seed, self.renewed = photos, batch, size, seed, renewed
        self.chances, self.make = chances, coded if codes else augmented

    def __iter__(self) -> Iterator[torch.Tensor]:
        rng = np.random.default_rng(self.seed)
        pool = [self.block(rng) for _ in range(POOL)]
        while True:
            for _ in range(self.renewed):
                pool[rng.integers(POOL)] = self.block(rng)
            yield torch.from_numpy(np.stack([self.tile(pool[i], rng) for i in rng.choice(POOL, self.batch)], 1))

    def block(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """One augmented picture, (3, BLOCK, BLOCK)."""
        pixels = self.make(self.photos[rng.integers(len(self.photos))], BLOCK, rng, self.chances)
        return np.ascontiguousarray(pixels[..., COLOR_ORDER].transpose(2, 0, 1))

    def tile(self, block: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """A part of `block` at even offsets, so that the phase of subsampled chroma stays."""
        top, left = 2 * rng.integers(0, (BLOCK - self.size) // 2 + 1, 2)
        return block[:, top : top + self.size, left : left + self.size]


def batches(tiles: Tiles) -> Iterator[torch.Tensor]:
    """`tiles`' batches, made by another process."""
    return iter(DataLoader(tiles, batch_size=None, num_workers=1, prefetch_factor=8))


def held_out_tiles(photos: list[NDArray[np.uint8]], seed: int = 7, *, codes: bool = False) -> torch.Tensor:
    """A fixed set of blocks, half of them as photographed and half augmented; (3, 2 * photos, BLOCK, BLOCK) uint8.

    `codes`: all of them are made, as luma and chroma codes.
    """
    rng = np.random.default_rng(seed)
    make = coded if codes else augmented
    plain = [coded(p, BLOCK, rng, MILD) if codes else p[:BLOCK, :BLOCK] for p in photos]
    blocks = np.stack([*plain, *(make(p, BLOCK, rng) for p in photos)])
    return torch.from_numpy(np.ascontiguousarray(blocks[..., COLOR_ORDER].transpose(3, 0, 1, 2)))

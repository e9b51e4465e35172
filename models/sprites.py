"""A generated set of sprites, each a function of five factors, after dSprites (Matthey et al. 2017).

One white shape on black, 64 x 64 pixels: a square, an ellipse or a heart, of one of 6 sizes, turned to one of 40
angles, in one of 32 x 32 places. The 737 280 pictures are drawn as they are asked for. No torch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Pixels = NDArray[np.uint8]

SIDE = 64
"""Pixels of a picture's side."""
FACTORS = ("shape", "scale", "orientation", "x", "y")
SIZES = (3, 6, 40, 32, 32)
"""How many values each factor has."""
SHAPES = ("square", "ellipse", "heart")
LARGEST = 10.0
"""Pixels of a shape's unit of length at its largest scale."""
SMALLEST = 0.5
"""The smallest scale, of the largest."""
ASPECT = 0.6
"""The ellipse's shorter axis, of its longer."""
BOX = 32
"""Side of a box around a shape; its place in the picture is that of its corner."""
INSIDE = 255


def factors_of(numbers: Index) -> Index:
    """The factors (n, 5) of pictures (n,) by their numbers in the set; y changes first."""
    return np.stack(np.unravel_index(numbers, SIZES), 1)


def drawn(factors: Index) -> Pixels:
    """Pictures (n, 64, 64), black and white, of factors (n, 5), each from 0 to its size less one.

    Scales rise evenly from a half to one, angles are even shares of a turn, places every pixel from 16 to 47.
    """
    pictures = np.zeros((len(factors), SIDE, SIDE), np.uint8)
    number, left, top = (values[:, None, None] for values in (np.arange(len(factors)), *factors.T[3:]))
    box = np.arange(BOX)
    pictures[number, top + box[:, None], left + box] = glyphs()[tuple(factors.T[:3])]
    return pictures


@lru_cache(maxsize=1)
def glyphs() -> Pixels:
    """Every shape of every scale in every orientation, in the middle of a box, (3, 6, 40, BOX, BOX)."""
    scale, orientation = (np.arange(n) for n in SIZES[1:3])
    size = LARGEST * (SMALLEST + (1 - SMALLEST) * scale / (SIZES[1] - 1))[:, None, None, None]
    angle = (2 * np.pi / SIZES[2]) * orientation[:, None, None]
    away = np.arange(BOX) - BOX // 2
    across, down = away / size, away[:, None] / size
    # rounded, so that points on an edge are outside on every machine
    u = np.round(np.cos(angle) * across + np.sin(angle) * down, 6)
    v = np.round(np.cos(angle) * down - np.sin(angle) * across, 6)
    return INSIDE * np.stack([in_square(u, v), in_ellipse(u, v), in_heart(u, v)]).astype(np.uint8)


def in_square(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points, in units of length to the right and down, lie in the square."""
    return np.maximum(np.abs(u), np.abs(v)) < 0.9


def in_ellipse(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """As `in_square`."""
    return np.square(u / 1.3) + np.square(v / (1.3 * ASPECT)) < 1


def in_heart(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """As `in_square`: the sextic (u^2 + v^2 - 1)^3 = u^2 v^3, with v upwards."""
    across = np.square(u)
    return (across + np.square(v) - 1) ** 3 < -across * v**3


class Sprites:
    """All pictures as a sequence, which an array of numbers indexes."""

    ndim = 3

    def __len__(self) -> int:
        return int(np.prod(SIZES))

    def __getitem__(self, numbers: Index) -> Pixels:
        """Pictures (n, 64, 64) by their numbers (n,)."""
        return drawn(factors_of(numbers))


def chosen(count: int, seed: int) -> Index:
    """The numbers of `count` different pictures of the set, at random."""
    return np.random.default_rng(seed).choice(len(Sprites()), count, replace=False)

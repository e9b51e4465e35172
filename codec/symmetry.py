"""The eight symmetries of a square, by which a picture may be turned before it is coded, and which of them pays.

A symmetry is a number of three bits: 1 exchanges rows and columns, then 2 reverses the rows' order and 4 the columns'.
A network reads rows from the top and from the left. Of most pictures it makes as much in any direction; of those that
were sharpened, resampled or read out in one direction up to 2 % less.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.image import Pixels
from gencodec.codec.tiling import LARGE, TILE, Box, Tiling

if TYPE_CHECKING:
    from gencodec.runtime import Model

SYMMETRIES = 8
TRANSPOSED, UPSIDE_DOWN, MIRRORED = 1, 2, 4
EFFORT = 5
"""From which symmetries are tried, on pictures of at most LARGE pixels; by narrow networks from the next one on."""
TRIED = 4
"""Tiles of TILE x TILE that are looked at."""
PAYS = 0.003
"""Least share of bits that a symmetry must save: less would be chance."""


def turned(pixels: Pixels, symmetry: int) -> Pixels:
    """`pixels` (height, width, channels) after a symmetry; contiguous."""
    if symmetry & TRANSPOSED:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(_flipped(pixels, symmetry))


def turned_back(pixels: Pixels, symmetry: int) -> Pixels:
    """What `turned` made `pixels` of."""
    pixels = _flipped(pixels, symmetry)
    return np.ascontiguousarray(pixels.transpose(1, 0, 2) if symmetry & TRANSPOSED else pixels)


def turned_box(box: Box, symmetry: int, width: int, height: int) -> Box:
    """Where a rectangle of a picture of this size lies after a symmetry."""
    if symmetry & TRANSPOSED:
        box, width, height = Box(box.y, box.x, box.height, box.width), height, width
    x = width - box.x - box.width if symmetry & MIRRORED else box.x
    y = height - box.y - box.height if symmetry & UPSIDE_DOWN else box.y
    return Box(x, y, box.width, box.height)


def chosen(pixels: Pixels, model: Model, effort: int) -> int:
    """The symmetry after which a model of the `photo` family seems to need the fewest bits for `pixels`; mostly 0."""
    height, width, _ = pixels.shape
    if effort < EFFORT or height * width > LARGE or model.family != "photo":
        return 0
    from gencodec.codec.photo import PhotoCodec

    codec = PhotoCodec(model)
    if effort == EFFORT and not codec.network.wide:
        return 0
    tiles = list(Tiling.by_side(width, height, TILE).all_tiles())
    some = [tiles[i] for i in np.unique(np.linspace(0, len(tiles) - 1, TRIED + 2).astype(int)[1:-1])]
    parts = [pixels[t.y : t.y + t.height, t.x : t.x + t.width] for t in some]

    def bits(symmetry: int) -> float:
        return sum(codec.bits(cast(NDArray[np.uint8], turned(part, symmetry))) for part in parts)

    with ThreadPoolExecutor(model.threads) as pool:
        found = list(pool.map(bits, range(SYMMETRIES)))
    best = int(np.argmin(found))
    return best if found[best] < (1 - PAYS) * found[0] else 0


def _flipped(pixels: Pixels, symmetry: int) -> Pixels:
    rows = -1 if symmetry & UPSIDE_DOWN else 1
    columns = -1 if symmetry & MIRRORED else 1
    return pixels[::rows, ::columns]

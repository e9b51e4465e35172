"""What an autoregressive network sees of rows of pixels, as they are filled from left to right.

Arrays are float32 and hold whole numbers. A lane is one tile, or one row of a tile whose rows above are all known.
Pixels of a row stand one after the other, (columns, 3, lanes), colors in coding order, so that neighbors are adjacent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.network import BEGINNING, RAISED, Array, median_edge
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

FLAGS = 4


@dataclass(frozen=True)
class Geometry:
    """Which earlier pixels a pixel sees; see `docs/format-autoregressive.md`."""

    reach: tuple[tuple[int, int], ...]
    near: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, model: Model) -> Geometry:
        """A model's geometry. Raises `InvalidFile`."""
        try:
            return cls(*(tuple((int(a), int(b)) for a, b in model.config[name]) for name in ("reach", "near")))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFile(f"the model {model.card.name} does not say how it is built") from error

    @cached_property
    def left(self) -> int:
        """Columns left of a tile that contexts and energies reach."""
        return -min(min(first for first, _ in self.reach), min(dx for _, dx in self.near))

    @cached_property
    def right(self) -> int:
        """Columns right of a tile that they reach."""
        return max(max(last for _, last in self.reach), max(dx for _, dx in self.near))

    @cached_property
    def rows(self) -> int:
        """Rows above a pixel that they reach."""
        return max(len(self.reach) - 1, max(up for up, _ in self.near))

    @cached_property
    def taps(self) -> int:
        """Pixels of the context."""
        return sum(last - first + 1 for first, last in self.reach)

    @cached_property
    def own(self) -> int:
        """Pixels of the context in the pixel's own row."""
        return self.reach[0][1] - self.reach[0][0] + 1

    @cached_property
    def nearest(self) -> list[int]:
        """Places of the west, north and northwest neighbors in a context."""
        before = np.cumsum([0, *(last - first + 1 for first, last in self.reach)])
        return [int(before[up]) + dx - self.reach[up][0] for up, dx in ((0, -1), (1, 0), (1, -1))]


@dataclass
class Row:
    """One row of pixels in each lane, and those above it, the nearest first.

    `pixels` and `energies`: (columns, 3, lanes) each row, `left` and `right` columns of the geometry around the tile's
    own; `errors`: of this row, (width, 3, lanes). `flags`: (4, lanes) in the first column.
    """

    geometry: Geometry
    energy: Array
    """Energy of an absolute error of 0..255."""
    pixels: list[Array]
    energies: list[Array]
    errors: Array
    flags: Array

    @classmethod
    def first(cls, geometry: Geometry, energy: Array, width: int, lanes: int) -> Row:
        """The top row of tiles."""
        extent = (geometry.left + width + geometry.right, 3, lanes)
        pixels = [np.full(extent, BEGINNING, np.float32) for _ in range(geometry.rows + 1)]
        energies = [np.zeros(extent, np.float32) for _ in range(geometry.rows + 1)]
        flags = np.zeros((FLAGS, lanes), np.float32)
        flags[:2] = RAISED
        return cls(geometry, energy, pixels, energies, np.zeros((width, 3, lanes), np.float32), flags)

    @classmethod
    def all(cls, geometry: Geometry, energy: Array, tiles: Array) -> Row:
        """Every row of known `tiles` (height, width, 3, n) as lanes (row by row), to be filled again."""
        _, width, _, count = tiles.shape
        row, kept = cls.first(geometry, energy, width, count), []
        for pixels in tiles:
            kept.append(row)
            row = row.filled(pixels).below()
        pixels, energies = (
            [np.concatenate([getattr(r, name)[up] for r in kept], 2) for up in range(geometry.rows + 1)]
            for name in ("pixels", "energies")
        )
        errors, flags = (np.concatenate([getattr(r, name) for r in kept], -1) for name in ("errors", "flags"))
        return cls(geometry, energy, pixels, energies, errors, flags)

    @cached_property
    def top(self) -> NDArray[np.bool_]:
        """Which lanes are top rows."""
        return self.flags[0] > 0

    @cached_property
    def any_top(self) -> bool:
        return bool(self.top.any())

    @property
    def width(self) -> int:
        return len(self.errors)

    @property
    def own(self) -> Array:
        """The row's own pixels, (width, 3, lanes)."""
        return self.pixels[0][self.geometry.left : self.geometry.left + self.width]

    def west(self, x: int) -> Array:
        """The pixels left of column `x`, (3, lanes)."""
        return self.pixels[0][self.geometry.left + x - 1]

    def surroundings(self, x: int) -> tuple[Array, Array]:
        """What the network sees of pixels in column `x`: (features, lanes), and the base predictions (3, lanes)."""
        g = self.geometry
        at, lanes = g.left + x, self.flags.shape[1]
        parts = [row[at + first : at + last + 1] for row, (first, last) in zip(self.pixels, g.reach, strict=False)]
        result = np.empty((3 * (g.taps + len(g.near)) + FLAGS, lanes), np.float32)
        context = result[: 3 * g.taps].reshape(g.taps, 3, lanes)
        np.concatenate(parts, out=context)
        if self.any_top:
            np.copyto(context[g.own :], context[g.nearest[0]], where=self.top)
        base = median_edge(*(context[i] for i in g.nearest))
        context -= base
        near = result[3 * g.taps : -FLAGS].reshape(len(g.near), 3, lanes)
        np.stack([self.energies[up][at + dx] for up, dx in g.near], out=near)
        result[-FLAGS:] = self.flags
        if x:
            result[-3] = 0
            result[-1] = RAISED * (x & 1)
        return result, base

    def put(self, x: int, pixel: Array, base: Array) -> None:
        """Fill column `x` with pixels (3, lanes)."""
        at = self.geometry.left + x
        self.pixels[0][at] = pixel
        error = np.subtract(pixel, base, out=self.errors[x])
        self.energies[0][at] = self.energy.take(np.abs(error).astype(np.int32))

    def filled(self, pixels: Array) -> Row:
        """This row with known pixels (width, 3, lanes)."""
        g = self.geometry
        own = slice(g.left, g.left + self.width)
        self.pixels[0][own] = pixels
        west = self.pixels[0][g.left - 1 : g.left - 1 + self.width]
        north, northwest = (self.pixels[1][g.left + dx : g.left + dx + self.width] for dx in (0, -1))
        base = west if self.any_top else median_edge(west, north, northwest)
        np.subtract(pixels, base, out=self.errors)
        self.energies[0][own] = self.energy.take(np.abs(self.errors).astype(np.int32))
        return self

    def below(self) -> Row:
        """The row beneath this one, which is filled."""
        g, right = self.geometry, self.geometry.left + self.width
        whole = self.pixels[0]
        whole[right:] = whole[right - 1]
        above = [whole] * g.rows if self.any_top else self.pixels[: g.rows]
        pixels = [np.empty_like(whole), *above]
        pixels[0][: g.left] = whole[g.left]
        flags = self.flags.copy()
        flags[0], flags[2] = 0, RAISED - self.flags[2]
        energies = [np.zeros_like(self.energies[0]), *self.energies[: g.rows]]
        return Row(g, self.energy, pixels, energies, np.empty_like(self.errors), flags)

"""The networks of autoregressive models, evaluated row by row and pixel by pixel with what they remember.

What depends on the rows above is computed for all columns of a row at once, and the rest at each pixel, from features
that earlier pixels have left: a pixel costs the same in every tile. All arrays are float32 and hold whole numbers;
positions are lanes, or columns and lanes, see `rows`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gencodec.codec.groups import LOCKSTEP
from gencodec.codec.network import BEGINNING, Array
from gencodec.codec.rows import Geometry, Row
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

FORMAT = "1"
FAMILIES = ("pixelcnn", "pixelrnn")
LARGEST_TILE = 256
PART = 768
"""Positions of a row that go through the network at a time."""
MAPS = 9
"""What a PixelCNN's vertical stack sees of a pixel: colors, errors and energies."""


@dataclass(frozen=True)
class Known:
    """What is known of pixels before their first color: features, each color's linear predictions and base."""

    hidden: Array
    green: Array
    """Mean, scale and shape of green, (3, n)."""
    banks: tuple[Array, Array]
    base: Array

    @classmethod
    def of(cls, hidden: Array, rest: Array, base: Array) -> Known:
        """From a network's outputs: `rest` holds green, and red's and blue's predictions."""
        middle = (3 + len(rest)) // 2
        return cls(hidden, rest[:3], (rest[3:middle], rest[middle:]), base)

    @classmethod
    def joined(cls, parts: list[Known]) -> Known:
        """Those of many pixels."""
        hidden, green, base = (np.concatenate([getattr(p, f) for p in parts], 1) for f in ("hidden", "green", "base"))
        red, blue = (np.concatenate([p.banks[i] for p in parts], 1) for i in range(2))
        return cls(hidden, green, (red, blue), base)


class Walk:
    """A way through tiles, row by row and each from left to right, and what the network remembers on it."""

    def begin(self) -> None:
        """Start a row, whose pixels above are known."""
        raise NotImplementedError

    def pixel(self, x: int, surroundings: Array, base: Array) -> Known:
        """What is known of the pixels of column `x`."""
        raise NotImplementedError

    def end(self, row: Row) -> None:
        """Take note of a row that is filled."""
        raise NotImplementedError


class Network:
    """The stages of one model."""

    chunk = LOCKSTEP
    """Tiles that the encoder goes through at a time."""

    def __init__(self, model: Model):
        # a step's arrays are too small to be worth two threads, which would only wait for each other
        self.model = model.serial
        self.geometry = Geometry.of(model)
        self.energy = model.constant("energies").astype(np.float32)
        names = ("tile", "hidden", "layers", "left")
        self.tile, self.hidden, self.layers, self.left = (self.size(name) for name in names)
        if not 1 <= self.tile <= LARGEST_TILE:
            raise InvalidFile(f"the model {model.card.name} is made for tiles of {self.tile} pixels")

    @staticmethod
    def of(model: Model) -> Network:
        """The network of a model of either family. Raises `InvalidFile`."""
        if model.family not in FAMILIES:
            raise InvalidFile(f"the model {model.card.name} is not autoregressive")
        if model.format != FORMAT:
            raise InvalidFile(f"the model {model.card.name} is of format {model.format}, which is not known here")
        if model.family == "pixelcnn":
            return GatedNetwork(model)
        return DiagonalNetwork(model) if "back" in model.stages else RowNetwork(model)

    def in_parts(self, stage: str, seen: Array) -> list[Array]:
        """The outputs of a graph at many positions, a part at a time: few enough for the processor's caches."""
        cuts = range(0, seen.shape[1], PART)
        parts = [self.model.call(stage, np.ascontiguousarray(seen[:, first : first + PART])) for first in cuts]
        return [np.concatenate(part, 1) for part in zip(*parts, strict=True)]

    def size(self, name: str) -> int:
        """One of the network's sizes. Raises `InvalidFile`."""
        try:
            return int(self.model.config[name])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFile(f"the model {self.model.card.name} does not say how it is built") from error

    def color(self, color: int, known: Known, innovations: Array) -> Array:
        """Mean, scale and shape (3, n) of color 1 (red) or 2 (blue), given the innovations of those before."""
        stage = ("red", "blue")[color - 1]
        bank, base = known.banks[color - 1], known.base[color : color + 1]
        return self.model.call(stage, known.hidden, innovations, bank, base)[0]

    def walk(self, width: int, lanes: int) -> Walk:
        """A way through tiles of which nothing is known."""
        raise NotImplementedError

    def known_rows(self, tiles: Array) -> Iterator[tuple[slice, Known]]:
        """What was known of known pixels, (height, width, 3, n): which rows, and theirs (columns, rows and tiles)."""
        height, width, _, count = tiles.shape
        walk, row = self.walk(width, count), Row.first(self.geometry, self.energy, width, count)
        for y in range(height):
            walk.begin()
            yield slice(y, y + 1), follow(walk, row, tiles[y])
            walk.end(row)
            row = row.below()


def follow(walk: Walk, row: Row, pixels: Array) -> Known:
    """Go through a row of known pixels (width, 3, lanes); positions are columns and lanes."""
    parts = []
    for x, pixel in enumerate(pixels):
        surroundings, base = row.surroundings(x)
        parts.append(walk.pixel(x, surroundings, base))
        row.put(x, pixel, base)
    return Known.joined(parts)


# PixelCNN


class GatedNetwork(Network):
    """A PixelCNN. Its encoder goes through all rows of tiles at once: no row needs what was made of the one above."""

    chunk = 4  # of each tile it holds some megabytes

    def __init__(self, model: Model):
        super().__init__(model)
        names = ("first_rows", "first_columns", "rows", "columns")
        self.first_rows, self.first_columns, self.rows, self.columns = (self.size(name) for name in names)

    def walk(self, width: int, lanes: int) -> GatedWalk:
        return GatedWalk(self, width, lanes)

    def links(self, maps: Array, gated: list[Array]) -> tuple[Array, list[Array]]:
        """What the vertical stack gives the horizontal one in some rows, and its features for those beneath.

        `maps`: rows above of what it sees of pixels, (first_rows - 1 + rows, columns, 9, lanes); `gated`: each layer's
        features in the `rows - 1` rows above; all with margins of zeros. Gives (columns, features, rows * lanes).
        """
        width = maps.shape[1] - self.first_columns + 1
        height, lanes = len(maps) - self.first_rows + 1, maps.shape[3]
        above = np.empty((width, self.layers, 2 * self.hidden, height, lanes), np.float32)
        seen, kept = gathered(maps, self.first_rows, self.first_columns), []
        for layer in range(self.layers):
            outputs = self.in_parts(f"row{layer}", seen)
            link = outputs[0].reshape(2 * self.hidden, height, width, lanes)
            above[:, layer] = link.transpose(2, 0, 1, 3)
            if layer + 1 < self.layers:
                features = outputs[1].reshape(self.hidden, height, width, lanes).transpose(1, 2, 0, 3)
                side = self.columns // 2
                features = np.pad(features, ((0, 0), (side, side), (0, 0), (0, 0)))
                features = np.concatenate([gated[layer], features])
                kept.append(features[height:])
                seen = gathered(features, self.rows, self.columns)
        return above.reshape(width, -1, height * lanes), kept

    def known_rows(self, tiles: Array) -> Iterator[tuple[slice, Known]]:
        height, width, _, count = tiles.shape
        row = Row.all(self.geometry, self.energy, tiles)
        walk = GatedWalk(self, width, count)
        maps = maps_of(row).reshape(width, MAPS, height, count).transpose(2, 0, 1, 3)
        seen = np.concatenate([walk.seen, margined(maps[:-1], self.first_columns // 2)])
        walk.above, _ = self.links(seen, walk.gated)
        walk.past = np.zeros((*walk.past.shape[:-1], height * count), np.float32)
        pixels = tiles.transpose(1, 2, 0, 3).reshape(width, 3, -1)
        yield slice(0, height), follow(walk, row, pixels)


class GatedWalk(Walk):
    """`above`: what the vertical stack gives a row, (columns, features, lanes). `past`: states to the left of a pixel,
    (layers, columns, features, lanes). `seen` and `gated`: what the vertical stack's layers see of the rows above."""

    def __init__(self, network: GatedNetwork, width: int, lanes: int):
        self.network = n = network
        self.seen = np.zeros((n.first_rows, width + n.first_columns - 1, MAPS, lanes), np.float32)
        gated = (n.rows - 1, width + n.columns - 1, n.hidden, lanes)
        self.gated = [np.zeros(gated, np.float32) for _ in range(n.layers - 1)]
        self.past = np.zeros((n.layers - 1, n.left - 1, n.hidden, lanes), np.float32)
        self.above: Array = np.zeros((0, 0, lanes), np.float32)

    def begin(self) -> None:
        self.above, self.gated = self.network.links(self.seen, self.gated)
        self.past[:] = 0

    def pixel(self, x: int, surroundings: Array, base: Array) -> Known:
        n, lanes = self.network, base.shape[1]
        given = (surroundings, self.above[x], base[:1], self.past.reshape(-1, lanes))
        hidden, rest, states = n.model.call("pixel", *given)
        self.past[:, :-1] = self.past[:, 1:]
        self.past[:, -1] = states.reshape(-1, n.hidden, lanes)
        return Known.of(hidden, rest, base)

    def end(self, row: Row) -> None:
        maps = margined(maps_of(row)[None], self.network.first_columns // 2)
        self.seen = np.concatenate([self.seen[1:], maps])


def maps_of(row: Row) -> Array:
    """What the vertical stack sees of the pixels of a row that is filled, (columns, 9, lanes)."""
    own = slice(row.geometry.left, row.geometry.left + row.width)
    return np.concatenate([row.pixels[0][own] - BEGINNING, row.errors, row.energies[0][own]], 1)


def margined(rows: Array, side: int) -> Array:
    """Rows (height, columns, ...) with zeros on both sides."""
    return np.pad(rows, ((0, 0), (side, side), *[(0, 0)] * (rows.ndim - 2)))


def gathered(rows: Array, height: int, width: int) -> Array:
    """What a convolution of `height` x `width` sees at each of its places in `rows` (height, columns, features, lanes).

    Gives (taps * features, places); taps and places are ordered row by row.
    """
    down, across = rows.shape[0] - height + 1, rows.shape[1] - width + 1
    features, lanes = rows.shape[2:]
    result = np.empty((height, width, features, down, across, lanes), np.float32)
    for y in range(height):
        for x in range(width):
            result[y, x] = rows[y : y + down, x : x + across].transpose(2, 0, 1, 3)
    return result.reshape(height * width * features, -1)


# PixelRNN


class RowNetwork(Network):
    """A Row LSTM."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.across = self.size("across")

    def walk(self, width: int, lanes: int) -> RowWalk:
        return RowWalk(self, width, lanes)


class RowWalk(Walk):
    """`cells` and `states`: of the row above, and from its left end on of this row, (columns, features, lanes).

    `above`: what the row above adds to gates' sums, (features, columns, lanes). `past`: input features to the left."""

    def __init__(self, network: RowNetwork, width: int, lanes: int):
        self.network = n = network
        self.width = width
        self.cells = np.zeros((width, n.layers * n.hidden, lanes), np.float32)
        self.states = np.zeros((1, width + n.across - 1, n.layers, n.hidden, lanes), np.float32)
        self.past = np.zeros((n.layers, n.left - 1, 2 * n.hidden, lanes), np.float32)
        self.above: Array = np.zeros((0, 0, lanes), np.float32)

    def begin(self) -> None:
        n, lanes = self.network, self.past.shape[-1]
        by_layer = [gathered(self.states[:, :, layer], 1, n.across) for layer in range(n.layers)]
        self.above = n.in_parts("row", np.concatenate(by_layer))[0].reshape(-1, self.width, lanes)
        self.past[:] = 0

    def pixel(self, x: int, surroundings: Array, base: Array) -> Known:
        n, lanes = self.network, base.shape[1]
        given = (surroundings, self.above[:, x], base[:1], self.past.reshape(-1, lanes), self.cells[x])
        hidden, rest, features, self.cells[x], states = n.model.call("pixel", *given)
        self.states[0, x + n.across // 2] = states.reshape(n.layers, n.hidden, lanes)
        self.past[:, :-1] = self.past[:, 1:]
        self.past[:, -1:] = features.reshape(n.layers, 1, -1, lanes)
        return Known.of(hidden, rest, base)

    def end(self, row: Row) -> None:
        pass


class DiagonalNetwork(Network):
    """A Diagonal BiLSTM."""

    def walk(self, width: int, lanes: int) -> DiagonalWalk:
        return DiagonalWalk(self, width, lanes)


class DiagonalWalk(Walk):
    """All arrays are (columns, features, lanes), but for those of the pixel before, (features, lanes).

    `states`: those of the direction from left to right, in the row above, and from its left end on in this row.
    `back`: those of the other direction in the row above. `features`: input features of this row.
    """

    def __init__(self, network: DiagonalNetwork, width: int, lanes: int):
        self.network = n = network
        units = n.layers * n.hidden
        self.states, self.back = (np.zeros((width, units, lanes), np.float32) for _ in range(2))
        self.features = np.zeros((width, 2 * units, lanes), np.float32)
        self.nothing = np.zeros((units, lanes), np.float32)
        self.beside = self.cells = self.nothing

    def begin(self) -> None:
        self.beside = self.cells = self.nothing

    def pixel(self, x: int, surroundings: Array, base: Array) -> Known:
        given = (surroundings, self.states[x], base[:1], self.beside, self.cells, self.back[x])
        hidden, rest, self.features[x], self.cells, self.beside = self.network.model.call("pixel", *given)
        self.states[x] = self.beside
        return Known.of(hidden, rest, base)

    def end(self, row: Row) -> None:
        beside = cells = self.nothing
        for x in reversed(range(row.width)):
            cells, beside = self.network.model.call("back", self.features[x], self.back[x], beside, cells)
            self.back[x] = beside

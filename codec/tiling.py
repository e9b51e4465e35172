"""How a picture is cut: tiles that are coded as lanes of one wavefront, and groups of tiles that share a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gencodec.errors import InvalidFile

TILE = 128
"""About the least side of the tiles that the encoder chooses, and their side in pictures of more than LARGE pixels."""
WIDE_TILE = 256
LARGE = 1 << 22
STEP = 1 << 8
"""Pixels of a step, in the mean, that tiles between TILE and WIDE_TILE leave. Tiles begin without knowledge of each
other: gb82 takes 0.3 % less in tiles of 288 x 288 than of 144 x 144, and decodes at 0.76 of the speed, since the fewer
the pixels of a step, the more its overhead shows. A tile takes its width and three times its height in steps: of Kodak
in luma and chroma codes tiles of 256 x 128 take 0.2 % more than of 256 x 256, and decode at 1.26 times the speed."""
PATIENT_TILE = 640
"""About the side of tiles where decoding may take longer: each as one tile, gb82's pictures take 0.2 % less than in
four, and decode at 0.7 of the speed."""
SMALL = 1 << 20
"""Pictures of at most so many pixels have one stream: two threads would take turns. One of 45 tiles decoded 1.29 times
as fast so."""
GROUP = 8
"""Greatest number of tiles of TILE, across and down, that share a stream in larger pictures."""
LARGEST_TILE = 1024
LARGEST_GROUP = 16
LARGEST_LANES = 1 << 15
"""Rows of all tiles of a group: what a decoder remembers of each takes some 5 kB."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels."""

    x: int
    y: int
    width: int
    height: int

    def overlaps(self, other: Box) -> bool:
        """Whether both have a pixel in common."""
        across = self.x < other.x + other.width and other.x < self.x + self.width
        return across and self.y < other.y + other.height and other.y < self.y + self.height


@dataclass(frozen=True)
class Tiling:
    """Tiles of `tile_width` x `tile_height`, in groups of `group_columns` x `group_rows` tiles."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    group_columns: int
    group_rows: int

    def __post_init__(self) -> None:
        widest, highest = min(self.width, LARGEST_TILE), min(self.height, LARGEST_TILE)
        if not (1 <= self.tile_width <= widest and 1 <= self.tile_height <= highest):
            raise InvalidFile(f"the coded pixels are damaged: tiles of {self.tile_width} x {self.tile_height}")
        columns, rows = -(-self.width // self.tile_width), -(-self.height // self.tile_height)
        if not (
            1 <= self.group_columns <= min(columns, LARGEST_GROUP) and 1 <= self.group_rows <= min(rows, LARGEST_GROUP)
        ):
            raise InvalidFile(f"the coded pixels are damaged: groups of {self.group_columns} x {self.group_rows} tiles")
        if self.group_columns * self.group_rows * self.tile_height > LARGEST_LANES:
            raise InvalidFile("the coded pixels are damaged: the tiles of a group have too many rows")

    @classmethod
    def of(cls, width: int, height: int, *, patient: bool = False, low: bool = False) -> Tiling:
        """The encoder's choice for a picture, for decoders that are in a hurry or `patient` ones.

        `low`: tiles of TILE rows at most, for small networks: what a step takes beside them decides.
        """
        pixels = width * height
        if pixels > LARGE:
            return cls.by_side(width, height, TILE)
        side = PATIENT_TILE if patient else min(max(TILE, pixels // (4 * STEP)), WIDE_TILE)
        return cls.by_side(width, height, side, TILE if low else side)

    @classmethod
    def by_side(cls, width: int, height: int, across: int, down: int | None = None) -> Tiling:
        """Tiles of about `across` x `down` pixels, squares by default, and groups, both as even as can be.

        Sides are even, so that chroma grids keep their phase.
        """
        down = down or across
        tile_width, columns = _divided(width, across)
        tile_height, rows = _divided(height, down)
        if width * height > SMALL or max(columns, rows) > LARGEST_GROUP:
            columns, rows = (_shared(columns, across), _shared(rows, down))
        return cls(width, height, tile_width, tile_height, columns, rows)

    def groups(self) -> Iterator[Box]:
        """The groups' rectangles, row by row."""
        step_x, step_y = self.group_columns * self.tile_width, self.group_rows * self.tile_height
        yield from _cut(Box(0, 0, self.width, self.height), step_x, step_y)

    def all_tiles(self) -> Iterator[Box]:
        """The rectangles of all tiles, group by group."""
        for group in self.groups():
            yield from self.tiles(group)

    def tiles(self, group: Box) -> Iterator[Box]:
        """The rectangles of a group's tiles, row by row."""
        yield from _cut(group, self.tile_width, self.tile_height)


def grown(box: Box, margin: int, edge: Box) -> Box:
    """A box with a margin, as far as `edge` goes."""
    x, y = max(edge.x, box.x - margin), max(edge.y, box.y - margin)
    right, bottom = (
        min(a, b)
        for a, b in (
            (edge.x + edge.width, box.x + box.width + margin),
            (edge.y + edge.height, box.y + box.height + margin),
        )
    )
    return Box(x, y, right - x, bottom - y)


def _divided(side: int, tile: int) -> tuple[int, int]:
    """Sides of the tiles that are nearest to `tile`, and how many they are."""
    length = min(2 * -(-side // (2 * max(1, round(side / tile)))), side)
    return length, -(-side // length)


def _shared(count: int, side: int) -> int:
    """Tiles of a group across or down, of `count` tiles of about `side` pixels."""
    groups = -(-count // max(1, GROUP * TILE // side))
    return -(-count // groups)


def _cut(box: Box, step_x: int, step_y: int) -> Iterator[Box]:
    for y in range(box.y, box.y + box.height, step_y):
        for x in range(box.x, box.x + box.width, step_x):
            yield Box(x, y, min(step_x, box.x + box.width - x), min(step_y, box.y + box.height - y))

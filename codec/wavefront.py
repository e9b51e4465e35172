"""The wavefront: pixel (y, x) of a tile is coded at step x + lag * y, in all tiles of a group at once.

The decoder keeps its past skewed: `history[t]` holds what step t produced, one lane per tile and row, so that a
neighbor (rows up, columns beside) of all pixels of step t is one slice, `history[t + dx - lag * up]` shifted by
`up` lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.network import (
    BEGINNING,
    FIRST_COLUMN,
    FLAGS,
    MISSING,
    RAISED,
    Array,
    Geometry,
    Index,
    Seen,
    Whole,
    flags_of,
)
from gencodec.codec.tiling import Box


@dataclass(frozen=True)
class Schedule:
    """Which pixels of a group's tiles are coded at which step, and where they stand in the picture.

    A step's symbols are ordered by tile, then by row.
    """

    tiles: tuple[Box, ...]
    height: int
    width: int
    lag: int

    @classmethod
    def of(cls, tiles: list[Box], lag: int) -> Schedule:
        """The schedule of tiles whose greatest height and width are the lanes' extent."""
        return cls(tuple(tiles), max(t.height for t in tiles), max(t.width for t in tiles), lag)

    @property
    def steps(self) -> int:
        """How many steps the group takes."""
        return self.width + self.lag * (self.height - 1)

    def lanes(self, step: int, beyond: int = 0) -> slice:
        """The rows that have a pixel at `step`, columns up to `beyond` right of the tile counted as pixels."""
        first = max(0, (step - self.width - beyond) // self.lag + 1)
        return slice(first, min(self.height, step // self.lag + 1))

    @cached_property
    def widths(self) -> Index:
        """Width of every tile, (tiles, 1)."""
        return np.array([[t.width] for t in self.tiles])

    @cached_property
    def heights(self) -> Index:
        """Height of every tile, (tiles, 1)."""
        return np.array([[t.height] for t in self.tiles])

    @cached_property
    def least(self) -> tuple[int, int]:
        """The least height and the least width of a tile."""
        return int(self.heights.min()), int(self.widths.min())

    def complete(self, step: int, lanes: slice) -> bool:
        """Whether each of the lanes, some of which there must be, holds a pixel of every tile at `step`."""
        height, width = self.least
        return lanes.stop <= height and step - self.lag * lanes.start < width

    def valid(self, step: int, lanes: slice) -> NDArray[np.bool_]:
        """Which of the lanes hold a pixel of their tile at `step`, (tiles, rows)."""
        row = np.arange(lanes.start, lanes.stop)
        return (step - self.lag * row < self.widths) & (row < self.heights)

    @property
    def order(self) -> tuple[Index, Index]:
        """Positions in (tiles, height, width) of all pixels in coding order, and where each step begins in it."""
        return coding_order(tuple((t.height, t.width) for t in self.tiles), self.lag)


@lru_cache(maxsize=4)
def coding_order(tiles: tuple[tuple[int, int], ...], lag: int) -> tuple[Index, Index]:
    """The order of `Schedule` for tiles of these heights and widths: a picture's groups are mostly alike."""
    heights, widths = np.array(tiles).T[..., None, None]
    row, column = np.arange(heights.max())[:, None], np.arange(widths.max())
    own = (column < widths) & (row < heights)
    position = np.flatnonzero(own)
    step = (column + lag * row).astype(np.int16)
    step_of = step.ravel().take(position % step.size)
    begins = np.cumsum([0, *np.bincount(step_of, minlength=int(step.max()) + 1)])
    return position.take(np.argsort(step_of, kind="stable")), begins


class History:
    """What the last steps produced: (channels, tiles, rows) int16 a step, of which `past` are kept.

    Steps up to `future` ahead can be written beforehand. `above` lanes of margin stand above the first row. Before
    every SPARE-th step, `advance` is called.
    """

    SPARE = 16
    """Steps between moves of what is kept to the front."""

    def __init__(self, channels: int, tiles: int, rows: int, *, above: int, past: int, future: int = 0):
        self.above = above
        self.buffer = np.zeros((past + self.SPARE + future, channels, tiles, above + rows), np.int16)
        self.origin = -past

    def advance(self) -> None:
        """Make room for the next SPARE steps; what is new holds the margin's values of before, and zeros."""
        self.buffer[: -self.SPARE] = self.buffer[self.SPARE :]
        self.buffer[-self.SPARE :, :, :, self.above :] = 0
        self.origin += self.SPARE

    def steps(self, first: int, last: int, lanes: slice, up: int = 0) -> NDArray[np.int16]:
        """Steps `first..last` of the lanes `up` rows above `lanes`; a view (steps, channels, tiles, rows)."""
        shift = self.above - up
        return self.buffer[first - self.origin : last + 1 - self.origin, :, :, lanes.start + shift : lanes.stop + shift]

    def at(self, step: int, lanes: slice, up: int = 0) -> NDArray[np.int16]:
        """One step; a view (channels, tiles, rows)."""
        return self.steps(step, step, lanes, up)[0]


class Ring:
    """What the last steps left: (channels, tiles, rows) whole numbers a step, zero where a lane had no place at a step.

    `past` steps are kept beside the present one. `above` lanes of zeros stand above the first row.
    """

    def __init__(self, channels: int, tiles: int, rows: int, kind: type[Whole], *, above: int, past: int):
        self.above, self.size = above, past + 1
        self.buffer = np.zeros((self.size, channels, tiles, above + rows), kind)
        self.first = [0] * self.size

    def begin(self, step: int, lanes: slice) -> NDArray[Whole]:
        """Where to write the present step's lanes; neither end of which ever is less than that of a step before."""
        slot = step % self.size
        if self.first[slot] < lanes.start:  # what an earlier step left there
            self.at(step, slice(self.first[slot], lanes.start))[...] = 0
            self.first[slot] = lanes.start
        return self.at(step, lanes)

    def at(self, step: int, lanes: slice, up: int = 0) -> NDArray[Whole]:
        """The lanes `up` rows above `lanes` at a step; a view (channels, tiles, rows)."""
        shift = self.above - up
        return self.buffer[step % self.size, :, :, lanes.start + shift : lanes.stop + shift]


class Wavefront:
    """The decoder's memory of one group: gives the network's inputs of a step, takes what was decoded there."""

    def __init__(self, schedule: Schedule, geometry: Geometry):
        self.schedule, self.geometry = schedule, g = schedule, geometry
        tiles, rows = len(schedule.tiles), schedule.height
        row = np.arange(rows)
        # at even and odd steps, as if none of the rows had begun
        self.flags = [flags_of(row, step - g.lag * row) for step in (-2, -1)]
        back = max(g.lag * up - first for up, (first, _) in enumerate(g.reach))
        self.pixels = History(3, tiles, rows, above=g.above, past=back, future=g.lag)
        self.pixels.buffer[...] = BEGINNING
        if not g.repeats_edge:
            self.pixels.buffer[:, :, :, : g.above] = MISSING
        back = max(*(g.lag * up - dx for up, dx in g.trace_at), 1 + g.row_pool, g.pool_columns)
        highest = max(up for up, _ in g.trace_at)
        self.traces = Ring(1 + g.traces, tiles, rows, g.kept_type, above=highest, past=back)
        self.slope = g.lag - 1
        back = 1 + self.slope * g.pool_rows
        # sums of the row to the left; over `pool_columns` of it, its last pixel among them; over these of rows above
        self.left = np.zeros((1 + g.energies, tiles, rows), g.kept_type)
        self.runs = Ring(1 + g.energies, tiles, rows, g.kept_type, above=1 + g.pool_rows, past=back)
        self.areas = Ring(1 + g.energies, tiles, rows, g.kept_type, above=1, past=self.slope)

    def begin(self, step: int) -> None:
        """Make room for a step, and bring the sums up to it."""
        if step and step % History.SPARE == 0:
            self.pixels.advance()
        g, lanes = self.geometry, self.schedule.lanes(step, self.geometry.pool_columns)
        n = g.energies + 1
        left = self.left[:, :, lanes]
        left += self.traces.at(step - 1, lanes)[:n]
        left -= self.traces.at(step - 1 - g.row_pool, lanes)[:n]
        area = self.areas.begin(step, lanes)
        np.add(self.areas.at(step - self.slope, lanes, 1), self.runs.at(step - 1, lanes, 1), out=area)
        area -= self.runs.at(step - 1 - self.slope * g.pool_rows, lanes, 1 + g.pool_rows)

    def seen(self, step: int, lanes: slice) -> Seen:
        """What the network is given of a step."""
        return Seen(self.context(step, lanes), self.near(step, lanes), *self.pools(step, lanes))

    def context(self, step: int, lanes: slice) -> Array:
        """Neighboring pixels (rows, positions)."""
        g, tiles = self.geometry, len(self.schedule.tiles)
        result = np.empty((g.context_rows, tiles, lanes.stop - lanes.start), np.float32)
        row = 0
        for up, (first, last) in enumerate(g.reach):
            base = step - g.lag * up
            block = self.pixels.steps(base + first, base + last, lanes, up)
            stop = row + 3 * len(block)
            result[row:stop].reshape(block.shape)[...] = block
            row = stop
        return result.reshape(g.context_rows, -1)

    def near(self, step: int, lanes: slice) -> Array:
        """Traces at neighboring places, and flags; (rows, positions)."""
        g, tiles = self.geometry, len(self.schedule.tiles)
        result = np.empty((g.near_rows, tiles, lanes.stop - lanes.start), np.float32)
        for i, (up, dx) in enumerate(g.trace_at):
            result[i * g.traces : (i + 1) * g.traces] = self.traces.at(step + dx - g.lag * up, lanes, up)[1:]
        result[-FLAGS:] = self.flags[step % 2][:, None, lanes]
        beginning, rest = divmod(step, g.lag)
        if rest == 0 and beginning < lanes.stop:
            result[-FLAGS + FIRST_COLUMN, :, beginning - lanes.start] = RAISED
        return result.reshape(g.near_rows, -1)

    def pools(self, step: int, lanes: slice) -> tuple[Array, Array]:
        """Sums of energies (2 * energies, positions) and counts (2, positions)."""
        n = self.geometry.energies + 1
        sums = np.empty((2, n, len(self.schedule.tiles), lanes.stop - lanes.start), np.float32)
        sums[0] = self.left[:, :, lanes]
        sums[1] = self.areas.at(step, lanes)
        counts = np.maximum(sums[:, 0], 1)
        return sums[:, 1:].reshape(2 * n - 2, -1), counts.reshape(2, -1)

    def put(self, step: int, lanes: slice, pixel: Array, trace: Array) -> None:
        """Remember the pixels (3, positions) and traces (features, positions) of a step."""
        schedule, g = self.schedule, self.geometry
        extent = (len(schedule.tiles), lanes.stop - lanes.start)
        here, kept = self.pixels.at(step, lanes), self.traces.begin(step, lanes)
        here[...] = pixel.reshape(3, *extent)
        kept[0] = 1
        kept[1:] = trace.reshape(len(trace), *extent)
        if not schedule.complete(step, lanes):
            # right of its tile a row goes on with its last pixel, and leaves no traces
            outside = ~schedule.valid(step, lanes)
            np.copyto(here, self.pixels.at(step - 1, lanes), where=outside)
            kept *= ~outside
        first = schedule.lanes(step, g.right).start
        ended = slice(first, lanes.start)
        self.pixels.at(step, ended)[...] = self.pixels.at(step - 1, ended)
        if (
            step % g.lag == 0 and lanes.stop < schedule.height
        ):  # the first pixel of a row: it stands left of the next row
            below = slice(lanes.stop, lanes.stop + 1)
            start = step + g.lag
            self.pixels.steps(start - g.left, start - 1, below)[...] = self.pixels.at(
                step, slice(lanes.stop - 1, lanes.stop)
            )
        if g.repeats_edge and first == 0:
            margin = self.pixels.at(step, slice(0, g.above), g.above)
            margin[...] = self.pixels.at(step, slice(0, 1))
        self._extend_runs(step)

    def put_nothing(self, step: int, lanes: slice) -> None:
        """What `put` does for a step without pixels."""
        self.put(step, lanes, np.empty((3, 0), np.float32), np.empty((self.geometry.traces, 0), np.float32))

    def _extend_runs(self, step: int) -> None:
        g = self.geometry
        lanes = self.schedule.lanes(step, g.pool_columns)
        n = g.energies + 1
        run = self.runs.begin(step, lanes)
        np.add(self.runs.at(step - 1, lanes), self.traces.at(step, lanes)[:n], out=run)
        run -= self.traces.at(step - g.pool_columns, lanes)[:n]

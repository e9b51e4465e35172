"""The network's inputs for whole tiles, as the encoder sees them: band after band of rows.

Tiles are (3, tiles, height, width) float32 gray levels, colors in coding order; tiles that are smaller than the
array hold their last column again on the right. A band is a slice of rows; what is given for it has the shape
(rows of the network's input, positions).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.network import BEGINNING, FLAGS, MISSING, Array, Geometry, Whole, flags_of

Mask = NDArray[np.bool_]
Wholes = NDArray[Whole]


class TileFeatures:
    """Contexts are ready at once; traces are given back band by band, and then give `near` and `pools`."""

    def __init__(self, tiles: Array, valid: Mask, geometry: Geometry):
        """`valid` (tiles, height, width) tells a tile's own pixels."""
        self.geometry, self.valid = geometry, valid
        self.pixels = margined(tiles, geometry)
        self.above = max(up for up, _ in geometry.trace_at)
        self.left = max(max(-dx, 0) for _, dx in geometry.trace_at)
        self.right = max(max(dx, 0) for _, dx in geometry.trace_at)
        _, count, self.height, self.width = tiles.shape
        extent = (self.above + self.height, self.left + self.width + self.right)
        self.traces = np.zeros((geometry.traces, count, *extent), geometry.kept_type)
        self.pooled: tuple[Wholes, Wholes] | None = None

    def context(self, band: slice) -> Array:
        """Neighboring pixels by the edge rules of docs/format.md."""
        g, count = self.geometry, self.pixels.shape[1]
        result = np.empty((g.context_rows, count, band.stop - band.start, self.width), np.float32)
        row = 0
        for up, (first, last) in enumerate(g.reach):
            lines = self.pixels[:, :, g.above - up + band.start : g.above - up + band.stop]
            for dx in range(first, last + 1):
                result[row : row + 3] = lines[..., g.left + dx : g.left + dx + self.width]
                row += 3
        return result.reshape(g.context_rows, -1)

    def put_traces(self, band: slice, traces: Array) -> None:
        """Keep the traces (features, positions) of a band; those beyond a tile's own pixels are zero."""
        valid = self.valid[:, band]
        inner = self.traces[:, :, self.above :, self.left : self.left + self.width]
        np.multiply(traces.reshape(-1, *valid.shape), valid, out=inner[:, :, band], casting="unsafe")

    def near(self, band: slice) -> Array:
        """Traces at neighboring places, zero outside the tile, and the place's flags."""
        g, count = self.geometry, self.pixels.shape[1]
        result = np.empty((g.near_rows, count, band.stop - band.start, self.width), np.float32)
        for i, (up, dx) in enumerate(g.trace_at):
            lines = self.traces[:, :, self.above - up + band.start : self.above - up + band.stop]
            result[i * g.traces : (i + 1) * g.traces] = lines[..., self.left + dx : self.left + dx + self.width]
        row = np.arange(band.start, band.stop)[:, None]
        result[-FLAGS:] = flags_of(row, np.arange(self.width))[:, None]
        return result.reshape(g.near_rows, -1)

    def pools(self, band: slice) -> tuple[Array, Array]:
        """Sums of energies over two windows (2 * energies, n), and the windows' pixel counts (2, n), at least 1."""
        if self.pooled is None:
            energies = self.traces[: self.geometry.energies, :, self.above :, self.left : self.left + self.width]
            self.pooled = pool_sums(energies, self.valid, self.geometry)
        sums, counts = (values[:, :, band].astype(np.float32) for values in self.pooled)
        return sums.reshape(len(sums), -1), counts.reshape(2, -1)


def margined(tiles: Array, geometry: Geometry) -> Array:
    """Tiles with the margins that contexts reach: (3, tiles, above + height, left + width + right)."""
    g = geometry
    _, count, height, width = tiles.shape
    canvas = np.full((3, count, g.above + height, g.left + width + g.right), MISSING, np.float32)
    body = canvas[:, :, g.above :]
    body[..., g.left : g.left + width] = tiles
    body[:, :, 1:, : g.left] = tiles[:, :, :-1, :1]
    body[:, :, 0, : g.left] = BEGINNING
    body[..., g.left + width :] = tiles[..., -1:]
    if g.repeats_edge:
        top = canvas[:, :, g.above]
        for up in range(1, g.above + 1):
            row, delay = canvas[:, :, g.above - up], g.lag * up
            row[..., :delay] = BEGINNING
            row[..., delay:] = top[..., :-delay]
    return canvas


def pool_sums(energies: Wholes, valid: Mask, geometry: Geometry) -> tuple[Wholes, Wholes]:
    """Sums of energies (energies, tiles, height, width) over two windows, and the windows' pixel counts.

    The windows are the `row_pool` pixels to the left, and `pool_columns` pixels of each of `pool_rows` rows
    above, the k-th of which ends `lag - 1 + k` columns to the right (k from 0, upward).
    """
    g = geometry
    height, width = valid.shape[1:]
    before, ahead = max(g.row_pool, g.pool_columns - g.lag), g.lag - 2 + g.pool_rows
    # how many pixels there are, and their energies, with the margins that windows reach
    canvas = np.zeros((1 + len(energies), len(valid), height, before + width + ahead), g.kept_type)
    inner = canvas[..., before : before + width]
    inner[0], inner[1:] = valid, energies
    left = row_sums(canvas[..., before - g.row_pool : before + width - 1], g.row_pool)
    runs = row_sums(canvas[..., before + g.lag - g.pool_columns :], g.pool_columns)
    above = np.zeros_like(runs)
    above[:, :, 1:] = runs[:, :, :-1]
    area = diagonal_sums(above, g.pool_rows)[..., :width]
    return np.concatenate([left[1:], area[1:]]), np.maximum(np.stack([left[0], area[0]]), 1)


def row_sums(values: Wholes, count: int) -> Wholes:
    """Sums of `count` neighbors of a row each, for every place that has so many from there on to the right."""
    if count == 1:
        return values
    half = row_sums(values, count // 2)
    both = half[..., : -(count // 2)] + half[..., count // 2 :]
    return both[..., :-1] + values[..., count - 1 :] if count % 2 else both


def diagonal_sums(values: Wholes, count: int) -> Wholes:
    """Sums of `count` values each, of which every next one stands a row higher and a column further right."""
    if count == 1:
        return values
    half = diagonal_sums(values, count // 2)
    both = half + _moved(half, count // 2)
    return values + _moved(both, 1) if count % 2 else both


def _moved(values: Wholes, by: int) -> Wholes:
    """Each place's value `by` rows higher and `by` columns further right; zero where there is none."""
    result = np.zeros_like(values)
    result[:, :, by:, :-by] = values[:, :, :-by, by:]
    return result

"""The network's inputs for whole tiles at once, as the encoder sees them.

Tiles are (3, tiles, height, width) float32 gray levels, colors in coding order; tiles that are smaller than the
array hold their last column again on the right. `valid` (tiles, height, width) tells a tile's own pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.network import BEGINNING, FLAGS, MISSING, Array, Geometry

Mask = NDArray[np.bool_]


def context(tiles: Array, geometry: Geometry) -> Array:
    """Neighboring pixels (rows, tiles, height, width) by the edge rules of docs/format.md."""
    g = geometry
    _, count, height, width = tiles.shape
    canvas = np.full((3, count, height + g.above, g.left + width + g.right), MISSING, np.float32)
    body = canvas[:, :, g.above :]
    body[..., g.left : g.left + width] = tiles
    body[:, :, 1:, : g.left] = tiles[:, :, :-1, :1]
    body[:, :, 0, : g.left] = BEGINNING
    body[..., g.left + width :] = tiles[..., -1:]
    result = np.empty((g.context_rows, count, height, width), np.float32)
    row = 0
    for up, (first, last) in enumerate(g.reach):
        for dx in range(first, last + 1):
            top, start = g.above - up, g.left + dx
            result[row : row + 3] = canvas[:, :, top : top + height, start : start + width]
            row += 3
    return result


def near(traces: Array, geometry: Geometry) -> Array:
    """Traces at neighboring places, zero outside the tile, and the place's flags; (rows, tiles, height, width)."""
    g = geometry
    _, count, height, width = traces.shape
    result = np.zeros((g.near_rows, count, height, width), np.float32)
    for i, (up, dx) in enumerate(g.trace_at):
        block = result[i * g.traces : (i + 1) * g.traces]
        left, right = max(-dx, 0), max(dx, 0)
        block[:, :, up:, left : width - right] = traces[:, :, : height - up, right : width - left]
    flags = result[-FLAGS:]
    flags[0, :, 0] = 1
    flags[1, :, :, 0] = 1
    flags[2, :, 1::2] = 1
    flags[3, :, :, 1::2] = 1
    return result


def pools(traces: Array, valid: Mask, geometry: Geometry) -> tuple[Array, Array]:
    """Sums of energies over two windows (2 * energies, ...), and the windows' pixel counts (2, ...), at least 1.

    The windows are the `row_pool` pixels to the left, and `pool_columns` pixels of each of `pool_rows` rows
    above, the k-th of which ends `lag - 1 + k` columns to the right (k from 0, upward).
    """
    g = geometry
    counted = np.concatenate([valid[None].astype(np.float32), traces[: g.energies]])
    _, count, height, width = traces.shape
    ahead = g.lag - 2 + g.pool_rows
    total = np.cumsum(np.pad(counted, ((0, 0), (0, 0), (0, 0), (1, ahead))), axis=-1)
    left = total[..., :width] - _delayed(total, g.row_pool)[..., :width]
    runs = (total - _delayed(total, g.pool_columns))[..., 1:]
    area = np.zeros_like(left)
    for k in range(min(g.pool_rows, height - 1)):
        start = g.lag - 1 + k
        area[:, :, k + 1 :] += runs[:, :, : height - 1 - k, start : start + width]
    sums = np.concatenate([left[1:], area[1:]])
    return sums, np.maximum(np.stack([left[0], area[0]]), 1)


def _delayed(total: Array, by: int) -> Array:
    return np.pad(total, ((0, 0), (0, 0), (0, 0), (by, 0)))[..., : total.shape[-1]]

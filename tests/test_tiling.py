"""Tiles and groups: every pixel once, sides even and alike, and nothing that a damaged file may claim."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencodec.codec import tiling
from gencodec.codec.tiling import (
    GROUP,
    LARGE,
    LARGEST_GROUP,
    LARGEST_TILE,
    SMALL,
    STEP,
    TILE,
    WIDE_TILE,
    Box,
    Tiling,
)
from gencodec.errors import InvalidFile

sides = st.one_of(st.integers(1, 300), st.integers(1, 3000), st.sampled_from([127, 128, 129, 1024, 1025]))


def cover(outer: Box, parts: list[Box]) -> None:
    """Assert that the parts fill the outer rectangle, each place once."""
    count = np.zeros((outer.height, outer.width), np.uint8)
    for part in parts:
        assert part.width >= 1
        assert part.height >= 1
        assert outer.x <= part.x
        assert outer.y <= part.y
        count[part.y - outer.y : part.y - outer.y + part.height, part.x - outer.x :][:, : part.width] += 1
    assert (count == 1).all()
    assert sum(part.width * part.height for part in parts) == outer.width * outer.height


@settings(max_examples=60)
@given(sides, sides)
def test_groups_and_tiles_cover_every_pixel_once(width: int, height: int) -> None:
    tiles = Tiling.of(width, height)
    groups = list(tiles.groups())
    cover(Box(0, 0, width, height), groups)
    for group in groups:
        parts = list(tiles.tiles(group))
        cover(group, parts)
        assert len(parts) <= GROUP * GROUP


@settings(max_examples=200)
@given(st.integers(1, 200_000), st.integers(1, 200_000), st.booleans())
def test_tiles_are_as_even_as_can_be(width: int, height: int, low: bool) -> None:
    tiles = Tiling.of(width, height, low=low)
    across = sorted([TILE, width * height // (4 * STEP), WIDE_TILE])[1] if width * height <= LARGE else TILE
    down = TILE if low else across
    columns, rows = ceil(width / tiles.tile_width), ceil(height / tiles.tile_height)
    together = width * height <= SMALL and max(columns, rows) <= LARGEST_GROUP
    for side, tile, count, group, aim in (
        (width, tiles.tile_width, columns, tiles.group_columns, across),
        (height, tiles.tile_height, rows, tiles.group_rows, down),
    ):
        most = GROUP * TILE // aim
        assert tile % 2 == 0 or tile == side
        assert tile == side or 0 <= tile - side / max(1, round(side / aim)) < 2
        assert tile <= 1.5 * aim
        assert group == count if together else group <= most
        assert together or ceil(count / group) == ceil(count / most)


def test_a_small_picture_is_one_tile() -> None:
    assert Tiling.of(127, 33) == Tiling(127, 33, 127, 33, 1, 1)
    assert list(Tiling.of(127, 33).groups()) == [Box(0, 0, 127, 33)]


def test_tiles_and_groups_go_row_by_row() -> None:
    tiles = Tiling(7, 5, 2, 2, 2, 2)
    assert list(tiles.groups()) == [Box(0, 0, 4, 4), Box(4, 0, 3, 4), Box(0, 4, 4, 1), Box(4, 4, 3, 1)]
    assert list(tiles.tiles(Box(4, 0, 3, 4))) == [Box(4, 0, 2, 2), Box(6, 0, 1, 2), Box(4, 2, 2, 2), Box(6, 2, 1, 2)]


def test_sizes_may_be_chosen_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "TILE", 16)
    monkeypatch.setattr(tiling, "GROUP", 2)
    monkeypatch.setattr(tiling, "SMALL", 70 * 16)
    assert Tiling.of(70, 16) == Tiling(70, 16, 18, 16, 4, 1)
    assert Tiling.of(150, 16) == Tiling(150, 16, 18, 16, 2, 1)


@pytest.mark.parametrize("size", [0, LARGEST_TILE + 1, 65535])
@pytest.mark.parametrize("place", range(4))
def test_absurd_sizes_are_refused(size: int, place: int) -> None:
    sizes = [128, 128, 8, 8]
    sizes[place] = size
    with pytest.raises(InvalidFile, match=r"damaged: (tiles|groups) of"):
        Tiling(1000, 1000, *sizes)


def test_groups_of_too_many_rows_are_refused() -> None:
    assert Tiling(64, 16384, 4, 1024, 16, 2).tile_width == 4
    with pytest.raises(InvalidFile, match="too many rows"):
        Tiling(64, 16384, 4, 1024, 11, 3)


boxes = st.builds(Box, st.integers(0, 9), st.integers(0, 9), st.integers(1, 6), st.integers(1, 6))


@given(boxes, boxes)
def test_boxes_overlap_where_they_share_a_pixel(a: Box, b: Box) -> None:
    def pixels(box: Box) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box.x, box.x + box.width) for y in range(box.y, box.y + box.height)}

    assert a.overlaps(b) == b.overlaps(a) == bool(pixels(a) & pixels(b))


@pytest.mark.parametrize(
    ("width", "height", "count"), [(576, 576, 1), (768, 512, 1), (1500, 1000, 4), (4000, 3000, 713)]
)
def test_patient_decoders_get_larger_tiles(width: int, height: int, count: int) -> None:
    tiles, usual = (len(list(Tiling.of(width, height, patient=patient).all_tiles())) for patient in (True, False))
    assert tiles == count
    assert tiles < usual or width * height > LARGE

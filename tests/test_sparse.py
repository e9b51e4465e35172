"""Blocks of symbols that are mostly zero: what is pushed is popped, at the cost of its information."""

from __future__ import annotations

import numpy as np
import pytest

from gencodec.codec.coder import IntervalCoder
from gencodec.codec.sparse import RUN, SparseTables, parts, rising
from gencodec.codec.tables import Tables


@pytest.fixture(scope="module")
def tables() -> SparseTables:
    from gencodec.export.photo import scale_rates, shape_tables
    from gencodec.models.shapes import Shapes

    return SparseTables(Tables(shape_tables(Shapes()), scale_rates()))


def drawn(count: int, narrow: int, wide: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences about as wide as their scale indices say, the indices, and shape indices."""
    rng = np.random.default_rng(5)
    scale, shape = rng.integers(narrow, wide, count), rng.integers(0, 8, count)
    spread = 2.0 ** ((scale - 24) / 6)
    return np.clip(np.rint(rng.laplace(size=count) * spread), -127, 127).astype(np.int64), scale, shape


@pytest.mark.parametrize(("narrow", "wide"), [(0, 64), (0, 8), (40, 64)], ids=["all", "sparse", "dense"])
@pytest.mark.parametrize("count", [0, 1, 9, 5000])
def test_what_is_pushed_is_popped(tables: SparseTables, count: int, narrow: int, wide: int) -> None:
    difference, scale, shape = drawn(count, narrow, wide)
    coder = IntervalCoder()
    tables.push(coder, difference, scale, shape)
    reader = IntervalCoder.from_bytes(coder.to_bytes())
    assert (tables.pop(reader, scale, shape) == difference).all()
    assert reader.empty


@pytest.mark.parametrize(("narrow", "wide"), [(0, 10), (0, 40)], ids=["sparse", "mixed"])
def test_symbols_cost_their_information(tables: SparseTables, narrow: int, wide: int) -> None:
    difference, scale, shape = drawn(60000, narrow, wide)
    coder = IntervalCoder()
    tables.push(coder, difference, scale, shape)
    _, length = tables.tables.interval(difference + 128, np.full(len(scale), 2048), scale, shape)
    ideal = float((16 - np.log2(length)).sum())
    assert coder.bits == pytest.approx(ideal, rel=1e-6)
    assert len(coder.to_bytes()) * 8 < ideal * 1.005 + 400


def test_cuts_cover_a_block_and_grow() -> None:
    cuts = rising(10000)
    assert [cut.start for cut in cuts[1:]] == [cut.stop for cut in cuts[:-1]]
    assert (cuts[0].start, cuts[-1].stop) == (0, 10000)
    sizes = [cut.stop - cut.start for cut in cuts[:-1]]
    assert sizes == sorted(sizes)
    assert sizes[:3] == [8, 9, 10]
    assert sizes[-1] == RUN
    assert rising(0) == []


def test_parts_are_the_places_of_each_number() -> None:
    found = dict(parts(np.array([5, 2, 5, 9, 2])))
    assert {number: places.tolist() for number, places in found.items()} == {2: [1, 4], 5: [0, 2], 9: [3]}

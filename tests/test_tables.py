"""Integer tables: every row is a distribution with a unit for each gray level, and lookups are inverse to it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from gencodec.codec.codecs import SPRITES
from gencodec.codec.network import FINE_FORMAT
from gencodec.codec.tables import FEW_WRONG, FINE_BITS, LEVELS, TOTAL_BITS, Tables
from gencodec.errors import InvalidFile
from gencodec.runtime import Model, list_models, onnxfile

Index = NDArray[np.int64]
OTHERS = (SPRITES, "vq-vae", "vq-vae-2")
"""Families without these tables."""
HIGHEST = 16 * 255
MEANS = np.array([0, 1, 7, 8, 9, 15, 16, 17, 1000, 2039, 2040, 2041, 3333, HIGHEST - 8, HIGHEST - 1, HIGHEST])


@pytest.fixture(scope="module", params=["tiny", *(card.name for card in list_models() if card.family not in OTHERS)])
def tables(request: pytest.FixtureRequest, tiny: Model) -> Tables:
    """The tables of the untrained network, and of every model that ships."""
    if request.param == "tiny":
        file = tiny.file
    else:
        card = next(card for card in list_models() if card.name == request.param)
        file = onnxfile.read(card.file.read_bytes())
    fine = file.metadata["gencodec.family"] == "photo" and file.metadata["gencodec.format"] == FINE_FORMAT
    constants = (file.constants[f"shapes.{name}"] for name in ("cdf", "rate"))
    return Tables(*constants, FINE_BITS if fine else TOTAL_BITS)  # type: ignore[arg-type]


def sizes(tables: Tables) -> tuple[int, int, int]:
    """How many scales and shapes there are, and what a row sums to."""
    return len(tables.rate), len(tables.cdf) // tables.points, 1 << tables.bits


def test_every_row_sums_to_the_total_and_every_level_has_a_unit(tables: Tables) -> None:
    scales, shapes, total = sizes(tables)
    assert (scales, shapes) == (64, 8)
    rng = np.random.default_rng(0)
    levels = np.arange(LEVELS)[:, None]
    for scale in range(scales):
        means = np.concatenate([MEANS, rng.integers(0, HIGHEST + 1, 24)])
        mean, shape = (a.ravel() for a in np.meshgrid(means, np.arange(shapes)))
        extent = (LEVELS, len(mean))
        arguments = (np.broadcast_to(a, extent) for a in (levels, mean, np.array(scale), shape))
        left, length = tables.interval(*arguments)
        assert (length > 0).all()
        assert (length.sum(0) == total).all()
        assert (left[0] == 0).all()
        np.testing.assert_array_equal(left[1:], left[:-1] + length[:-1])


def test_find_inverts_interval_for_every_quantile_of_sampled_rows(tables: Tables) -> None:
    rng = np.random.default_rng(1)
    scales, shapes, total = sizes(tables)
    quantile = np.arange(total)
    picks = [(0, 0, 0), (HIGHEST, scales - 1, shapes - 1), (2040, 0, shapes - 1), (5, scales - 1, 0)]
    picks += [(rng.integers(HIGHEST + 1), rng.integers(scales), rng.integers(shapes)) for _ in range(20)]
    for pick in picks[:: 1 if tables.bits == TOTAL_BITS else 4]:
        row = [np.full(total, value, np.int64) for value in pick]
        level, left, length = tables.find(quantile, *row)
        expected_left, expected_length = tables.interval(np.arange(LEVELS), *(r[:LEVELS] for r in row))
        np.testing.assert_array_equal(level, np.repeat(np.arange(LEVELS), expected_length))
        np.testing.assert_array_equal(left, expected_left[level])
        np.testing.assert_array_equal(length, expected_length[level])


@settings(max_examples=100)
@given(st.data())
def test_find_inverts_interval_for_mixed_rows(tables: Tables, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 60))
    scales, shapes, total = sizes(tables)

    def numbers(below: int) -> Index:
        return data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, below - 1)))

    mean, scale, shape = numbers(HIGHEST + 1), numbers(scales), numbers(shapes)
    quantile, level = numbers(total), numbers(LEVELS)
    found, left, length = tables.find(quantile, mean, scale, shape)
    assert ((left <= quantile) & (quantile < left + length)).all()
    for expected, again in zip((left, length), tables.interval(found, mean, scale, shape), strict=True):
        np.testing.assert_array_equal(again, expected)
    # and from a level back to itself, from both ends of its interval
    left, length = tables.interval(level, mean, scale, shape)
    for end in (left, left + length - 1):
        np.testing.assert_array_equal(tables.find(end, mean, scale, shape)[0], level)


def test_rows_are_centered_and_widen_with_their_scale(tables: Tables) -> None:
    scales, shapes, total = sizes(tables)
    levels = np.arange(LEVELS)
    for shape in range(shapes):
        near = []
        for scale in range(scales):
            row = [np.full(LEVELS, value, np.int64) for value in (16 * 127 + 8, scale, shape)]
            left, length = tables.interval(levels, *row)
            assert abs(int(left[128]) - total // 2) < total // 500
            near.append(length[118:138].sum())
        assert (np.diff(near) <= 1).all()
        assert near[0] > total * 0.99
        assert near[-1] < total * 0.6


def test_mass_beyond_the_ends_belongs_to_the_end_levels(tables: Tables) -> None:
    scales, _, total = sizes(tables)
    widest = [np.full(LEVELS, value, np.int64) for value in (0, scales - 1, 0)]
    _, length = tables.interval(np.arange(LEVELS), *widest)
    assert abs(int(length[0]) - total // 2) < total // 64
    assert length[1:-1].max() < total // 64


def test_wrong_guesses_do_not_matter(tables: Tables) -> None:
    """The floats that guess a level may err on another machine: the integers correct them."""
    rng = np.random.default_rng(2)
    scales, shapes, total = sizes(tables)
    quantile, mean, scale, shape = (rng.integers(0, n, 3000) for n in (total, HIGHEST + 1, scales, shapes))
    expected = tables.find(quantile, mean, scale, shape)
    other = copy.copy(tables)
    other.guess = tables.guess[::-1].copy()
    for count in (len(quantile), FEW_WRONG):  # many are corrected together, few one by one
        found = other.find(quantile[:count], mean[:count], scale[:count], shape[:count])
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b[:count])


def test_single_levels_are_sought_like_many(tables: Tables) -> None:
    """At the ends of rows and of gray levels too."""
    rng = np.random.default_rng(3)
    scales, shapes, total = sizes(tables)
    mean, scale, shape = rng.choice(MEANS, 300), rng.integers(0, scales, 300), rng.integers(0, shapes, 300)
    quantile = rng.integers(0, total, 300)
    quantile[:100] = rng.choice([0, 1, total - 2, total - 1], 100)
    rows = tables.rows(scale, shape)
    candidate = rng.integers(0, LEVELS, 300)
    found = [tables.sought(*each) for each in zip(candidate, quantile, mean, *rows, strict=True)]
    np.testing.assert_array_equal(np.transpose(found), tables.searched(quantile, mean, *rows))


def test_lookups_are_in_aligned_arrays(tables: Tables) -> None:
    """A file's constants may begin anywhere, and numpy would copy a whole table for every lookup in it."""
    assert tables.cdf.flags.aligned


@pytest.mark.parametrize(
    ("cdf", "rate"),
    [
        ([0, 0, 65280], [256]),
        ([[0, 65280]], [256]),
        ([[0, 9, 8, 9, 65280]], [256]),
        ([[1, 9, 65280]], [256]),
        ([[0, 9, 65279]], [256]),
        ([[]], [256]),
        ([[0, 9, 65280]], []),
        ([[0, 9, 65280]], [0]),
        ([[0, 9, 65280]], [[256]]),
    ],
)
def test_other_tables_are_refused(cdf: list[Any], rate: list[Any]) -> None:
    assert Tables(np.array([[0, 9, 65280]], np.uint16), np.array([256], np.int32)).half == 1
    with pytest.raises(InvalidFile, match="tables of distributions"):
        Tables(np.array(cdf, np.uint16), np.array(rate, np.int32))

"""The entropy coder: what is pushed is popped, in the opposite order, at the price that theory states."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gencodec.codec.coder import FINE_TOTAL, TOTAL, FineCoder, IntervalCoder, information
from gencodec.errors import InvalidFile

Index = NDArray[np.int64]
Block = tuple[Index, Index]
"""Beginnings and lengths of intervals."""


@st.composite
def intervals(draw: st.DrawFn) -> tuple[int, int]:
    """Any interval within the total; the extremes are likelier."""
    length = draw(st.one_of(st.sampled_from([1, 2, TOTAL - 1, TOTAL]), st.integers(1, TOTAL)))
    left = draw(st.one_of(st.sampled_from([0, TOTAL - length]), st.integers(0, TOTAL - length)))
    return left, length


def block(pairs: list[tuple[int, int]]) -> Block:
    left, length = np.array(pairs, np.int64).reshape(-1, 2).T
    return left.copy(), length.copy()


blocks = st.lists(st.lists(intervals(), max_size=40).map(block), max_size=6)


def popped(coder: IntervalCoder, expected: Block) -> Index:
    """Pop as many symbols as the block has; the quantiles that showed which they are."""
    left, length = expected
    quantile = coder.pop_quantiles(len(left))
    coder.restore(quantile - left, length)
    return quantile


@settings(max_examples=200)
@given(blocks)
def test_what_is_pushed_is_popped(pushed: list[Block]) -> None:
    coder = IntervalCoder()
    for left, length in pushed:
        coder.push(left, length)
    data = coder.to_bytes()
    assert len(data) % 4 == 0
    reader = IntervalCoder.from_bytes(data)
    for expected in reversed(pushed):
        quantile = popped(reader, expected)
        assert ((expected[0] <= quantile) & (quantile < expected[0] + expected[1])).all()
    assert reader.empty
    assert reader.to_bytes() == b""


@settings(max_examples=60)
@given(blocks, blocks)
def test_popping_undoes_pushing_exactly(below: list[Block], above: list[Block]) -> None:
    coder = IntervalCoder()
    states = [coder.to_bytes()]
    for left, length in (*below, *above):
        coder.push(left, length)
        states.append(coder.to_bytes())
    for expected, state in zip(reversed([*below, *above]), reversed(states[:-1]), strict=True):
        popped(coder, expected)
        assert coder.to_bytes() == state


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 1000])
def test_information_is_the_sum_of_code_lengths(count: int) -> None:
    length = np.random.default_rng(0).integers(1, 1 << 20, count, endpoint=True)
    assert information(length, 20) == pytest.approx(float((20 - np.log2(length)).sum()), rel=1e-12)
    assert information(np.full(count, 1 << 20), 20) == 0.0


def test_the_size_is_the_information_and_little_more() -> None:
    """Blocks begin small: what the first ones pop, an empty stack does not hold, and it is lost."""
    rng = np.random.default_rng(0)
    length = np.exp2(rng.uniform(0, 16, 20_000)).astype(np.int64)
    left = rng.integers(0, TOTAL - length + 1)
    coder = IntervalCoder()
    for part in np.split(np.arange(len(left)), [*range(1, 100), *range(100, len(left), 50)]):
        coder.push(left[part], length[part])
    information = float(16 * len(length) - np.log2(length).sum())
    size = 8 * len(coder.to_bytes())
    assert information < size + 32
    assert size < information * 1.0005 + 64


@pytest.mark.parametrize("length", [32769, 43691, 61681, 65100, 65281, 65535])
def test_runs_of_predictable_symbols_cost_little(length: int) -> None:
    """The coder's roundings add less than a fiftieth of a bit, also where all symbols are alike."""
    rng = np.random.default_rng(1)
    coder = IntervalCoder()
    for _ in range(40):
        coder.push(rng.integers(0, 60_000, 20), np.full(20, 1000))
    before = len(coder.to_bytes())
    for left in (0, (TOTAL - length) // 2, TOTAL - length):
        for _ in range(500):
            coder.push(np.full(20, left), np.full(20, length))
    a_symbol = 8 * (len(coder.to_bytes()) - before) / 30_000
    assert a_symbol < 16 - np.log2(length) + 0.02


def test_certain_symbols_cost_nothing() -> None:
    coder = IntervalCoder()
    coder.push(np.arange(7) * 1000, np.full(7, 50))
    before = coder.to_bytes()
    coder.push(np.zeros(1000, np.int64), np.full(1000, TOTAL))
    assert coder.to_bytes() == before


def test_intervals_of_one_unit_cost_their_sixteen_bits() -> None:
    coder = IntervalCoder()
    left = np.arange(100) * 600
    coder.push(left, np.ones(100, np.int64))
    assert 100 * 2 <= len(coder.to_bytes()) <= 100 * 2 + 8
    np.testing.assert_array_equal(popped(coder, (left, np.ones(100, np.int64))), left)
    assert coder.empty


def test_an_empty_stack_gives_zeros_and_stays_empty() -> None:
    coder = IntervalCoder.from_bytes(b"")
    assert coder.empty
    assert coder.pop_quantiles(5).tolist() == [0] * 5
    coder.restore(np.zeros(5, np.int64), np.array([1, 2, 1, TOTAL, 9]))
    assert coder.empty
    assert coder.to_bytes() == b""


def test_what_is_left_over_shows() -> None:
    coder = IntervalCoder()
    left, length = np.array([3, 70, 65000]), np.array([1, 2, 30])
    coder.push(left, length)
    states = [coder.empty]
    for i in (2, 1, 0):
        reader = IntervalCoder.from_bytes(coder.to_bytes())
        popped(reader, (left[:i], length[:i]))
        states.append(reader.empty)
    assert states == [False] * 4


@pytest.mark.parametrize("data", [b"a", b"abc", b"abcde", b"\0\0\0\0", b"abcd\0\0\0\0", bytes(8)])
def test_what_no_stack_reads_as_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidFile):
        IntervalCoder.from_bytes(data)


FINE = FINE_TOTAL - 1
"""The longest interval of the fine coder."""


@st.composite
def fine_intervals(draw: st.DrawFn) -> tuple[int, int]:
    """Any interval that the fine coder takes; those where its cuts change are likelier."""
    edges = [1, 2, 3, 4095, 4096, 4097, 8191, 8192, FINE]
    length = draw(st.one_of(st.sampled_from(edges), st.integers(1, FINE)))
    left = draw(st.one_of(st.sampled_from([0, FINE_TOTAL - length]), st.integers(0, FINE_TOTAL - length)))
    return left, length


fine_blocks = st.lists(st.lists(fine_intervals(), max_size=40).map(block), max_size=6)


@settings(max_examples=200)
@given(fine_blocks)
def test_fine_intervals_come_back_and_leave_nothing(pushed: list[Block]) -> None:
    coder = FineCoder()
    states = [coder.to_bytes()]
    for left, length in pushed:
        coder.push(left, length)
        states.append(coder.to_bytes())
    reader = FineCoder.from_bytes(coder.to_bytes())
    for expected, state in zip(reversed(pushed), reversed(states[:-1]), strict=True):
        quantile = popped(reader, expected)
        assert ((expected[0] <= quantile) & (quantile < expected[0] + expected[1])).all()
        assert reader.to_bytes() == state
    assert reader.empty
    assert reader.bits + coder.bits == pytest.approx(0, abs=1e-6)


@settings(max_examples=100)
@given(
    st.sampled_from([IntervalCoder, FineCoder]), st.integers(1, 3), st.lists(st.integers(0, 9), max_size=9), st.data()
)
def test_blocks_pushed_at_once_are_those_pushed_in_turn(
    kind: type[IntervalCoder], rows: int, counts: list[int], data: st.DataObject
) -> None:
    """The last one first, each row by row."""
    bits, interval = (16, intervals()) if kind is IntervalCoder else (20, fine_intervals())
    shorter = interval.filter(lambda pair: pair[1] < 1 << bits)
    count = rows * sum(counts)
    left, length = block(data.draw(st.lists(shorter, min_size=count, max_size=count)))
    left, length = left.reshape(rows, -1), length.reshape(rows, -1)
    begins = np.cumsum([0, *counts])
    one, other = kind(), kind()
    for begin, end in reversed(list(pairwise(begins.tolist()))):
        one.push(left[:, begin:end].ravel(), length[:, begin:end].ravel())
    other.push_blocks((left << bits | length).astype(kind.PACKED), begins)
    assert other.to_bytes() == one.to_bytes()
    assert other.bits == pytest.approx(one.bits)


@pytest.mark.parametrize("longest", [FINE, 1 << 19, 1 << 13, 9])
def test_fine_intervals_cost_their_information(longest: int) -> None:
    """Within a thousandth of a bit a symbol, however likely symbols are."""
    rng = np.random.default_rng(2)
    coder = FineCoder()
    coder.push(rng.integers(0, 1000, 2000), np.full(2000, 1000))
    before, known = len(coder.to_bytes()), coder.bits
    for _ in range(100):
        length = rng.integers(longest - longest // 3, longest + 1, 300)
        coder.push(rng.integers(0, FINE_TOTAL - length), length)
    assert 8 * (len(coder.to_bytes()) - before) < coder.bits - known + 30


@settings(max_examples=200)
@given(
    st.binary(max_size=200),
    st.one_of(
        st.tuples(st.just((IntervalCoder, TOTAL)), st.lists(intervals(), max_size=30)),
        st.tuples(st.just((FineCoder, FINE_TOTAL)), st.lists(fine_intervals(), max_size=30)),
    ),
)
def test_damaged_words_never_fail_otherwise(
    data: bytes, case: tuple[tuple[type[IntervalCoder], int], list[tuple[int, int]]]
) -> None:
    """Quantiles stay in range, and what cannot have been pushed is refused as damage."""
    (kind, total), pairs = case
    try:
        coder = kind.from_bytes(data)
    except InvalidFile:
        return
    assert coder.to_bytes() == data
    for left, length in pairs:
        quantile = int(coder.pop_quantiles(1)[0])
        assert 0 <= quantile < total
        inside = min(max(quantile - left, 0), length - 1)
        try:
            coder.restore(np.array([inside]), np.array([length]))
        except InvalidFile:
            return
    assert len(coder.to_bytes()) <= len(data) + 4 * (len(pairs) + 2)


def test_a_changed_bit_changes_what_is_read() -> None:
    rng = np.random.default_rng(3)
    edges = [0, *sorted(rng.choice(np.arange(1, TOTAL), 9, replace=False).tolist()), TOTAL]
    choices = block([(a, b - a) for a, b in pairwise(edges)])
    symbols = rng.integers(0, 10, 500)
    coder = IntervalCoder()
    coder.push(choices[0][symbols], choices[1][symbols])
    data = coder.to_bytes()
    for bit in range(0, 8 * len(data), 97):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        reader = IntervalCoder.from_bytes(bytes(changed))
        quantile = reader.pop_quantiles(500)
        found = np.searchsorted(choices[0], quantile, "right") - 1
        try:
            reader.restore(quantile - choices[0][found], choices[1][found])
        except InvalidFile:
            continue
        assert not (reader.empty and np.array_equal(found, symbols))

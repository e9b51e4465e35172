"""Steps as one graph decode what the network's stages and the lookups in tables do one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gencodec.codec.network import Seen
from gencodec.codec.photo import PhotoCodec
from gencodec.codec.steps import Lookups, Steps
from gencodec.codec.tables import LEVELS, Tables
from gencodec.runtime import Model, list_models, load
from gencodec.runtime.composing import INT64, Composer
from gencodec.runtime.session import open_session

NAMES = [card.name for card in list_models() if card.family == "photo"]
Index = NDArray[np.int64]


def found(model: Model, tables: Tables, quantile: Index, distributions: Index) -> list[NDArray[Any]]:
    """Levels, places in intervals and their lengths, as a graph of the lookups alone gives them."""
    c = Composer(model._branches)
    named = Lookups(c, tables).find(c.input("quantile", 1), c.input("rows", 3))
    session = open_session(c.model({name: (value, INT64) for name, value in named._asdict().items()}), long=True)
    given = {"quantile": quantile[None].astype(np.float32), "rows": distributions.astype(np.float32)}
    return [values[0] for values in session.run(None, given)]  # type: ignore[index]


@pytest.mark.parametrize("name", NAMES)
def test_lookups_find_what_tables_do(name: str) -> None:
    """Of every scale and shape, and of quantiles that are likely, that are not, and at both ends of every interval."""
    model = load(name, threads=1, device="cpu")
    codec = PhotoCodec(model)
    tables, rng = codec.tables, np.random.default_rng(1)
    total = 1 << tables.bits
    scales, shapes = len(tables.rate), len(tables.centers)
    count = 20 * scales * shapes
    mean = rng.integers(0, 16 * 255 + 1, count)
    scale, shape = np.tile(np.arange(scales), count // scales), rng.integers(0, shapes, count)
    level = np.clip((mean >> 4) + rng.integers(-3, 4, count), 0, LEVELS - 1)
    left, length = tables.interval(level, mean, scale, shape)
    ends = [np.zeros(count, np.int64), np.full(count, total - 1)]
    for quantile in (left, left + length - 1, rng.integers(0, total, count), *ends):
        levels, lefts, lengths = tables.find(quantile, mean, scale, shape)
        given = found(model, tables, quantile, np.stack([mean, scale, shape]))
        for one, other in zip(given, (levels, quantile - lefts, lengths), strict=True):
            np.testing.assert_array_equal(one, other)


def test_lookups_need_no_good_candidates(tiny: Model) -> None:
    """However wrong a first candidate is, the level is found: of all, of some, and of none of the symbols."""
    tables = PhotoCodec(tiny).tables
    rng = np.random.default_rng(2)
    distributions = np.stack([rng.integers(0, 4080, 90), rng.integers(0, 64, 90), rng.integers(0, 8, 90)])
    quantile = rng.integers(0, 1 << tables.bits, 90)
    expected = tables.find(quantile, *distributions)[0]
    worse = PhotoCodec(tiny).tables
    for change in (rng.integers(-9, 10, worse.guess.shape) * 4000, 30000, -30000, 0):
        worse.guess = np.clip(tables.guess + change, -(1 << 15), (1 << 15) - 1).astype(np.int16)
        level, rest, length = found(tiny, worse, quantile, distributions)
        np.testing.assert_array_equal(level, expected)
        assert ((rest >= 0) & (rest < length)).all()


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize("name", ["tiny", *NAMES])
def test_a_step_is_what_its_stages_make(name: str, colors: int, tiny: Model) -> None:
    model = tiny if name == "tiny" else load(name, threads=1, device="cpu")
    codec = PhotoCodec(model)
    g, rng, n = codec.network.geometry, np.random.default_rng(3), 70
    middle = rng.integers(0, 256, n)
    seen = Seen(
        np.clip(middle + rng.integers(-9, 10, (g.context_rows, n)), 0, 255).astype(np.float32),
        rng.integers(0, 33, (g.near_rows, n)).astype(np.float32),
        rng.integers(0, 900, (2 * g.energies, n)).astype(np.float32),
        rng.integers(1, 90, (2, n)).astype(np.float32),
    )
    quantiles = rng.integers(0, 1 << codec.tables.bits, (colors, n))
    decoded = codec.steps.run(seen, quantiles.astype(np.float32))
    pixel, trace, rest, length = in_turn(codec, seen, quantiles)
    np.testing.assert_array_equal(decoded.pixel, pixel)
    np.testing.assert_array_equal(decoded.trace, trace)
    np.testing.assert_array_equal(decoded.rest, rest)
    np.testing.assert_array_equal(decoded.length, length)
    assert decoded.rest.dtype == decoded.length.dtype == np.int64


def in_turn(codec: PhotoCodec, seen: Seen, quantiles: Index) -> tuple[NDArray[Any], ...]:
    """A step by the stages: pixels, traces, places in intervals and their lengths."""
    coders = Given(quantiles)
    seen = seen._replace(context=seen.context.copy())
    pixel, trace = codec.decode_colors(coders, seen, len(quantiles), None)  # type: ignore[arg-type]
    return pixel, trace, np.stack(coders.rest), np.stack(coders.length)


class Given:
    """In the place of streams: quantiles, and what was given back of them."""

    def __init__(self, quantiles: Index):
        self.quantiles, self.rest, self.length = iter(quantiles), [], []

    def pop_quantiles(self) -> Index:
        return next(self.quantiles)

    def give_back(self, rest: Index, length: Index) -> None:
        self.rest.append(rest)
        self.length.append(length)


def test_a_steps_graph_is_composed_once(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    composed = Steps.composed

    def counted(self: Steps, colors: int, branches: Any) -> bytes:
        made.append(colors)
        return composed(self, colors, branches)

    monkeypatch.setattr(Steps, "composed", counted)
    model = tiny.changed({})
    for colors in (3, 1, 3):
        codec = PhotoCodec(model)
        g = codec.network.geometry
        shapes = ((g.context_rows, 5), (g.near_rows, 5), (2 * g.energies, 5), (2, 5))
        seen = Seen(*(np.ones(shape, np.float32) for shape in shapes))
        codec.steps.run(seen, np.zeros((colors, 5), np.float32))
    assert made == [3, 1]

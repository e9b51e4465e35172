"""The exact priors of maps of codes: from what is known, whole numbers out of 2**16 for every code.

A map of codes is walked through row by row and from left to right, in all tiles at once. What depends on the rows above
is computed for whole rows, the rest position by position with the features that the position on the left has kept; an
encoder, who knows all codes, takes all rows together. Arrays of features are float32, hold whole numbers and have the
axes (features, rows, columns, lanes); a lane is one tile. All that the graphs do not do is done in whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.coder import TOTAL
from gencodec.codec.tables import TOTAL_BITS
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

Array = NDArray[np.float32]
Index = NDArray[np.int64]
Offsets = Sequence[tuple[int, int]]

ABOVE = tuple((up, dx) for up in (1, 2) for dx in range(-2, 3))
LATER = tuple((up, dx) for up in (0, 1) for dx in range(-1, 2))
LEFT = ((0, -3), (0, -2), (0, -1))
AROUND = tuple((up, dx) for up in (1, 0, -1) for dx in (-1, 0, 1))
"""Offsets (rows up, columns to the right) that the layers see, as docs/format-vq.md has them."""
MARGIN = 3
"""Zeros around canvases: the farthest offset."""
PART = 2048
"""Positions that go through a graph at a time: few enough for the processor's caches."""
LATENT = 1023
"""Largest magnitude of latents as priors see them, in eighths."""
SHIFT = 3
"""Bits by which latents are finer than priors see them."""
UNLIKELY = -(1 << 40)
SCORE_SHIFT = 12
"""Bits that are dropped of the products of queries and keys, to make sixteenths of binary digits."""


class Softmax:
    """Frequencies from logits to base 2 in sixteenths: a table of powers of two, and a floored division."""

    def __init__(self, powers: NDArray[np.generic], temperature: float = 1.0):
        """`powers`: of distances 0, 1, ... from the largest logit; farther ones count as nothing."""
        reach = np.arange(len(powers) + 1)
        self.table = np.append(powers.astype(np.int64), 0)
        # of samples only is the temperature another than 1
        stretched = np.minimum(np.rint(reach / temperature), len(powers)).astype(np.int64)
        self.stretched = self.table[stretched]

    def frequencies(self, logits: Array) -> Index:
        """Of logits (codes, n), frequencies (n, codes), each at least 1; the first likeliest code gets what is left."""
        codes = len(logits)
        power = powers_of(np.ascontiguousarray(logits.T).astype(np.int64), self.stretched)
        result = 1 + power * (TOTAL - codes) // power.sum(1, keepdims=True)
        result[np.arange(len(result)), power.argmax(1)] += TOTAL - result.sum(1)
        return result

    def shares(self, scores: Index, valid: NDArray[np.bool_]) -> Index:
        """Shares out of 2**16 of scores (..., n), floored; only `valid` ones have any."""
        power = powers_of(np.where(valid, scores, UNLIKELY), self.table) * valid
        return (power << TOTAL_BITS) // power.sum(-1, keepdims=True)


def powers_of(logits: Index, table: Index) -> Index:
    """Powers of two of the last axis' distances from its largest one."""
    distance = logits.max(-1, keepdims=True) - logits
    return table.take(np.minimum(distance, len(table) - 1))


def interval(frequencies: Index, codes: Index) -> tuple[Index, Index]:
    """Beginnings and lengths of codes (n,) by frequencies (n, codes)."""
    places = np.arange(len(codes))
    length = frequencies[places, codes]
    return frequencies.cumsum(1)[places, codes] - length, length


def find(frequencies: Index, quantile: Index) -> tuple[Index, Index, Index]:
    """Codes (n,) whose intervals hold the quantiles, and the intervals' beginnings and lengths."""
    codes = (frequencies.cumsum(1) <= quantile[:, None]).sum(1)
    return codes, *interval(frequencies, codes)


@dataclass(frozen=True)
class Sizes:
    """What the walk must know of a prior."""

    hidden: int
    layers: int
    attention: int


class Prior:
    """The graphs and tables of one stage of one map."""

    def __init__(self, model: Model, name: str, softmax: Softmax):
        """`name` is the map's, and the stage's number. Raises `InvalidFile`."""
        # the arrays of a position are too small to be worth two threads
        self.model, self.name, self.softmax = model.serial, name, softmax
        self.embedded = model.constant(f"{name}.embedded").astype(np.float32).T
        sizes = model.config["sizes"]
        attends = f"{name}.query" in model.stages
        self.sizes = Sizes(int(sizes["hidden"]), int(sizes["layers"]), int(sizes["attention"]) if attends else 0)

    def call(self, graph: str, *arrays: Array) -> list[Array]:
        """The outputs of a graph for arrays (features, ...), of the same other axes."""
        shape = arrays[0].shape[1:]
        flat = [a.reshape(1, len(a), 1, -1) for a in arrays]
        count, name = flat[0].shape[3], f"{self.name}.{graph}"
        if count <= PART:
            parts = [self.model.call(name, *flat)]
        else:
            cuts = [slice(i, i + PART) for i in range(0, count, PART)]
            parts = [self.model.call(name, *(np.ascontiguousarray(a[..., cut]) for a in flat)) for cut in cuts]
        whole = (np.concatenate(outputs, 3) for outputs in zip(*parts, strict=True))
        return [a.reshape(a.shape[1], *shape) for a in whole]

    def given(self, latents: Index | None, coarse: Index | None, inside: Array) -> Array | None:
        """What is known of a map for all gates: `latents` at its positions, `coarse` at every 2 x 2 of them.

        Both are sums of code vectors, (dim, rows, columns, lanes); without any, None. `inside`: as `Walk` says.
        """
        parts = [] if latents is None else [seen(latents)]
        if coarse is not None:
            parts.append(quartered(self.call("lift", seen(coarse))[0]))
        if not parts:
            return None
        hidden = self.call("join", *parts)[0]
        canvas = blank(len(hidden), *hidden.shape[1:])
        inner(canvas)[...] = hidden * inside
        return self.call("given", around(canvas, 0, hidden.shape[1], AROUND))[0]


class Walk:
    """A way through maps of codes of one stage, and what the prior remembers on it."""

    def __init__(self, prior: Prior, inside: Array, given: Array | None):
        """`inside` (rows, columns, lanes) is 1 in each lane's tile and 0 beyond, where all features are zero."""
        height, width, lanes = inside.shape
        self.prior, self.height, self.width, self.lanes, self.inside = prior, height, width, lanes, inside
        s = prior.sizes
        self.codes = blank(len(prior.embedded), height, width, lanes)
        self.gated = [blank(s.hidden, height, width, lanes) for _ in range(s.layers - 1)]
        self.given = given
        self.states = np.zeros(0, np.float32)
        self.above: Array = np.zeros((0, 0, 0, 0), np.float32)
        self.first = 0
        self.memory = Memory(prior, inside) if s.attention else None

    def put(self, rows: slice, columns: slice, codes: Index) -> None:
        """Take note of codes (rows, columns, lanes)."""
        inner(self.codes)[:, rows, columns] = self.prior.embedded[:, codes] * self.inside[rows, columns]

    def begin(self, first: int, last: int) -> None:
        """Start the rows `first` to `last - 1`, above which all codes are known."""
        seen_above, links = around(self.codes, first, last, ABOVE), []
        for layer in range(self.prior.sizes.layers):
            link, *gated = self.prior.call(f"row{layer}", seen_above)
            links.append(link)
            if gated:
                inner(self.gated[layer])[:, first:last] = gated[0] * self.inside[first:last]
                seen_above = around(self.gated[layer], first, last, LATER)
        self.above, self.first = np.concatenate(links), first
        s = self.prior.sizes
        self.states = np.zeros(((s.layers - 1) * s.hidden, last - first, self.lanes), np.float32)

    def position(self, x: int) -> Array:
        """What the prior makes of column `x`: logits or, with attention, features; (n, rows, lanes)."""
        rows = self.above.shape[1]
        top = MARGIN + self.first
        left = np.concatenate([self.codes[:, top : top + rows, MARGIN + x + dx] for _, dx in LEFT])
        above = np.ascontiguousarray(self.above[:, :, x])
        if self.given is None:
            given = np.zeros_like(above)
        else:
            given = np.ascontiguousarray(self.given[:, self.first : self.first + rows, x])
        result, self.states = self.prior.call("position", left, above, given, self.states)
        return result

    # the two ways to go

    def known(self, codes: Index) -> tuple[Index, Index]:
        """Beginnings and lengths of the intervals of known codes (rows, columns, lanes), of that shape each."""
        self.put(slice(None), slice(None), codes)
        self.begin(0, self.height)
        outputs = (self.position(x) for x in range(self.width))
        if self.memory is not None:
            features = np.stack(list(outputs), 2)
            read = self.memory.read_all(features, np.ascontiguousarray(inner(self.codes)))
            outputs = (self.memory.logits(features[:, :, x], read[:, :, x]) for x in range(self.width))
        left, length = np.empty(codes.shape, np.int64), np.empty(codes.shape, np.int64)
        for x, logits in enumerate(outputs):
            frequencies = self.prior.softmax.frequencies(logits.reshape(len(logits), -1))
            shape = codes[:, x].shape
            left[:, x], length[:, x] = (a.reshape(shape) for a in interval(frequencies, codes[:, x].ravel()))
        return left, length

    def frequencies(self, x: int) -> Index:
        """Frequencies (lanes, codes) at column `x` of the row that was begun."""
        outputs = self.position(x)
        if self.memory is not None:
            outputs = self.memory.answer(outputs)
        return self.prior.softmax.frequencies(outputs[:, 0])

    def learn(self, x: int, codes: Index) -> None:
        """Take note of the codes (lanes,) at that position."""
        self.put(slice(self.first, self.first + 1), slice(x, x + 1), codes[None, None])
        if self.memory is not None:
            self.memory.keep(self.prior.embedded[:, codes][:, None])


class Memory:
    """What attention reads: keys and values of earlier positions, row by row (1906.00446, section 3.2)."""

    def __init__(self, prior: Prior, inside: Array):
        self.prior, self.size, self.count = prior, prior.sizes.attention, 0
        lanes, positions = inside.shape[2], inside.shape[0] * inside.shape[1]
        self.valid = np.ascontiguousarray(inside.reshape(positions, lanes).T > 0)
        self.keys = np.zeros((lanes, positions, self.size), np.int64)
        self.values = np.zeros((lanes, positions, self.size), np.int64)
        self.features = np.zeros(0, np.float32)

    def logits(self, features: Array, read: Array) -> Array:
        """Logits of features (output, ...) and what attention has read, (attention, ...)."""
        return self.prior.call("head", np.ascontiguousarray(features), np.ascontiguousarray(read))[0]

    def answer(self, features: Array) -> Array:
        """Logits of the position (output, 1, lanes) behind those that are kept."""
        self.features = features
        query = self.prior.call("query", features)[0][:, 0].T.astype(np.int64)
        read = np.zeros((len(query), self.size), np.int64)
        if self.count:
            scores = np.einsum("la,lpa->lp", query, self.keys[:, : self.count]) >> SCORE_SHIFT
            shares = self.prior.softmax.shares(scores, self.valid[:, : self.count])
            read = np.einsum("lp,lpa->la", shares, self.values[:, : self.count]) >> TOTAL_BITS
        return self.logits(features, read.T[:, None].astype(np.float32))

    def keep(self, embedded: Array) -> None:
        """Keep the position that was answered, whose embedded codes are (embed, 1, lanes)."""
        made = self.prior.call("memory", self.features, embedded)[0][:, 0].T.astype(np.int64)
        self.keys[:, self.count], self.values[:, self.count] = made[:, : self.size], made[:, self.size :]
        self.count += 1

    def read_all(self, features: Array, embedded: Array) -> Array:
        """What every position reads, (attention, rows, columns, lanes), of whole maps of features and codes."""
        shape = features.shape[1:]
        query, made = self.prior.call("query", features)[0], self.prior.call("memory", features, embedded)[0]
        keys, values = made[: self.size], made[self.size :]
        flat = [a.reshape(self.size, -1, shape[2]).astype(np.int64) for a in (query, keys, values)]
        read = np.zeros(flat[0].shape, np.float32)
        for lane in range(shape[2]):
            q, k, v = (a[..., lane].T for a in flat)
            for at in range(1, len(q)):
                shares = self.prior.softmax.shares((k[:at] @ q[at]) >> SCORE_SHIFT, self.valid[lane, :at])
                read[:, at, lane] = (shares @ v[:at]) >> TOTAL_BITS
        return read.reshape(self.size, *shape)


# canvases


def blank(features: int, height: int, width: int, lanes: int) -> Array:
    """A canvas of zeros, with a margin around."""
    return np.zeros((features, height + 2 * MARGIN, width + 2 * MARGIN, lanes), np.float32)


def inner(canvas: Array) -> Array:
    """What lies within the margin."""
    return canvas[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def around(canvas: Array, first: int, last: int, offsets: Offsets) -> Array:
    """Features at offsets of the rows `first` to `last - 1`, (offsets * features, rows, columns, lanes)."""
    width = canvas.shape[2] - 2 * MARGIN
    parts = []
    for up, dx in offsets:
        top, left = MARGIN + first - up, MARGIN + dx
        parts.append(canvas[:, top : top + last - first, left : left + width])
    return np.concatenate(parts)


def seen(latents: Index) -> Array:
    """Sums of code vectors as priors see them: rounded to eighths, and limited."""
    return np.clip((latents + (1 << (SHIFT - 1))) >> SHIFT, -LATENT, LATENT).astype(np.float32)


def quartered(x: Array) -> Array:
    """Feature 4 c + 2 i + j of a position to its quarter (i, j): (4 C, h, w, lanes) to (C, 2 h, 2 w, lanes)."""
    features, height, width, lanes = x.shape
    parts = x.reshape(features // 4, 2, 2, height, width, lanes).transpose(0, 3, 1, 4, 2, 5)
    return np.ascontiguousarray(parts).reshape(features // 4, 2 * height, 2 * width, lanes)


def softmax_of(model: Model, temperature: float = 1.0) -> Softmax:
    """The model's table of powers. Raises `InvalidFile`."""
    powers = model.constant("powers")
    if powers.ndim != 1 or not len(powers) or cast(Index, powers).min() < 0:
        raise InvalidFile(f"the model {model.card.name} has no table of powers of two")
    return Softmax(powers, temperature)

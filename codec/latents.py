"""The codec of latent-variable models (VAE, NVAE): tiles <-> a stack, by bits-back.

Encoding draws the latents from their posteriors by popping them, from the coarsest group to the finest, and then
pushes pixels and latents under the likelihood and the priors, from the finest to the coarsest (Townsend et al. 2019,
arXiv 1901.04866). Decoding is the mirror image. All four uses of a model, for both directions and for interpolation,
walk through its groups in one order; they differ in where latents and pixels come from. What the model's graphs take
and give is in docs/format-latents.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.coder import DRAWN, RUN, TOTAL, IntervalCoder, Stack, runs
from gencodec.codec.tables import COLDEST, LEVELS, TOTAL_BITS, Tables, scale_shift
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

Index = NDArray[np.int64]
Array = NDArray[np.float32]
Tiles = NDArray[np.uint8]

MIDDLE = 128
"""The level that networks see as zero."""
STEPS = 16
"""Steps of a mean in one level."""
LAST_MEAN = STEPS * (LEVELS - 1)
LAST_SCALE = 63
GATE_BITS = 8


@dataclass(frozen=True)
class Row:
    """Means (sixteenths of a level), scale and shape indices of symbols, each (n, features, height, width)."""

    mean: Index
    scale: Index
    shape: Index

    @classmethod
    def of(cls, given: Array) -> Row:
        """From a graph's output (n, 3 * features, height, width): centered means, scales, shapes."""
        parts = given.astype(np.int64)
        count = parts.shape[1] // 3
        return cls(parts[:, :count] + STEPS * MIDDLE, parts[:, count : 2 * count], parts[:, 2 * count :])

    @classmethod
    def first_shape(cls, given: Array) -> Row:
        """As `of`, from (n, 2 * features, height, width), with the first shape."""
        mean, scale = np.split(given.astype(np.int64), 2, axis=1)
        return cls(mean + STEPS * MIDDLE, scale, np.zeros_like(scale))

    def features(self, part: slice) -> Row:
        """Some of the features."""
        return Row(self.mean[:, part], self.scale[:, part], self.shape[:, part])

    def widened(self, shift: int) -> Row:
        """With scale indices moved by `shift`."""
        return replace(self, scale=np.clip(self.scale + shift, 0, LAST_SCALE)) if shift else self

    def rounded(self) -> Index:
        """The levels next to the means."""
        return (self.mean + STEPS // 2) // STEPS


@dataclass(frozen=True)
class Place:
    """Pixels of a tile: some colors, at offset (y, x) of a lattice with a stride."""

    colors: slice
    y: int = 0
    x: int = 0
    stride: int = 1

    def of(self, tiles: NDArray[Any]) -> NDArray[Any]:
        """These pixels of tiles (n, 3, tile, tile), as a view (n, colors, height, width)."""
        return tiles[:, self.colors, self.y :: self.stride, self.x :: self.stride]


class Normals(Tables):
    """The tables that posteriors are drawn by: without the least share that every level has when it is coded.

    Of thousands of latents, some would be anything by that share.
    """

    def begin(self, mass: Any, level: Any) -> Any:  # noqa: ARG002
        return mass * np.int64(TOTAL) // (TOTAL - LEVELS)

    def guessed(self, quantile: Index, mean: Index, scale: Index, shape: Index) -> Index:
        return super().guessed((quantile * (TOTAL - LEVELS) >> TOTAL_BITS) + (mean >> 4), mean, scale, shape)


class Seen:
    """Tiles, and what the bottom-up network says of them."""

    def __init__(self, model: Model, tiles: Tiles):
        self.model, self.tiles = model, tiles
        self.features = model.call("up", centered(tiles))


class Mover:
    """A graph that moves posteriors away from priors, with the state that it is called for; several groups share it."""

    def __init__(self, graph: str, state: Array, level: int):
        """`level`: which of the bottom-up network's outputs the graph takes, too."""
        self.graph, self.state, self.level = graph, state, level
        self.given: Index | None = None

    def __call__(self, seen: Seen) -> Index:
        if self.given is None:
            self.given = seen.model.call(self.graph, self.state, seen.features[self.level])[0].astype(np.int64)
        return self.given


@dataclass(frozen=True)
class Moved:
    """How a group's posterior follows from its prior and the picture.

    `mover` gives gates, offsets and changes of several groups, of which this one has those from `first` on, every
    `step`-th. The anchor is a place of the picture, or one of the bottom-up network's outputs; without it there are no
    gates.
    """

    mover: Callable[[Seen], Index]
    first: int = 0
    step: int = 1
    anchor: Place | int | None = None
    widest: int = LAST_SCALE
    """The largest scale index."""

    def posterior(self, prior: Row, seen: Seen) -> Row:
        """The posterior's row (arXiv 2007.03898, section 3.2)."""
        residual = self.mover(seen)[:, self.first :: self.step]
        if self.anchor is None:
            offset, change = np.split(residual, 2, axis=1)
        else:
            gate, offset, change = np.split(residual, 3, axis=1)
            away = self.anchored(seen) - prior.mean
            offset = offset + np.clip((gate * away) >> GATE_BITS, -LAST_MEAN, LAST_MEAN)
            change = change - np.clip((gate * prior.scale) >> GATE_BITS, -LAST_SCALE, LAST_SCALE)
        mean = np.clip(prior.mean + offset, 0, LAST_MEAN)
        return Row(mean, np.clip(prior.scale + change, 0, self.widest), np.zeros_like(prior.shape))

    def anchored(self, seen: Seen) -> Index:
        """The anchors, as means."""
        if isinstance(self.anchor, Place):
            return STEPS * self.anchor.of(seen.tiles).astype(np.int64)
        return seen.features[cast(int, self.anchor)].astype(np.int64) + STEPS * MIDDLE


class Pass(Protocol):
    """Where latents and pixels come from, in one walk through a model's groups."""

    def latents(self, prior: Row, moved: Moved) -> Index:
        """The latents of a group, (n, features, height, width) of 0..255."""
        ...

    def points(self, row: Row, place: Place) -> Index:
        """The latents of a group that are the pixels at a place: their posterior is a point."""
        ...

    def pixels(self, row: Row, place: Place) -> Index:
        """The pixels at a place, of the same form."""
        ...


class Encoding:
    """Latents are drawn from posteriors; everything is pushed in the end."""

    def __init__(self, stack: Stack, tables: Tables, normals: Normals, seen: Seen):
        self.stack, self.tables, self.normals, self.seen = stack, tables, normals, seen
        self.known: list[tuple[Index, Row]] = []

    def latents(self, prior: Row, moved: Moved) -> Index:
        z = draw(self.stack, self.normals, moved.posterior(prior, self.seen))
        self.known.append((z, prior))
        return z

    def pixels(self, row: Row, place: Place) -> Index:
        values = place.of(self.seen.tiles).astype(np.int64)
        self.known.append((values, row))
        return values

    points = pixels

    def finish(self) -> None:
        """Push all symbols, the last first."""
        for values, row in reversed(self.known):
            push(self.stack, self.tables, values, row)


class Decoding:
    """Symbols are popped; what drew the latents is given back in the end."""

    def __init__(self, stack: Stack, tables: Tables, normals: Normals, tiles: Tiles):
        """`tiles` (n, 3, tile, tile) are what will be decoded."""
        self.stack, self.tables, self.normals, self.tiles = stack, tables, normals, tiles
        self.known: list[tuple[Index, Row, Moved]] = []

    def latents(self, prior: Row, moved: Moved) -> Index:
        z = pop(self.stack, self.tables, prior)
        self.known.append((z, prior, moved))
        return z

    def pixels(self, row: Row, place: Place) -> Index:
        values = pop(self.stack, self.tables, row)
        place.of(self.tiles)[...] = values
        return values

    points = pixels

    def finish(self, model: Model) -> None:
        """Give back what drew the latents."""
        seen = Seen(model, self.tiles)
        for z, prior, moved in reversed(self.known):
            give_back(self.stack, self.normals, z, moved.posterior(prior, seen))


class Means:
    """Latents are the posteriors' means."""

    def __init__(self, seen: Seen):
        self.seen = seen
        self.found: list[Index] = []

    def latents(self, prior: Row, moved: Moved) -> Index:
        self.found.append(moved.posterior(prior, self.seen).rounded())
        return self.found[-1]

    def points(self, row: Row, place: Place) -> Index:
        self.found.append(self.pixels(row, place))
        return self.found[-1]

    def pixels(self, row: Row, place: Place) -> Index:  # noqa: ARG002
        return place.of(self.seen.tiles).astype(np.int64)


class Given:
    """Latents are given, and pixels are the likelihood's means."""

    def __init__(self, latents: list[Index], tiles: Tiles):
        """`tiles` (n, 3, tile, tile) are what will be decoded."""
        self.left, self.tiles = latents[::-1], tiles

    def latents(self, prior: Row, moved: Moved) -> Index:  # noqa: ARG002
        return self.left.pop()

    def points(self, row: Row, place: Place) -> Index:  # noqa: ARG002
        place.of(self.tiles)[...] = values = self.left.pop()
        return values

    def pixels(self, row: Row, place: Place) -> Index:
        place.of(self.tiles)[...] = values = row.rounded()
        return values


Coded = Callable[[int, Row], Index]
"""How the values of a color come from their row."""


class Network:
    """A model's graphs, in the order of its groups."""

    def __init__(self, model: Model, sizes: dict[str, Any], shift: int):
        """`shift` is added to the scale indices of priors and likelihood."""
        self.model, self.sizes, self.shift = model, sizes, shift
        self.tile = int(sizes["tile"])

    def walk(self, to: Pass, count: int) -> None:
        """Go through all groups of `count` tiles."""
        raise NotImplementedError

    def row(self, given: Array) -> Row:
        """A row of the prior or the likelihood."""
        return Row.of(given).widened(self.shift)

    def colors(
        self, graph: str, state: Array, predictions: list[Array], coded: list[Coded]
    ) -> list[tuple[Array, Array]]:
        """Three colors of pixels at one or several places, as networks see them, and their innovations.

        `predictions` and how values are `coded`: one for each place. Arrays are (n, 3, height, width).
        """
        size = predictions[0].shape[1] // 3
        values: list[list[Array]] = [[] for _ in coded]
        innovations: list[list[Array]] = [[] for _ in coded]
        for color in range(3):
            given = [
                np.concatenate([part[:, size * color : size * (color + 1)], *known], 1)
                for part, known in zip(predictions, innovations, strict=True)
            ]
            rows = [self.row(row) for row in self.model.call(f"{graph}{color}", state, *given)]
            for place, row in enumerate(rows):
                value = coded[place](color, row)
                values[place].append(centered(value))
                innovations[place].append((STEPS * value - row.mean).astype(np.float32))
        return [(np.concatenate(v, 1), np.concatenate(i, 1)) for v, i in zip(values, innovations, strict=True)]


class Layer(Network):
    """A VAE: one group of latents, then the pixels."""

    def walk(self, to: Pass, count: int) -> None:
        dense, side = bool(self.sizes["dense"]), self.tile >> int(self.sizes["scale"])
        rows = cast(Index, self.model.constant("prior")).astype(np.int64)[:, None, :, None, None]
        shape = (count, rows.shape[2], *((1, 1) if dense else (side, side)))
        prior = Row(*(np.broadcast_to(part, shape) for part in rows)).widened(self.shift)
        residual = 0 if dense else 1
        z = to.latents(prior, Moved(lambda seen: seen.features[residual].astype(np.int64), anchor=None if dense else 0))
        given = self.model.call("down", centered(z))
        if dense:
            to.pixels(self.row(given[0]), Place(slice(None)))
        else:
            self.colors("color", given[0], [given[1]], [lambda c, row: to.pixels(row, Place(slice(c, c + 1)))])


class Hierarchy(Network):
    """An NVAE: free groups, then lattices or the pixels."""

    def walk(self, to: Pass, count: int) -> None:
        lattice, groups = int(self.sizes["lattice"]), [int(n) for n in self.sizes["groups"]]
        scales = lattice + len(groups)
        start = cast(Index, self.model.constant("start")).astype(np.float32)[None, :, None, None]
        h = np.tile(start, (count, 1, self.tile >> scales, self.tile >> scales))
        level = sum(groups) + (0 if self.sizes.get("points") else lattice)
        for scale in range(scales, lattice, -1):
            for group in range(groups[scale - lattice - 1]):
                level -= 1
                h = self.free(to, f"free{scale}.{group}", h, level)
        if not lattice:
            f, base = self.model.call("pixels", h)
            self.colors("color", f, [base], [lambda c, row: to.pixels(row, Place(slice(c, c + 1)))])
            return
        a = self.root(to, h, lattice)
        for scale in range(lattice, 0, -1):
            a, h = self.lattice(to, a, h, scale)

    def free(self, to: Pass, name: str, h: Array, level: int) -> Array:
        """The state after a free group."""
        h, given = self.model.call(f"{name}.prior", h)
        prior = Row.first_shape(given).widened(self.shift)
        z = to.latents(prior, Moved(Mover(f"{name}.residual", h, level)))
        return self.model.call(f"{name}.combine", h, centered(z))[0]

    def root(self, to: Pass, h: Array, scale: int) -> Array:
        """The latents of the coarsest lattice."""
        f, base = self.model.call("root", h)
        coded = self.group(to, Mover("root.residual", f, scale - 1), 0, 3, (0, 0, 1 << scale))
        return self.colors("root", f, [base], [coded])[0][0]

    def lattice(self, to: Pass, a: Array, h: Array, scale: int) -> tuple[Array, Array]:
        """The latents of the next finer lattice, and the state; at the finest scale the pixels."""
        name, stride = "coarse" if scale > 1 else "fine", 1 << (scale - 1)
        f, predictions = self.model.call(f"{name}.enter", padded(a, 1, 2), h)
        coded = self.group(to, Mover(f"{name}.first", f, scale - 1), 0, 3, (stride, stride, 2 * stride))
        ((d, surprise),) = self.colors(f"{name}.d", f, [predictions], [coded])
        seen = [padded(a, 1, 1), padded(d, 1, 1), padded(surprise, 1, 1, zeros=True)]
        f, right, below = self.model.call(f"{name}.middle", np.concatenate(seen, 1), f)
        places = [(0, stride, 2 * stride), (stride, 0, 2 * stride)]
        mover = Mover(f"{name}.second", f, scale - 1) if scale > 1 else None
        both = [self.group(to, mover, 3 * i, 6, place) for i, place in enumerate(places)]
        (b, surprise_b), (c, surprise_c) = self.colors(f"{name}.bc", f, [right, below], both)
        if scale == 1:
            if self.sizes.get("points"):
                return a, f
            row = self.row(self.model.call("fine.copies", f, np.concatenate([a, d], 1))[0])
            for i in range(2):
                to.pixels(row.features(slice(3 * i, 3 * i + 3)), Place(slice(None), i, i, 2))
            return a, f
        finer = np.empty((*a.shape[:2], 2 * a.shape[2], 2 * a.shape[3]), np.float32)
        for part, (y, x) in zip((a, b, c, d), ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
            finer[:, :, y::2, x::2] = part
        return finer, self.model.call(f"{name}.leave", f, np.concatenate([b, c, surprise_b, surprise_c], 1))[0]

    def group(self, to: Pass, mover: Mover | None, first: int, step: int, place: tuple[int, int, int]) -> Coded:
        """How colors at offset (y, x) of a lattice with a stride are coded: as pixels, or with a mover as latents."""

        def coded(color: int, row: Row) -> Index:
            anchor = Place(slice(color, color + 1), *place)
            if mover is None:
                return to.pixels(row, anchor)
            if self.sizes.get("points"):
                return to.points(row, anchor)
            return to.latents(row, Moved(mover, first + color, step, anchor, int(self.sizes["narrow"])))

        return coded


NETWORKS: dict[str, type[Network]] = {"vae": Layer, "nvae": Hierarchy}


class LatentCodec:
    """The two directions, for one model."""

    def __init__(self, model: Model, temperature: float = 1.0):
        """Below 1, the `temperature` narrows priors and likelihood. Raises `InvalidFile`."""
        self.model = model
        cdf, rate = model.constant("shapes.cdf"), model.constant("shapes.rate")
        self.tables, self.normals = Tables(cdf, rate), Normals(cdf[:1], rate)  # type: ignore[arg-type]
        shift = scale_shift(max(temperature, COLDEST))
        try:
            self.network = NETWORKS[model.family](model, model.config["sizes"], shift)
            self.tile = self.network.tile
            self.demand = float(model.config["demand"]) + DRAWN * RUN
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFile(f"the model {model.card.name} does not say what its latents are") from error

    def push(self, stack: Stack, tiles: Tiles) -> None:
        """Push tiles (n, 3, tile, tile) of green, red, blue."""
        encoding = Encoding(stack, self.tables, self.normals, Seen(self.model, tiles))
        self.network.walk(encoding, len(tiles))
        encoding.finish()

    def pop(self, stack: Stack, count: int) -> Tiles:
        """The inverse of `push`, of `count` tiles. Raises `InvalidFile`."""
        decoding = Decoding(stack, self.tables, self.normals, self.blank(count))
        self.network.walk(decoding, count)
        decoding.finish(self.model)
        return decoding.tiles

    def latents(self, tiles: Tiles) -> list[Index]:
        """The means of the posteriors of tiles, group by group, each (n, features, height, width) of 0..255."""
        means = Means(Seen(self.model, tiles))
        self.network.walk(means, len(tiles))
        return means.found

    def decoded(self, latents: list[Index]) -> Tiles:
        """The likelihood's means for `latents`, which may lie between those of several tiles."""
        whole = [np.clip(np.rint(z), 0, LEVELS - 1).astype(np.int64) for z in latents]
        given = Given(whole, self.blank(len(latents[0])))
        self.network.walk(given, len(latents[0]))
        return given.tiles

    def blank(self, count: int) -> Tiles:
        """Tiles to be filled."""
        return np.zeros((count, 3, self.tile, self.tile), np.uint8)


def centered(values: NDArray[Any]) -> Array:
    """Levels as networks see them."""
    return values.astype(np.float32) - MIDDLE


def padded(x: Array, before: int, behind: int, *, zeros: bool = False) -> Array:
    """With more positions at the edges, which repeat the last ones or are zero."""
    border = ((0, 0), (0, 0), (before, behind), (before, behind))
    return np.pad(x, border) if zeros else np.pad(x, border, mode="edge")


def push(stack: Stack, tables: Tables, values: Index, row: Row) -> None:
    """Push symbols under a row of the same shape."""
    symbols = [part.ravel() for part in (values, row.mean, row.scale, row.shape)]
    for run in runs(values.size):
        stack.push(*tables.interval(*(part[run] for part in symbols)))


def pop(stack: Stack, tables: Tables, row: Row) -> Index:
    """The inverse of `push`: symbols in the row's shape."""
    mean, scale, shape = (part.ravel() for part in (row.mean, row.scale, row.shape))
    values = np.empty(row.mean.size, np.int64)
    for run in reversed(runs(values.size)):
        quantile = stack.pop_quantiles(len(mean[run]))
        values[run], left, length = tables.find(quantile, mean[run], scale[run], shape[run])
        stack.restore(quantile - left, length)
    return values.reshape(row.mean.shape)


def draw(stack: Stack, tables: Normals, row: Row) -> Index:
    """Symbols in a row's shape, chosen by whatever the stack holds.

    Unlike `pop` it takes any content: `restore` knows that no coder uses the last numbers of long intervals.
    """
    mean, scale, shape = (part.ravel() for part in (row.mean, row.scale, row.shape))
    values = np.empty(row.mean.size, np.int64)
    for run in runs(values.size):
        quantile = stack.pop_uniform(TOTAL, len(mean[run]))
        values[run], left, length = tables.find(quantile, mean[run], scale[run], shape[run])
        stack.push_uniform(quantile - left, length)
    return values.reshape(row.mean.shape)


def give_back(stack: Stack, tables: Normals, values: Index, row: Row) -> None:
    """The inverse of `draw`. Raises `InvalidFile` for symbols that it does not give, if the stack is a file's."""
    symbols = [part.ravel() for part in (values, row.mean, row.scale, row.shape)]
    for run in reversed(runs(values.size)):
        left, length = tables.interval(*(part[run] for part in symbols))
        if not length.all():
            if isinstance(stack, IntervalCoder):
                raise InvalidFile("the coded pixels are damaged: a latent is none that the model draws")
            length = np.maximum(length, 1)  # a sample at another temperature
        stack.push_uniform(np.minimum(left + stack.pop_uniform(length, len(left)), TOTAL - 1), TOTAL)

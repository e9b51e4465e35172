"""The encoder's side of adaptation: a network's weights are fitted to the picture by gradient descent.

The loss is the length of the whole file: the picture's bits by the network, and those of the changes of its weights.
Gradients come from the training step that the exporter wrote beside the model; torch is not needed. Inputs of the
trunk do not depend on the weights that adapt, and are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gencodec.codec import adaptation
from gencodec.codec.adaptation import Changes, Layer
from gencodec.codec.groups import Pixels
from gencodec.codec.network import Array, floored_means
from gencodec.codec.photo import PhotoCodec, gathered
from gencodec.codec.soap import Soap
from gencodec.codec.tiling import TILE, Box, Tiling
from gencodec.errors import UsageError

if TYPE_CHECKING:
    from gencodec.runtime import Model

STEPS = (0, 45, 90, 160, 200, 360, 540, 720, 1080)
WIDE_STEPS = (0, 80, 170, 310, 500, 700, 960, 1200, 1500)
"""Of gradient descent, by effort from 1 to 9; the second ones are for networks with layers of WIDE_ROWS and more."""
WIDE_ROWS = 128
RATE = 0.0485
"""What a weight changes by at a step, at first, times the root of the widest layer's rows, or of NARROW if these are
fewer; it falls to zero in a straight line."""
NARROW = 32
SLOW = 200
"""Fewer steps than this begin slower: they have no time to settle."""
WARMUP = 10
"""Steps in which the rate rises."""
PRICE, WIDE_PRICE = 1.6, 1.25
"""Weight of the changes' bits in the loss: more than 1, since what they gain on some pixels is less on the others, and
they take more than the loss says. The second one is for networks with layers of WIDE_ROWS and more."""
PARTS = 2
"""Batches of a step, which run side by side: each is small enough for a core's cache."""
RUN = 16
"""Neighboring pixels that are drawn together: a cache line."""
DEAD_ZONE = 0.35
"""Share of a step that is rounded up to the next."""
WHOLE = 0.6
"""Share of the descent after which gradients are taken at changes in whole steps, so that those that are sent make up
for what rounding takes from the others."""
MOST_PIXELS, WHOLE_PIXELS = 1 << 18, 1 << 19
"""Pixels that are looked at, in tiles all over the picture; and by wide networks, or at more than QUICK_EFFORT, all of
pictures that have no more than the second."""
QUICK_EFFORT = 5
LEAST_PIXELS = 1 << 13
"""Smaller pictures do not pay for changes."""
SPREAD = 0.05
"""Where the price of a change, in steps, turns from a parabola to a straight line."""
CHECKED = 32
"""Batches that tell whether adapting has paid."""

Index = NDArray[np.int64]
Report = Callable[[int, int, float], None]
"""Takes the step, how many there are, and the estimated bits a subpixel."""


@dataclass(frozen=True)
class Adapted:
    """A model fitted to a picture, what a file carries of it, and the estimated share of bytes that it saves."""

    model: Model
    payload: bytes
    saved: float


def adapted(pixels: Pixels, model: Model, effort: int, report: Report | None = None) -> Adapted | None:
    """`model` fitted to `pixels` (height, width, 1 or 3), if it can be and that seems to pay.

    `effort` from 1 (not at all) to 9. Raises `UsageError` where the training step is not the model's.
    """
    size = pixels.shape[0] * pixels.shape[1]
    if effort == 1 or size < LEAST_PIXELS or not (layers := adaptation.layers(model)) or model.step is None:
        return None
    wide = max(len(layer.weight) for layer in layers) >= WIDE_ROWS
    count = (WIDE_STEPS if wide else STEPS)[effort - 1]
    with ThreadPoolExecutor(model.threads) as workers:
        most = WHOLE_PIXELS if size <= WHOLE_PIXELS and (wide or effort > QUICK_EFFORT) else MOST_PIXELS
        adapter = Adapter(model, model.step, pool_of(pixels, model, workers, most), pixels.shape, workers)
        plain = adapter.measured(adapter.rounded())
        with threadpool_limits(1, user_api="blas"):  # the optimizer's matrices are too small for more
            adapter.run(count, report)
        changes = adapter.rounded()
        payload = adaptation.pack(changes, adapter.coarseness)
        bits = adapter.measured(changes) + 8 * len(payload) / pixels.size
    if not bits < plain:
        return None
    return Adapted(adaptation.applied(model, changes, adapter.coarseness), payload, 1 - bits / plain)


def pool_of(pixels: Pixels, model: Model, workers: Executor, most: int = MOST_PIXELS) -> Pool:
    """The training step's inputs for up to `most` of `pixels`, from tiles all over the picture."""
    height, width, _ = pixels.shape
    tiles = list(Tiling.by_side(width, height, TILE).all_tiles())
    share = min(1.0, most / (height * width))
    chosen = np.unique(np.linspace(0, len(tiles) - 1, max(1, int(len(tiles) * share))).round().astype(int))
    codec = PhotoCodec(model)

    def parts_of(box: Box) -> list[tuple[NDArray[np.int16], ...]]:
        tile, valid = gathered(pixels, box, (box.height, box.width))
        bands = (
            (seen.around.relative, seen.near, floored_means(seen.sums, seen.counts), seen.around.base, seen.pixel)
            for seen in codec.surroundings(tile, valid)
        )
        return [tuple(array.astype(np.int16) for array in band) for band in bands]

    parts = list(workers.map(parts_of, (tiles[i] for i in chosen)))
    return Pool([part for tile in parts for part in tile])


class Pool:
    """Inputs of the training step at some of a picture's pixels, (rows, runs, RUN) int16 each."""

    NAMES = ("relative", "near", "pooled", "base", "pixel")

    def __init__(self, parts: list[tuple[NDArray[np.int16], ...]]):
        """`parts`: inputs (rows, pixels) in the order of NAMES; the last few pixels may be left out."""
        joined = [np.concatenate(arrays, 1) for arrays in zip(*parts, strict=True)]
        self.runs = joined[0].shape[1] // RUN
        arrays = (np.ascontiguousarray(a[:, : self.runs * RUN]).reshape(len(a), self.runs, RUN) for a in joined)
        self.arrays = dict(zip(self.NAMES, arrays, strict=True))

    def draw(self, count: int, rng: np.random.Generator) -> Index:
        """Runs that hold `count` random pixels."""
        return rng.integers(0, self.runs, count // RUN)

    def given(self, runs: Index) -> dict[str, Array]:
        """The inputs at the pixels of `runs`, (rows, pixels) float32."""
        return {name: a.take(runs, 1).reshape(len(a), -1).astype(np.float32) for name, a in self.arrays.items()}


@dataclass
class Fit:
    """A layer's parameter on its way: real-valued changes in steps, and the optimizer's state."""

    layer: Layer
    step: Array
    """What a step is in real units."""
    start: Array
    change: Array
    optimizers: list[Soap]

    def move(self, gradient: Array, pace: float, price: float) -> None:
        """One step against `gradient` (rows, columns + 1) and the price of changes."""
        size = np.abs(self.change)
        spread = np.sqrt((size.mean(1, keepdims=True) + SPREAD) * (size.mean(0) + SPREAD))
        cost = self.change / np.sqrt(self.change**2 + SPREAD) / spread
        gradient = gradient + price * cost / self.step
        parts = [np.ascontiguousarray(gradient[:, :-1]), np.ascontiguousarray(gradient[:, -1])]
        if not self.optimizers:
            self.optimizers = [Soap(part) for part in parts]
        weight, bias = (o.step(part) for o, part in zip(self.optimizers, parts, strict=True))
        self.change -= pace * np.concatenate([weight, bias[:, None]], 1) / self.step

    def whole(self) -> Array:
        """The change in whole steps."""
        return np.trunc(self.change + np.copysign(np.float32(DEAD_ZONE), self.change))


class Adapter:
    """Gradient descent on one picture."""

    def __init__(self, model: Model, step: Any, pool: Pool, shape: tuple[int, ...], workers: Executor):
        """`step`: the session of the training step; `shape`: height, width and channels of the whole picture."""
        height, width, channels = shape
        self.step, self.pool, self.symbols = step, pool, height * width * channels
        self.workers = workers
        self.coarseness = round(0.5 * math.log2(adaptation.REFERENCE / (height * width)))
        self.rng = np.random.default_rng(0)
        self.fixed: dict[str, NDArray[Any]] = {
            "mixture": model.constant("shapes.mixture"),
            "colors": (np.arange(3)[:, None] < channels).astype(np.float32),
        }
        self.count = step.get_inputs()[0].shape[1]
        self.fits = []
        given = {i.name: tuple(i.shape) for i in step.get_inputs()}
        for layer in adaptation.layers(model):
            rows, columns = layer.weight.shape
            if given.get(f"{layer.name}.weight") != (rows, columns - 1):
                raise UsageError(
                    f"the training step beside {model.card.name} is not that of its network; export both again"
                )
            unit = (layer.steps(self.coarseness) * layer.scale).astype(np.float32)
            start = (layer.weight * layer.scale).astype(np.float32)
            self.fits.append(Fit(layer, unit, start, np.zeros_like(start), []))

    def run(self, steps: int, report: Report | None = None) -> None:
        """Go so many steps."""
        width = max(NARROW, *(len(fit.start) for fit in self.fits))
        rate = RATE / math.sqrt(width) * min(1.0, math.sqrt(steps / SLOW))
        wide = width >= WIDE_ROWS
        price = (WIDE_PRICE if wide else PRICE) / math.log(2) / self.symbols
        each = self.workers.map if wide else map  # narrow layers take less time than handing them to threads does
        for index in range(steps):
            bits, gradients = self.gradients(whole=index >= WHOLE * steps)
            pace = rate * min(1, (index + 1) / WARMUP) * (1 - index / steps)
            moves = partial(Fit.move, pace=pace, price=price)
            list(each(moves, self.fits, gradients))
            if report:
                report(index + 1, steps, bits)

    def gradients(self, *, whole: bool) -> tuple[float, list[Array]]:
        """Mean bits a subpixel of a random batch, and each layer's gradients (rows, columns + 1).

        `whole`: with the changes in whole steps.
        """
        changes = [fit.whole() if whole else fit.change for fit in self.fits]
        bits, *rest = self.mean_outputs(None, changes, PARTS, self.rng)
        pairs = [np.concatenate([w, b[:, None]], 1) for w, b in zip(rest[::2], rest[1::2], strict=True)]
        return float(bits), pairs

    def mean_outputs(
        self, names: list[str] | None, changes: list[Array], batches: int, rng: np.random.Generator
    ) -> list[Array]:
        """Means of the step's outputs (None: all of them) with changed weights, over so many random batches."""
        weights = self.weights(changes)

        def outputs(runs: Index) -> list[Array]:
            return self.step.run(names, {**self.pool.given(runs), **weights})

        drawn = [self.pool.draw(self.count, rng) for _ in range(batches)]
        return [np.mean(values, 0) for values in zip(*self.workers.map(outputs, drawn), strict=True)]

    def weights(self, changes: list[Array]) -> dict[str, NDArray[Any]]:
        """The training step's inputs that are not pixels."""
        result = dict(self.fixed)
        for fit, change in zip(self.fits, changes, strict=True):
            both = fit.start + change * fit.step
            result[f"{fit.layer.name}.weight"] = np.ascontiguousarray(both[:, :-1])
            result[f"{fit.layer.name}.bias"] = np.ascontiguousarray(both[:, -1])
        return result

    def rounded(self) -> Changes:
        """The changes in whole steps."""
        whole = ((fit.layer, fit.whole().astype(np.int64)) for fit in self.fits)
        return {layer.name: layer.allowed(changes, self.coarseness) for layer, changes in whole}

    def measured(self, changes: Changes) -> float:
        """Mean bits a subpixel with `changes`, over CHECKED batches, always the same."""
        whole = [changes[fit.layer.name].astype(np.float32) for fit in self.fits]
        return float(self.mean_outputs(["bits"], whole, CHECKED, np.random.default_rng(1))[0])

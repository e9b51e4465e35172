"""The codec of flows (NICE, RealNVP, Glow): tiles <-> a stack.

A gray level and fractional bits from the stack make a value on a fine grid: bits-back with uniform noise, as in
local bits-back coding (Ho et al. 2019, arXiv 1905.08500, section 3.4). The flow's steps are bijections of such values,
and its latents are pushed under their densities. The steps are read from the model's configuration; what they mean is
in docs/format-flow.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.coder import DRAWN, RUN, MiddleCoder, Stack
from gencodec.codec.integerflow import (
    Density,
    Values,
    pop_bits,
    push_bits,
    scaled,
    sheared,
    squeezed,
    unscaled,
    unsheared,
    unsqueezed,
)
from gencodec.codec.tables import COLDEST, Tables, scale_shift
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

FRACTION = 8
"""Fractional bits of a gray level."""
MIDDLE = 128
SEEN = (-1024, 1023, 2)
"""What networks see of values: their range, and fractional bits of a gray level."""
SHIFT_BITS = 4
"""Fractional bits of shifts and means."""
SCALES = 64


class Squeeze:
    """Blocks of positions become features."""

    def __init__(self, factor: int):
        self.factor = factor

    def push(self, y: Values, stack: Stack) -> Values:  # noqa: ARG002
        return squeezed(y, self.factor)

    def pop(self, y: Values, stack: Stack) -> Values:  # noqa: ARG002
        return unsqueezed(y, self.factor)


class Order:
    """Features in another order."""

    def __init__(self, order: list[int]):
        self.order, self.back = np.array(order), np.argsort(order)

    def push(self, y: Values, stack: Stack) -> Values:  # noqa: ARG002
        return y[:, self.order]

    def pop(self, y: Values, stack: Stack) -> Values:  # noqa: ARG002
        return y[:, self.back]


class Network:
    """One of the model's graphs, called for values."""

    def __init__(self, model: Model, name: str, reach: int):
        self.model, self.name, self.reach = model, name, reach

    def __call__(self, kept: Values) -> Values:
        """What the network says of values (n, features, height, width)."""
        low, high, bits = SEEN
        seen = np.clip(kept >> (FRACTION - bits), low, high).astype(np.float32)
        if self.reach:
            border = (self.reach, self.reach)
            seen = np.pad(seen, ((0, 0), (0, 0), border, border), mode="edge")
        return self.model.call(self.name, seen)[0].astype(np.int64)


class Coupling:
    """The first features decide how the others are shifted and scaled."""

    def __init__(self, kept: int, network: Network, factors: Values | None):
        """`factors` of the modular scale transform, the middle one for index 0; None for additive couplings."""
        self.kept, self.network, self.factors = kept, network, factors

    def change(self, kept: Values) -> tuple[Values, Values | None]:
        """Shift and factors for the kept features."""
        given = self.network(kept)
        if self.factors is None:
            return given << (FRACTION - SHIFT_BITS), None
        shift, octaves = np.split(given, 2, axis=1)
        return shift << (FRACTION - SHIFT_BITS), self.factors[octaves + len(self.factors) // 2]

    def push(self, y: Values, stack: Stack) -> Values:
        kept, changed = y[:, : self.kept], y[:, self.kept :]
        shift, factor = self.change(kept)
        changed = changed + shift
        if factor is not None:
            changed = scaled(changed, factor, stack)
        return np.concatenate([kept, changed], 1)

    def pop(self, y: Values, stack: Stack) -> Values:
        kept, changed = y[:, : self.kept], y[:, self.kept :]
        shift, factor = self.change(kept)
        if factor is not None:
            changed = unscaled(changed, factor, stack)
        return np.concatenate([kept, changed - shift], 1)


class Mix:
    """A linear map of the features as the product of triangular matrices and a diagonal one."""

    def __init__(self, model: Model, name: str):
        bias, factor, upper, lower, order = (
            model.constant(f"{name}.{part}").astype(np.int64) for part in ("bias", "factor", "upper", "lower", "order")
        )
        self.bias, self.factor, self.sign = (a[:, None, None] for a in (bias, np.abs(factor), np.sign(factor)))
        self.upper, self.lower, self.order, self.back = upper, lower, order, np.argsort(order)

    def push(self, y: Values, stack: Stack) -> Values:
        y = sheared(y + self.bias, self.upper) * self.sign
        return sheared(scaled(y, self.factor, stack), self.lower)[:, self.order]

    def pop(self, y: Values, stack: Stack) -> Values:
        y = unscaled(unsheared(y[:, self.back], self.lower), self.factor, stack)
        return unsheared(y * self.sign, self.upper) - self.bias


class Factor:
    """Features that are put aside as latents, and their distributions."""

    def __init__(self, kept: int, given: Network | Values, density: Density, shift: int):
        """`given`: a network, or means, scales and shapes (3 * features,); `shift` is added to scale indices."""
        self.kept, self.given, self.density, self.shift = kept, given, density, shift

    def distribution(self, kept: Values, shape: tuple[int, ...]) -> tuple[Values, Values, Values]:
        """Means, scale and shape indices of latents of this shape; (n,) each."""
        given = self.given(kept) if isinstance(self.given, Network) else self.given[None, :, None, None]
        mean, scale, form = (np.broadcast_to(part, shape).ravel() for part in np.split(given, 3, axis=1))
        return mean << (FRACTION - SHIFT_BITS), np.clip(scale + self.shift, 0, SCALES - 1), form

    def push(self, y: Values, stack: Stack) -> Values:
        kept, latents = self.split(y)
        self.density.push(stack, latents.ravel(), *self.distribution(kept, latents.shape))
        return kept

    def pop(self, y: Values, stack: Stack, shape: tuple[int, ...]) -> Values:
        """The features before latents of this shape were put aside."""
        latents = self.density.pop(stack, *self.distribution(y, shape))
        return np.concatenate([y, latents.reshape(shape)], 1)

    def split(self, y: Values) -> tuple[Values, Values]:
        """What goes on, and the latents."""
        return y[:, : self.kept], y[:, self.kept :]


Step = Squeeze | Order | Coupling | Mix | Factor


class FlowCodec:
    """The two directions, for one model."""

    def __init__(self, model: Model, temperature: float = 1.0):
        """Below 1, the `temperature` narrows the latents' distributions. Raises `InvalidFile`."""
        tables = Tables(model.constant("shapes.cdf"), model.constant("shapes.rate"))  # type: ignore[arg-type]
        self.model, self.density = model, Density(tables, FRACTION)
        self.shift = scale_shift(max(temperature, COLDEST))
        try:
            self.tile = int(model.config["tile"])
            self.steps = [self.step(entry) for entry in model.config["steps"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFile(f"the model {model.card.name} does not say how its flow goes") from error
        self.shapes = self.latent_shapes()
        self.demand = float(FRACTION * 3 * self.tile**2 + DRAWN * RUN)

    def step(self, entry: dict[str, Any]) -> Step:
        """A step of the configuration."""
        kind = entry["step"]
        if kind == "squeeze":
            return Squeeze(int(entry["factor"]))
        if kind == "order":
            return Order(entry["order"])
        if kind == "coupling":
            factors = self.model.constant("factors").astype(np.int64) if entry["affine"] else None
            return Coupling(entry["kept"], self.network(entry), factors)
        if kind == "mix":
            return Mix(self.model, entry["name"])
        if kind == "factor":
            name = f"{entry['name']}.distribution"
            given = self.network(entry) if "reach" in entry else self.model.constant(name).astype(np.int64)
            return Factor(entry["kept"], given, self.density, self.shift)
        raise ValueError(kind)

    def network(self, entry: dict[str, Any]) -> Network:
        """The graph of a step."""
        return Network(self.model, entry["name"], entry["reach"])

    def walk(self) -> list[tuple[Step, tuple[int, int, int]]]:
        """Every step with the shape (features, height, width) of what it takes of a tile."""
        result, shape = [], (3, self.tile, self.tile)
        for step in self.steps:
            result.append((step, shape))
            if isinstance(step, Squeeze):
                f = step.factor
                shape = (shape[0] * f * f, shape[1] // f, shape[2] // f)
            elif isinstance(step, Factor):
                shape = (step.kept, *shape[1:])
        return result

    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """Shape (features, height, width) of the latents that every factor puts aside."""
        return [(s[0] - step.kept, *s[1:]) for step, s in self.walk() if isinstance(step, Factor)]

    # coding

    def push(self, stack: Stack, tiles: NDArray[np.uint8]) -> None:
        """Push tiles (n, 3, tile, tile) of green, red, blue."""
        y = self.dequantised(tiles, stack)
        for step in self.steps:
            y = step.push(y, stack)

    def pop(self, stack: Stack, count: int) -> NDArray[np.uint8]:
        """The inverse of `push`, of `count` tiles. Raises `InvalidFile`."""
        y, shapes = self.nothing(count), list(self.shapes)
        for step in reversed(self.steps):
            y = step.pop(y, stack, (count, *shapes.pop())) if isinstance(step, Factor) else step.pop(y, stack)
        return self.quantised(y, stack)

    def dequantised(self, tiles: NDArray[np.uint8], stack: Stack) -> Values:
        """Values of tiles: gray levels around the middle, with fractions from the stack."""
        fraction = pop_bits(stack, FRACTION, tiles.size).reshape(tiles.shape)
        return ((tiles.astype(np.int64) - MIDDLE) << FRACTION) + fraction

    def quantised(self, y: Values, stack: Stack) -> NDArray[np.uint8]:
        """The inverse of `dequantised`; values beyond gray levels, as samples may have, are cut."""
        push_bits(stack, (y & ((1 << FRACTION) - 1)).ravel(), FRACTION)
        return np.clip((y >> FRACTION) + MIDDLE, 0, 255).astype(np.uint8)

    def nothing(self, count: int) -> Values:
        """What is left of `count` tiles after the last step."""
        return np.empty((count, 0, *self.shapes[-1][1:]), np.int64)

    # interpolation

    def latents(self, tiles: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
        """The latents (n, features, height, width) of tiles, every choice the middle one."""
        stack, found = MiddleCoder(), []
        y = self.dequantised(tiles, stack)
        for step in self.steps:
            if isinstance(step, Factor):
                y, latents = step.split(y)
                found.append(latents)
            else:
                y = step.push(y, stack)
        return found

    def decoded(self, latents: list[NDArray[np.int64]]) -> NDArray[np.uint8]:
        """The tiles of `latents`, which may be means of those of several tiles."""
        stack, left = MiddleCoder(), [np.rint(z).astype(np.int64) for z in latents]
        y = self.nothing(len(latents[0]))
        for step in reversed(self.steps):
            y = np.concatenate([y, left.pop()], 1) if isinstance(step, Factor) else step.pop(y, stack)
        return self.quantised(y, stack)

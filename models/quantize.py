"""Layers that know the integer network they will become.

Every activation is an integer grid point: `value = integer * 2**-bits`. A layer with quantization switched
on computes in floating point exactly what its exported integer graph computes, with straight-through
gradients (Bengio et al. 2013, arXiv 1308.3432); with quantization off it is the smooth float network.
Arrays are feature-first: (features, ...positions).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXACT_LIMIT = 1 << 24
"""Integers below this magnitude, and so every partial sum below it, are exact in float32."""
ROOM = EXACT_LIMIT // 2
"""What sums may reach by the weights that are trained: the rest is room for changes that fit them to a picture."""


@dataclass(frozen=True)
class Grid:
    """The integers `low..high`, each standing for `integer * 2**-bits`."""

    low: int
    high: int
    bits: int

    @property
    def step(self) -> float:
        """Distance of neighboring values."""
        return 2.0**-self.bits

    @property
    def magnitude(self) -> int:
        """Largest absolute integer."""
        return max(abs(self.low), abs(self.high))


class _FloorThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # noqa: ARG004
        return torch.floor(x)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:  # noqa: ARG004
        return grads[0]


def floor_through(x: Tensor) -> Tensor:
    """Floor of `x`, with the gradient of the identity."""
    return _FloorThrough.apply(x)  # type: ignore[return-value]


def snap(x: Tensor, grid: Grid, exact: bool) -> Tensor:
    """`x` clipped to `grid`'s range and, when `exact`, floored to its points."""
    if exact:
        x = floor_through(x * 2.0**grid.bits) * grid.step
    return F.hardtanh(x, grid.low * grid.step, grid.high * grid.step)


Group = tuple[int, Grid]
"""So many neighboring features, and the grid that they lie on."""


class ExactLinear(nn.Module):
    """`clip(floor(W x + b))` on integer grids: the one weight-carrying layer of exact networks.

    Input: (in_features, ...) on the grids of `sources`, concatenated in order. Output: (out_features, ...) on
    the grids of `targets`. Weights become integers of at most `weight_bits` bits with a power-of-two scale per
    output row, chosen as fine as `weight_bits` and the bound on partial sums (ROOM, below 2**24) allow.
    """

    steps: Tensor
    reach: Tensor
    target_steps: Tensor

    def __init__(self, sources: list[Group], targets: list[Group], weight_bits: int = 12):
        super().__init__()
        self.sources = sources
        self.targets = targets
        self.in_features = sum(n for n, _ in sources)
        self.out_features = sum(n for n, _ in targets)
        self.weight_bits = weight_bits
        self.exact = False
        self.weight = nn.Parameter(torch.empty(self.out_features, self.in_features))
        self.bias = nn.Parameter(torch.zeros(self.out_features))
        nn.init.normal_(self.weight, std=math.sqrt(1.6 / self.in_features))
        self.register_buffer("steps", _spread(sources, lambda grid: grid.step), persistent=False)
        self.register_buffer("reach", _spread(sources, lambda grid: float(grid.magnitude)), persistent=False)
        self.register_buffer("target_steps", _spread(targets, lambda grid: grid.step), persistent=False)

    def scale_bits(self) -> Tensor:
        """Per output row, the exponent k of the integer weights `round(w * step * 2**k)`; (out,) float."""
        w = (self.weight.detach() * self.steps).abs()
        by_width = torch.log2((2 ** (self.weight_bits - 1) - 1) / w.amax(1).clamp_min(1e-12))
        # half a unit of rounding a weight, and the bias, take part in the worst sum
        worst = (w * self.reach).sum(1) + self.bias.detach().abs() + self.target_steps
        by_bound = torch.log2((ROOM - 2 - 0.5 * self.reach.sum()) / worst)
        return torch.floor(torch.minimum(by_width, by_bound))

    def rounded(self) -> tuple[Tensor, Tensor]:
        """Weights and biases as the integer network has them, with straight-through gradients."""
        unit = torch.exp2(self.scale_bits())
        quantum = self.steps * unit[:, None]
        weight = self.weight + ((self.weight * quantum).round() / quantum - self.weight).detach()
        bias = self.bias + ((self.bias * unit).round() / unit - self.bias).detach()
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.rounded() if self.exact else (self.weight, self.bias)
        y = torch.addmm(bias[:, None], weight, x.flatten(1)).view(-1, *x.shape[1:])
        if len(self.targets) == 1:
            return snap(y, self.targets[0][1], self.exact)
        parts = y.split([n for n, _ in self.targets])
        return torch.cat([snap(part, grid, self.exact) for part, (_, grid) in zip(parts, self.targets, strict=True)])


class Table(nn.Module):
    """A pointwise function as a lookup table: `clip(floor(f(x)))` from one grid to another.

    Input and output have the same shape. The integers are fixed once, in double precision, so that every
    machine reads the same table.
    """

    integers: Tensor

    def __init__(self, function: Callable[[Tensor], Tensor], source: Grid, target: Grid):
        super().__init__()
        self.function, self.source, self.target = function, source, target
        self.exact = False
        points = torch.arange(source.low, source.high + 1, dtype=torch.float64) * source.step
        integers = torch.floor(function(points) * 2.0**target.bits).clamp(target.low, target.high)
        self.register_buffer("integers", integers.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        smooth = snap(self.function(x), self.target, False)
        if not self.exact:
            return smooth
        index = (x.detach() * 2.0**self.source.bits).long() - self.source.low
        return smooth + (self.integers[index] * self.target.step - smooth).detach()


class Snap(nn.Module):
    """`snap` as a layer: floors to a grid (when exact) and clips to its range; same shape."""

    def __init__(self, target: Grid):
        super().__init__()
        self.target = target
        self.exact = False

    def forward(self, x: Tensor) -> Tensor:
        return snap(x, self.target, self.exact)


class Mean(nn.Module):
    """`clip(floor(total / count))` for totals on a grid and whole counts of at least 1; shapes broadcast."""

    def __init__(self, target: Grid):
        super().__init__()
        self.target = target
        self.exact = False

    def forward(self, total: Tensor, count: Tensor) -> Tensor:
        return snap(total / count, self.target, self.exact)


def _spread(groups: list[Group], value: Callable[[Grid], float]) -> Tensor:
    return torch.cat([torch.full((n,), value(grid)) for n, grid in groups])


def set_exact(module: nn.Module, exact: bool) -> None:
    """Switch integer arithmetic on or off in every layer of `module` that has both forms."""
    for part in module.modules():
        if hasattr(part, "exact"):
            part.exact = exact  # type: ignore[assignment]

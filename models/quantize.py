"""Layers that know the integer network they will become.

Every activation is an integer grid point: `value = integer * 2**-bits`. A layer with quantization switched
on computes in floating point exactly what its exported integer graph computes, with straight-through
gradients (Bengio et al. 2013, arXiv 1308.3432); with quantization off it is the smooth float network.
Arrays are feature-first, (features, ...positions), or pictures, (batch, features, height, width), as each layer says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

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
    def forward(ctx: object, x: Tensor, step: float) -> Tensor:  # noqa: ARG004
        return torch.floor(x) if step == 1 else torch.floor(x * (1 / step)) * step

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return grads[0], None


def floor_through(x: Tensor, step: float = 1.0) -> Tensor:
    """`x` floored to multiples of `step`, a power of two, with the gradient of the identity."""
    return _FloorThrough.apply(x, step)  # type: ignore[return-value]


class _HalfGradients(torch.autograd.Function):
    """`weight @ x + bias` in full precision, with gradients that are multiplied in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x.bfloat16(), weight.bfloat16())
        return torch.addmm(bias[:, None], weight, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        gradient = grads[0].bfloat16()
        back = (weight.t() @ gradient).float() if ctx.needs_input_grad[0] else None
        return back, (gradient @ x.t()).float(), grads[0].sum(1)


def snap(x: Tensor, grid: Grid, exact: bool) -> Tensor:
    """`x` clipped to `grid`'s range and, when `exact`, floored to its points."""
    if exact:
        x = floor_through(x, grid.step)
    return F.hardtanh(x, grid.low * grid.step, grid.high * grid.step)


Group = tuple[int, Grid]
"""So many neighboring features, and the grid that they lie on."""


class ExactLayer(nn.Module):
    """What weight-carrying layers share: weights that become integers with a power-of-two scale per output row.

    `steps` and `reach` are the grids' steps and largest integers of what each weight of a row, flattened, multiplies;
    (1 or out, weights of a row) or (weights of a row,). Weights have at most `weight_bits` bits, and are as fine as
    that and the bound on partial sums (`room`, at most 2**24) allow.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    steps: Tensor
    reach: Tensor
    target_steps: Tensor

    def __init__(self, sources: list[Group], targets: list[Group], weight_bits: int, room: int):
        super().__init__()
        self.sources, self.targets = sources, targets
        self.in_features = sum(n for n, _ in sources)
        self.out_features = sum(n for n, _ in targets)
        self.weight_bits, self.room = weight_bits, room
        self.exact, self.half_gradients = False, False
        self.register_buffer("target_steps", _spread(targets, lambda grid: grid.step), persistent=False)

    def effective(self) -> Tensor:
        """The weights that count, (out, weights of a row)."""
        return self.weight.flatten(1)

    def scale_bits(self) -> Tensor:
        """Per output row, the exponent k of the integer weights `round(w * step * 2**k)`; (out,) float."""
        w = (self.effective().detach() * self.steps).abs()
        by_width = torch.log2((2 ** (self.weight_bits - 1) - 1) / w.amax(1).clamp_min(1e-12))
        # half a unit of rounding a weight, and the bias, take part in the worst sum
        worst = (w * self.reach).sum(1) + self.bias.detach().abs() + self.target_steps
        by_bound = torch.log2((self.room - 2 - 0.5 * self.reach.sum(-1)) / worst)
        return torch.floor(torch.minimum(by_width, by_bound))

    def rounded(self) -> tuple[Tensor, Tensor]:
        """Weights (out, weights of a row) and biases of the integer network, with straight-through gradients."""
        unit = torch.exp2(self.scale_bits())
        quantum = self.steps * unit[:, None]
        weight = self.effective()
        weight = weight + ((weight * quantum).round() / quantum - weight).detach()
        bias = self.bias + ((self.bias * unit).round() / unit - self.bias).detach()
        return weight, bias

    def snapped(self, y: Tensor, axis: int) -> Tensor:
        """Sums on the targets' grids, features along `axis`."""
        if len(self.targets) == 1:
            return snap(y, self.targets[0][1], self.exact)
        parts = y.split([n for n, _ in self.targets], axis)
        grids = [grid for _, grid in self.targets]
        return torch.cat([snap(part, grid, self.exact) for part, grid in zip(parts, grids, strict=True)], axis)


class ExactLinear(ExactLayer):
    """`clip(floor(W x + b))` on integer grids: the weight-carrying layer of feature-first networks.

    Input: (in_features, ...) on the grids of `sources`, concatenated in order. Output: (out_features, ...) on
    the grids of `targets`.
    """

    def __init__(self, sources: list[Group], targets: list[Group], weight_bits: int = 12, room: int = ROOM):
        super().__init__(sources, targets, weight_bits, room)
        self.weight = nn.Parameter(torch.empty(self.out_features, self.in_features))
        self.bias = nn.Parameter(torch.zeros(self.out_features))
        nn.init.normal_(self.weight, std=math.sqrt(1.6 / self.in_features))
        self.register_buffer("steps", _spread(sources, lambda grid: grid.step), persistent=False)
        self.register_buffer("reach", _spread(sources, lambda grid: float(grid.magnitude)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.rounded() if self.exact else (self.weight, self.bias)
        flat = x.flatten(1)
        half = self.exact and self.half_gradients and torch.is_grad_enabled()
        y = _HalfGradients.apply(flat, weight, bias) if half else torch.addmm(bias[:, None], weight, flat)
        return self.snapped(cast(Tensor, y).view(-1, *x.shape[1:]), 0)


class ExactConv(ExactLayer):
    """`clip(floor(conv(x) + b))` on integer grids: the weight-carrying layer of networks on pictures.

    Input: (N, in, H, W), features on the grids of `sources` in order. Output: (N, out, H', W') on the grids of
    `targets`. `padding` is zeros around the picture, as many as keep its size by default (odd kernels); weights are
    multiplied by `mask`, whose shape is that of (out, in / groups, height, width) or spreads to it.
    """

    mask: Tensor | None

    def __init__(
        self,
        sources: list[Group],
        targets: list[Group],
        kernel: int | tuple[int, int] = 3,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        mask: Tensor | None = None,
        weight_bits: int = 12,
        room: int = EXACT_LIMIT,
    ):
        super().__init__(sources, targets, weight_bits, room)
        self.kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        same = (self.kernel[0] // 2, self.kernel[1] // 2) if padding is None else padding
        self.padding = (same, same) if isinstance(same, int) else same
        self.stride, self.groups = stride, groups
        shape = (self.out_features, self.in_features // groups, *self.kernel)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(self.out_features))
        self.register_buffer("mask", None if mask is None else mask.float().expand(shape).clone(), persistent=False)
        fan_in = math.prod(shape[1:]) if self.mask is None else max(1.0, float(self.mask.flatten(1).sum(1).max()))
        nn.init.normal_(self.weight, std=math.sqrt(1.6 / fan_in))
        steps, reach = (_spread(sources, of) for of in (lambda grid: grid.step, lambda grid: float(grid.magnitude)))
        self.register_buffer("steps", self.per_weight(steps), persistent=False)
        reach = self.per_weight(reach)
        if self.mask is not None:  # what no weight multiplies takes no part in the worst sum
            reach = reach * self.mask.flatten(1)
        self.register_buffer("reach", reach, persistent=False)

    def per_weight(self, features: Tensor) -> Tensor:
        """A figure of each input feature (in,) for the weights that multiply it, (1 or out, weights of a row)."""
        rows = features.view(self.groups, -1)
        if self.groups > 1:
            rows = rows.repeat_interleave(self.out_features // self.groups, 0)
        return rows.repeat_interleave(self.kernel[0] * self.kernel[1], 1)

    def effective(self) -> Tensor:
        weight = self.weight if self.mask is None else self.weight * self.mask
        return weight.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.rounded() if self.exact else (self.effective(), self.bias)
        y = F.conv2d(x, weight.view_as(self.weight), bias, self.stride, self.padding, groups=self.groups)
        return self.snapped(y, 1)


class SpatialMean(nn.Module):
    """`clip(floor(mean))` over the positions of each feature; (N, C, H, W) -> (N, C, 1, 1).

    It is exported for pictures of `positions` pixels, a power of two.
    """

    def __init__(self, source: Grid, target: Grid, positions: int):
        super().__init__()
        self.source, self.target, self.positions = source, target, positions
        self.exact = False

    def forward(self, x: Tensor) -> Tensor:
        return snap(x.mean((2, 3), keepdim=True), self.target, self.exact)


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


def set_exact(module: nn.Module, exact: bool, *, half_gradients: bool = False) -> None:
    """Switch integer arithmetic on or off in every layer of `module` that has both forms.

    `half_gradients`: linear layers of the integer network multiply gradients, but nothing else, in bfloat16.
    """
    for part in module.modules():
        if hasattr(part, "exact"):
            part.exact = exact  # type: ignore[assignment]
        if isinstance(part, ExactLayer):
            part.half_gradients = half_gradients

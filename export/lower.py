"""Lowers a torch module made of exact layers to integer nodes, by tracing it with torch.fx.

Supported: `ExactLinear`, `ExactConv`, `SpatialMean`, `Table`, `Snap` and `Mean` layers, `torch.cat`, slices and chunks
of rows, `+ - *` (also by powers of two), `abs`, `maximum`, `minimum`, `clamp`, `sum` over rows, `where(x < 0, a, b)`,
and on pictures `pixel_shuffle`, `pixel_unshuffle` and `interpolate` by 2. Rows are features: along axis 0, or along
axis 1 of pictures. Anything else in a module's `forward` is refused by name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from gencodec.errors import InexactGraph
from gencodec.export.exact import EXACT_LIMIT, ExactGraph
from gencodec.export.values import Integers, Value, joined, uniform
from gencodec.models.quantize import ExactConv, ExactLayer, ExactLinear, Grid, Group, Mean, Snap, SpatialMean, Table

LEAVES = (ExactLayer, Table, Snap, Mean, SpatialMean)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


def lower(module: nn.Module, inputs: list[Value], graph: ExactGraph, name: str) -> list[Value]:
    """Append `module` applied to `inputs` to `graph`, and return its outputs; layers are called `name.path`.

    Raises `InexactGraph`.
    """
    if isinstance(module, LEAVES):
        module = nn.Sequential(module)
    traced = fx.GraphModule(module, _Tracer().trace(module))
    result = Lowering(traced, graph, name).run(*inputs)
    return [graph.solid(value) for value in (result if isinstance(result, tuple) else (result,))]


class Lowering(fx.Interpreter):
    """Runs a traced module on `Value`s."""

    def __init__(self, traced: fx.GraphModule, graph: ExactGraph, name: str):
        super().__init__(traced)
        self.exact, self.name = graph, name
        self.layer = name
        self.extra_traceback = False  # errors keep their one sentence

    def run_node(self, n: fx.Node) -> Any:
        self.layer = f"{self.name}.{n.target if n.op == 'call_module' else n.name}"
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG002
        module = self.fetch_attr(str(target))
        if isinstance(module, ExactLinear):
            return self.pointwise(module, args[0]) if self.exact.axis else self.linear(module, args[0])
        if isinstance(module, ExactConv) and self.exact.axis:
            return self.conv(module, args[0])
        if isinstance(module, Table):
            return self.table(module, args[0])
        if isinstance(module, Snap):
            return self.exact.snapped(self.layer, args[0], grids([(args[0].rows, module.target)]))
        if isinstance(module, Mean):
            target_value = grids([(args[0].rows, module.target)])
            return self.exact.floored_quotient(self.layer, args[0], args[1], target_value)
        if isinstance(module, SpatialMean):
            self.check_grid(args[0], [(args[0].rows, module.source)])
            target_value = grids([(args[0].rows, module.target)])
            return self.exact.spatial_mean(self.layer, args[0], module.positions, target_value)
        raise InexactGraph(f"layer {self.layer} cannot be proved exact: {type(module).__name__} is not supported")

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not any(isinstance(leaf, Value | Negative) for leaf in _flat(args)):
            return target(*args, **kwargs)
        rule = _RULES.get(target)
        conditional = any(isinstance(leaf, Negative) for leaf in _flat(args))
        if rule is None or conditional != (target is torch.where):
            raise InexactGraph(f"layer {self.layer} cannot be proved exact: {target} is not supported")
        return rule(self, *args, **kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.call_function(_METHODS.get(target, target), args, kwargs)

    def linear(self, module: ExactLinear, x: Value) -> Value:
        """A weighted sum; the integers are those that the layer trained with."""
        self.check_grid(x, module.sources)
        return self.exact.linear(self.layer, x, *self.integers(module), grids(module.targets))

    def pointwise(self, module: ExactLinear, x: Value) -> Value:
        """A weighted sum at every position of pictures, which is a convolution by 1 x 1."""
        self.check_grid(x, module.sources)
        weights, biases, scales = self.integers(module)
        shape = {"stride": 1, "padding": (0, 0), "groups": 1}
        return self.exact.conv(self.layer, x, weights[:, :, None, None], biases, scales, grids(module.targets), **shape)

    def conv(self, module: ExactConv, x: Value) -> Value:
        """A weighted sum of neighborhoods, as `linear`."""
        self.check_grid(x, module.sources)
        weights, biases, scales = self.integers(module)
        shape = {"stride": module.stride, "padding": module.padding, "groups": module.groups}
        weights = weights.reshape(module.weight.shape)
        return self.exact.conv(self.layer, x, weights, biases, scales, grids(module.targets), **shape)

    def integers(self, module: ExactLayer) -> tuple[Integers, Integers, Integers]:
        """A layer's weights (out, weights of a row), biases and the exponents of their scales (out,)."""
        with torch.no_grad():
            exponents = module.scale_bits()
            if not torch.isfinite(exponents).all():
                raise InexactGraph(
                    f"layer {self.layer} cannot be proved exact: the roundings of its weights alone can sum up to "
                    f"{int(module.reach.sum(-1).max()) // 2}, the limit is {EXACT_LIMIT}"
                )
            unit = torch.exp2(exponents)
            weight = (module.effective() * (module.steps * unit[:, None])).round()
            bias = (module.bias * unit).round()
        weights, biases, scales = (t.to(torch.int64).cpu().numpy() for t in (weight, bias, exponents))
        return weights, biases, scales

    def table(self, module: Table, x: Value) -> Value:
        """A lookup."""
        self.check_grid(x, [(x.rows, module.source)])
        integers = module.integers.to(torch.int64).cpu().numpy()
        return self.exact.table(x, integers, module.source.low, grids([(x.rows, module.target)]))

    def check_grid(self, x: Value, sources: list[Group]) -> None:
        """Refuse inputs that are not what the layer was declared for."""
        declared = grids(sources)
        if declared.rows != x.rows or (declared.bits != x.bits).any():
            raise InexactGraph(
                f"layer {self.layer} cannot be proved exact: its inputs lie on other grids than declared"
            )
        if (x.low < declared.low).any() or (x.high > declared.high).any():
            raise InexactGraph(f"layer {self.layer} cannot be proved exact: its inputs exceed the declared range")


def grid(rows: int, of: Grid) -> Value:
    """Nameless inputs that all lie on one grid."""
    return uniform("", rows, of.low, of.high, of.bits)


def grids(groups: list[Group]) -> Value:
    """A nameless value with the ranges of `groups`."""
    return joined([grid(n, g) for n, g in groups])


def _flat(args: Any) -> list[Any]:
    if isinstance(args, list | tuple):
        return [leaf for a in args for leaf in _flat(a)]
    return [args]


def _cat(run: Lowering, parts: list[Value], dim: int = 0) -> Value:
    _require(run, dim == run.exact.axis, "only rows can be joined")
    return run.exact.joined(parts)


def _rows(run: Lowering, x: Value | tuple[Value, ...], key: Any) -> Value:
    if isinstance(x, tuple):
        return x[key]
    if run.exact.axis:
        whole = isinstance(key, tuple) and len(key) == 2 and key[0] == slice(None)
        _require(run, whole, "only slices of rows are supported")
        key = key[1]
    _require(run, isinstance(key, slice) and key.step in (None, 1), "only slices of rows are supported")
    start, stop, _ = key.indices(x.rows)
    return run.exact.rows(x, start, stop)


def _combine(name: str) -> Callable[..., Value]:
    def rule(run: Lowering, a: Value | float, b: Value | float) -> Value:
        return run.exact.combined(run.layer, name, _value(run, a), _value(run, b))

    return rule


def _multiply(run: Lowering, a: Value | float, b: Value | float) -> Value:
    if isinstance(a, Value) and isinstance(b, Value):
        return run.exact.combined(run.layer, "Mul", a, b)
    x, factor = cast(tuple[Value, float], (a, b) if isinstance(a, Value) else (b, a))
    mantissa, exponent = math.frexp(factor)
    _require(run, mantissa == 0.5, f"a factor of {factor} is not a power of two")
    x = run.exact.solid(x)
    return Value(x.name, x.low, x.high, x.bits - (exponent - 1))


def _value(run: Lowering, x: Value | float) -> Value:
    if isinstance(x, Value):
        return x
    _require(run, float(x).is_integer(), f"the constant {x} is not whole")
    number = np.array([int(x)], np.int64)
    return Value(run.exact.column(number), number, number, np.zeros(1, np.int64))


def _sum(run: Lowering, x: Value, dim: int, keepdim: bool = False) -> Value:
    _require(run, dim == run.exact.axis and keepdim, "only sums over rows that keep them are supported")
    return run.exact.row_sum(run.layer, x)


def _chunk(run: Lowering, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    _require(run, dim == run.exact.axis and x.rows % chunks == 0, "only rows can be parted, and evenly")
    size = x.rows // chunks
    return tuple(run.exact.rows(x, i * size, (i + 1) * size) for i in range(chunks))


def _pixels(name: str) -> Callable[..., Value]:
    def rule(run: Lowering, x: Value, factor: int = 0, **options: Any) -> Value:
        factor = options.pop("scale_factor", factor)
        plain = all(value in (None, False, "nearest") for value in options.values())
        _require(run, bool(run.exact.axis) and factor == 2 and plain, "pictures change their size by 2 only")
        return getattr(run.exact, name)(x)

    return rule


@dataclass(frozen=True)
class Negative:
    """The condition that a value is below zero; only `where` takes it."""

    value: Value


def _less(run: Lowering, x: Value, limit: float) -> Negative:
    _require(run, not isinstance(limit, Value) and limit == 0, "only comparisons with zero are supported")
    return Negative(x)


def _clamp(run: Lowering, x: Value, low: float, high: float) -> Value:
    scaled = [v * np.exp2(x.bits.astype(float)) for v in (low, high)]
    _require(run, all((s == np.rint(s)).all() for s in scaled), "the ends of its range are no points of the grid")
    lowest, highest = (s.astype(np.int64) for s in scaled)
    return run.exact.clipped(run.exact.solid(x).name, Value("", lowest, highest, x.bits))


def _absolute(run: Lowering, x: Value) -> Value:
    return run.exact.absolute(x)


def _where(run: Lowering, test: Negative, chosen: Value | float, otherwise: Value | float) -> Value:
    return run.exact.where_negative(run.layer, test.value, _value(run, chosen), _value(run, otherwise))


def _require(run: Lowering, condition: bool, reason: str) -> None:
    if not condition:
        raise InexactGraph(f"layer {run.layer} cannot be proved exact: {reason}")


_RULES: dict[Any, Callable[..., Any]] = {
    torch.cat: _cat,
    operator.getitem: _rows,
    operator.add: _combine("Add"),
    operator.sub: _combine("Sub"),
    operator.mul: _multiply,
    operator.lt: _less,
    torch.maximum: _combine("Max"),
    torch.minimum: _combine("Min"),
    torch.abs: _absolute,
    torch.sum: _sum,
    torch.clamp: _clamp,
    torch.where: _where,
    torch.chunk: _chunk,
    F.pixel_shuffle: _pixels("shuffled"),
    F.pixel_unshuffle: _pixels("unshuffled"),
    F.interpolate: _pixels("doubled"),
}
_METHODS = {"abs": torch.abs, "sum": torch.sum, "clamp": torch.clamp, "chunk": torch.chunk}

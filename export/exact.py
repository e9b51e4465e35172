"""Builds ONNX graphs of integer arithmetic in float32 and proves, as it builds, that no sum can be inexact.

Every tensor of a graph is (features, positions), or (batch, features, height, width). An operation is emitted only when
the integers that can reach it keep every partial sum below 2**24 in magnitude; otherwise `InexactGraph` names the layer
and the figure. What is proved of each weighted sum is kept in `proof`, for the reader to check again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gencodec.errors import InexactGraph
from gencodec.export.values import Integers, Value, joined

EXACT_LIMIT = 1 << 24


class ExactGraph:
    """Nodes, constants and proofs of one or several graphs that share constants.

    `axis` is that of the features: 0 of (features, positions), 1 of (batch, features, height, width).
    """

    def __init__(self, axis: int = 0) -> None:
        self.axis = axis
        self.nodes: list[onnx.NodeProto] = []
        self.constant_nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.proof: list[dict[str, object]] = []
        self.reaches: dict[str, Integers] = {}
        self.joints: dict[tuple[str, ...], str] = {}
        self._count = 0

    def begin(self) -> None:
        """Start the next graph; constants and proofs stay."""
        self.nodes, self.joints = [], {}

    # names and nodes

    def fresh(self, stem: str) -> str:
        """A name not yet in use."""
        self._count += 1
        return f"{stem}_{self._count}"

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node of one output, and return the output's name."""
        output = self.fresh(operator.lower())
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, array: NDArray[np.generic], name: str | None = None) -> str:
        """Add an initializer; equal unnamed ones are shared."""
        if name is None:
            digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
            name = f"constant_{array.dtype}_{'x'.join(map(str, array.shape))}_{digest}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def column(self, values: Integers | NDArray[np.float32]) -> str:
        """A float32 constant that spreads over positions, or a scalar where all rows agree."""
        array = np.asarray(values, np.float32)
        spread = array.reshape(-1, 1, 1) if self.axis else array[:, None]
        return self.constant(array[:1].reshape(()) if (array == array[0]).all() else spread)

    # operations

    def bounded(self, layer: str, name: str, low: Integers, high: Integers, bits: Integers) -> Value:
        """The value `name`, if float32 holds all its integers."""
        worst = int(max(np.abs(low).max(), np.abs(high).max()))
        if worst >= EXACT_LIMIT:
            raise InexactGraph(
                f"layer {layer} cannot be proved exact: it can reach {worst}, the limit is {EXACT_LIMIT}"
            )
        return Value(name, low, high, bits)

    def linear(
        self, layer: str, x: Value, weight: Integers, bias: Integers, exponents: Integers, target: Value
    ) -> Value:
        """`clip(floor((W x + b) * 2**(target.bits - exponents)))`; only ranges and bits of `target` are read."""
        names = self.proved(layer, weight, bias, x.magnitude, np.abs(weight) @ x.magnitude + np.abs(bias))
        scale = np.exp2((target.bits - exponents).astype(np.float32))[:, None]
        factor = self.constant(scale, f"{layer}.scale")
        weights, biases = (self.prepared(name, factor, i) for i, name in enumerate(names))
        total = biases
        for part, columns in self.columns(weights, x.parts or (x,)):
            total = self.node("Gemm", [columns, part.name, total])
        return self.clipped(self.node("Floor", [total]), target)

    def conv(
        self,
        layer: str,
        x: Value,
        weight: Integers,
        bias: Integers,
        exponents: Integers,
        target: Value,
        *,
        stride: int,
        padding: tuple[int, int],
        groups: int,
    ) -> Value:
        """As `linear`, of a neighborhood: weights (out, in / groups, height, width)."""
        x = self.solid(x)
        self.check_again(layer, x)
        if layer not in self.reaches:
            worst = row_sums(weight, x.magnitude, groups) + np.abs(bias)
            names = self.proved(layer, weight, bias, x.magnitude, worst, groups=groups)
            scale = np.exp2((target.bits - exponents).astype(np.float32))
            factors = (self.constant(scale.reshape(-1, 1, 1, 1)), self.constant(scale))
            for name, factor in zip(names, factors, strict=True):
                self.prepared(name, factor, 0)
            self.reaches[layer] = x.magnitude
        scaled = [f"{layer}.{part}.scaled" for part in ("weight", "bias")]
        attributes = {"strides": [stride, stride], "pads": [*padding, *padding], "group": groups}
        total = self.node("Conv", [x.name, *scaled], kernel_shape=weight.shape[2:], **attributes)
        return self.clipped(self.node("Floor", [total]), target)

    def check_again(self, layer: str, x: Value) -> None:
        """Refuse a layer that is used again for inputs beyond those that its proof is for."""
        if layer in self.reaches and (x.magnitude > self.reaches[layer]).any():
            raise InexactGraph(f"layer {layer} cannot be proved exact: it is used for inputs of different ranges")

    def proved(
        self, layer: str, weight: Integers, bias: Integers, reach: Integers, worst: Integers, **more: int
    ) -> list[str]:
        """Constants for a layer's weights and biases, and its entry in the proof. Raises `InexactGraph`."""
        if (widest := int(np.abs(weight).max())) >= 1 << 15:
            raise InexactGraph(f"layer {layer} cannot be proved exact: a weight of {widest} does not fit into 16 bits")
        if (row := int(worst.argmax())) >= 0 and worst[row] >= EXACT_LIMIT:
            raise InexactGraph(
                f"layer {layer} cannot be proved exact: the sum of output {row} can reach {worst[row]}, "
                f"the limit is {EXACT_LIMIT}"
            )
        self.proof.append(
            {"layer": layer, "reach": runs(reach), "worst": int(worst.max()), "limit": EXACT_LIMIT, **more}
        )
        small = np.int8 if widest < 1 << 7 else np.int16
        return [
            self.constant(weight.astype(small if weight.ndim > 2 else np.int16), f"{layer}.weight"),
            self.constant(bias.astype(np.int32), f"{layer}.bias"),
        ]

    def prepared(self, name: str, factor: str, rank: int) -> str:
        """The float32 form of an integer constant times a power of two, computed once when a session starts."""
        cast, scaled = f"{name}.float", f"{name}.scaled"
        column = f"{name}.column"
        self.constant_nodes.append(helper.make_node("Cast", [name], [cast], to=TensorProto.FLOAT))
        if rank == 1:  # biases are (rows,)
            axes = self.constant(np.array([1], np.int64))
            self.constant_nodes.append(helper.make_node("Unsqueeze", [cast, axes], [column]))
            cast = column
        self.constant_nodes.append(helper.make_node("Mul", [cast, factor], [scaled]))
        return scaled

    def columns(self, weights: str, parts: Sequence[Value]) -> Iterator[tuple[Value, str]]:
        """The columns of a weight matrix that belong to each of the `parts` of its input."""
        if len(parts) == 1:
            yield parts[0], weights
            return
        ends = np.cumsum([0, *(p.rows for p in parts)])
        for i, part in enumerate(parts):
            cut = [self.constant(np.array([n], np.int64)) for n in (ends[i], ends[i + 1], 1)]
            self.constant_nodes.append(helper.make_node("Slice", [weights, *cut], [f"{weights}.{i}"]))
            yield part, f"{weights}.{i}"

    def solid(self, x: Value) -> Value:
        """`x` as one tensor."""
        if not x.parts:
            return x
        names = tuple(p.name for p in x.parts)
        if names not in self.joints:
            self.joints[names] = self.node("Concat", names, axis=self.axis)
        return Value(self.joints[names], x.low, x.high, x.bits)

    def clipped(self, name: str, target: Value) -> Value:
        """`name` limited to the ranges of `target`."""
        if len(set(target.low)) == len(set(target.high)) == 1:
            output = self.node("Clip", [name, self.column(target.low), self.column(target.high)])
        else:
            output = self.node("Max", [self.node("Min", [name, self.column(target.high)]), self.column(target.low)])
        return Value(output, target.low, target.high, target.bits)

    def snapped(self, layer: str, x: Value, target: Value) -> Value:
        """`x` floored to the bits of `target`, and limited to its ranges."""
        x = self.solid(x)
        shift = target.bits - x.bits
        name = x.name
        if shift.any():
            self.bounded(layer, name, x.low, x.high, x.bits)
            name = self.node("Mul", [name, self.column(np.exp2(shift.astype(np.float32)))])
            name = self.node("Floor", [name]) if (shift < 0).any() else name
        return self.clipped(name, target)

    def table(self, x: Value, integers: Integers, first: int, target: Value) -> Value:
        """`integers[x - first]` for every element of `x`."""
        x = self.solid(x)
        name = x.name if first == 0 else self.node("Sub", [x.name, self.column(np.array([first]))])
        index = self.node("Cast", [name], to=TensorProto.INT32)
        output = self.node("Gather", [self.widened(integers), index])
        return Value(output, target.low, target.high, target.bits)

    def widened(self, integers: Integers) -> str:
        """A constant that is kept as int16 where that holds it, and cast once when a session starts."""
        if np.abs(integers).max() >= 1 << 15:
            return self.constant(integers.astype(np.float32))
        stored = self.constant(integers.astype(np.int16))
        if f"{stored}.float" not in {node.output[0] for node in self.constant_nodes}:
            self.constant_nodes.append(helper.make_node("Cast", [stored], [f"{stored}.float"], to=TensorProto.FLOAT))
        return f"{stored}.float"

    def floored_quotient(self, layer: str, total: Value, count: Value, target: Value) -> Value:
        """`clip(floor(total / count))` for a nonnegative total and a positive count of zero bits."""
        total, count = self.solid(total), self.solid(count)
        # a quotient below an integer is so by 1 / count at least, which its rounding must not bridge
        if (total.low < 0).any() or (count.low < 1).any() or count.bits.any() or int(total.high.max()) >= 1 << 22:
            raise InexactGraph(f"layer {layer} cannot be proved exact: the quotient's ranges are too wide")
        shift = target.bits - total.bits
        if shift.any():
            raise InexactGraph(f"layer {layer} cannot be proved exact: the quotient changes its bits by {shift.max()}")
        return self.clipped(self.node("Floor", [self.node("Div", [total.name, count.name])]), target)

    def combined(self, layer: str, operator: str, a: Value, b: Value) -> Value:
        """Elementwise Add, Sub, Mul, Max or Min; a single row is repeated."""
        a, b = self.solid(a), self.solid(b)
        if operator != "Mul":
            a, b = self.aligned(layer, a, b)
        low, high = _ENDS[operator](a, b)
        bits = a.bits + b.bits if operator == "Mul" else np.broadcast_to(np.maximum(a.bits, b.bits), low.shape)
        return self.bounded(layer, self.node(operator, [a.name, b.name]), low, high, bits)

    def aligned(self, layer: str, a: Value, b: Value) -> tuple[Value, Value]:
        """Both values on the finer of their grids."""
        bits = np.maximum(a.bits, b.bits)
        return self.refined(layer, a, bits), self.refined(layer, b, bits)

    def refined(self, layer: str, x: Value, bits: Integers) -> Value:
        """`x` with at least as many bits."""
        factor = np.int64(1) << (bits - x.bits)
        if (factor == 1).all():
            return x
        if len(set(factor)) == 1:
            factor = np.broadcast_to(factor[:1], x.bits.shape)
        name = self.node("Mul", [x.name, self.column(factor)])
        return self.bounded(layer, name, x.low * factor, x.high * factor, x.bits + np.log2(factor).astype(np.int64))

    def absolute(self, x: Value) -> Value:
        """Magnitude of every element."""
        x = self.solid(x)
        return Value(self.node("Abs", [x.name]), np.zeros_like(x.low), x.magnitude, x.bits)

    def joined(self, parts: Sequence[Value]) -> Value:
        """The rows of all `parts`, in order."""
        if len(parts) == 1:
            return parts[0]
        flat = tuple(piece for p in parts for piece in (p.parts or (p,)))
        return replace(joined(list(flat)), parts=flat)

    def rows(self, x: Value, start: int, stop: int) -> Value:
        """The rows `start..stop - 1`."""
        if (start, stop) == (0, x.rows):
            return x
        x = self.solid(x)
        ends = [self.constant(np.array([n], np.int64)) for n in (start, stop, self.axis)]
        return Value(self.node("Slice", [x.name, *ends]), x.low[start:stop], x.high[start:stop], x.bits[start:stop])

    def row_sum(self, layer: str, x: Value) -> Value:
        """The sum of all rows, as one row."""
        x = self.solid(x)
        if len(set(x.bits)) > 1:
            x = self.refined(layer, x, np.full_like(x.bits, x.bits.max()))
        axes = self.constant(np.array([self.axis], np.int64))
        # no partial sum, in any order, exceeds the sum of magnitudes
        self.bounded(layer, x.name, np.zeros(1, np.int64), x.magnitude.sum(keepdims=True), x.bits[:1])
        low, high = x.low.sum(keepdims=True), x.high.sum(keepdims=True)
        return Value(self.node("ReduceSum", [x.name, axes], keepdims=1), low, high, x.bits[:1])

    def spatial_mean(self, layer: str, x: Value, positions: int, target: Value) -> Value:
        """`clip(floor(mean))` over all positions of a picture, whose number is a power of two."""
        x = self.solid(x)
        if positions & (positions - 1):
            raise InexactGraph(f"layer {layer} cannot be proved exact: {positions} positions are no power of two")
        self.bounded(layer, x.name, x.low * positions, x.high * positions, x.bits)
        total = self.node("ReduceSum", [x.name, self.constant(np.array([2, 3], np.int64))], keepdims=1)
        scale = np.exp2((target.bits - x.bits).astype(np.float32)).astype(np.float32) * np.float32(1 / positions)
        return self.clipped(self.node("Floor", [self.node("Mul", [total, self.column(scale)])]), target)

    def shuffled(self, x: Value) -> Value:
        """Depth to space, 2 x 2: feature 4 c + 2 i + j to the pixel (i, j) of feature c."""
        x = self.solid(x)
        name = self.node("DepthToSpace", [x.name], blocksize=2, mode="CRD")
        quads = [v.reshape(-1, 4) for v in (x.low, x.high, x.bits)]
        if (quads[2] != quads[2][:, :1]).any():
            raise InexactGraph("features that become pixels of one feature lie on different grids")
        return Value(name, quads[0].min(1), quads[1].max(1), quads[2][:, 0])

    def unshuffled(self, x: Value) -> Value:
        """Space to depth, 2 x 2: the pixel (i, j) of feature c to feature 4 c + 2 i + j."""
        x = self.solid(x)
        order = np.arange(4 * x.rows).reshape(4, x.rows).T.ravel()
        name = self.node("SpaceToDepth", [x.name], blocksize=2)
        name = self.node("Gather", [name, self.constant(order)], axis=1)
        return Value(name, x.low.repeat(4), x.high.repeat(4), x.bits.repeat(4))

    def doubled(self, x: Value) -> Value:
        """Every pixel as 2 x 2."""
        x = self.solid(x)
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return replace(x, name=self.node("Resize", [x.name, "", scales], **attributes))

    def where_negative(self, layer: str, test: Value, chosen: Value, otherwise: Value) -> Value:
        """`chosen` where `test` is negative, else `otherwise`."""
        test, chosen, otherwise = (self.solid(v) for v in (test, chosen, otherwise))
        chosen, otherwise = self.aligned(layer, chosen, otherwise)
        condition = self.node("Less", [test.name, self.column(np.zeros(1, np.int64))])
        output = self.node("Where", [condition, chosen.name, otherwise.name])
        low, high = np.minimum(chosen.low, otherwise.low), np.maximum(chosen.high, otherwise.high)
        return Value(output, low, high, np.broadcast_to(np.maximum(chosen.bits, otherwise.bits), low.shape))


def row_sums(weight: Integers, reach: Integers, groups: int) -> Integers:
    """Largest |sum| of every output of weights (out, in / groups, height, width) over inputs within `reach`, (out,)."""
    taps = np.abs(weight).reshape(*weight.shape[:2], -1).sum(2)
    seen = reach.reshape(groups, -1).repeat(len(weight) // groups, 0)
    return (taps * seen).sum(1)


def runs(magnitudes: Integers) -> list[list[int]]:
    """Run-length form [[count, magnitude], ...]."""
    result: list[list[int]] = []
    for magnitude in magnitudes.tolist():
        if result and result[-1][1] == magnitude:
            result[-1][0] += 1
        else:
            result.append([1, magnitude])
    return result


def _product_ends(a: Value, b: Value) -> tuple[Integers, Integers]:
    corners = np.stack([a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high])
    return corners.min(0), corners.max(0)


_ENDS = {
    "Add": lambda a, b: (a.low + b.low, a.high + b.high),
    "Sub": lambda a, b: (a.low - b.high, a.high - b.low),
    "Mul": _product_ends,
    "Max": lambda a, b: (np.maximum(a.low, b.low), np.maximum(a.high, b.high)),
    "Min": lambda a, b: (np.minimum(a.low, b.low), np.minimum(a.high, b.high)),
}

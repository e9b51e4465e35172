"""Traced torch functions -> float ONNX graphs: for training steps, which need gradients but no exactness.

`torch.fx`'s graph of ATen operations (forward and backward alike, https://pytorch.org/docs/stable/torch.compiler_ir)
is translated one operation at a time; shapes are those of the example arguments.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from gencodec.errors import GencodecError

Function = Callable[..., Sequence[Tensor]]


def to_onnx(function: Function, inputs: dict[str, Tensor], outputs: Sequence[str]) -> onnx.ModelProto:
    """`function(*inputs)` as a model with named inputs and outputs. Raises `GencodecError` for unknown operations."""
    traced = make_fx(function)(*inputs.values())
    traced.graph.eliminate_dead_code()
    return Translation(traced, list(inputs), outputs).model()


class Translation:
    """One graph's translation."""

    def __init__(self, traced: fx.GraphModule, inputs: Sequence[str], outputs: Sequence[str]):
        self.traced, self.inputs, self.outputs = traced, iter(inputs), outputs
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[Any, onnx.TensorProto] = {}
        self.given: list[onnx.ValueInfoProto] = []
        self.clips: dict[Any, str] = {}
        self.transposed: dict[fx.Node, fx.Node] = {}
        self.values: dict[fx.Node, Any] = {}

    def model(self) -> onnx.ModelProto:
        """The whole graph."""
        for node in self.traced.graph.nodes:
            self.values[node] = self.translated(node)
        results = self.traced.graph.output_node().args[0]
        for name, result in zip(self.outputs, results, strict=True):  # type: ignore[arg-type]
            self.nodes.append(helper.make_node("Identity", [self.name(result)], [name]))
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "step", self.given, given, list(self.constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model.producer_name = "gencodec"
        return model

    def translated(self, node: fx.Node) -> Any:
        """Emit a node; returns the name of its value, or a list of names."""
        if node.op == "placeholder":
            name = next(self.inputs)
            self.given.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape(node))))
            return name
        if node.op == "get_attr":
            return self.constant(getattr(self.traced, str(node.target)).detach().numpy())
        if node.op == "output":
            return None
        if getattr(node.target, "__name__", "") == "getitem":
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        operation = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
        rule = getattr(self, f"on_{operation.strip('_')}", None)
        plain = PLAIN.get(operation.strip("_"))
        if rule is not None and takes(rule, node):
            return rule(node, *node.args, **node.kwargs)
        if plain is None or node.kwargs:
            raise GencodecError(f"the operation {node.target} has no translation with these arguments")
        return self.emit(plain, *node.args)

    # building blocks

    def name(self, value: Any) -> str:
        """The name of a translated node's value, or of a constant."""
        if not isinstance(value, fx.Node):
            return self.constant(np.asarray(value, np.float32))
        if self.values[value] is None:
            self.values[value] = self.emit("Transpose", self.transposed[value], perm=[1, 0])
        return self.values[value]

    def constant(self, array: np.ndarray) -> str:
        """An initializer; equal ones are shared."""
        array = np.array(array, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"c{len(self.constants)}")
        return self.constants[key].name

    def integers(self, *values: int) -> str:
        """A vector of int64."""
        return self.constant(np.array(values, np.int64))

    def emit(self, kind: str, *arguments: Any, **attributes: Any) -> str:
        """Append an ONNX node of translated nodes, names or numbers; returns the name of its value."""
        names = [a if isinstance(a, str) else self.name(a) for a in arguments]
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], **attributes))
        return output

    # operations that take more than renaming

    def on_detach(self, _: fx.Node, x: fx.Node) -> str:
        return self.name(x)

    on_alias = on_clone = on_detach

    def on_rsub(self, _: fx.Node, a: Any, b: Any) -> str:
        return self.emit("Sub", b, a)

    def on_t(self, node: fx.Node, x: fx.Node) -> None:
        self.transposed[node] = x  # matrix products take it as a flag

    def on_permute(self, _: fx.Node, x: fx.Node, axes: list[int]) -> str:
        return self.emit("Transpose", x, perm=[a % len(axes) for a in axes])

    def on_mm(self, _: fx.Node, a: fx.Node, b: fx.Node) -> str:
        return self.product(a, b)

    def on_addmm(self, _: fx.Node, c: fx.Node, a: fx.Node, b: fx.Node) -> str:
        return self.product(a, b, self.name(c))

    def product(self, a: fx.Node, b: fx.Node, *more: str) -> str:
        names = [self.name(self.transposed.get(n, n)) for n in (a, b)]
        flags = {"transA": int(a in self.transposed), "transB": int(b in self.transposed)}
        return self.emit("Gemm", *names, *more, **flags)

    def on_hardtanh(self, _: fx.Node, x: fx.Node, low: float, high: float) -> str:
        self.clips[x, low, high] = self.emit("Clip", x, low, high)
        return self.clips[x, low, high]

    def on_hardtanh_backward(self, _: fx.Node, gradient: fx.Node, x: fx.Node, low: float, high: float) -> str:
        inside = self.emit("Equal", x, self.clips[x, low, high])
        return self.emit("Where", inside, gradient, 0.0)

    def on_clamp(self, _: fx.Node, x: fx.Node, low: float | None = None, high: float | None = None) -> str:
        result = x if low is None else self.emit("Max", x, low)
        return result if high is None else self.emit("Min", result, high)  # type: ignore[return-value]

    on_clamp_min = on_clamp

    def on_cat(self, _: fx.Node, parts: list[fx.Node], axis: int = 0) -> str:
        return self.emit("Concat", *parts, axis=axis)

    def on_stack(self, _: fx.Node, parts: list[fx.Node], axis: int = 0) -> str:
        return self.emit("Concat", *(self.emit("Unsqueeze", p, self.integers(axis)) for p in parts), axis=axis)

    def on_slice(
        self, _: fx.Node, x: fx.Node, axis: int = 0, start: int = 0, stop: int = 1 << 62, step: int = 1
    ) -> str:
        return self.emit("Slice", x, *(self.integers(n) for n in (start or 0, stop, axis, step)))

    def on_slice_backward(
        self, _: fx.Node, gradient: fx.Node, sizes: list[int], axis: int, start: int, stop: int, step: int
    ) -> str:
        if step != 1:
            raise GencodecError("the operation aten.slice_backward has no translation with these arguments")
        before, after = [0] * len(sizes), [0] * len(sizes)
        first, end = slice(start, stop).indices(sizes[axis])[:2]
        before[axis], after[axis] = first, sizes[axis] - end
        return self.emit("Pad", gradient, self.integers(*before, *after))

    def on_split_with_sizes(self, _: fx.Node, x: fx.Node, sizes: list[int], axis: int = 0) -> list[str]:
        ends = np.cumsum([0, *sizes]).tolist()
        cuts = itertools.pairwise(ends)
        return [self.emit("Slice", x, *(self.integers(n) for n in (a, b, axis))) for a, b in cuts]

    def on_split(self, node: fx.Node, x: fx.Node, size: int, axis: int = 0) -> list[str]:
        whole, rest = divmod(shape(x)[axis], size)
        return self.on_split_with_sizes(node, x, [size] * whole + [rest] * (rest > 0), axis)

    def on_select(self, _: fx.Node, x: fx.Node, axis: int, index: int) -> str:
        return self.emit("Gather", x, self.constant(np.array(index, np.int64)), axis=axis)

    def on_unbind(self, node: fx.Node, x: fx.Node, axis: int = 0) -> list[str]:
        return [self.on_select(node, x, axis, i) for i in range(shape(x)[axis])]

    def on_view(self, node: fx.Node, x: fx.Node, _: list[int]) -> str:
        return self.emit("Reshape", x, self.integers(*shape(node)))

    on_reshape = on_unsqueeze = on_squeeze = on_view

    def on_expand(self, node: fx.Node, x: fx.Node, _: list[int]) -> str:
        return self.emit("Expand", x, self.integers(*shape(node)))

    def on_sum(self, _: fx.Node, x: fx.Node, axes: list[int] | None = None, keep: bool = False) -> str:
        axes = list(range(len(shape(x)))) if axes is None else axes
        return self.emit("ReduceSum", x, self.integers(*axes), keepdims=int(keep))

    def on_mean(self, _: fx.Node, x: fx.Node) -> str:
        return self.emit("ReduceMean", x, keepdims=0)

    def on_full_like(self, node: fx.Node, x: fx.Node, value: float = 1.0, **_: Any) -> str:  # noqa: ARG002
        return self.emit("Expand", value, self.integers(*shape(node)))

    on_ones_like = on_full_like

    def on_scalar_tensor(self, _: fx.Node, value: float, **__: Any) -> str:
        return self.name(value)

    def on_arange(self, node: fx.Node, stop: int, **_: Any) -> str:  # noqa: ARG002
        return self.constant(np.arange(shape(node)[0], dtype=np.float32))

    def on_masked_fill(self, _: fx.Node, x: fx.Node, mask: fx.Node, value: float) -> str:
        return self.emit("Where", mask, value, x)

    def on_exp2(self, _: fx.Node, x: fx.Node) -> str:
        return self.emit("Exp", self.emit("Mul", x, math.log(2)))

    def on_log2(self, _: fx.Node, x: fx.Node) -> str:
        return self.emit("Mul", self.emit("Log", x), 1 / math.log(2))

    def on_sigmoid_backward(self, _: fx.Node, gradient: fx.Node, y: fx.Node) -> str:
        return self.emit("Mul", gradient, self.emit("Mul", y, self.emit("Sub", 1.0, y)))


PLAIN = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "neg": "Neg",
    "reciprocal": "Reciprocal",
    "abs": "Abs",
    "sgn": "Sign",
    "floor": "Floor",
    "exp": "Exp",
    "erf": "Erf",
    "sigmoid": "Sigmoid",
    "pow": "Pow",
    "minimum": "Min",
    "maximum": "Max",
    "where": "Where",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
    "eq": "Equal",
    "logical_and": "And",
}


def takes(rule: Callable[..., Any], node: fx.Node) -> bool:
    """Whether a rule knows all arguments of a node."""
    try:
        inspect.signature(rule).bind(node, *node.args, **node.kwargs)
    except TypeError:
        return False
    return True


def shape(node: fx.Node) -> list[int]:
    """The extents of a node's value."""
    return list(node.meta["val"].shape if "val" in node.meta else node.meta["tensor_meta"].shape)

"""Networks of floating point as graphs beside the exact ones: the transforms of lossy codecs.

Their weights are kept in float16, or int8. What they give differs in its last digits between machines, so that nothing
that an entropy coder sees may depend on it.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from gencodec.export.exact import ExactGraph

OPSET = 17
WEIGHTS_FROM = 64
"""Elements from which constants are weights, kept as float16."""
LARGE_FROM = 49152
"""Elements from which they are kept as int8, where a stage does not say: layers of coarse strides."""


@dataclass(frozen=True)
class FloatStage:
    """One graph: its name, the module it computes, examples of its inputs, and how many arrays it gives."""

    name: str
    module: nn.Module
    examples: tuple[Tensor, ...]
    outputs: int = 1
    large_from: int = LARGE_FROM
    """Elements from which weights are kept as int8."""
    precise: tuple[str, ...] = ()
    """Parts of names of weights that never are."""


def translated(stage: FloatStage) -> onnx.ModelProto:
    """The module as a graph of inputs in0, in1... whose sizes are free, and outputs out0..."""
    inputs, outputs = [f"in{i}" for i in range(len(stage.examples))], [f"out{i}" for i in range(stage.outputs)]
    axes = {name: {d: f"{name}_{d}" for d in (0, 2, 3)} for name in (*inputs, *outputs)}
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(), torch.no_grad():
        file = Path(place) / "graph.onnx"
        warnings.simplefilter("ignore")  # the exporter that needs no other package is called old
        torch.onnx.export(
            stage.module.eval(),
            stage.examples,
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
        )
        return onnx.load(file)


def keep(graph: ExactGraph, array: NDArray[np.generic], name: str, stage: FloatStage) -> None:
    """Add a constant; weights as float16, and the largest as int8 with a scale for each row."""
    if array.dtype != np.float32 or array.size < WEIGHTS_FROM:
        graph.constant(array, name)
        return
    if array.size < stage.large_from or any(part in name for part in stage.precise):
        stored = graph.constant(array.astype(np.float16))
        graph.constant_nodes.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
        return
    rows = array.reshape(len(array), -1)
    scale = np.maximum(np.abs(rows).max(1), 1e-12).astype(np.float32) / 127
    whole = np.rint(rows / scale[:, None]).astype(np.int8).reshape(array.shape)
    cast = f"{name}whole:"
    graph.constant_nodes.append(helper.make_node("Cast", [graph.constant(whole)], [cast], to=TensorProto.FLOAT))
    spread = graph.constant(scale.reshape(-1, *[1] * (array.ndim - 1)))
    graph.constant_nodes.append(helper.make_node("Mul", [cast, spread], [name]))


def add_floats(graph: ExactGraph, stage: FloatStage) -> tuple[list[onnx.NodeProto], list[str]]:
    """A stage's nodes and the names of its outputs; its weights become constants of `graph`."""
    model = translated(stage).graph
    inputs = {value.name for value in model.input}

    def renamed(name: str) -> str:
        # no name ends as those of weights do, which must be proved exact
        return name if name in inputs or not name else f"{stage.name}/{name}:"

    for tensor in model.initializer:
        keep(graph, numpy_helper.to_array(tensor), renamed(tensor.name), stage)
    nodes = []
    for node in model.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            keep(graph, numpy_helper.to_array(node.attribute[0].t), renamed(node.output[0]), stage)
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = ""
        copy.input[:] = [renamed(name) for name in node.input]
        copy.output[:] = [renamed(name) for name in node.output]
        nodes.append(copy)
    return nodes, [renamed(value.name) for value in model.output]

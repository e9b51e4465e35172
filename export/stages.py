"""Several exact graphs as one ONNX file: which of them a session computes is the constant `stage`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from gencodec.export.exact import ExactGraph
from gencodec.export.floats import FloatStage, add_floats
from gencodec.export.lower import lower
from gencodec.export.values import Value

NOTHING = "nothing"
"""A constant without elements: what a stage gives for outputs that others have."""

Branch = tuple[list[onnx.NodeProto], list[str]]
"""Nodes of a stage, and the names of its outputs."""


@dataclass(frozen=True)
class Stage:
    """One graph of a model: its name, the module it computes, and the ranges of the module's inputs."""

    name: str
    module: nn.Module
    inputs: list[Value]


def write_model(
    target: Path,
    family: str,
    format: str,  # noqa: A002
    config: Mapping[str, Any],
    stages: Sequence[Stage],
    constants: Mapping[str, NDArray[np.generic]],
    card: Mapping[str, str],
    *,
    axis: int,
    floats: Sequence[FloatStage] = (),
) -> None:
    """Write the `stages` of a model, exact and proved, with its tables and metadata.

    Inputs and outputs are float32 arrays of integers, (features, positions) for `axis` 0 and (batch, features, height,
    width) for 1. `floats` are graphs of floating point, on pictures, which no entropy coder depends on. Raises
    `InexactGraph`.
    """
    graph = ExactGraph(axis)
    branches, table = [], []
    for stage in stages:
        graph.begin()
        named = [replace(value, name=f"in{i}") for i, value in enumerate(stage.inputs)]
        outputs = [value.name for value in lower(stage.module.eval(), named, graph, stage.name)]
        branches.append((graph.nodes, outputs))
        table.append({"name": stage.name, "inputs": len(named), "outputs": len(outputs)})
    for stage in floats:
        branches.append(add_floats(graph, stage))
        sizes = {"inputs": len(stage.examples), "outputs": stage.outputs}
        table.append({"name": stage.name, **sizes, "float": True})
    for name, array in constants.items():
        graph.constant(array, name)
    rank = 4 if axis else 2
    inputs = [f"in{i}" for i in range(max(entry["inputs"] for entry in table))]
    outputs = [f"out{i}" for i in range(max(entry["outputs"] for entry in table))]
    model = assembled(graph, branches, dict.fromkeys(inputs, rank), dict.fromkeys(outputs, rank), family)
    metadata = {
        "family": family,
        "format": format,
        "config": json.dumps(config),
        "proof": json.dumps(graph.proof),
        "stages": json.dumps(table),
        **card,
    }
    helper.set_model_props(model, {f"gencodec.{key}": value for key, value in metadata.items()})
    onnx.checker.check_model(model)
    target.write_bytes(model.SerializeToString())


def assembled(
    graph: ExactGraph,
    branches: Sequence[Branch],
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    name: str,
) -> onnx.ModelProto:
    """One model whose outputs are those of the branch with the number `stage`; inputs and outputs by their ranks."""
    count = len(outputs)
    graph.constant(np.zeros((0,) * max(outputs.values()), np.float32), NOTHING)
    graph.constant(np.array(0, np.int64), "stage")

    def body(first: int, last: int) -> Branch:
        """What chooses among the branches `first` to `last - 1`."""
        if last - first == 1:
            nodes, names = branches[first]
            return nodes, [*names, *[NOTHING] * (count - len(names))]
        middle = (first + last) // 2
        parts = []
        for place, (nodes, names) in (("low", body(first, middle)), ("high", body(middle, last))):
            # every branch's outputs have names of their own
            given = [f"{output}_{place}_{middle}" for output in outputs]
            ends = [helper.make_node("Identity", [a], [b]) for a, b in zip(names, given, strict=True)]
            values = [
                helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * outputs[o])
                for o, n in zip(outputs, given, strict=True)
            ]
            parts.append(helper.make_graph([*nodes, *ends], f"stages_{place}_{middle}", [], values))
        chosen = [f"{output}_{first}_{last}" for output in outputs]
        limit, is_low = graph.constant(np.array(middle, np.int64)), f"is_low_{middle}"
        return [
            helper.make_node("Less", ["stage", limit], [is_low]),
            helper.make_node("If", [is_low], chosen, then_branch=parts[0], else_branch=parts[1]),
        ], chosen

    nodes, names = body(0, len(branches))
    ends = [helper.make_node("Identity", [a], [b]) for a, b in zip(names, outputs, strict=True)]
    given = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [f"{n}_{d}" for d in range(rank)])
        for n, rank in inputs.items()
    ]
    taken = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * rank) for n, rank in outputs.items()]
    main = helper.make_graph([*graph.constant_nodes, *nodes, *ends], name, given, taken, list(graph.constants.values()))
    return helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="gencodec")

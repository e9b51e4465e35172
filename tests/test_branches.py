"""A graph taken out of a file: it computes what the whole file does with that stage number, and holds nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from gencodec.codec.codecs import SPRITES  # noqa: E402
from gencodec.errors import InvalidFile  # noqa: E402
from gencodec.export.exact import ExactGraph  # noqa: E402
from gencodec.export.stages import assembled  # noqa: E402
from gencodec.runtime import list_models, onnxfile  # noqa: E402
from gencodec.runtime.branches import (  # noqa: E402
    ATTRIBUTE_GRAPH,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    NODE_ATTRIBUTE,
    NODE_OUTPUT,
    VALUE_NAME,
    Branches,
)
from gencodec.runtime.onnxfile import MODEL_GRAPH  # noqa: E402
from gencodec.runtime.protobuf import field  # noqa: E402
from gencodec.runtime.session import open_session  # noqa: E402

X = np.arange(-3, 5, dtype=np.float32).reshape(2, 4)


def by_sign() -> Any:
    """A choice that depends on the input: 5 - x for a positive sum, x + 5 otherwise."""
    parts = []
    for kind in ("Sub", "Add"):
        value = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [None, None])
        node = helper.make_node(kind, ["five", "in0"], ["chosen"])
        parts.append(helper.make_graph([node], kind, [], [value]))
    return helper.make_node("If", ["positive"], ["signed"], then_branch=parts[0], else_branch=parts[1])


@pytest.fixture(scope="module")
def file() -> onnxfile.OnnxFile:
    """Five graphs: in0 times a weight of its own each, but for the third one, which chooses by the sign of the sum."""
    graph, branches = ExactGraph(0), []
    graph.constant(np.array(5, np.float32), "five")
    graph.constant(np.array(0, np.float32), "zero")
    for i in range(5):
        if i == 2:
            total = helper.make_node("ReduceSum", ["in0"], ["total"], keepdims=0)
            branches.append(
                ([total, helper.make_node("Greater", ["total", "zero"], ["positive"]), by_sign()], ["signed"])
            )
            continue
        graph.constant(np.array([2 + i, i, 1, 1], np.float32), f"w{i}")
        double = helper.make_node("Add", [f"w{i}", f"w{i}"], [f"double{i}"])
        graph.constant_nodes.append(double)
        y, z = (helper.make_node("Mul", ["in0", f"{name}{i}"], [f"y.{name}{i}"]) for name in ("w", "double"))
        branches.append(([y, z], [f"y.w{i}", f"y.double{i}"]))
    model = assembled(graph, branches, {"in0": 2}, {"out0": 2, "out1": 2}, "five")
    return onnxfile.read(model.SerializeToString())


def outputs(model: bytes, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return open_session(model, threads=1, device="cpu").run(None, {"in0": x})  # type: ignore[return-value]


@pytest.mark.parametrize("stage", [0, 1, 3, 4])
def test_a_branch_computes_what_the_whole_file_does(file: onnxfile.OnnxFile, stage: int) -> None:
    whole = file.replaced({"stage": np.array(stage, np.int64)})
    branch = Branches(file).model(stage)
    onnx.checker.check_model(onnx.load_from_string(branch))
    for a, b in zip(outputs(whole, X), outputs(branch, X), strict=True):
        assert np.array_equal(a, b)


def test_a_branch_holds_nothing_of_the_others(file: onnxfile.OnnxFile) -> None:
    for stage in (0, 1, 3, 4):
        graph = onnx.load_from_string(Branches(file).model(stage)).graph
        assert {tensor.name for tensor in graph.initializer} == {f"w{stage}"}
        assert sorted(node.op_type for node in graph.node if node.op_type != "Identity") == ["Add", "Mul", "Mul"]
        assert numpy_helper.to_array(graph.initializer[0]).tolist() == file.constants[f"w{stage}"].tolist()


def test_choices_by_anything_else_stay(file: onnxfile.OnnxFile) -> None:
    branch = Branches(file).model(2)
    graph = onnx.load_from_string(branch).graph
    assert {tensor.name for tensor in graph.initializer} == {"five", "zero", "nothing"}
    assert [node.op_type for node in graph.node if node.op_type != "Identity"] == ["ReduceSum", "Greater", "If"]
    assert np.array_equal(outputs(branch, X)[0], 5 - X)
    assert np.array_equal(outputs(branch, -X)[0], 5 - X)


def test_lookups_of_single_values_are_done_by_what_is_quick() -> None:
    """Of constants as they are and of cast ones; those of rows, or with attributes, stay."""
    graph = ExactGraph(0)
    graph.constant(np.array([5, -7, 9, 11], np.float32), "values")
    graph.constant(np.arange(4, dtype=np.int16) ** 2, "stored")
    graph.constant(np.arange(12, dtype=np.float32).reshape(4, 3), "rows")
    graph.constant_nodes.append(helper.make_node("Cast", ["stored"], ["cast"], to=TensorProto.FLOAT))
    tables = [[("values", {}), ("cast", {})], [("values", {"axis": 0}), ("rows", {})]]
    branches = []
    for stage, pair in enumerate(tables):
        nodes = [helper.make_node("Cast", ["in0"], [f"index{stage}"], to=TensorProto.INT32)]
        names = [f"{name}{stage}" for name, _ in pair]
        for name, (table, attributes) in zip(names, pair, strict=True):
            nodes.append(helper.make_node("Gather", [table, f"index{stage}"], [name], **attributes))
        branches.append((nodes, names))
    model = assembled(graph, branches, {"in0": 2}, {"out0": 2, "out1": 0}, "values")
    file = onnxfile.read(model.SerializeToString())
    indices = [
        np.array([[3, 0, -1], [1, 1, 2]], np.float32),
        *(np.zeros(shape, np.float32) for shape in [(2, 0), (0, 3)]),
    ]
    for stage, expected in enumerate(("GatherElements", "Gather")):
        branch = Branches(file).model(stage)
        kinds = [node.op_type for node in onnx.load_from_string(branch).graph.node]
        assert [kind for kind in kinds if kind.startswith("Gather")] == [expected] * 2
        onnx.checker.check_model(onnx.load_from_string(branch))
        for index in indices:
            whole = outputs(file.replaced({"stage": np.array(stage)}), index)
            for a, b in zip(whole, outputs(branch, index), strict=True):
                assert np.array_equal(a, b)
    with pytest.raises(Exception, match="Out of range"):
        outputs(Branches(file).model(0), np.full((1, 1), 4, np.float32))


def test_the_stage_is_for_choosing_only() -> None:
    graph = ExactGraph(0)
    branches = [([helper.make_node("Cast", ["stage"], [f"number{i}"], to=1)], [f"number{i}"]) for i in range(2)]
    model = assembled(graph, branches, {"in0": 2}, {"out0": 0}, "told")
    with pytest.raises(InvalidFile, match="does not tell its graphs apart"):
        Branches(onnxfile.read(model.SerializeToString())).model(1)


@pytest.mark.parametrize(("inner", "depth"), [(b"\xff", 1), (b"", 1500)])
def test_graphs_that_cannot_be_read_are_refused(inner: bytes, depth: int) -> None:
    for _ in range(depth):
        node = field(NODE_OUTPUT, b"y") + field(NODE_ATTRIBUTE, field(ATTRIBUTE_GRAPH, inner))
        inner = field(GRAPH_NODE, node)
    data = field(MODEL_GRAPH, inner + field(GRAPH_OUTPUT, field(VALUE_NAME, b"y")))
    with pytest.raises(InvalidFile, match="not a readable ONNX file"):
        Branches(onnxfile.read(data)).model(0)


CODERS = [card for card in list_models() if card.family != SPRITES]


@pytest.mark.parametrize("card", CODERS, ids=lambda card: card.name)
def test_graphs_that_ship_are_small_parts(card) -> None:
    file = onnxfile.read(card.file.read_bytes())
    branches = Branches(file)
    first = onnx.load_from_string(branches.model(0)).graph
    weights = [name for name in file.constants if name.endswith(".weight")]
    kept = [tensor.name for tensor in first.initializer if tensor.name.endswith(".weight")]
    assert 0 < len(kept) < len(weights)
    assert not any(node.op_type == "If" for node in first.node)
    assert "stage" not in [tensor.name for tensor in first.initializer]


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_damaged_files_are_refused_or_read(file: onnxfile.OnnxFile, place: float, value: int) -> None:
    data = bytearray(file.data)
    data[int(place * len(data))] = value
    with suppress(InvalidFile):
        damaged = onnxfile.read(bytes(data))
        assert isinstance(Branches(damaged).model(3), bytes)

"""Composed graphs compute what the graphs they are made of do one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")

from onnx import helper  # noqa: E402

from gencodec.errors import InvalidFile  # noqa: E402
from gencodec.export.exact import ExactGraph  # noqa: E402
from gencodec.export.stages import assembled  # noqa: E402
from gencodec.runtime import onnxfile  # noqa: E402
from gencodec.runtime.branches import Branches  # noqa: E402
from gencodec.runtime.composing import FLOAT, INT64, Composer  # noqa: E402
from gencodec.runtime.session import open_session  # noqa: E402

X = np.arange(-3, 5, dtype=np.float32).reshape(2, 4)


def by_sign() -> Any:
    """A choice that a graph of a file makes of its own: x for a positive sum, 5 otherwise."""
    parts = []
    for name in ("in0", "five"):
        value = helper.make_tensor_value_info("chosen", FLOAT, [None, None])
        parts.append(helper.make_graph([helper.make_node("Identity", [name], ["chosen"])], name, [], [value]))
    return helper.make_node("If", ["positive"], ["signed"], then_branch=parts[0], else_branch=parts[1])


@pytest.fixture(scope="module")
def branches() -> Branches:
    """Graphs of a file: 0 gives 2 x and 2 x + 5, 1 the square of x, 2 chooses by the sum."""
    graph = ExactGraph(0)
    graph.constant(np.array(5, np.float32), "five")
    graph.constant(np.array(2, np.float32), "two")
    graph.constant(np.array(0, np.float32), "zero")
    # names that graphs share are of values of their own
    double = [helper.make_node("Mul", ["in0", "two"], ["m"]), helper.make_node("Add", ["m", "five"], ["n"])]
    square = [helper.make_node("Mul", ["in0", "in0"], ["m2"])]
    signed = [
        helper.make_node("ReduceSum", ["in0"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        by_sign(),
    ]
    parts = [(double, ["m", "n"]), (square, ["m2"]), (signed, ["signed"])]
    model = assembled(graph, parts, {"in0": 2}, {"out0": 2, "out1": 2}, "five")
    return Branches(onnxfile.read(model.SerializeToString()))


def results(model: bytes, **inputs: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    onnx.checker.check_model(onnx.load_from_string(model))
    session = open_session(model, threads=1, device="cpu", long=True)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))  # type: ignore[arg-type]


def test_graphs_follow_each_other_and_may_be_used_twice(branches: Branches) -> None:
    c = Composer(branches)
    x = c.input("x", 2)
    double, more = c.stage(0, {"in0": x}, ["out0", "out1"])
    (square,) = c.stage(1, {"in0": more}, ["out0"])
    again, _ = c.stage(0, {"in0": square}, ["out0", "out1"])
    found = results(c.model({"double": (double, FLOAT), "again": (again, INT64)}), x=X)
    np.testing.assert_array_equal(found["double"], 2 * X)
    np.testing.assert_array_equal(found["again"], 2 * (2 * X + 5) ** 2)
    assert found["again"].dtype == np.int64


def test_a_graph_of_which_a_part_is_used_leaves_the_rest(branches: Branches) -> None:
    c = Composer(branches)
    (double,) = c.stage(0, {"in0": c.input("x", 2)}, ["out0"])
    model = c.model({"y": (double, FLOAT)})
    assert [node.op_type for node in onnx.load_from_string(model).graph.node if node.op_type == "Add"] == []
    np.testing.assert_array_equal(results(model, x=X)["y"], 2 * X)


def test_operations_take_values_numbers_and_lists(branches: Branches) -> None:
    c = Composer(branches)
    x = c.input("x", 2)
    table = c.constant(np.arange(40, dtype=np.float32)[None] ** 2)
    row = c.rows(x, 1)
    squares = c.looked_up(table, c.node("Add", row, 7))
    shaped = c.node("Reshape", c.node("Sub", c.rows(x, 0, 1), 0.5), [2, 2])
    found = results(c.model({"squares": (squares, FLOAT), "shaped": (shaped, FLOAT)}), x=X)
    np.testing.assert_array_equal(found["squares"], (X[1:] + 7) ** 2)
    np.testing.assert_array_equal(found["shaped"], X[0].reshape(2, 2) - 0.5)
    assert c.constant(np.arange(40, dtype=np.float32)[None] ** 2) == table


def test_a_choice_gives_one_of_two(branches: Branches) -> None:
    c = Composer(branches)
    x = c.input("x", 2)
    positive = c.node("Greater", c.node("ReduceSum", x, keepdims=0), 0)
    least = c.node("ReduceMin", x, axes=[1])

    def doubled() -> list[str]:
        return [c.stage(0, {"in0": x}, ["out0"])[0], c.node("ReduceMax", x, axes=[1])]

    first, second = c.choice(positive, doubled, [x, least])
    model = c.model({"first": (first, FLOAT), "second": (c.node("Add", second, 1), FLOAT)})
    found = results(model, x=X)
    np.testing.assert_array_equal(found["first"], 2 * X)
    np.testing.assert_array_equal(found["second"], X.max(1, keepdims=True) + 1)
    found = results(model, x=-X)
    np.testing.assert_array_equal(found["first"], -X)
    np.testing.assert_array_equal(found["second"], -X.max(1, keepdims=True) + 1)


def test_what_is_not_chosen_is_not_computed(branches: Branches) -> None:
    c = Composer(branches)
    row = c.rows(c.input("x", 2), 0, 1)
    table = c.constant(np.ones((1, 3), np.float32))
    large = c.node("Greater", c.node("ReduceMax", row, keepdims=0), 2)
    (found,) = c.choice(large, lambda: [c.looked_up(table, row)], [row])
    model = c.model({"y": (found, FLOAT)})
    np.testing.assert_array_equal(results(model, x=np.full((2, 4), -9, np.float32))["y"], np.full((1, 4), -9))
    with pytest.raises(Exception, match="Out of range"):  # there is no such place in the table
        results(model, x=np.full((2, 4), 9, np.float32))


def test_graphs_that_hold_others_are_refused(branches: Branches) -> None:
    c = Composer(branches)
    with pytest.raises(InvalidFile, match="graph holds others, in If"):
        c.stage(2, {"in0": c.input("x", 2)}, ["out0"])

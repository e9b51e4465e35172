"""New graphs, made of graphs of a model's file and operations between them, so that one call does what took many.

Values go by their names, which the methods give. Inputs and outputs are matrices of one number of columns.
The fields that are written are those of onnx.proto: GraphProto, ValueInfoProto, TypeProto, TensorShapeProto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gencodec.runtime.branches import (
    GRAPH_INPUT,
    GRAPH_NAME,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    VALUE_NAME,
    Attribute,
    Branches,
    Node,
    tensor,
)
from gencodec.runtime.onnxfile import GRAPH_INITIALIZER, KINDS
from gencodec.runtime.protobuf import field

VALUE_TYPE, TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE = 2, 1, 1, 2
SHAPE_DIM, DIM_SIZE, DIM_NAME = 1, 1, 2
FLOAT, INT64 = (KINDS[np.dtype(kind)] for kind in (np.float32, np.int64))
"""Types of elements."""
ALL = np.iinfo(np.int64).max


class Composer:
    """One graph in the making."""

    def __init__(self, branches: Branches):
        """`branches`: those of the file whose graphs are used."""
        self.branches = branches
        self.nodes: list[Node] = []
        self.inputs: dict[str, int] = {}
        self.constants: dict[str, bytes | memoryview] = {}
        self.known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.names = 0

    def input(self, name: str, rows: int) -> str:
        """An input of the graph, float32 (rows, n)."""
        self.inputs[name] = rows
        return name

    def constant(self, values: NDArray[np.generic]) -> str:
        """An array that is part of the graph."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self.known:
            self.known[key] = name = self._name()
            self.constants[name] = tensor(name, values)
        return self.known[key]

    def node(self, kind: str, *inputs: str | float | Sequence[int], **attributes: Attribute) -> str:
        """What an operation makes of values, of numbers, which are float32, and of lists of whole ones."""
        made = Node.made(kind, [self._operand(value) for value in inputs], [self._name()], **attributes)
        self.nodes.append(made)
        return made.outputs[0]

    def rows(self, matrix: str, first: int, end: int = ALL) -> str:
        """Rows of a matrix, from the first on up to before `end`, or to the last one."""
        return self.node("Slice", matrix, [first], [end], [0])

    def looked_up(self, table: str, index: str) -> str:
        """Elements of a table of one row at whole numbers of a row, which are float32; shaped as these."""
        return self.node("GatherElements", table, self.node("Cast", index, to=INT64), axis=1)

    def stage(self, number: int, given: Mapping[str, str], outputs: Sequence[str]) -> list[str]:
        """Outputs of a graph of the file, where its inputs are these values, by their names in it.

        Raises `InvalidFile`.
        """
        nodes, constants = self.branches.parts(number, outputs)
        self.constants.update(constants)
        names = {"": "", **{name: name for name in constants}, **given}

        def name_of(name: str) -> str:
            if name not in names:
                names[name] = self._name()
            return names[name]

        self.nodes += [node.renamed(name_of) for node in nodes]
        return [name_of(name) for name in outputs]

    def choice(self, condition: str, then: Callable[[], Sequence[str]], otherwise: Sequence[str]) -> list[str]:
        """Where a condition holds, what `then` makes, float32, which is computed only then; else values there are."""
        outer, self.nodes = self.nodes, []
        taken = self._branch(then())
        self.nodes = []
        left = self._branch(otherwise)
        self.nodes = outer
        found = [self._name() for _ in otherwise]
        self.nodes.append(Node.made("If", [condition], found, then_branch=taken, else_branch=left))
        return found

    def model(self, outputs: Mapping[str, tuple[str, int]]) -> bytes:
        """The model whose outputs are these: by their names values, and the types that they are given in."""
        self.nodes += [Node.made("Cast", [value], [name], to=kind) for name, (value, kind) in outputs.items()]
        parts = [field(GRAPH_INITIALIZER, data) for data in self.constants.values()]
        parts += [field(GRAPH_INPUT, _matrix(name, FLOAT, rows)) for name, rows in self.inputs.items()]
        return self.branches.joined([*parts, _graph(self.nodes, {name: kind for name, (_, kind) in outputs.items()})])

    def _branch(self, values: Sequence[str]) -> bytes:
        """The nodes since `choice` began, as a graph that gives copies of values."""
        return _graph(self.nodes, dict.fromkeys([self.node("Identity", value) for value in values], FLOAT))

    def _operand(self, value: str | float | Sequence[int]) -> str:
        if isinstance(value, str):
            return value
        number = isinstance(value, int | float)
        return self.constant(np.array(value, np.float32 if number else np.int64))

    def _name(self) -> str:
        self.names += 1
        return f"composed.{self.names}"


def _graph(nodes: Iterable[Node], outputs: Mapping[str, int]) -> bytes:
    """A serialized GraphProto, with the types of its outputs."""
    parts = [field(GRAPH_NAME, b"composed"), *(field(GRAPH_NODE, node.data) for node in nodes)]
    return b"".join([*parts, *(field(GRAPH_OUTPUT, _matrix(name, kind)) for name, kind in outputs.items())])


def _matrix(name: str, kind: int, rows: int | None = None) -> bytes:
    """A serialized ValueInfoProto of a matrix, of so many rows and the graph's number of columns, or of any size."""
    sizes = (b"", b"") if rows is None else (field(DIM_SIZE, rows), field(DIM_NAME, b"n"))
    shape = b"".join(field(SHAPE_DIM, size) for size in sizes)
    kept = field(TENSOR_ELEMENT, kind) + field(TENSOR_SHAPE, shape)
    return field(VALUE_NAME, name.encode()) + field(VALUE_TYPE, field(TYPE_TENSOR, kept))

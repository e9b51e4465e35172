"""One graph of a file as a model of its own, so that a session has no others to parse, or as a part of a new one.

The graphs of a file are the branches of a tree of If nodes on the constant `stage` (`gencodec.export.stages`), and
share the file's constants. Here the conditions are settled, the branch is taken out of its If nodes, and what its
outputs do not depend on is left out. Nodes and constants that remain are those of the file, byte for byte but for names
in new graphs (`gencodec.runtime.composing`), and so proved exact with it; but for lookups in tables, which are done by
another operation, that finds the same.

The fields that are looked at are those of onnx.proto: ModelProto, GraphProto, NodeProto, AttributeProto.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencodec.errors import MALFORMED, InvalidFile
from gencodec.runtime import protobuf
from gencodec.runtime.onnxfile import (
    GRAPH_INITIALIZER,
    KINDS,
    MODEL_GRAPH,
    MODEL_METADATA,
    TENSOR_DIMS,
    TENSOR_NAME,
    TENSOR_RAW,
    TENSOR_TYPE,
    OnnxFile,
)
from gencodec.runtime.protobuf import fields, message_of, text_of

GRAPH_NODE, GRAPH_NAME, GRAPH_INPUT, GRAPH_OUTPUT = 1, 2, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_KIND, NODE_ATTRIBUTE = 1, 2, 3, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_NUMBER, ATTRIBUTE_GRAPH = 1, 3, 6
ATTRIBUTE_NUMBERS, ATTRIBUTE_GRAPHS, ATTRIBUTE_KIND = 8, 11, 20
OF_NUMBER, OF_GRAPH, OF_NUMBERS = 2, 5, 7
VALUE_NAME = 1
STAGE = "stage"
WHOLE = "gencodec.whole"
"""The shape of all values in a row."""
CONDITIONS = {"Less": operator.lt, "Equal": operator.eq}

Attribute = int | Sequence[int] | bytes
"""A number, numbers, or a serialized graph."""


@dataclass(frozen=True)
class Node:
    """An operation: its bytes, what it is, the names that it reads and gives, and graphs within it by their names."""

    data: bytes | memoryview
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    graphs: Mapping[str, memoryview] = field(default_factory=dict)
    plain: bool = True
    """Whether it has no attributes."""

    @classmethod
    def read(cls, data: memoryview) -> Node:
        """Of a serialized NodeProto."""
        names: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], NODE_KIND: [""]}
        graphs, plain = {}, True
        for number, value in fields(data):
            if number in names:
                names[number].append(text_of(value))
            elif number == NODE_ATTRIBUTE:
                graphs.update(_graphs(message_of(value)))
                plain = False
        return cls(data, names[NODE_KIND][-1], tuple(names[NODE_INPUT]), tuple(names[NODE_OUTPUT]), graphs, plain)

    @classmethod
    def made(cls, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Attribute) -> Node:
        """One whose attributes are as usual, but for these: numbers, lists of numbers, or serialized graphs."""
        parts = [*_ends(inputs, outputs), protobuf.field(NODE_KIND, kind.encode())]
        parts += [protobuf.field(NODE_ATTRIBUTE, _attribute(name, value)) for name, value in attributes.items()]
        return cls(b"".join(parts), kind, tuple(inputs), tuple(outputs), plain=not attributes)

    def renamed(self, name_of: Callable[[str], str]) -> Node:
        """The same operation on values of other names. Raises `InvalidFile` for one that holds graphs."""
        if self.graphs:
            raise InvalidFile(f"the model's graph holds others, in {self.kind}")
        inputs, outputs = (tuple(map(name_of, names)) for names in (self.inputs, self.outputs))
        named = (NODE_INPUT, NODE_OUTPUT, NODE_NAME)
        rest = [protobuf.field(n, value) for n, value in fields(memoryview(self.data)) if n not in named]
        return Node(b"".join([*_ends(inputs, outputs), *rest]), self.kind, inputs, outputs, plain=self.plain)

    def lookups(self) -> Iterator[Node]:
        """For a Gather from one axis of single values, what does the same in a seventh of the time.

        ONNX Runtime's Gather copies them one by one, as it would rows.
        """
        (table, index), (found,) = self.inputs, self.outputs
        extent, line, values = (f"{found}.{part}" for part in ("extent", "line", "values"))
        yield Node.made("Shape", [index], [extent])
        yield Node.made("Reshape", [index, WHOLE], [line])
        yield Node.made("GatherElements", [table, line], [values])
        yield Node.made("Reshape", [values, extent], [found], allowzero=1)

    def reads(self) -> Iterator[str]:
        """The names of what the node and the graphs within it depend on, and of what those compute themselves."""
        yield from self.inputs
        for graph in map(Graph.read, self.graphs.values()):
            yield from graph.outputs
            for node in graph.nodes:
                yield from node.reads()


@dataclass(frozen=True)
class Graph:
    """A graph's nodes in the order they are computed, constants' bytes by name, names of outputs, and other fields."""

    nodes: Sequence[Node]
    constants: Mapping[str, memoryview]
    outputs: Sequence[str]
    rest: bytes

    @classmethod
    def read(cls, data: memoryview) -> Graph:
        """Of a serialized GraphProto."""
        nodes, constants, outputs, rest = [], {}, [], []
        for number, value in fields(data):
            if number == GRAPH_NODE:
                nodes.append(Node.read(message_of(value)))
            elif number == GRAPH_INITIALIZER:
                constants[_name(message_of(value), TENSOR_NAME)] = message_of(value)
            elif number in (GRAPH_NAME, GRAPH_INPUT, GRAPH_OUTPUT):
                rest.append(protobuf.field(number, value))
                if number == GRAPH_OUTPUT:
                    outputs.append(_name(message_of(value), VALUE_NAME))
        return cls(nodes, constants, outputs, b"".join(rest))


class Branches:
    """The graphs of a file, to be taken out one at a time."""

    def __init__(self, file: OnnxFile):
        """Raises `InvalidFile`."""
        graph, rest = memoryview(b""), []
        try:
            for number, value in fields(memoryview(file.data)):
                if number == MODEL_GRAPH:
                    graph = message_of(value)
                elif number != MODEL_METADATA:
                    rest.append(protobuf.field(number, value))
            self.file, self.rest, self.graph = file, b"".join(rest), Graph.read(graph)
        except MALFORMED as error:
            raise InvalidFile("the model is not a readable ONNX file") from error

    def model(self, stage: int) -> bytes:
        """The model of the graph with that number; inputs and outputs are those of all. Raises `InvalidFile`."""
        nodes, constants = self.parts(stage, self.graph.outputs)
        kept = [protobuf.field(GRAPH_NODE, node.data) for node in nodes]
        kept += [protobuf.field(GRAPH_INITIALIZER, data) for data in constants.values()]
        return self.joined([*kept, self.graph.rest])

    def parts(self, stage: int, outputs: Iterable[str]) -> tuple[list[Node], dict[str, bytes | memoryview]]:
        """Nodes and constants on which those outputs of a graph depend. Raises `InvalidFile`."""
        try:
            nodes = list(self.quickened(self.chosen(self.graph.nodes, stage)))
            needed, kept = set(outputs), []
            for node in reversed(nodes):
                if not needed.isdisjoint(node.outputs):
                    needed.update(node.reads())
                    kept.append(node)
        except MALFORMED as error:
            raise InvalidFile("the model is not a readable ONNX file") from error
        if STAGE in needed:
            raise InvalidFile(f"the model does not tell its graphs apart by the constant {STAGE}")
        constants: dict[str, bytes | memoryview] = {n: data for n, data in self.graph.constants.items() if n in needed}
        if WHOLE in needed:
            constants[WHOLE] = tensor(WHOLE, np.array([-1]))
        return kept[::-1], constants

    def joined(self, graph: Iterable[bytes]) -> bytes:
        """The model of a graph with these fields, versions and all else as in the file."""
        return self.rest + protobuf.field(MODEL_GRAPH, b"".join(graph))

    def chosen(self, nodes: Sequence[Node], stage: int) -> Iterator[Node]:
        """Nodes, with those of the branch that is taken in place of every If on the stage's number."""
        settled: dict[str, bool] = {}
        for node in nodes:
            if node.kind in CONDITIONS and STAGE in node.inputs:
                first, second = (self.number(name, stage) for name in node.inputs)
                settled[node.outputs[0]] = bool(CONDITIONS[node.kind](first, second))
            elif node.kind == "If" and node.inputs[0] in settled:
                branch = Graph.read(node.graphs["then_branch" if settled[node.inputs[0]] else "else_branch"])
                yield from self.chosen(branch.nodes, stage)
                for given, name in zip(branch.outputs, node.outputs, strict=True):
                    yield Node.made("Identity", [given], [name])
            else:
                yield node

    def quickened(self, nodes: Iterable[Node]) -> Iterator[Node]:
        """Nodes, with lookups of single values in constants done quickly."""
        tables = {name for name, values in self.file.constants.items() if values.ndim == 1}
        for node in nodes:
            if node.kind == "Cast" and node.inputs[0] in tables:
                tables.update(node.outputs)
            if node.kind == "Gather" and node.plain and node.inputs[0] in tables:
                yield from node.lookups()
            else:
                yield node

    def number(self, name: str, stage: int) -> Any:
        """A constant that is compared, or the stage's number itself."""
        return stage if name == STAGE else self.file.constants[name]


def _ends(inputs: Iterable[str], outputs: Iterable[str]) -> Iterator[bytes]:
    """The fields of a NodeProto that name what it reads and gives."""
    for number, names in ((NODE_INPUT, inputs), (NODE_OUTPUT, outputs)):
        for name in names:
            yield protobuf.field(number, name.encode())


def _attribute(name: str, value: Attribute) -> bytes:
    """A serialized AttributeProto."""
    entries: list[tuple[int, int | bytes]] = [(ATTRIBUTE_NAME, name.encode())]
    if isinstance(value, int):
        entries += [(ATTRIBUTE_NUMBER, value), (ATTRIBUTE_KIND, OF_NUMBER)]
    elif isinstance(value, bytes):
        entries += [(ATTRIBUTE_GRAPH, value), (ATTRIBUTE_KIND, OF_GRAPH)]
    else:
        entries += [(ATTRIBUTE_NUMBERS, number) for number in value] + [(ATTRIBUTE_KIND, OF_NUMBERS)]
    return b"".join(protobuf.field(number, entry) for number, entry in entries)


def _graphs(attribute: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Graphs that an attribute holds, by its name and their place."""
    name, found = "", []
    for number, value in fields(attribute):
        if number == ATTRIBUTE_NAME:
            name = text_of(value)
        elif number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
            found.append(message_of(value))
    for place, graph in enumerate(found):
        yield name if not place else f"{name}.{place}", graph


def tensor(name: str, values: NDArray[np.generic]) -> bytes:
    """A constant, serialized."""
    dims = [(TENSOR_DIMS, size) for size in values.shape]
    rest = ((TENSOR_TYPE, KINDS[values.dtype]), (TENSOR_NAME, name.encode()), (TENSOR_RAW, values.tobytes()))
    return b"".join(protobuf.field(number, value) for number, value in (*dims, *rest))


def _name(message: memoryview, field_of_name: int) -> str:
    """What a tensor or a value is called."""
    return next((text_of(value) for number, value in fields(message) if number == field_of_name), "")

"""Reads constants and metadata of an ONNX file without the onnx package.

Only the protocol buffer fields named below are looked at
(https://protobuf.dev/programming-guides/encoding, onnx.proto: ModelProto, GraphProto, TensorProto).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gencodec.errors import InvalidFile

MODEL_GRAPH, MODEL_METADATA = 7, 14
GRAPH_INITIALIZER = 5
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
DTYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8"}


@dataclass(frozen=True)
class OnnxFile:
    """Named constants and metadata of a model."""

    constants: dict[str, NDArray[np.generic]]
    metadata: dict[str, str]
    data: bytes = b""

    def replaced(self, values: Mapping[str, NDArray[np.generic]]) -> bytes:
        """The file with other values for some of its constants, of the same types and shapes."""
        data = bytearray(self.data)
        start = np.frombuffer(self.data, np.uint8).ctypes.data
        for name, value in values.items():
            old = self.constants[name]
            if value.shape != old.shape or value.dtype != old.dtype:
                raise ValueError(f"{name} is {old.dtype} {old.shape}, not {value.dtype} {value.shape}")
            at = old.ctypes.data - start  # constants are views of the file
            data[at : at + old.nbytes] = value.tobytes()
        return bytes(data)


def read(data: bytes) -> OnnxFile:
    """Parse a serialized ModelProto. Raises `InvalidFile` if it is none."""
    try:
        constants, metadata = {}, {}
        for field, value in _fields(memoryview(data)):
            if field == MODEL_GRAPH:
                for inner, tensor in _fields(_message(value)):
                    if inner == GRAPH_INITIALIZER:
                        name, array = _tensor(_message(tensor))
                        constants[name] = array
            elif field == MODEL_METADATA:
                entry = dict(_fields(_message(value)))
                metadata[_text(entry[1])] = _text(entry[2])
    except (IndexError, KeyError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise InvalidFile("the model is not a readable ONNX file") from error
    return OnnxFile(constants, metadata, data)


def _tensor(message: memoryview) -> tuple[str, NDArray[np.generic]]:
    dims: list[int] = []
    name, raw, dtype = "", memoryview(b""), 0
    for field, value in _fields(message):
        if field == TENSOR_DIMS:
            dims.extend([value] if isinstance(value, int) else _varints(value))
        elif field == TENSOR_TYPE:
            dtype = value
        elif field == TENSOR_NAME:
            name = _text(value)
        elif field == TENSOR_RAW:
            raw = _message(value)
    return name, np.frombuffer(raw, DTYPES[int(dtype)]).reshape(dims)  # type: ignore[arg-type]


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(message):
            raise ValueError("truncated")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("varint")


def _varints(message: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(message):
        value, at = _varint(message, at)
        values.append(value)
    return values


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode()

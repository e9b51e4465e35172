"""Reads constants and metadata of an ONNX file without the onnx package.

Only the fields named below are looked at (onnx.proto: ModelProto, GraphProto, TensorProto).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gencodec.errors import MALFORMED, InvalidFile
from gencodec.runtime.protobuf import fields, message_of, text_of, varints

MODEL_GRAPH, MODEL_METADATA = 7, 14
GRAPH_INITIALIZER = 5
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
DTYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 10: "<f2"}
KINDS = {np.dtype(text): kind for kind, text in DTYPES.items()}


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
        for field, value in fields(memoryview(data)):
            if field == MODEL_GRAPH:
                for inner, tensor in fields(message_of(value)):
                    if inner == GRAPH_INITIALIZER:
                        name, array = _tensor(message_of(tensor))
                        constants[name] = array
            elif field == MODEL_METADATA:
                entry = dict(fields(message_of(value)))
                metadata[text_of(entry[1])] = text_of(entry[2])
    except MALFORMED as error:
        raise InvalidFile("the model is not a readable ONNX file") from error
    return OnnxFile(constants, metadata, data)


def _tensor(message: memoryview) -> tuple[str, NDArray[np.generic]]:
    dims: list[int] = []
    name, raw, dtype = "", memoryview(b""), 0
    for field, value in fields(message):
        if field == TENSOR_DIMS:
            dims.extend([value] if isinstance(value, int) else varints(value))
        elif field == TENSOR_TYPE:
            dtype = value
        elif field == TENSOR_NAME:
            name = text_of(value)
        elif field == TENSOR_RAW:
            raw = message_of(value)
    return name, np.frombuffer(raw, DTYPES[int(dtype)]).reshape(dims)  # type: ignore[arg-type]

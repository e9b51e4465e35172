"""The wire format of protocol buffers, as far as ONNX files use it.

Source: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator


def field(number: int, value: int | bytes | memoryview) -> bytes:
    """A field as it is written: a number, or bytes with their length."""
    if isinstance(value, int):
        return _written(number << 3) + _written(value)
    return b"".join([_written(number << 3 | 2), _written(len(value)), value])


def _written(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _written(rest) if rest else bytes([low])


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and contents of a message's fields, in their order. Raises `ValueError` and `IndexError`."""
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


def varints(message: memoryview) -> list[int]:
    """The numbers of a packed field."""
    values, at = [], 0
    while at < len(message):
        value, at = _varint(message, at)
        values.append(value)
    return values


def message_of(value: int | memoryview) -> memoryview:
    """A field's content, if it is bytes. Raises `ValueError`."""
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def text_of(value: int | memoryview) -> str:
    """A field's content as text. Raises `ValueError`."""
    return bytes(message_of(value)).decode()

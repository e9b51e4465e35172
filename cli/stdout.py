"""Standard output: lines and bytes, and what happens when it cannot take them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class StdoutLost(Exception):
    """Standard output takes no more; the message says why, and is empty where its reader has gone away."""


def say(line: str) -> None:
    """Print a line. Raises StdoutLost."""
    with _guarded():
        sys.stdout.write(line + "\n")


def write(data: bytes | memoryview) -> None:
    """Write binary data, all of it. Raises StdoutLost."""
    with _guarded():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def flush() -> None:
    """Write what is buffered. Raises StdoutLost."""
    with _guarded():
        sys.stdout.flush()


@contextmanager
def _guarded() -> Iterator[None]:
    """Turn failures to write into StdoutLost, and point stdout at nothing.

    Without that the interpreter would try once more at its end, and complain.
    """
    try:
        yield
    except OSError as error:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
        raise StdoutLost("" if isinstance(error, BrokenPipeError) else error.strerror) from None

"""The most memory that a piece of work takes, as Linux counts it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Bytes that became resident beyond those at the start; None where the system does not tell."""

    bytes: int | None = None


@contextmanager
def peak() -> Iterator[Peak]:
    """Yield what holds, after the block, the most resident bytes that this process added while in it.

    Memory that was resident before does not count, be it a library, a loaded model, or freed memory that the
    allocator has kept: the figure is a lower bound of what a process of its own would need.
    """
    found = Peak()
    try:
        _RESET.write_text("5")  # VmHWM becomes VmRSS: proc_pid_clear_refs(5)
        before = _resident("VmRSS")
    except (OSError, KeyError):
        yield found
        return
    yield found
    found.bytes = max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    """A field of this process's status, in bytes. Raises OSError and KeyError."""
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return 1024 * int(fields[field].split()[0])

"""A progress bar on stderr, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gencodec.cli.failures import printable


class Bar:
    """Takes the finished fraction, 0 to 1, and shows it; `note` shows a line after the name."""

    def __init__(self, display: Any, name: str):
        self.display, self.name = display, name
        self.task = display.add_task(name, total=1.0)

    def __call__(self, fraction: float) -> None:
        self.display.update(self.task, completed=fraction)

    def note(self, text: str) -> None:
        """Say what is being done."""
        self.display.update(self.task, description=f"{self.name}: {text}" if text else self.name)


@contextmanager
def bar(name: str, *, quiet: bool) -> Iterator[Bar | None]:
    """Yield the bar of a file; None if nothing is to be shown."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        yield Bar(display, printable(name))

"""A progress bar on stderr, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gencodec.cli.failures import printable


@contextmanager
def bar(name: str, *, quiet: bool) -> Iterator[Callable[[float], None] | None]:
    """Yield what takes the finished fraction, 0 to 1, and shows it; None if nothing is to be shown."""
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
        task = display.add_task(printable(name), total=1.0)
        yield lambda fraction: display.update(task, completed=fraction)

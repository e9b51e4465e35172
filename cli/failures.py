"""From exceptions to one line on stderr and an exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import typer

from gencodec.cli import stdout
from gencodec.errors import GencodecError

FAILURE = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells count

# What the world can do to a command. Anything else is a bug and keeps its traceback.
EXPECTED = (GencodecError, OSError, MemoryError)

Item = TypeVar("Item")


def printable(name: str, stream: str = "input") -> str:
    """Return a file name that fits on one line of any terminal; `-` becomes "standard input"."""
    if name == "-":
        return f"standard {stream}"
    return "".join(c if c.isprintable() else "?" for c in name)


def explain(error: BaseException) -> str:
    """Return the reason of a failure in one line."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command whose only failure is `error`."""
    return error.exit_code if isinstance(error, GencodecError) else FAILURE


def report(name: str, error: BaseException, *, as_json: bool) -> None:
    """Say on stderr that a file failed, and on stdout too where that carries JSON."""
    typer.echo(f"gencodec: {printable(name)}: {explain(error)}", err=True)
    if as_json:
        stdout.say(json.dumps({"file": name, "error": explain(error), "exit_code": exit_code(error)}))


def run_each(
    items: Sequence[Item], name: Callable[[Item], str], work: Callable[[Item], None], *, as_json: bool
) -> None:
    """Do the work for every item, going on after failures.

    Raises typer.Exit at the end when any failed: with the code of the failure if the item was the only
    one, else with 1.
    """
    failures: list[BaseException] = []
    for item in items:
        try:
            work(item)
        except EXPECTED as error:
            report(name(item), error, as_json=as_json)
            failures.append(error)
    if failures:
        raise typer.Exit(exit_code(failures[0]) if len(items) == 1 else FAILURE)


@contextmanager
def translated() -> Iterator[None]:
    """Turn expected exceptions of the block into one line on stderr and typer.Exit."""
    try:
        try:
            yield
        finally:
            stdout.flush()
    except KeyboardInterrupt:
        leave("interrupted", INTERRUPTED)
    except stdout.StdoutLost as error:
        if not str(error):
            raise typer.Exit(FAILURE) from None
        leave(f"standard output: {error}", FAILURE)
    except typer.TyperException as error:
        leave(f"{error.format_message().rstrip('.')}; see gencodec --help", error.exit_code)
    except BrokenPipeError:  # while help was printed
        raise typer.Exit(FAILURE) from None
    except OSError as error:
        unnamed = error.errno and error.strerror == os.strerror(error.errno)  # by the system, while help was printed
        place = error.filename or ("standard output" if unnamed else "")
        leave(f"{printable(place)}: {explain(error)}" if place else explain(error), FAILURE)
    except (GencodecError, MemoryError) as error:
        leave(explain(error), exit_code(error))


def leave(reason: str, code: int) -> NoReturn:
    """Print the reason and end the command."""
    typer.echo(f"gencodec: {' '.join(reason.split())}", err=True)
    raise typer.Exit(code) from None

"""The typer application: its commands, and what becomes of their errors."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gencodec.cli import coding, evaluation, failures, generation, inspection, training

# \b keeps the lines that follow as they are.
EPILOG = """\b
Exit codes:
  0    done
  1    failure, or some of several files failed
  2    wrong usage
  3    not a valid file: broken, truncated, or of no known format
  130  interrupted

Errors are one line on standard error: gencodec: FILE: reason
"""


class CommandGroup(TyperGroup):
    """A group of commands whose expected errors are one line and an exit code, not a traceback."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the options before the command's name."""
        with failures.translated():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the command."""
        with failures.translated():
            return super().invoke(ctx)


app = typer.Typer(
    name="gencodec",
    cls=CommandGroup,
    epilog=EPILOG,
    rich_markup_mode=None,  # plain help, three times as fast
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(coding.compress)
app.command()(coding.decompress)
app.command()(inspection.info)
app.command()(inspection.verify)
app.command()(inspection.models)
app.command()(generation.generate)
app.command()(evaluation.evaluate)
app.command()(training.train)
app.command()(training.export)


def _show_version(wanted: bool) -> None:
    """Print the version and end, if it is wanted."""
    if wanted:
        from gencodec import __version__

        typer.echo(f"gencodec {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    ctx: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Compress images by learned models, without loss or with it, and decode them on any machine."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(2)


def main() -> None:
    """Run the command line of this process."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up like Ctrl-C
    _complete_streams()
    app(prog_name="gencodec")
    sys.exit(0)


def _complete_streams() -> None:
    """Open nothing for each standard stream that is closed, and let stdout take names that its encoding lacks.

    What is written to a stdout that is closed still fails: it is opened for reading.
    """
    for name, mode, way in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, way), mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")

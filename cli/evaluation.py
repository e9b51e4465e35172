"""The command `evaluate`: compression rates of models and ordinary codecs on one's own images, and what changed."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gencodec.cli import failures, stdout
from gencodec.cli.options import Device, Json, Quiet, Threads, check_device
from gencodec.errors import GencodecError, UsageError

if TYPE_CHECKING:
    from gencodec.evaluation.run import Progress

INTERVAL = 1.0
"""Seconds between two pictures of the table on a terminal."""


def evaluate(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="Images, folders, patterns, lists (.txt), arrays (.npy), cifar10, mnist.",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        str, typer.Option("--models", metavar="NAMES", help="Names or ONNX files, with commas; NAME@9 is at effort 9.")
    ] = "photo",
    baselines: Annotated[
        str,
        typer.Option(
            "--baselines",
            metavar="NAMES",
            help="Of png, webp, jxl, jxl-e1 to jxl-e9, jpeg-ls, jpeg2000; lossy: avif, jpeg, webp-lossy, jxl-lossy.",
        ),
    ] = "png,webp,jxl",
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder of the report; a run goes on with it, and drops other rows."
        ),
    ] = Path("report"),
    qualities: Annotated[
        str, typer.Option("--qualities", metavar="LIST", help="From 1 to 100: at which lossy models are measured.")
    ] = "10,30,50,70,90",
    every: Annotated[int, typer.Option("--every", min=1, metavar="N", help="Take every N-th image.")] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Take N images at most.")] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Processes; speeds suffer, sizes do not.")
    ] = 1,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="A B", help="Show what changed between two results.json instead."),
    ] = None,
    fail_above: Annotated[
        str | None,
        typer.Option("--fail-above", metavar="PERCENT", help="Exit with 1 where files grew by more or fail now."),
    ] = None,
    threads: Threads = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure models and ordinary codecs on images: real files, decoded and compared, in a report."""
    if compare is not None:
        if paths:
            raise UsageError("--compare takes two results and no images")
        _compare(*compare, _percent(fail_above), as_json=as_json)
        return
    if fail_above is not None:
        raise UsageError("--fail-above goes with --compare")
    if not paths:
        raise UsageError("no images are named")
    check_device(device)
    from gencodec.evaluation import contenders, corpus, machine, protocol, report, tables
    from gencodec.evaluation.run import run

    sweep = tuple(_number(text, "--qualities") for text in contenders.split(qualities))
    options = protocol.Options(threads or max(1, machine.cores() // jobs), device, sweep)
    entries = contenders.entries(contenders.split(models), contenders.split(baselines), options)
    if not entries:
        raise UsageError("no models and no baselines are named")
    pictures = corpus.find(paths, every=every, limit=limit)
    with _display(quiet=quiet) as listen:
        results = run(pictures, entries, options, output, jobs=jobs, listen=listen)
    page = report.write(results, output, pictures)
    if as_json:
        for row in results.rows:
            stdout.say(json.dumps(asdict(row)))
    elif not quiet:
        stdout.say(
            "\n".join(text for text in map(tables.plain, (tables.lossless(results), tables.lossy(results))) if text)
        )
        typer.echo(f"the report is {page}", err=True)
    for sentence in results.failures:
        typer.echo(f"gencodec: {failures.printable(sentence)}", err=True)
    if results.failures:
        raise typer.Exit(failures.FAILURE)


def _compare(first: Path, second: Path, limit: float | None, *, as_json: bool) -> None:
    """Tell what changed between two runs. Raises typer.Exit where more grew than the limit allows."""
    from gencodec.evaluation import compare, store, tables

    try:
        found = compare.compare(store.load(first), store.load(second))
    except ImportError as error:
        raise GencodecError("lossy codecs are compared by BD-rate: pip install 'gencodec[evaluate]'") from error
    if not found.changes:
        raise UsageError(f"{first} and {second} have no codec and image in common")
    if as_json:
        for change in found.changes:
            stdout.say(json.dumps(asdict(change)))
    else:
        stdout.say(tables.plain(compare.table(found)).rstrip())
    for codec in found.unmatched:
        typer.echo(f"gencodec: {codec} cannot be compared: only one run has it, or no image in common", err=True)
    for sentence in found.broken:
        typer.echo(f"gencodec: {failures.printable(sentence)}", err=True)
    if limit is not None and (found.worst() > limit or found.broken):
        raise typer.Exit(failures.FAILURE)


def _percent(text: str | None) -> float | None:
    """The share of `0.5%` or `0.5`. Raises UsageError."""
    if text is None:
        return None
    try:
        share = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        share = math.nan
    if not math.isfinite(share):
        raise UsageError(f"--fail-above: {text!r} is not a number of percent")
    return share


def _number(text: str, option: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{option}: {text!r} is not a whole number") from None


@contextlib.contextmanager
def _display(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Yield what shows progress on stderr: tables on a terminal, else a line an image; None if nothing is to show."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _lines


def _lines(progress: Progress) -> None:
    """Print a line when an image has been measured by all contenders."""
    done = progress.reused + progress.measured
    count = max(1, len(progress.results.contenders))
    if progress.last and (progress.measured % count == 0 or done == progress.total):
        image = failures.printable(progress.last.image)
        typer.echo(f"{done} of {progress.total} files, {image}; {_left(progress)} left", err=True)


def _left(progress: Progress) -> str:
    """The time that is left, in words."""
    seconds = progress.remaining_seconds
    if seconds is None:
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )


@contextlib.contextmanager
def _live() -> Iterator[Callable[[Progress], None]]:
    """Yield what shows the tables so far, anew every second."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from gencodec.evaluation import tables

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        last = 0.0

        def show(progress: Progress) -> None:
            nonlocal last
            if time.monotonic() - last < INTERVAL:
                return
            last = time.monotonic()
            done, results = progress.reused + progress.measured, progress.results
            parts = [tables.plain(tables.lossless(results)), tables.plain(tables.lossy(results))]
            parts.append(f"{done} of {progress.total} files, {_left(progress)} left")
            live.update(Text("\n".join(part for part in parts if part), no_wrap=True), refresh=True)

        yield show

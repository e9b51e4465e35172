"""Names, sources and targets of the commands that read one file and write another."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gencodec.cli import stdout
from gencodec.codec import atomic
from gencodec.errors import TargetError, UsageError

STANDARD = "-"  # stdin as a source, stdout as a target
SUFFIX = ".gnc"
SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))


@dataclass(frozen=True)
class Job:
    """One source and the target made from it; either may be `-`."""

    source: str
    target: str


def compressed_name(name: str) -> str:
    """Return the name of the .gnc file for an image file."""
    return name + SUFFIX


def decompressed_name(name: str, image_format: str | None = None) -> str:
    """Return the name of the image file for a .gnc file: `img.png.gnc` gives `img.png`.

    A name that is then without the suffix of a format that can be written gets `.png`, or the suffix of
    `image_format` where that is given. Raises UsageError if the name does not end in `.gnc`.
    """
    from gencodec.codec.formats import SUFFIXES

    path = Path(name)
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"the name does not end in {SUFFIX}: name the output with -o")
    image = path.with_suffix("")
    known = SUFFIXES.get(image.suffix.lower())
    if known and image_format in (None, known):
        return str(image)
    return f"{image}.{image_format or 'png'}"


def plan(sources: Sequence[str], output: str | None, output_dir: str | None, rename: Callable[[str], str]) -> list[Job]:
    """Return the job of every source, before anything is read or written; one for a source that is named twice.

    `rename` makes a target's name from a source's. Raises UsageError where options contradict each other or
    two sources would be written to one target.
    """
    sources = distinct(sources)
    if output is not None and output_dir is not None:
        raise UsageError("-o and --output-dir exclude each other")
    if output == "":
        raise UsageError("-o names no file")
    if output is not None and len(sources) > 1:
        raise UsageError("-o names the output of one file; use --output-dir for many")
    jobs = [Job(source, _target(source, output_dir, rename) if output is None else output) for source in sources]
    owners: dict[str, str] = {}
    for job in jobs:
        owner = owners.setdefault(os.path.normpath(job.target), job.source)
        if owner != job.source:
            raise UsageError(f"{owner} and {job.source} would both be written to {job.target}")
    return jobs


def distinct(sources: Sequence[str]) -> list[str]:
    """Sources without those that were named before. Raises UsageError for stdin, which can be read only once."""
    if sources.count(STANDARD) > 1:
        raise UsageError("standard input can be read only once")
    return list(dict.fromkeys(sources))


def _target(source: str, output_dir: str | None, rename: Callable[[str], str]) -> str:
    """Return where the output of `source` goes when no -o says so."""
    if source == STANDARD:
        if output_dir is not None:
            raise UsageError("standard input has no name to give a file in --output-dir; use -o")
        return STANDARD
    try:
        name = rename(source)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    return name if output_dir is None else str(Path(output_dir) / Path(name).name)


def read(source: str) -> bytes:
    """Return the whole content of a file, or of stdin for `-`. Raises OSError and UsageError."""
    if source != STANDARD:
        return Path(source).read_bytes()
    if sys.stdin.isatty():
        raise UsageError("no image comes from a terminal: name a file or redirect the input")
    return sys.stdin.buffer.read()


def check_target(job: Job, *, force: bool) -> None:
    """Refuse a target that must not be written, before any work is done for it.

    Raises UsageError for binary data to a terminal and for a target that is its own source, and TargetError for a file
    that exists, unless `force` is set, and for a folder that cannot take it. Devices and pipes are always written.
    """
    if job.target == STANDARD:
        if sys.stdout.isatty():
            raise UsageError("binary data does not go to a terminal: use -o or redirect the output")
        return
    target = Path(job.target)
    if target.is_dir() or job.target.endswith(SEPARATORS):
        raise UsageError(f"{job.target} is a folder; use --output-dir")
    exists = target.exists()
    if exists and job.source != STANDARD and Path(job.source).exists() and target.samefile(job.source):
        raise UsageError("the output would replace the file itself")
    if target.is_file() and not force:
        raise TargetError(f"{job.target} exists; use -f to overwrite it")
    try:
        atomic.check_target(target)
    except OSError as error:
        raise TargetError(error.strerror) from error


def write(target: str, data: bytes) -> None:
    """Write a file whole or not at all, or to stdout for `-`. Raises TargetError, and StdoutLost for `-`."""
    if target == STANDARD:
        stdout.write(data)
        return
    try:
        atomic.write_file(target, data)
    except OSError as error:
        raise TargetError(f"{target} cannot be written: {error.strerror}") from error

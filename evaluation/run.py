"""A run: every picture by every contender, in one process or several, going on where an earlier run was left."""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import gencodec
from gencodec.codec.image import Image
from gencodec.errors import GencodecError
from gencodec.evaluation import contenders, machine, store
from gencodec.evaluation.contenders import Entry
from gencodec.evaluation.corpus import Picture
from gencodec.evaluation.measure import Row, measure, row
from gencodec.evaluation.protocol import Contender, Options
from gencodec.evaluation.store import Keeper, Results

WARM_UP = 64
"""Side of the picture that is coded before anything is timed."""
AHEAD = 4
"""Tasks that are handed out in advance, for each process."""


@dataclass(frozen=True)
class Task:
    """One picture by one contender."""

    picture: Picture
    entry: Entry
    options: Options
    known: dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a run is: its results, rows that were there before, rows measured, rows in all, and the last one.

    `remaining_seconds` is None while nothing has been measured.
    """

    results: Results
    reused: int
    measured: int
    total: int
    last: Row | None
    remaining_seconds: float | None


Listener = Callable[[Progress], None]


def run(
    pictures: Sequence[Picture],
    entries: Sequence[Entry],
    options: Options,
    folder: Path | None = None,
    *,
    jobs: int = 1,
    listen: Listener | None = None,
) -> Results:
    """Measure all, and keep the results in a folder while it goes on; a row that the folder has is not measured again.

    `jobs`: processes at a time; speeds are then those of a machine that is busy. Raises UsageError.
    """
    earlier = store.prepare(folder) if folder else None
    results, tasks = plan(pictures, entries, options, jobs)
    reused = _take_over(results, tasks, earlier)
    keeper = Keeper(results, folder) if folder else None
    begin, order = time.monotonic(), _order(pictures, entries)
    total = reused + len(tasks)
    try:
        if listen:
            listen(Progress(results, reused, 0, total, None, None))
        for count, found in enumerate(_measured(tasks, jobs), 1):
            results.rows.append(found)
            if found.unread:
                results.images[found.image] = found.error
            if keeper:
                keeper.keep()
            if listen:
                left = (time.monotonic() - begin) / count * (len(tasks) - count)
                listen(Progress(results, reused, count, total, found, left))
    finally:
        results.rows.sort(key=lambda row: order[row.image, row.contender])
        if folder:
            store.save(results, folder)
    return results


def plan(
    pictures: Sequence[Picture], entries: Sequence[Entry], options: Options, jobs: int
) -> tuple[Results, list[Task]]:
    """Results without rows, and the tasks that fill them, picture by picture. Raises UsageError."""
    settings = {"threads": options.threads, "device": options.device, "jobs": jobs}
    results = Results(gencodec.__version__, time.strftime("%Y-%m-%d"), machine.describe(), settings)
    where = f"{machine.processor()}, {machine.cores()} cores"
    made = {entry: contenders.make(entry, options) for entry in entries}
    for entry, contender in made.items():
        fields = ("codec", "quality", "version", "settings", "lossless", "missing")
        results.contenders[entry.name] = {field: getattr(contender, field) for field in fields} | {"model": entry.model}
    tasks, digest = [], hashlib.sha256()
    for picture in pictures:
        try:
            sha256 = picture.digest()
        except OSError as error:
            results.images[picture.name] = f"cannot be read: {error.strerror}"
            continue
        results.images[picture.name] = ""
        digest.update(f"{picture.name} {sha256}\n".encode())
        tasks += [
            Task(picture, entry, options, row(picture.name, sha256, where, entry.name, contender))
            for entry, contender in made.items()
            if not contender.missing
        ]
    results.corpus = digest.hexdigest()
    return results, tasks


def _order(pictures: Sequence[Picture], entries: Sequence[Entry]) -> dict[tuple[str, str], int]:
    """The place of every row."""
    names = [(picture.name, entry.name) for picture in pictures for entry in entries]
    return {name: place for place, name in enumerate(names)}


def _take_over(results: Results, tasks: list[Task], earlier: Results | None) -> int:
    """Move the rows of an earlier run that need not be measured again, and drop their tasks; how many they are.

    Rows that failed are measured again.
    """
    kept = {row.key: row for row in earlier.rows if not row.error} if earlier else {}
    left = []
    for task in tasks:
        found = kept.get(Row(**task.known).key)
        if found:
            results.rows.append(found)
        else:
            left.append(task)
    tasks[:] = left
    return len(results.rows)


def _measured(tasks: Sequence[Task], jobs: int) -> Iterator[Row]:
    """The rows of all tasks, as they are done."""
    if jobs == 1 or len(tasks) < 2:
        yield from map(work, tasks)
        return
    waiting = iter(tasks)
    # a fresh interpreter each: a copy of this one would share the threads of its ONNX sessions; deaf to Ctrl-C, for
    # this one ends them
    fresh, deaf = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(jobs, fresh, initializer=signal.signal, initargs=deaf) as pool:
        running: set[Future[Row]] = set()
        try:
            while True:
                for task in waiting:
                    running.add(pool.submit(work, task))
                    if len(running) >= AHEAD * jobs:
                        break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    running.discard(future)
                    yield future.result()
        except BrokenProcessPool as error:
            raise GencodecError(
                "a process of the run was killed, perhaps for want of memory: use fewer --jobs"
            ) from error
        finally:
            if running:  # broken off: what is handed out would be done to its end
                for process in list((pool._processes or {}).values()):
                    process.terminate()


def work(task: Task) -> Row:
    """Do one task in this process."""
    try:
        image = _image(task.picture)
    except OSError as error:
        return Row(**task.known, error=f"cannot be read: {error.strerror or error}")
    except (GencodecError, MemoryError) as error:
        return Row(**task.known, error=str(error) or "not enough memory")
    return measure(image, _warm(task.entry, task.options), task.known)


@lru_cache(maxsize=1)
def _image(picture: Picture) -> Image:
    """The picture, for all contenders in turn."""
    return picture.read()


@cache
def _warm(entry: Entry, options: Options) -> Contender:
    """The contender, its libraries and models loaded."""
    contender = contenders.make(entry, options)
    slope = np.add.outer(np.arange(WARM_UP), np.arange(WARM_UP))[..., None]
    grain = np.random.default_rng(0).integers(0, 8, (WARM_UP, WARM_UP, 3))
    image = Image.from_array((slope + grain).astype(np.uint8))
    measure(image, contender, row("warm-up", "", "", entry.name, contender))
    return contender

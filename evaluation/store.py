"""The results of a run on disk: results.json, from which a run goes on, and results.csv, for other programs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from gencodec.codec.atomic import write_file
from gencodec.errors import MALFORMED, UsageError
from gencodec.evaluation.measure import Row

JSON, CSV, PAGE = "results.json", "results.csv", "report.html"
FORMAT = 1
"""Of results.json; raised when older readers would misread it."""
# JSON writes whole numbers without a point
TYPES = {name: kind | int if float in get_args(kind) else kind for name, kind in get_type_hints(Row).items()}
"""What a row's values may be."""


@dataclass
class Results:
    """What a run has found so far.

    `contenders`: name -> codec, quality, version, settings, lossless, missing, and whether it is a model of gencodec's,
    in the order of the run. `images`: name -> what is wrong with the image, empty for a good one. `corpus`: SHA-256
    over the names and the hashes of all images. `settings`: threads, device, jobs. `machine`: as `machine.describe`.
    """

    version: str
    date: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    corpus: str = ""
    contenders: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def of(self, contender: str) -> list[Row]:
        """The finished rows of one contender, in the order of the images."""
        return [row for row in self.rows if row.contender == contender and row.done]

    @property
    def failures(self) -> list[str]:
        """One sentence for each image that cannot be read, and for each other row that failed."""
        broken = [f"{name}: {reason}" for name, reason in self.images.items() if reason]
        return broken + [
            f"{row.image} by {row.contender}: {row.error}" for row in self.rows if row.error and not row.unread
        ]


def load(path: Path) -> Results:
    """Read results.json, or that of a folder. Raises UsageError where there is none that can be read."""
    file = path / JSON if path.is_dir() else path
    try:
        content = json.loads(file.read_text())
        if content.pop("format") != FORMAT:
            raise UsageError(f"{file} was written by another version of gencodec")
        rows = [_row(values) for values in content.pop("rows")]
        return Results(**content, rows=rows)
    except OSError as error:
        raise UsageError(f"the results {file} cannot be read: {error.strerror}") from error
    except MALFORMED as error:
        raise UsageError(f"{file} does not hold results of gencodec evaluate") from error


def _row(values: dict[str, Any]) -> Row:
    """A row of what results.json says. Raises TypeError where that is of other types."""
    row = Row(**values)
    for name, kind in TYPES.items():
        if not isinstance(getattr(row, name), kind):
            raise TypeError(name)
    return row


def as_json(results: Results) -> str:
    """The whole of results.json."""
    return json.dumps({"format": FORMAT} | asdict(results), indent=1, allow_nan=False) + "\n"


def as_csv(results: Results) -> str:
    """A line of names, and a line a row."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [column.name for column in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in results.rows)
    return file.getvalue()


def save(results: Results, folder: Path) -> None:
    """Write both files, each whole or not at all. Raises OSError."""
    write_file(folder / JSON, as_json(results).encode())
    write_file(folder / CSV, as_csv(results).encode())


class Keeper:
    """Saves results as they come, but spends no more than a small share of the time on it."""

    SHARE = 0.05

    def __init__(self, results: Results, folder: Path):
        self.results, self.folder = results, folder
        self.next = 0.0

    def keep(self) -> None:
        """Save if it is time to."""
        begin = time.monotonic()
        if begin >= self.next:
            save(self.results, self.folder)
            end = time.monotonic()
            self.next = end + max(1.0, (end - begin) / self.SHARE)


def prepare(folder: Path) -> Results | None:
    """Make the folder of a report; what an earlier run has left there, if anything. Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the report folder {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(f"the report folder {folder} cannot be read and written")
    return load(folder) if (folder / JSON).exists() else None

"""What the programs of this folder share: their arguments, lines of progress, and tables between marks of a page."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from gencodec.evaluation.run import Progress


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of the arguments that all programs take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folders", nargs="+", metavar="DIR", help="folders of images, each a set by its name")
    made.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th image")
    made.add_argument("--threads", type=int, default=2, help="of the codecs that know threads (default: 2)")
    made.add_argument("--device", default="cpu")
    made.add_argument("--report", type=Path, metavar="DIR", help="keep the rows there; a later run goes on with them")
    made.add_argument("--page", type=Path, help="file whose part between marks becomes the tables")
    return made


def show(progress: Progress) -> None:
    """Print a line for every row."""
    row, done = progress.last, progress.reused + progress.measured
    if row:
        result = row.error or row.skipped or f"{row.bytes} bytes"
        print(f"{done}/{progress.total} {row.image}, {row.contender}: {result}", file=sys.stderr, flush=True)


def insert(page: Path, mark: str, text: str) -> None:
    """Replace what stands between a file's marks of a name. Raises SystemExit where it has none."""
    marked = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    content = page.read_text()
    if not marked.search(content):
        raise SystemExit(f"{page} has no <!-- {mark} --> and <!-- /{mark} -->")
    page.write_text(marked.sub(lambda marks: marks[1] + text + marks[2], content))


def link(path: Path, page: Path | None) -> str:
    """How a page names a file, or the path from here where there is no page."""
    return Path(os.path.relpath(path, page.parent if page else ".")).as_posix()


def write(results: dict[str, Any], output: Path | None) -> None:
    """Write results as JSON to a file or standard output."""
    text = json.dumps(results, indent=1) + "\n"
    if output:
        output.write_text(text)
    else:
        print(text, end="")

"""Wall time and peak memory of a command: `python process.py COMMAND...` prints both as JSON.

The measuring process is a small one of its own, because Linux counts what a parent held at the start of its
child as the child's peak.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Run:
    """What a whole process took: wall seconds, and the most bytes that were resident."""

    seconds: float
    peak_bytes: int


def measure(*command: str) -> Run:
    """Run a command to its end. Raises CalledProcessError if it fails."""
    done = subprocess.run([sys.executable, __file__, *command], stdout=subprocess.PIPE, check=True)
    return Run(**json.loads(done.stdout))


def gencodec(*arguments: str) -> Run:
    """Run the command line of the gencodec that this interpreter finds."""
    return measure(sys.executable, "-m", "gencodec", *arguments)


def main() -> None:
    """Measure the command of this process's arguments; what it prints is dropped, but for errors."""
    start = time.perf_counter()
    subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps(asdict(Run(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit))))


if __name__ == "__main__":
    main()

"""The command line and the system around it: terminals, streams, interruptions and full disks."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import ENVIRONMENT, command, gencodec, process

# Terminals


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Open a terminal: the end that reads what it shows, and its own."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


def test_binary_to_a_terminal_is_refused(picture: Path, terminal: tuple[int, int]) -> None:
    done = process("compress", picture, "-o", "-", stdout=terminal[1])
    assert done.returncode == 2
    assert b"terminal" in done.stderr


@pytest.mark.usefixtures("folder")
def test_an_image_from_a_terminal_is_refused(terminal: tuple[int, int]) -> None:
    done = process("compress", "-", stdin=terminal[1])
    assert done.returncode == 2
    assert b"terminal" in done.stderr


def test_progress_and_notes_only_on_a_terminal(picture: Path, terminal: tuple[int, int]) -> None:
    before = (
        "from gencodec.codec import api\n"
        "def compress(image, *, progress, note, **_):\n"
        "    if progress: progress(0.37)\n"
        "    if note: note('step 3 of 7')\n"
        "    return b'data'\n"
        "api.compress = compress"
    )
    done = process("compress", picture, "-o", "-", before=before, stderr=terminal[1])
    shown = os.read(terminal[0], 1 << 16).decode()
    assert (done.returncode, done.stdout) == (0, b"data")
    assert "37%" in shown
    assert "a.png: step 3 of 7" in shown
    piped = process("compress", picture, "-o", "-", before=before)
    assert b"%" not in piped.stderr
    assert b"step" not in piped.stderr


# Streams


@pytest.mark.parametrize(
    ("arguments", "closed", "code"),
    [
        ("info a.png.gnc", ">&-", 1),
        ("compress a.png -f", ">&-", 0),
        ("compress a.png -f", "2>&-", 0),
        ("compress - -o b", "<&-", 3),
    ],
)
def test_closed_streams_are_no_bugs(coded: Path, arguments: str, closed: str, code: int) -> None:
    before = coded.stat().st_mtime_ns
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", *command(*arguments.split())]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False)
    assert (coded.stat().st_mtime_ns > before) == ("-f" in arguments)


def test_names_that_stdout_cannot_encode_are_told(coded: Path) -> None:
    coded.rename("grüße→.gnc")
    done = process("info", "grüße→.gnc", before="import sys\nsys.stdout.reconfigure(encoding='latin-1')")
    assert done.returncode == 0
    assert done.stdout.startswith("grüße\\u2192.gnc: ".encode("latin-1"))


# Interruptions and full disks

WAIT = """
import sys, time
def wait(*_, **__):
    print("ready", file=sys.stderr, flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize(
    "before",
    [
        "from gencodec.codec import api\napi.compress = wait",
        "import os\nos.fsync = wait",  # the temporary file is there, and full
    ],
    ids=["coding", "writing"],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_nothing(picture: Path, before: str, number: signal.Signals) -> None:
    with subprocess.Popen(
        command("compress", picture, before=WAIT + before), env=ENVIRONMENT, stderr=subprocess.PIPE
    ) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == b"ready\n"
        running.send_signal(number)
        assert running.stderr.read() == b"gencodec: interrupted\n"
    assert running.returncode == 130
    assert os.listdir() == ["a.png"]


def test_interruption_keeps_the_old_output(coded: Path, picture: Path) -> None:
    before = coded.read_bytes()
    failing = "import os\ndef fsync(*_):\n    raise KeyboardInterrupt\nos.fsync = fsync"
    assert process("compress", picture, "-f", before=failing).returncode == 130
    assert coded.read_bytes() == before
    assert sorted(os.listdir()) == ["a.png", "a.png.gnc"]


def test_full_disk_leaves_nothing(picture: Path) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    done = process("compress", picture, before=limit)
    assert (done.returncode, done.stderr) == (1, b"gencodec: a.png: a.png.gnc cannot be written: File too large\n")
    assert os.listdir() == ["a.png"]


def test_full_device(picture: Path) -> None:
    result = gencodec("compress", picture, "-o", "/dev/full")
    assert (result.exit_code, result.stderr) == (
        1,
        "gencodec: a.png: /dev/full cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize("arguments", [["--help"], ["info", "a.png.gnc"], ["compress", "a.png", "-o", "-"]])
def test_full_stdout(coded: Path, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = process(*arguments, stdout=full)
    assert (done.returncode, done.stderr) == (1, b"gencodec: standard output: No space left on device\n")


@pytest.mark.parametrize("arguments", [["--help"], ["info", "a.png.gnc"], ["compress", "a.png", "-o", "-"]])
def test_reader_gone(coded: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = process(*arguments, stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")

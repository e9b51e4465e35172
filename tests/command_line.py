"""Commands of gencodec, run in this process or in a fresh one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from gencodec.cli import app

ROOT = Path(__file__).resolve().parent.parent
MAIN = "from gencodec.cli import main\nmain()"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def gencodec(*arguments: object, stdin: bytes | None = None) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def command(*arguments: object, before: str = "") -> list[str]:
    """Return the command line of a fresh process, in which the code `before` runs first."""
    return [sys.executable, "-c", f"{before}\n{MAIN}", *(str(argument) for argument in arguments)]


def process(*arguments: object, before: str = "", **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a fresh process."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "check": False} | options
    return subprocess.run(command(*arguments, before=before), env=ENVIRONMENT, **options)  # type: ignore[call-overload]

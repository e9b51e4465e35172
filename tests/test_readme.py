"""The README's examples run, and name what exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def blocks(language: str) -> list[str]:
    """Return the README's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter that finds the package in this checkout."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty working folder that has the examples."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_example_runs(folder: Path) -> None:
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert (folder / "coast.gnc").stat().st_size < (folder / "examples/coast.png").stat().st_size


def test_set_up_command_runs(folder: Path) -> None:
    install, check = (block.strip() for block in blocks("sh")[:2])
    command = shlex.split(install.split(" && ")[-1])
    assert command[0] == ".venv/bin/gencodec"
    done = run("-m", "gencodec", *command[1:])
    assert done.returncode == 0, done.stderr
    assert (folder / command[-1]).exists()
    assert (ROOT / check.split()[-1]).exists()


def test_commands_named_exist() -> None:
    from gencodec.cli import app

    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    words = re.sub(r"<!-- results -->.*<!-- /results -->", "", README, flags=re.DOTALL)  # there codecs are named
    assert set(re.findall(r"gencodec (\w+) [^`\n]*(?:\.gnc|\.png|-)", words)) <= known


def test_results_are_marked() -> None:
    assert README.index("<!-- results -->") < README.index("<!-- /results -->")


def test_embedding_example_runs(folder: Path) -> None:
    done = run("examples/embed.py", "examples/coast.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("416 x 312 x 3: ")

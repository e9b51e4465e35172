"""Every check of the project in one command; CI runs the same.

Arguments go to pytest: `python scripts/check.py -k container`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run the checks in order and return the status of the first that fails."""
    checks = (
        ("ruff", "format", "--check", "."),
        ("ruff", "check", "."),
        ("pyright", "--project", "pyproject.toml", "--pythonpath", sys.executable),
        ("pytest", "--numprocesses", "2", "--dist", "loadfile", *sys.argv[1:]),
    )
    for check in checks:
        print("$", *check, flush=True)
        status = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())

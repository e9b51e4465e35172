"""What is installed: every package, the weights, and nothing that pulls torch in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "cli",
    "codec",
    "evaluation",
    "export",
    "models",
    "runtime",
)  # folders at the root that are imported below gencodec
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter that finds the package in this checkout."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-P", "-c", code], env=env, capture_output=True, text=True, check=False)


def package_folders() -> dict[str, str]:
    """Return {package: folder} of every folder with an __init__.py, as it stands in the tree."""
    found = {"gencodec": "gencodec"}
    for source in SOURCES:
        for file in (ROOT / source).rglob("__init__.py"):
            folder = file.parent.relative_to(ROOT).as_posix()
            found["gencodec." + folder.replace("/", ".")] = folder
    return found


def test_listed_packages_are_the_folders() -> None:
    setup = PYPROJECT["tool"]["setuptools"]
    folders = package_folders()
    assert setup["packages"] == sorted(folders)
    for package, folder in folders.items():
        top = ".".join(package.split(".")[:2])
        mapped = setup["package-dir"].get(package) or setup["package-dir"].get(top, top)
        assert (ROOT / folder).is_relative_to(ROOT / mapped)


@pytest.mark.parametrize("source", SOURCES)
def test_links_serve_the_bare_checkout(source: str) -> None:
    link = ROOT / "gencodec" / source
    assert link.is_symlink()
    assert os.readlink(link) == f"../{source}"


@pytest.mark.parametrize(
    "module", ["gencodec", "gencodec.codec.api", "gencodec.evaluation.run", "gencodec.runtime", "gencodec.cli"]
)
def test_torch_is_not_needed(module: str) -> None:
    done = run(f"import sys, {module}; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_import_is_light() -> None:
    done = run("import sys, gencodec; print([m for m in ('onnxruntime', 'imagecodecs', 'PIL') if m in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['gencodec', '--help']; import atexit, gencodec.cli\n"
        "heavy = ('torch', 'onnxruntime', 'numpy', 'PIL', 'imagecodecs', 'constriction')\n"
        "atexit.register(lambda: print('heavy:', [m for m in heavy if m in sys.modules]))\n"
        "gencodec.cli.main()"
    )
    assert run(code).stdout.endswith("heavy: []\n")


def test_version_is_the_package_version() -> None:
    import gencodec

    done = run("import runpy, sys; sys.argv = ['', '--version']; runpy.run_module('gencodec', run_name='__main__')")
    assert done.stdout == f"gencodec {gencodec.__version__}\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("gencodec", *SOURCES):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(folder.glob("*.whl"))


def test_wheel_holds_every_module_and_weight(wheel: Path) -> None:
    expected = {"gencodec/py.typed"}
    for package, folder in package_folders().items():
        expected |= {f"{package.replace('.', '/')}/{file.name}" for file in (ROOT / folder).glob("*.py")}
    expected |= {f"gencodec/weights/{file.name}" for file in (ROOT / "gencodec/weights").glob("*.onnx")}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert any(name.endswith(".onnx") for name in held)


def test_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 20_000_000


def test_wheel_works(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import gencodec, numpy\n"
        f"assert gencodec.__file__.startswith({str(tmp_path)!r}), gencodec.__file__\n"
        f"data = gencodec.compress({str(ROOT / 'examples/coast.png')!r})\n"
        "print(gencodec.decompress(data).pixels.shape, gencodec.info(data).width)"
    )
    done = run(code, PYTHONPATH=str(tmp_path / "site"))
    assert done.stdout == "(312, 416, 3) 416\n", done.stderr

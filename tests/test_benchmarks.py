"""The benchmark's arithmetic, on two tiny images whose files are made here once more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image as PillowImage

import gencodec
from gencodec.codec import ordinary

ROOT = Path(__file__).resolve().parent.parent
RIFF_HEADER = 20
SHAPES = {"a.png": (40, 48), "b.png": (56, 36)}


def image(name: str) -> np.ndarray:
    """Noise on a slope, uint8 (height, width, 3)."""
    height, width = SHAPES[name]
    slope = np.arange(width)[:, None] + np.arange(height)[:, None, None]
    return (slope + np.random.default_rng(height).integers(0, 9, (height, width, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the two images, and the results of one run over it."""
    made = tmp_path_factory.mktemp("benchmark")
    (made / "images").mkdir()
    for name in SHAPES:
        PillowImage.fromarray(image(name)).save(made / "images" / name)
    (made / "README.md").write_text("Before\n<!-- results -->\nStale.\n<!-- /results -->\nAfter\n")
    program = [sys.executable, ROOT / "benchmarks/lossless.py", made / "images", "--sets-only"]
    options = ["--threads", "1", "-o", made / "results.json", "--page", made / "README.md"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*program, *options], env=environment, check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def test_sizes_are_those_of_whole_files(results: dict[str, Any]) -> None:
    sizes = {(row["image"], row["contender"]): row["bytes"] for row in results["run"]["rows"]}
    for name in SHAPES:
        pixels = image(name)
        webp = RIFF_HEADER + len(ordinary.encode_webp(pixels))
        expected = {
            "photo": len(gencodec.compress(pixels)),
            "jxl": len(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=7)),
            "webp": webp + webp % 2,
        }
        assert {codec: sizes[f"images/{name}", codec] for codec in expected} == expected


def test_the_table_takes_its_place_in_the_readme(folder: Path, results: dict[str, Any]) -> None:
    text = (folder / "README.md").read_text()
    assert text.startswith("Before\n<!-- results -->\n|  | images, 2 images | ")
    assert text.endswith("\n<!-- /results -->\nAfter\n")
    assert "Stale." not in text
    totals = results["sets"]["images"]
    ratio = totals["webp"]["bytes"] / totals["jxl"]["bytes"]
    version = results["run"]["contenders"]["webp"]["version"]
    assert f"| webp ({version}) | {totals['webp']['bpsp_over_images']:.3f} ({ratio:.3f}) | " in text
    sizes = {(row["image"], row["contender"]): row["bytes"] for row in results["run"]["rows"]}
    excess = max(sizes[f"images/{name}", "photo"] - sizes[f"images/{name}", "webp"] for name in SHAPES)
    assert excess <= 64
    assert f"{abs(excess)} bytes" in text
    own = np.mean([sizes[f"images/{name}", "photo"] / sizes[f"images/{name}", "jxl"] for name in SHAPES])
    assert f"- Images, mean of the images' own ratios to jxl: photo {own:.3f}.\n" in text


def test_processes_are_measured(folder: Path) -> None:
    """A child's peak memory is its own, not that of the process which starts it."""
    program = [sys.executable, ROOT / "benchmarks/process.py", sys.executable, "-c", "b'x' * 50_000_000"]
    found = json.loads(subprocess.run(program, check=True, capture_output=True).stdout)
    assert found["seconds"] > 0
    assert 50_000_000 < found["peak_bytes"] < 120_000_000

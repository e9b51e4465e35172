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
    program = [sys.executable, ROOT / "benchmarks/lossless.py", f"two={made / 'images'}", "--sets-only"]
    options = ["--threads", "1", "-o", made / "results.json", "--readme", made / "README.md"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*program, *options], env=environment, check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def test_sizes_are_those_of_whole_files(results: dict[str, Any]) -> None:
    for row in results["files"]["two"]:
        pixels = image(row["file"])
        webp = RIFF_HEADER + len(ordinary.encode_webp(pixels))
        expected = {
            "gencodec": len(gencodec.compress(pixels)),
            "JPEG XL e7": len(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=7)),
            "WebP": webp + webp % 2,
        }
        assert {name: row["coded"][name]["bytes"] for name in expected} == expected
        assert (row["pixels"], row["samples"]) == (pixels.size // 3, pixels.size)


def test_means_and_ratios(results: dict[str, Any]) -> None:
    rows, found = results["files"]["two"], results["sets"]["two"]
    samples = [40 * 48 * 3, 56 * 36 * 3]
    reference = [row["coded"]["JPEG XL e7"] for row in rows]
    for codec, totals in found["codecs"].items():
        coded = [row["coded"][codec] for row in rows]
        sizes = [c["bytes"] for c in coded]
        assert totals["bytes"] == sum(sizes)
        mean = (8 * sizes[0] / samples[0] + 8 * sizes[1] / samples[1]) / 2
        assert totals["bpsp_over_images"] == pytest.approx(mean)
        assert totals["bpsp_over_bytes"] == pytest.approx(8 * sum(sizes) / sum(samples))
        assert totals["bytes_ratio"] == pytest.approx(sum(sizes) / sum(r["bytes"] for r in reference))
        for way in ("encode", "decode"):
            seconds = sum(c[f"{way}_seconds"] for c in coded)
            assert totals[f"{way}_mps"] == pytest.approx((40 * 48 + 56 * 36) / 1e6 / seconds)
    excess = max(row["coded"]["gencodec"]["bytes"] - row["coded"]["WebP"]["bytes"] for row in rows)
    assert found["largest_excess_bytes"] == excess <= 64


def test_table_takes_its_place_in_the_readme(folder: Path, results: dict[str, Any]) -> None:
    text = (folder / "README.md").read_text()
    assert text.startswith("Before\n<!-- results -->\n| ")
    assert text.endswith("\n<!-- /results -->\nAfter\n")
    assert "Stale." not in text
    rate = results["sets"]["two"]["codecs"]["WebP"]["bpsp_over_images"]
    assert f"| WebP ({results['codecs']['WebP']}) | {rate:.3f} (" in text


def test_processes_are_measured(folder: Path) -> None:
    """A child's peak memory is its own, not that of the process which starts it."""
    program = [sys.executable, ROOT / "benchmarks/process.py", sys.executable, "-c", "b'x' * 50_000_000"]
    found = json.loads(subprocess.run(program, check=True, capture_output=True).stdout)
    assert found["seconds"] > 0
    assert 50_000_000 < found["peak_bytes"] < 120_000_000

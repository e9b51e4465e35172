"""The benchmark of disentanglement: what it says of latents that are known."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from gencodec.export.sprites import export_sprites
from gencodec.models.spritevae import SpriteVAE, SpriteVAEConfig

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program as a module, forgotten with its neighbors afterwards."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("disentanglement")
    for name in ("disentanglement", "pages"):
        sys.modules.pop(name, None)


def accuracy(confusion: np.ndarray) -> float:
    return float(np.trace(confusion) / confusion.sum())


def test_the_factors_themselves_score_one(benchmark: Any) -> None:
    metric = benchmark.Metric(pairs=8, trained=150, tested=100)
    confusion = metric.confusion(lambda factors: factors.astype(float), seed=0)
    assert (confusion.shape, confusion.sum()) == ((5, 5), 100)
    assert accuracy(confusion) == 1
    assert np.array_equal(confusion, metric.confusion(lambda factors: -2.0 * factors, seed=0))


def test_noise_is_told_by_chance(benchmark: Any) -> None:
    rng = np.random.default_rng(3)
    metric = benchmark.Metric(pairs=8, trained=300, tested=500)
    confusion = metric.confusion(lambda factors: rng.standard_normal((len(factors), 10)), seed=0)
    assert 0.13 < accuracy(confusion) < 0.27


def test_what_two_latents_mix_is_confused(benchmark: Any) -> None:
    """A latent that is the sum of x and y, and one that is constant in their place."""

    def mixed(factors: np.ndarray) -> np.ndarray:
        z = factors.astype(float)
        z[:, 3], z[:, 4] = z[:, 3] + z[:, 4], 0
        return z

    confusion = benchmark.Metric(pairs=16, trained=300, tested=300).confusion(mixed, seed=1)
    shares = np.diag(confusion) / confusion.sum(1)
    assert (shares[:3] > 0.95).all()
    assert 0.3 < confusion[3:, 3:].trace() / confusion[3:].sum() < 0.7


def test_the_classifier_finds_what_is_linear(benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 2, (400, 6))
    y = (x @ rng.standard_normal((6, 5))).argmax(1)
    weight, bias = benchmark.classifier(x, y)
    assert ((x @ weight + bias).argmax(1) == y).mean() > 0.97


def test_the_program_writes_results_and_their_table(benchmark: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SpriteVAE(SpriteVAEConfig(latents=3, beta=2.0, widths=(4, 4, 4), hidden=24))
    export_sprites(network, tmp_path / "tiny.onnx", {"steps": "7"})
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- disentanglement -->\n<!-- /disentanglement -->\nafter\n")
    sizes = ["--seeds", "2", "--pairs", "2", "--points", "20", "--threads", "1"]
    benchmark.main([str(tmp_path / "tiny.onnx"), *sizes, "-o", str(tmp_path / "found.json"), "--page", str(page)])
    results = json.loads((tmp_path / "found.json").read_text())
    (found,) = results["models"]
    assert (found["model"], found["beta"], found["steps"]) == ("tiny.onnx", 2.0, 7)
    assert len(found["divergence_nats"]) == 3
    assert found["score"] == pytest.approx(np.mean(found["scores"]))
    assert len(found["scores"]) == results["seeds"] == 2
    text = page.read_text()
    assert text.startswith("before\n<!-- disentanglement -->\n| beta | score |")
    assert f"| 2 | **{found['score']:.1%}** |" in text

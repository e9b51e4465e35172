"""The benchmarks of the families: their arithmetic, on codecs whose sizes are known."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

import gencodec
from gencodec import runtime
from gencodec.codec.coder import Stack
from gencodec.models.families import find_family
from gencodec.models.quantize import set_exact

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
Pixels = NDArray[np.uint8]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports programs of the folder, and forgets them and what they have imported from there."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


# families.py


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def measured(benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """The program, and its results for a "family" whose files are PNG files, which it estimates 1000 bits smaller."""
    families = benchmarks("families")
    card = SimpleNamespace(name="glow-tiny.1", family="glow", file=tmp_path / "glow-tiny.onnx")
    codec = families.Contender(card.name, "1", png, lambda data: np.asarray(PillowImage.open(io.BytesIO(data))))
    monkeypatch.setattr(families, "chosen", lambda names: [card])
    monkeypatch.setattr(families, "own", lambda *_: codec)

    def info(data: bytes, *, model: str) -> Any:
        assert model == str(card.file)
        return SimpleNamespace(estimate_bits=8 * len(data) - 1000, initial_bits=400)

    monkeypatch.setattr(gencodec, "info", info)
    (tmp_path / "images").mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 9 + 20 * index, (20, 30 + index, 3)).astype(np.uint8)
        (tmp_path / "images" / f"{index}.png").write_bytes(png(noise))
    arguments = {"models": None, "checkpoint": {}, "threads": 1, "device": "cpu", "every": 2}
    return families, families.measure(argparse.Namespace(folder=tmp_path / "images", **arguments))


def test_totals_are_those_of_the_files(measured: tuple[Any, dict[str, Any]]) -> None:
    families, results = measured
    rows, totals = results["files"], results["totals"]
    assert [one["file"] for one in rows["glow-tiny.1"]] == ["0.png", "2.png"]
    assert set(totals) == {"glow-tiny.1", "PNG", "WebP", "JPEG XL e7"}
    sizes = [one["bytes"] for one in rows["glow-tiny.1"]]
    samples = [20 * 30 * 3, 20 * 32 * 3]
    own = totals["glow-tiny.1"]
    assert own["bytes"] == sum(sizes)
    assert own["bpsp_over_images"] == pytest.approx(sum(8 * b / s for b, s in zip(sizes, samples, strict=True)) / 2)
    assert own["bpsp_over_bytes"] == pytest.approx(8 * sum(sizes) / sum(samples))
    assert own["overhead"] == pytest.approx(2000 / (8 * sum(sizes) - 2000))
    assert own["largest_overhead"] == pytest.approx(max(1000 / (8 * size - 1000) for size in sizes))
    assert own["initial_share"] == pytest.approx(800 / (8 * sum(sizes)))
    for other in families.OTHERS:
        assert own[f"to_{other}"] == pytest.approx(sum(sizes) / totals[other]["bytes"])
    assert "overhead" not in totals["WebP"]
    json.dumps(results)


def test_the_table_takes_its_place(measured: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    families, results = measured
    table = families.markdown(results).splitlines()
    assert {line.count("|") for line in table[:6]} == {len(families.HEADS) + 1}
    sizes = {name: found["bytes"] for name, found in results["totals"].items()}
    best = min(sizes, key=lambda name: sizes[name])
    assert best in table[2]
    (own,) = (line for line in table if "`glow-tiny.1`" in line)
    assert own.startswith("| **Glow** (`glow-tiny.1`) | ")
    assert f"{results['totals']['glow-tiny.1']['overhead']:+.2%}" in own
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- families -->\nold\n<!-- /families -->\nb\n")
    families.insert(page, "families", "new\n")
    assert page.read_text() == "a\n<!-- families -->\nnew\n<!-- /families -->\nb\n"
    with pytest.raises(SystemExit, match="has no <!-- cifar -->"):
        families.insert(page, "cifar", "new\n")


@pytest.mark.parametrize("padded", [False, True])
def test_the_float_network_sees_the_codecs_tiles(
    padded: bool, benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = benchmarks("families")
    family = find_family("photo")
    config = family.configured(["hidden=8", "layers=1", "inner=4", "color_hidden=8", "bank=1"])
    torch.manual_seed(0)
    network = family.build(config).eval()
    torch.save({"config": asdict(config), "averaged": network.state_dict()}, tmp_path / "a.pt")
    monkeypatch.setattr(runtime, "load", lambda *_, **__: SimpleNamespace(config={"tile": 16}))
    monkeypatch.setattr(families, "BITS_BACK", ("photo",) if padded else ())
    floating = families.Floating(tmp_path / "a.pt", SimpleNamespace(family="photo"), torch.get_num_threads())
    pixels = np.random.default_rng(0).integers(0, 30, (16, 40, 3), np.uint8)
    parts = [pixels[:, 0:16], pixels[:, 16:32], pixels[:, 32:40]]
    if padded:
        parts[2] = np.pad(parts[2], ((0, 0), (0, 8), (0, 0)), mode="edge")
    for exact, found in zip((False, True), floating.bits(pixels), strict=True):
        set_exact(network, exact)
        with torch.no_grad():
            x = [torch.from_numpy(part[..., [1, 0, 2]].transpose(2, 0, 1).copy())[:, None].float() for part in parts]
            expected = sum(float(network(tile).sum()) for tile in x)
        assert found == pytest.approx(expected, rel=1e-4)


def test_files_of_families_are_checked(benchmarks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    families = benchmarks("families")
    parser = argparse.ArgumentParser()
    (tmp_path / "a.pt").touch()
    assert families.pairs(parser, [f"nice={tmp_path / 'a.pt'}"]) == {"nice": tmp_path / "a.pt"}
    for text in ("nice", f"glo={tmp_path / 'a.pt'}", "nice=nowhere"):
        with pytest.raises(SystemExit):
            families.pairs(parser, [text])
    assert "is not FAMILY=FILE" in capsys.readouterr().err


# cifar.py


class Codec:
    """Takes 16 random bits a tile, and codes every sample in 6 bits, of pictures whose samples are below 64."""

    tile, demand = 32, 16.0

    def __init__(self, model: Any):
        pass

    def push(self, stack: Stack, tiles: Pixels) -> None:
        drawn = stack.pop_uniform(1 << 16, len(tiles))
        stack.push_uniform(tiles.ravel().astype(np.int64), 64)
        stack.push_uniform(drawn, 1 << 16)

    def pop(self, stack: Stack, count: int) -> Pixels:
        drawn = stack.pop_uniform(1 << 16, count)
        tiles = stack.pop_uniform(64, count * 3 * 32 * 32)
        stack.push_uniform(drawn, 1 << 16)
        return tiles.reshape(count, 3, 32, 32).astype(np.uint8)


class Strips:
    """Codes pictures in 8 bits a sample."""

    @staticmethod
    def encode(pixels: Pixels, model: Any) -> Any:
        assert pixels.shape[1:] == (32, 3)
        return SimpleNamespace(payload=pixels.tobytes(), estimate_bits=7.9 * pixels.size)

    @staticmethod
    def decode(payload: bytes, shape: tuple[int, int, int], model: Any) -> Pixels:
        return np.frombuffer(payload, np.uint8).reshape(shape)


@pytest.fixture
def cifar(benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, with 70 images and codecs that cost 6 and 8 bits a dimension."""
    program = benchmarks("cifar")
    monkeypatch.setattr(program, "tile_codec", Codec)
    monkeypatch.setattr(program, "codec_of", lambda model: Strips)

    def load(file: Path, *, threads: int, device: str) -> Any:
        return SimpleNamespace(family=file.stem, config={"tile": 32}, card=SimpleNamespace(name=file.stem))

    monkeypatch.setattr(runtime, "load", load)
    np.save(tmp_path / "test_x.npy", np.random.default_rng(0).integers(0, 64, (80, 32, 32, 3), np.uint8))
    return program


def options(tmp_path: Path, *families: str) -> argparse.Namespace:
    files = {family: tmp_path / f"{family}.onnx" for family in families}
    return argparse.Namespace(data=tmp_path, model=files, checkpoint={}, count=70, threads=1, device="cpu")


def test_images_cost_what_their_codec_says(cifar: Any, tmp_path: Path) -> None:
    results = cifar.measure(options(tmp_path, "glow", "pixelcnn"))
    glow, pixelcnn = results["families"]["glow"], results["families"]["pixelcnn"]
    assert glow["bits_per_dimension"] == pytest.approx(6, rel=1e-3)
    assert glow["estimate_bits"] == pytest.approx(6 * 70 * 32 * 32 * 3)
    assert 0 < glow["initial_bytes"] < 100
    assert (pixelcnn["bits_per_dimension"], pixelcnn["initial_bytes"]) == (8, 0)
    assert (glow["paper"], pixelcnn["paper"], results["images"]) == (3.35, 3.03, 70)
    table = cifar.markdown(results).splitlines()
    assert table[2].startswith("| Glow | 6.0")
    assert table[3].startswith("| PixelCNN | 8.000 | 7.900 | 3.03 | 215040 | 0 |")


def test_pixels_that_differ_end_the_program(cifar: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Codec, "pop", lambda self, stack, count: np.zeros((count, 3, 32, 32), np.uint8))
    with pytest.raises(SystemExit, match="glow does not give back the pixels"):
        cifar.measure(options(tmp_path, "glow"))


def test_models_of_other_tiles_are_refused(cifar: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "load", lambda *_, **__: SimpleNamespace(family="nice", config={"tile": 64}))
    with pytest.raises(SystemExit, match="is of nice for tiles of 64, not glow of 32"):
        cifar.measure(options(tmp_path, "glow"))


def test_a_checkpoint_tells_what_the_training_took(benchmarks: Any, tmp_path: Path) -> None:
    network = find_family("photo").restored({})
    torch.save({"config": {}, "averaged": network.state_dict(), "steps": 9, "seconds": 90.0}, tmp_path / "a.pt")
    found = benchmarks("cifar").training(tmp_path / "a.pt", "photo")
    assert found == {"parameters": sum(p.numel() for p in network.parameters()), "steps": 9, "minutes": 1.5}


@pytest.mark.parametrize("name", ["families", "cifar"])
def test_nothing_runs_at_import(
    name: str, benchmarks: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = benchmarks(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        program.arguments()
    assert end.value.code == 0
    assert "FAMILY=FILE" in capsys.readouterr().out

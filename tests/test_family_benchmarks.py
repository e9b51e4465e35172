"""The benchmarks of the families: their arithmetic, on codecs whose sizes are known."""

from __future__ import annotations

import argparse
import importlib
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

from gencodec import runtime
from gencodec.codec.coder import Stack
from gencodec.models.families import find_family
from gencodec.models.quantize import set_exact
from tests.photographs import photograph

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


@pytest.fixture
def measured(benchmarks: Any, tmp_path: Path) -> tuple[Any, Any, argparse.Namespace]:
    """The program, its results for NICE on two of three small images, and its arguments."""
    families = benchmarks("families")
    (tmp_path / "images").mkdir()
    for index in range(3):
        PillowImage.fromarray(photograph(index, 20, 30)).save(tmp_path / "images" / f"{index}.png")
    settings = {"threads": 1, "device": "cpu", "every": 2, "report": None, "checkpoint": {}}
    args = argparse.Namespace(folders=[str(tmp_path / "images")], models=["nice-base.1"], **settings)
    results, networks = families.measure(args)
    assert networks == {}
    return families, results, args


def test_the_families_table(measured: tuple[Any, Any, argparse.Namespace]) -> None:
    families, results, args = measured
    assert list(results.images) == ["images/0.png", "images/2.png"]
    estimate = sum(row.estimate_bits for row in results.of("nice-base.1"))
    sizes = {name: sum(row.bytes for row in results.of(name)) for name in results.contenders}
    table = families.markdown(results, {"nice-base.1": {"float_bits": estimate / 1.01}}, args).splitlines()
    assert {line.count("|") for line in table[:6]} == {len(families.HEADS) + 1}
    assert table[2].startswith(f"| {min(sizes, key=lambda name: sizes[name])} ")
    (own,) = (line for line in table if "`nice-base.1`" in line)
    assert own.startswith("| **NICE** (`nice-base.1`) | ")
    assert f" | {sizes['nice-base.1'] / sizes['webp']:.3f} | " in own
    assert f"{8 * sizes['nice-base.1'] / estimate - 1:+.2%} | +1.00%" in own
    assert "every 2th" in table[-1]


def test_the_table_takes_its_place(benchmarks: Any, tmp_path: Path) -> None:
    pages = benchmarks("pages")
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- families -->\nold\n<!-- /families -->\nb\n")
    pages.insert(page, "families", "new\n")
    assert page.read_text() == "a\n<!-- families -->\nnew\n<!-- /families -->\nb\n"
    with pytest.raises(SystemExit, match="has no <!-- cifar -->"):
        pages.insert(page, "cifar", "new\n")
    assert pages.link(tmp_path / "plots/a.svg", page) == "plots/a.svg"


@pytest.mark.parametrize(("padded", "stated"), [(False, True), (True, True), (False, False)])
def test_the_float_network_sees_the_codecs_tiles(
    padded: bool, stated: bool, benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = benchmarks("families")
    family = find_family("photo")
    config = family.configured(["hidden=8", "layers=1", "inner=4", "color_hidden=8", "bank=1"])
    torch.manual_seed(0)
    network = family.build(config).eval()
    torch.save({"config": asdict(config), "averaged": network.state_dict()}, tmp_path / "a.pt")
    monkeypatch.setattr(runtime, "load", lambda *_, **__: SimpleNamespace(config={"tile": 16} if stated else {}))
    monkeypatch.setattr(families, "TILE", 16)
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


def test_code_lengths_of_a_float_network_add_up(benchmarks: Any) -> None:
    families = benchmarks("families")
    network = SimpleNamespace(bits=lambda pixels: (float(pixels.size), 2.0))
    pictures = [SimpleNamespace(read=lambda: SimpleNamespace(pixels=np.zeros((2, 3, 3))))] * 2
    assert families.floats(network, pictures) == {"float_bits": 36.0, "integer_bits": 4.0}


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


# lossy.py and results.py


def test_the_lossy_table_and_its_plots(benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = benchmarks("lossy")
    monkeypatch.setattr(program, "OTHERS", program.ANCHORS)
    monkeypatch.setattr(program.published, "IMAGES", 1)
    for codec in program.ANCHORS:
        monkeypatch.setitem(program.baselines.LOSSY, codec, (10, 50, 90))
    (tmp_path / "kodak").mkdir()
    PillowImage.fromarray(photograph(1, 170, 180)).save(tmp_path / "kodak/a.png")
    settings = {"threads": 1, "device": "cpu", "every": 1, "report": None, "models": []}
    results, pictures = program.measure(argparse.Namespace(folders=[str(tmp_path / "kodak")], **settings))
    text = program.markdown(results, pictures, tmp_path / "plots", tmp_path / "page.md")
    assert "| BPG (published) | 0.068 to 4.703 | " in text
    assert "(plots/kodak-psnr.svg)" in text
    assert (tmp_path / "plots/kodak-ms-ssim.svg").read_text().startswith("<svg")
    (line,) = (line for line in text.splitlines() if line.startswith("| webp-lossy "))
    assert line.split(" | ")[4:6] == ["+0.0%", "+0.0%"]
    assert "codes of one length" not in text


def test_files_of_equal_size_are_found(benchmarks: Any) -> None:
    from gencodec.codec.image import Image
    from gencodec.evaluation import baselines

    lossy = benchmarks("lossy")
    image = Image.from_array(photograph(1, 64, 64))
    size = len(baselines.make("webp-lossy", 40, 1).encode(image))
    assert lossy.at_bytes("webp-lossy", image, size, 1)[0] == size
    assert lossy.at_bytes("webp-lossy", image, 0, 1)[0] == len(baselines.make("webp-lossy", 1, 1).encode(image))


def test_every_lossless_family_that_ships_is_in_the_results(benchmarks: Any) -> None:
    assert {"photo", "photo@1", "glow-base.1", "pixelrnn-base.1"} <= set(benchmarks("results").models())

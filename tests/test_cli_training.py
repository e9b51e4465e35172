"""`gencodec train` and `gencodec export`: from a folder of pictures to a model that compresses."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from torch import nn
from typer.testing import CliRunner, Result

import gencodec
from gencodec.cli import app
from gencodec.errors import UsageError
from gencodec.models import data
from gencodec.models.data import Draw, Small, Tiles
from gencodec.models.families import FAMILIES, find_family
from gencodec.models.train import Course, held_out_bits, pictures, side_of, train
from gencodec.models.training import Schedule, Trainer

SIZES = ("hidden=8", "layers=1", "inner=4", "color_hidden=8", "bank=1")


def command(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def picture(seed: int) -> np.ndarray:
    """Shading with grain, (140, 150, 3) uint8."""
    y, x = np.mgrid[:140, :150]
    grain = np.random.default_rng(seed).normal(0, 2, (140, 150, 3))
    return np.clip((90 + 40 * np.sin(x / 20 + seed) + y / 4)[..., None] + grain, 0, 255).astype(np.uint8)


def small_set(place: Path) -> Path:
    """A folder of a set of small pictures."""
    folder = place / "set"
    folder.mkdir()
    for name, count in (("train", 20), ("test", 6)):
        tiles = [picture(seed)[40:72, 40:72] for seed in range(count)]
        np.save(folder / f"{name}_x.npy", np.stack(tiles))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        PillowImage.fromarray(picture(seed)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of a moment, by the command."""
    file = tmp_path_factory.mktemp("training") / "a.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "POOL", 8)
        sizes = [word for size in SIZES for word in ("--set", size)]
        settings = ["--minutes", "0.02", "--batch", "2", "--size", "16", *sizes]
        done = command("train", "photo", "--data", photos, "--checkpoint", file, *settings)
    assert done.exit_code == 0, done.output
    assert "held_out" in done.stderr
    return file


def test_a_checkpoint_says_what_it_is_of(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    assert state["family"] == "photo"
    assert (state["config"]["hidden"], state["config"]["layers"]) == (8, 1)
    assert state["steps"] > 0


def test_a_trained_model_compresses(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    model = tmp_path / "own.onnx"
    done = command("export", checkpoint, "-o", model, "--photos", photos, "--licence", "CC0-1.0")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.onnx", "own.step.onnx"]
    pixels = picture(7)
    for effort in (1, 2):
        packed = gencodec.compress(pixels, model=str(model), effort=effort, threads=1)
        assert np.array_equal(gencodec.decompress(packed, model=str(model), threads=1).pixels, pixels)
    assert command("export", checkpoint, "-o", model).exit_code == 1  # it exists
    assert command("export", checkpoint, "-o", model, "-f").exit_code == 0


def test_a_training_begins_with_a_model(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    settings = ["--data", photos, "--checkpoint", tmp_path / "b.pt", "--steps", "1", "--batch", "2", "--size", "16"]
    model = tmp_path / "own.onnx"
    assert command("export", checkpoint, "-o", model, "--photos", photos).exit_code == 0
    done = command("train", "photo", *settings, "--start", model, "--revive", "--exact", "--rate", "0")
    assert done.exit_code == 0, done.output
    before, after = (torch.load(file, weights_only=True) for file in (checkpoint, tmp_path / "b.pt"))
    assert after["config"] == before["config"]
    rounded = before["averaged"]["layers.0.weight"] - after["averaged"]["layers.0.weight"]
    assert 0 < rounded.abs().median() < 1e-2  # all but the features that were revived


def test_resume_goes_on(checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "POOL", 8)
    state = torch.load(checkpoint, weights_only=True)
    before, spent = state["steps"], state["seconds"] / 60
    course = Course(photos, checkpoint, Schedule(minutes=spent + 0.01), resume=True, batch=2, size=16)
    shares: list[float] = []
    train(find_family("photo"), list(SIZES), course, lambda _: None, shares.append)
    assert torch.load(checkpoint, weights_only=True)["steps"] > before
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


def test_interrupting_keeps_the_checkpoint(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "POOL", 8)

    def interrupt(_: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    course = Course(photos, tmp_path / "b.pt", Schedule(minutes=5), batch=2, size=16)
    with pytest.raises(KeyboardInterrupt):
        train(find_family("photo"), list(SIZES), course, lambda _: None, interrupt)
    assert torch.load(tmp_path / "b.pt", weights_only=True)["steps"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["b.pt"]


def test_a_set_of_small_pictures_is_trained_on_by_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is resumed has the network's sizes and the weights of an unbroken run."""
    folder = small_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    sizes = [word for size in SIZES for word in ("--set", size)]
    settings = ["--data", folder, "--steps", 6, "--batch", 2, "--seed", 4, "--threads", torch.get_num_threads()]
    done = command("train", "photo", *settings, *sizes, "--finish", "0.5")
    assert done.exit_code == 0, done.output
    whole = torch.load("photo.pt", weights_only=True)
    assert (whole["steps"], whole["config"]["hidden"]) == (6, 8)
    assert 1 < whole["history"][-1]["held_out"] < 12

    with monkeypatch.context() as patch:
        agree = Trainer.agree

        def interrupted(self: Trainer, seconds: float, interrupted: bool) -> None:
            agree(self, seconds, interrupted or self.steps == 2)

        patch.setattr(Trainer, "agree", interrupted)
        assert command("train", "photo", *settings, *sizes, "--finish", "0.5", "--checkpoint", "b.pt").exit_code == 130
    assert torch.load("b.pt", weights_only=True)["steps"] == 2
    done = command("train", "photo", *settings, "--finish", "0.5", "--checkpoint", "b.pt", "--resume")
    assert done.exit_code == 0, done.output
    again = torch.load("b.pt", weights_only=True)
    for part in ("model", "averaged"):
        assert all(torch.equal(whole[part][name], value) for name, value in again[part].items())


def test_tiles_are_of_the_familys_side(photos: Path, tmp_path: Path) -> None:
    """And held-out ones are cut to it where blocks do not stay whole."""
    assert side_of(find_family("photo").config(), photos) == 64
    assert side_of(SimpleNamespace(tile=16), photos) == 16
    assert side_of(SimpleNamespace(tile=16), small_set(tmp_path)) == 32
    course = Course(photos, tmp_path / "a.pt", Schedule())
    draw = Draw(2, 16, 1)
    _, whole = pictures(course, draw, whole=True)
    source, cut = pictures(course, draw, whole=False)
    assert isinstance(source, Tiles)
    assert (whole.shape, cut.shape) == ((3, 2, 128, 128), (3, 2 * 64, 16, 16))
    source, few = pictures(replace(course, data=tmp_path / "set"), replace(draw, size=32), whole=False)
    assert isinstance(source, Small)
    assert few.shape == (3, 6, 32, 32)


def test_held_out_bits_are_means_over_tiles_and_draw_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gencodec.models.train.TOGETHER", 2 * 64)

    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((0, 2, 3)) + torch.rand(x.shape[1])

    tiles = torch.arange(5.0)[None, :, None, None].expand(3, 5, 8, 8)
    found = held_out_bits(Noisy(), tiles)
    assert found == held_out_bits(Noisy(), tiles)
    assert 2 < found < 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("phota", "--data", "PHOTOS", "--checkpoint", "new.pt"), "did you mean photo?"),
        (("photo", "--data", "nowhere", "--checkpoint", "new.pt"), "there is no folder nowhere"),
        (("photo", "--data", "EMPTY", "--checkpoint", "new.pt"), "too few pictures"),
        (("photo", "--data", "PHOTOS", "--checkpoint", "new.pt", "--resume"), "there is no checkpoint new.pt"),
        (("photo", "--data", "PHOTOS", "--checkpoint", "OLD"), "--resume goes on with it"),
        (("photo", "--data", "PHOTOS", "--checkpoint", "new.pt", "--set", "hiden=3"), "did you mean hidden?"),
        (
            ("photo", "--data", "PHOTOS", "--checkpoint", "new.pt", "--start", "OLD", "--set", "hidden=1"),
            "does not fit",
        ),
        (("photo", "--data", "PHOTOS", "--checkpoint", "new.pt", "--start", "BROKEN"), "does not fit"),
        (("photo", "--data", "PHOTOS", "--checkpoint", "new.pt", "--start", "old.pt"), "there is no checkpoint old.pt"),
        (("photo", "--data", "PHOTOS", "--checkpoint", "new.pt", "--start", "photo-base.5x"), "no model"),
        (("photo", "--data", "PHOTOS", "--checkpoint", "new.pt", "--start", "glow"), "not from glow-base.1"),
        (("nice", "--data", "PHOTOS", "--checkpoint", "new.pt", "--revive"), "only networks of the photo family"),
        (("photo", "--data", "PHOTOS", "--checkpoint", "new.pt", "--start", "OTHER"), "is of the family glow"),
        (
            ("photo", "--data", "PHOTOS", "--checkpoint", "new.pt", "--steps", "3", "--minutes", "1"),
            "exclude each other",
        ),
        (("photo", "--data", "PHOTOS", "--checkpoint", "new.pt", "--device", "gpu"), "no device 'gpu'"),
        (("photo", "--data", "PHOTOS", "--checkpoint", "new.pt", "--device", "cuda:99"), "'cuda:99' is not available"),
        (("photo", "--data", "SET", "--checkpoint", "new.pt", "--codes"), "codes are made of photographs"),
        (("photo", "--data", "cifar10", "--checkpoint", "new.pt"), "nor one in $GENCODEC_DATA"),
    ],
)
def test_wrong_usage_is_one_sentence(
    arguments: tuple[str, ...],
    reason: str,
    photos: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GENCODEC_DATA", raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.pt").write_bytes(b"PK no zip")
    torch.save({"family": "glow"}, tmp_path / "other.pt")
    places = {"PHOTOS": photos, "OLD": checkpoint, "EMPTY": tmp_path / "empty", "new.pt": tmp_path / "new.pt"}
    places |= {"SET": small_set(tmp_path), "BROKEN": tmp_path / "broken.pt", "OTHER": tmp_path / "other.pt"}
    done = command("train", *(places.get(word, word) for word in arguments))
    assert done.exit_code == 2, done.output
    assert reason in done.stderr.replace(f"{tmp_path}/", "")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new.pt").exists()


def test_pictures_that_cannot_be_read_are_named(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes((photos / "0.png").read_bytes())
    (tmp_path / "1.png").write_bytes(b"broken")
    result = command("train", "photo", "--data", tmp_path, "--checkpoint", tmp_path / "x.pt", "--steps", 1)
    reason = f"gencodec: cannot identify image file '{tmp_path / '1.png'}'\n"
    assert (result.exit_code, result.stderr) == (1, reason)


def test_export_refuses_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"PK no zip")
    done = command("export", tmp_path / "a.pt", "-o", tmp_path / "a.onnx")
    assert (done.exit_code, done.stderr) == (3, "gencodec: this is not a checkpoint of a training\n")
    assert command("export", tmp_path / "a.pt", "-o", tmp_path / "a.bin").exit_code == 2
    assert command("export", tmp_path / "b.pt", "-o", tmp_path / "a.onnx").exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("name", ["train", "export"])
def test_without_torch_it_says_what_to_install(
    name: str, photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    arguments = {
        "train": ("photo", "--data", photos, "--checkpoint", tmp_path / "a.pt"),
        "export": (checkpoint, "-o", tmp_path / "a.onnx"),
    }
    done = command(name, *arguments[name])
    assert done.exit_code == 1
    assert "pip install 'gencodec[train]'" in done.stderr


def test_every_family_is_restored_from_its_sizes() -> None:
    for family in FAMILIES.values():
        network = family.build(family.configured([]))
        again = family.restored({})
        assert [p.shape for p in network.parameters()] == [p.shape for p in again.parameters()]
    with pytest.raises(UsageError, match="NAME=VALUE"):
        find_family("photo").configured(["hidden=-1"])

"""Fixtures that several files share: a folder to run commands in, and photo networks that run in a moment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small only wait for each other's threads
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if TYPE_CHECKING:
    from torch import Tensor

    from gencodec.models.photo import Photo
    from gencodec.runtime import Model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def picture(folder: Path) -> Path:
    """Make a small PNG in the working folder."""
    from PIL import Image as PillowImage

    from tests.photographs import photograph

    PillowImage.fromarray(photograph(1, 30, 40)).save("a.png")
    return Path("a.png")


@pytest.fixture
def coded(picture: Path) -> Path:
    """Make its .gnc beside it."""
    from tests.command_line import gencodec

    assert gencodec("compress", picture).exit_code == 0
    return Path("a.png.gnc")


def untrained() -> Photo:
    """A photo network of a few hundred weights."""
    import torch

    from gencodec.models.photo import Photo, PhotoConfig

    torch.manual_seed(11)
    return Photo(PhotoConfig(hidden=8, layers=2, inner=6, color_hidden=8, bank=2, energies=3, drifts=2)).eval()


@pytest.fixture(scope="session")
def tiny_photo() -> Photo:
    """An untrained photo network of a few hundred weights, whose distributions differ from pixel to pixel."""
    import torch

    photo = untrained()
    with torch.no_grad():
        for head in (photo.green, photo.red, photo.blue):
            head.linear.weight[0].mul_(0.2)  # means near the base prediction, as in trained networks
            head.linear.weight[3:].mul_(0.2)
    return photo


@pytest.fixture(scope="session")
def tiny_file(tiny_photo: Photo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network as an exported file."""
    from gencodec.export.photo import export_photo

    path = tmp_path_factory.mktemp("model") / "photo-tiny.onnx"
    export_photo(tiny_photo, path, {"licence": "none"})
    return path


@pytest.fixture(scope="session")
def tiny(tiny_file: Path) -> Model:
    """The exported tiny network, on one thread of the CPU."""
    from gencodec.runtime import load

    return load(tiny_file, threads=1, device="cpu")


@pytest.fixture(scope="session")
def slopes() -> Tensor:
    """Tiles of smooth shading with an edge and grain, (3, 8, 32, 32) gray levels."""
    import torch

    torch.manual_seed(8)
    y, x = torch.arange(32.0)[:, None], torch.arange(32.0)
    down, along, contrast, place = (torch.randn(8, 1, 1) for _ in range(4))
    plane = 128 + down * y + along * x + 40 * contrast * (x + 2 * down * y > 16 + 6 * place)
    grain = torch.randn(3, 8, 32, 32) * torch.exp(0.5 + torch.randn(8, 1, 1))
    return (plane + 20 * torch.randn(3, 1, 1, 1) + grain).round().clamp(0, 255)


@pytest.fixture(scope="session")
def adaptive_photo(slopes: Tensor) -> Photo:
    """A tiny network that has learned a little of slopes."""
    from gencodec.models.soap import Soap

    photo, steps = untrained(), 30
    optimizer = Soap(photo.parameters(), lr=1e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        optimizer.zero_grad()
        photo(slopes).mean().backward()
        optimizer.step()
    return photo


@pytest.fixture(scope="session")
def adaptive_file(adaptive_photo: Photo, slopes: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of slopes as an exported file, with the training step by which it adapts to pictures beside it."""
    from gencodec.export.photo import export_photo

    path = tmp_path_factory.mktemp("adaptive") / "photo-adaptive.onnx"
    export_photo(adaptive_photo, path, {"licence": "none"}, slopes)
    return path


@pytest.fixture(scope="session")
def adaptive(adaptive_file: Path) -> Model:
    """The exported network of slopes, on one thread of the CPU."""
    from gencodec.runtime import load

    return load(adaptive_file, threads=1, device="cpu")

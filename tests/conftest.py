"""Fixtures that several files share: a photo network small enough to export and run in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gencodec.models.photo import Photo
    from gencodec.runtime import Model


@pytest.fixture(scope="session")
def tiny_photo() -> Photo:
    """An untrained photo network of a few hundred weights, whose distributions differ from pixel to pixel."""
    import torch

    from gencodec.models.photo import Photo, PhotoConfig

    torch.manual_seed(11)
    photo = Photo(PhotoConfig(hidden=8, layers=2, inner=6, color_hidden=8, bank=2, energies=3, drifts=2)).eval()
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

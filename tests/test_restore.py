"""Exported models become checkpoints again, which export to the same integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gencodec.errors import UsageError
from gencodec.export.photo import export_photo
from gencodec.export.restore import restore, write_checkpoint
from gencodec.models.families import find_family
from gencodec.models.photo import Photo
from gencodec.models.quantize import set_exact
from gencodec.runtime import Model, load


def test_what_is_restored_computes_the_same(
    adaptive: Model, adaptive_photo: Photo, slopes: Tensor, tmp_path: Path
) -> None:
    write_checkpoint(adaptive, tmp_path / "a.pt")
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    photo = find_family(state["family"]).restored(state["config"])
    photo.load_state_dict(state["averaged"])
    set_exact(photo, True)
    set_exact(adaptive_photo, True)
    with torch.no_grad():
        torch.testing.assert_close(photo(slopes), adaptive_photo(slopes), rtol=1e-4, atol=1e-4)


def test_what_is_restored_exports_to_the_same_weights(adaptive: Model, slopes: Tensor, tmp_path: Path) -> None:
    write_checkpoint(adaptive, tmp_path / "a.pt")
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    photo = Photo(find_family("photo").sized(state["config"]))
    photo.load_state_dict(state["averaged"])
    export_photo(photo, tmp_path / "b.onnx", {"licence": "none"}, slopes)
    again = load(tmp_path / "b.onnx", threads=1, device="cpu")
    for name in adaptive.file.constants:
        if name.endswith(".scale"):
            own, new = (model.constant(name).astype(np.float64) for model in (adaptive, again))
            finer = own / new  # integers may become finer, never other values
            assert (finer >= 1).all()
            for part, factor in (("weight", finer), ("bias", finer[:, 0])):
                own, new = (model.constant(name.removesuffix("scale") + part) for model in (adaptive, again))
                np.testing.assert_array_equal(new, own.astype(np.float64) * factor)


@pytest.mark.parametrize(("name", "bits"), [("photo-small.1", 16), ("photo-base.5", 20)])
def test_tables_stay_as_fine_as_they_are(name: str, bits: int, tmp_path: Path) -> None:
    """Also those of models whose configuration does not say so."""
    write_checkpoint(load(name, threads=1, device="cpu"), tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True)["config"]["total_bits"] == bits


def test_other_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not from glow-base\.1"):
        write_checkpoint(load("glow-base.1", threads=1, device="cpu"), tmp_path / "a.pt")


def test_the_first_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot start from photo-base\.1"):
        write_checkpoint(load("photo-base.1", threads=1, device="cpu"), tmp_path / "a.pt")


def test_integers_that_are_too_fine_are_refused(adaptive: Model, adaptive_photo: Photo) -> None:
    name = "trunk.photo.layers.0.scale"
    constants = {**adaptive.file.constants, name: adaptive.constant(name).astype(np.float32) / 4096}
    broken = Model(adaptive.card, adaptive.file.data, threads=1, device="cpu")
    object.__setattr__(broken.file, "constants", constants)
    with pytest.raises(ValueError, match="finer than its sums allow"):
        restore(Photo(adaptive_photo.config), broken)

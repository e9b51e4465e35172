"""Latent traversals: grids in whose rows one latent moves, of tiny models and of those that ship."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage
from typer.testing import CliRunner, Result

pytest.importorskip("torch")

import torch

import gencodec
from gencodec.cli import app
from gencodec.codec import container as gnc
from gencodec.codec import generation, traversal
from gencodec.codec.container import Coder, Container, ModelRef, Section, SectionKind
from gencodec.codec.hierarchy import Group, Prior
from gencodec.errors import InvalidFile, UsageError
from gencodec.export.sprites import export_sprites
from gencodec.models.spritevae import SpriteVAE, SpriteVAEConfig
from gencodec.runtime import Model, find_model, list_models, load

LATENTS = 3


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of three latents whose pictures depend on them a lot."""
    torch.manual_seed(2)
    network = SpriteVAE(SpriteVAEConfig(latents=LATENTS, widths=(4, 4, 4), hidden=24))
    with torch.no_grad():
        for p in network.decoder.parameters():
            p.mul_(2)
    path = tmp_path_factory.mktemp("sprites") / "tiny.onnx"
    export_sprites(network, path, {"licence": "none"})
    return path


@pytest.fixture(scope="module")
def model(file: Path) -> Model:
    return load(file, threads=1, device="cpu")


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["generate", *map(str, arguments)])


# sprites


def test_a_row_moves_one_latent(model: Model) -> None:
    rows = generation.traversed(model, steps=5, seed=1)
    assert (rows.shape, rows.dtype) == ((LATENTS, 5, 64, 64, 3), np.uint8)
    assert np.array_equal(rows[..., 0], rows[..., 2])
    start = np.random.default_rng(1).standard_normal(LATENTS)
    for i, row in enumerate(rows):
        assert len({picture.tobytes() for picture in row}) == 5
        z = np.tile(start, (5, 1))
        z[:, i] = (-3, -1.5, 0, 1.5, 3)
        expected = model.run_float("decode", z[:, :, None, None].astype(np.float32))[0][:, 0]
        np.testing.assert_allclose(row[..., 0], 255 * expected, atol=0.51)


def test_seed_and_temperature_are_those_of_the_latents_that_stay(model: Model) -> None:
    def rows(seed: int, temperature: float = 1.0) -> NDArray[np.uint8]:
        return generation.traversed(model, 3, seed, temperature)

    assert np.array_equal(rows(1), rows(1))
    assert not np.array_equal(rows(1), rows(2))
    middles = rows(1, temperature=1e-9)[:, 1]
    assert np.abs(middles[0].astype(int) - middles[1]).max() <= 1  # all latents are their means


def test_samples_are_what_the_decoder_makes_of_the_prior(model: Model) -> None:
    made = generation.samples(model, 300, seed=4)
    assert made.shape == (300, 64, 64, 3)
    assert len({picture.tobytes() for picture in made}) == 300
    assert np.array_equal(made, generation.samples(model, 300, seed=4))


# lossy hierarchies


class Codec:
    """Two groups; pictures show the first one's latents: of each feature another color or a gray of its own weight."""

    levels = 65
    model = None
    groups = (Group(5, 0, 12, None), Group(3, 0, 2, None))

    def walk(self, way: Any, level: int, height: int, width: int, model: None) -> dict[int, NDArray[np.int64]]:
        assert level == 32
        found = {}
        for group in self.groups:
            shape = (group.last - group.first, height >> group.scale, width >> group.scale)
            where = np.ones(shape, bool)
            where[0] = group.scale != 5  # the first feature costs nothing, and is not coded
            each = np.arange(where.sum())
            scale = np.full(len(each), 36)  # 4 steps
            z = np.zeros(shape, np.int64)
            z[where] = way.steps(group, where, Prior(0 * each, scale, 0 * each))
            found[group.scale] = z
        assert not found[3].any()
        return found

    def synthesized(self, latents: dict[int, NDArray[np.int64]], level: int, wanted: Any) -> NDArray[np.uint8]:
        values = latents[5]
        assert (values == values[:, :1, :1]).all()  # all positions move together
        levels = 128 + (values[:, 0, 0] * np.arange(12)).sum() // 2
        return np.full((3, wanted.height, wanted.width), levels, np.uint8)


def test_the_strongest_features_of_a_hierarchy_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gencodec.codec.hierarchy.HierarchyCodec", lambda model: Codec())
    rows = traversal.traversal(SimpleNamespace(family="beta-vae"), 5)  # type: ignore[arg-type]
    assert rows.shape == (traversal.MOST_ROWS, 5, traversal.SIDE, traversal.SIDE, 3)
    found = rows[:, :, 0, 0, 0].astype(int)
    for row, feature in zip(found, range(11, 1, -1), strict=True):
        assert row.tolist() == [128 + k * feature // 2 for k in (-12, -6, 0, 6, 12)]


SHIPPED = [card.name for card in list_models() if card.family in (*traversal.HIERARCHIES, traversal.SPRITES)]


@pytest.mark.parametrize("name", SHIPPED)
def test_models_that_ship_move_pictures(name: str) -> None:
    rows = traversal.traversal(load(name, threads=1, device="cpu"), 2)
    assert len(rows) <= traversal.MOST_ROWS
    ends = np.abs(rows[:, 0].astype(int) - rows[:, 1]).reshape(len(rows), -1).max(1)
    assert (ends[:3] > 8).all()


# the command, and what it refuses


def test_a_grid_has_a_row_for_every_latent(file: Path, model: Model, tmp_path: Path) -> None:
    done = command("--model", file, "--traverse", "--steps", 4, "--seed", 6, "-o", tmp_path / "grid.png")
    assert done.exit_code == 0, done.output
    assert "12 pictures of 64 x 64 pixels" in done.stderr
    grid = np.asarray(PillowImage.open(tmp_path / "grid.png"))
    assert grid.shape == (3 * 66 - 2, 4 * 66 - 2, 3)
    assert np.array_equal(grid[66:130, 132:196], generation.traversed(model, 4, 6)[1, 2])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-n", 3, "-o", "a.png"), "--traverse and -n exclude each other"),
        (("--between", "a.png", "b.png", "-o", "c.png"), "--between and --traverse exclude each other"),
        (("--output-dir", "d"), "--traverse draws one grid: name it with -o"),
        (("--steps", 300, "-o", "a.png"), "from 2 to 256 steps, not 300"),
        (("--temperature", 0, "-o", "a.png"), "a number above 0"),
        (("--model", "photo", "-o", "a.png"), "the family photo of the model photo-base.5 has no latents to traverse"),
        (("--model", "vae", "-o", "a.png"), "has no latents to traverse"),
    ],
)
def test_failures_are_one_sentence(
    arguments: tuple[object, ...], reason: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("--model", file, "--traverse", *arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert done.stderr.startswith("gencodec: ")
    assert reason in done.stderr
    assert not list(tmp_path.iterdir())


def test_pictures_are_not_coded(file: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    with pytest.raises(UsageError, match="does not code pictures"):
        gencodec.compress(pixels, model=str(file))
    assert find_model(file).family == traversal.SPRITES


def test_files_that_name_such_a_model_are_refused(file: Path) -> None:
    card = find_model(file)
    section = Section(SectionKind.COLOR, Coder.MODEL, b"", ModelRef(card.wire_id, card.weights_prefix), 0)
    with pytest.raises(InvalidFile, match="does not code pictures"):
        gencodec.decompress(gnc.write(Container(40, 40, 3, 8, 0, (section,))), model=str(file))

"""Convolutional networks as exact graphs, several to a file: parity with torch bit for bit, proofs, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from gencodec.errors import GencodecError, InexactGraph, InvalidFile  # noqa: E402
from gencodec.export.exact import ExactGraph  # noqa: E402
from gencodec.export.lower import lower  # noqa: E402
from gencodec.export.stages import Stage, write_model  # noqa: E402
from gencodec.export.values import Value, uniform  # noqa: E402
from gencodec.models.quantize import ExactConv, Grid, Snap, SpatialMean, Table, set_exact  # noqa: E402
from gencodec.runtime import load  # noqa: E402
from gencodec.runtime.model import Model  # noqa: E402

UNSIGNED, SIGNED, FINE = Grid(0, 255, 5), Grid(-255, 255, 5), Grid(0, 255, 8)
SIDE = 16


class Cell(nn.Module):
    """One of everything: strides, depthwise kernels, squeeze and excitation, tables, gates, changes of size."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ExactConv([(12, SIGNED)], [(16, UNSIGNED)], 3)
        self.deep = ExactConv([(16, UNSIGNED)], [(16, UNSIGNED)], 5, groups=16)
        self.mean = SpatialMean(UNSIGNED, FINE, SIDE * SIDE // 4)
        self.excite = ExactConv([(16, FINE)], [(16, FINE)], 1)
        self.coarse = ExactConv([(16, UNSIGNED)], [(6, SIGNED), (2, UNSIGNED)], (2, 2), stride=2, padding=0)
        self.bent = Table(torch.tanh, SIGNED, Grid(-255, 255, 8))
        self.snap = Snap(UNSIGNED)

    def forward(self, x: Tensor, small: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.deep(self.first(F.pixel_unshuffle(x, 2)))
        h = self.snap(h * self.excite(self.mean(h)))
        a, b = h.chunk(2, 1)
        shuffled = F.pixel_shuffle(torch.cat([torch.maximum(a, b), a - b], 1), 2)
        return self.coarse(h), shuffled[:, 1:3] + F.interpolate(small, scale_factor=2), self.bent(x)


def mask() -> Tensor:
    return torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]).view(1, 1, 1, 5)


@pytest.fixture(scope="module")
def modules() -> dict[str, nn.Module]:
    torch.manual_seed(4)
    found = {"cell": Cell(), "masked": ExactConv([(3, SIGNED)], [(8, UNSIGNED)], (1, 5), mask=mask())}
    for module in found.values():
        set_exact(module, True)
    return found


@pytest.fixture(scope="module")
def file(modules: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stages") / "model.onnx"
    cell = Stage("cell", modules["cell"], [uniform("", 3, -255, 255, 5), uniform("", 2, -255, 255, 5)])
    masked = [Stage(f"masked.{i}", modules["masked"], [uniform("", 3, -255, 255, 5)]) for i in range(6)]
    tables = {"numbers": np.arange(5, dtype=np.int32)}
    write_model(
        path, "test", "1", {"tile": SIDE}, [*masked[:4], cell, *masked[4:]], tables, {"licence": "none"}, axis=1
    )
    return path


@pytest.fixture(scope="module")
def model(file: Path) -> Model:
    return load(file, threads=1, device="cpu")


def integers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(-255, 256, shape)).float()


def test_a_stage_computes_what_its_module_does(model: Model, modules: dict[str, nn.Module]) -> None:
    x, small = integers(1, 3, 3, SIDE, SIDE), integers(2, 3, 2, SIDE // 2, SIDE // 2)
    steps = (32, 32, 256)
    expected = [y * step for y, step in zip(modules["cell"](x / 32, small / 32), steps, strict=True)]
    given = model.call("cell", x.numpy(), small.numpy())
    assert [g.shape for g in given] == [(3, 8, 4, 4), (3, 2, 16, 16), (3, 3, 16, 16)]
    for a, b in zip(given, expected, strict=True):
        assert np.array_equal(a, b.detach().numpy())
        assert len(np.unique(a)) > 20


@pytest.mark.parametrize("stage", ["masked.0", "masked.3", "masked.5"])
def test_every_stage_is_found_by_its_name(model: Model, modules: dict[str, nn.Module], stage: str) -> None:
    x = integers(3, 2, 3, 9, 7)
    assert np.array_equal(model.call(stage, x.numpy())[0], 32 * modules["masked"](x / 32).detach().numpy())


def test_threads_optimizations_and_batches_change_nothing(file: Path, model: Model) -> None:
    x, small = integers(5, 6, 3, SIDE, SIDE).numpy(), integers(6, 6, 2, SIDE // 2, SIDE // 2).numpy()
    whole = model.call("cell", x, small)
    for other in (load(file, threads=2, device="cpu"), load(file, threads=1, device="cpu", optimize=False)):
        assert all(map(np.array_equal, whole, other.call("cell", x, small)))
    parts = [model.call("cell", x[i : i + 1], small[i : i + 1]) for i in range(6)]
    for i, output in enumerate(whole):
        assert np.array_equal(output, np.concatenate([part[i] for part in parts]))


def test_a_mask_takes_its_weights_out(modules: dict[str, nn.Module]) -> None:
    x = integers(7, 1, 3, 1, 9) / 32
    changed = x.clone()
    changed[..., 4:] += 1
    y, z = modules["masked"](x), modules["masked"](changed)
    assert torch.equal(y[..., :5], z[..., :5])
    assert not torch.equal(y, z)


def test_constants_and_settings_travel(model: Model) -> None:
    assert model.constant("numbers").tolist() == [0, 1, 2, 3, 4]
    assert model.config == {"tile": SIDE}
    assert (model.family, model.format) == ("test", "1")
    with pytest.raises(InvalidFile, match="graph elsewhere"):
        model.call("elsewhere", np.zeros((1, 3, 4, 4), np.float32))


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("config", "[" * 200_000),
        ("stages", "[" * 200_000),
        ("stages", "[]"),
        ("stages", '[{"name": "cell", "inputs": 65, "outputs": 1}]'),
        ("stages", '[{"name": "cell", "inputs": 1, "outputs": Infinity}]'),
    ],
)
def test_metadata_of_another_form_are_refused(file: Path, tmp_path: Path, entry: str, text: str) -> None:
    changed = onnx.load(file)
    next(p for p in changed.metadata_props if p.key == f"gencodec.{entry}").value = text
    onnx.save(changed, tmp_path / "changed.onnx")
    with pytest.raises(InvalidFile, match="does not say"):
        getattr(load(tmp_path / "changed.onnx", threads=1, device="cpu"), entry)


def test_arrays_that_a_graph_does_not_take_are_refused(model: Model) -> None:
    with pytest.raises(GencodecError, match="ONNX Runtime cannot run the model on cpu"):
        model.call("masked.0", np.zeros((1, 2, 4, 4), np.float32))


def test_changed_weights_are_refused(file: Path, model: Model, tmp_path: Path) -> None:
    weight = model.file.constants["masked.2.0.weight"]
    louder = weight + np.sign(weight)
    path = tmp_path / "other.onnx"
    path.write_bytes(model.file.replaced({"masked.2.0.weight": louder}))
    with pytest.raises(InexactGraph, match=r"masked\.2\.0 has other weights than its proof"):
        load(path, threads=1, device="cpu")


def lowered(module: nn.Module, *inputs: Value) -> None:
    set_exact(module, True)
    lower(module, list(inputs), ExactGraph(1), "net")


def test_sums_that_float32_does_not_hold_are_refused() -> None:
    wide = ExactConv([(600, Grid(0, 65535, 5))], [(1, UNSIGNED)], 3)
    with pytest.raises(InexactGraph, match="roundings of its weights alone"):
        lowered(wide, uniform("", 600, 0, 65535, 5))
    with pytest.raises(InexactGraph, match="can reach 4278190080"):
        lowered(SpatialMean(Grid(0, 65535, 5), UNSIGNED, 1 << 16), uniform("", 1, 0, 65280, 5))


def test_means_over_an_odd_number_of_positions_are_refused() -> None:
    with pytest.raises(InexactGraph, match="48 positions are no power of two"):
        lowered(SpatialMean(UNSIGNED, FINE, 48), uniform("", 1, 0, 255, 5))


@pytest.mark.parametrize("factor", [3, 4])
def test_other_changes_of_size_are_refused(factor: int) -> None:
    class Grown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=factor)

    with pytest.raises(InexactGraph, match="change their size by 2 only"):
        lowered(Grown(), uniform("", 1, 0, 255, 5))


def test_a_layer_used_twice_is_proved_for_its_wider_inputs() -> None:
    class Twice(nn.Module):
        def __init__(self, first: int, second: int) -> None:
            super().__init__()
            self.layer = ExactConv([(2, SIGNED)], [(2, SIGNED)], 1)
            self.snaps = nn.ModuleList(Snap(Grid(-n, n, 5)) for n in (first, second))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.snaps[0](x)) + self.layer(self.snaps[1](x))

    lowered(Twice(200, 100), uniform("", 2, -255, 255, 5))
    with pytest.raises(InexactGraph, match="inputs of different ranges"):
        lowered(Twice(100, 200), uniform("", 2, -255, 255, 5))

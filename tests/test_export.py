"""The exporter: what it writes computes what the torch layers compute, bit for bit, or is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.codec import photo as photo_codec
from gencodec.codec.adaptation import REFERENCE
from gencodec.codec.tiling import Tiling
from gencodec.errors import InexactGraph
from gencodec.export.adaptation import adaptable
from gencodec.export.exact import EXACT_LIMIT, ExactGraph
from gencodec.export.lower import grids, lower
from gencodec.export.photo import export_photo
from gencodec.export.values import Value, uniform
from gencodec.models import quantize
from gencodec.models.photo import Photo
from gencodec.models.quantize import ExactLinear, Grid, Group, Mean, Snap, Table, set_exact
from gencodec.runtime import Model, load, onnxfile, proof
from gencodec.runtime.session import open_session

POINTS = 400
WIDE = Grid(-2047, 2047, 7)
SMALL = Grid(-31, 31, 3)
UNSIGNED = Grid(0, 1023, 6)


class Applied(nn.Module):
    """A function of tensors, and the layers that it uses, as a module."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.function(*self.layers, a, b)


def linear(sources: list[Group], targets: list[Group], bits: int = 10) -> ExactLinear:
    """A layer with random weights."""
    torch.manual_seed(5)
    layer = ExactLinear(sources, targets, bits)
    with torch.no_grad():
        layer.bias.normal_()
    return layer


def serialized(graph: ExactGraph, inputs: list[Value], outputs: list[Value]) -> bytes:
    """The graph as an ONNX file with its proof."""
    ends = [
        [helper.make_tensor_value_info(v.name, TensorProto.FLOAT, [v.rows, "positions"]) for v in values]
        for values in (inputs, outputs)
    ]
    main = helper.make_graph(
        [*graph.constant_nodes, *graph.nodes], "test", *ends, initializer=list(graph.constants.values())
    )
    model = helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"gencodec.proof": json.dumps(graph.proof)})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def samples(value: Value, seed: int) -> NDArray[np.float32]:
    """Integers that the value can hold, both ends among them; (rows, POINTS)."""
    rng = np.random.default_rng(seed)
    integers = rng.integers(value.low[:, None], value.high[:, None] + 1, (value.rows, POINTS))
    integers[:, 0], integers[:, 1] = value.low, value.high
    return integers.astype(np.float32)


def assert_parity(module: nn.Module, a: Value, b: Value) -> ExactGraph:
    """Exact torch and ONNX Runtime, optimized or not, give the same integers, all in the range that was proved."""
    set_exact(module, True)
    graph = ExactGraph()
    inputs = [replace(a, name="a"), replace(b, name="b")]
    outputs = lower(module, inputs, graph, "net")
    data = serialized(graph, inputs, outputs)
    integers = [samples(value, seed) for seed, value in enumerate(inputs)]
    with torch.no_grad():
        reals = [torch.from_numpy(i) * 2.0 ** -_bits(v) for i, v in zip(integers, inputs, strict=True)]
        expected = module(*reals) * 2.0 ** _bits(outputs[0])
    for optimize in (True, False):
        session = open_session(data, threads=1, device="cpu", optimize=optimize)
        used = {i.name for i in session.get_inputs()}
        fed = {v.name: i for v, i in zip(inputs, integers, strict=True) if v.name in used}
        found = np.asarray(session.run(None, fed)[0])
        np.testing.assert_array_equal(found, expected.numpy())
        np.testing.assert_array_equal(found, np.rint(found))
        assert (found >= outputs[0].low[:, None]).all()
        assert (found <= outputs[0].high[:, None]).all()
    return graph


def _bits(value: Value) -> Tensor:
    return torch.tensor(value.bits)[:, None].float()


def rows(count: int, grid: Grid) -> Value:
    return grids([(count, grid)])


@pytest.mark.parametrize("targets", [[(7, UNSIGNED)], [(3, WIDE), (2, UNSIGNED), (2, SMALL)]])
def test_a_weighted_sum_of_several_grids(targets: list[Group]) -> None:
    layer = linear([(4, WIDE), (3, SMALL)], targets)
    graph = assert_parity(Applied(lambda f, a, b: f(torch.cat([a, b])), layer), rows(4, WIDE), rows(3, SMALL))
    (entry,) = graph.proof
    weight, bias = (onnx.numpy_helper.to_array(graph.constants[f"net.layers.0.{p}"]) for p in ("weight", "bias"))
    assert entry["reach"] == [[4, 2047], [3, 31]]
    reach = np.repeat([2047, 31], [4, 3])
    assert entry["worst"] == (np.abs(weight.astype(int)) @ reach + np.abs(bias)).max()
    assert weight.dtype == np.int16


def test_a_sum_near_the_limit_is_still_exact() -> None:
    layer = linear([(60, Grid(-2047, 2047, 0))], [(4, Grid(-(2**22), 2**22, 0))], 12)
    layer.room = EXACT_LIMIT
    graph = assert_parity(Applied(lambda f, a, b: f(a), layer), rows(60, Grid(-2047, 2047, 0)), rows(1, SMALL))
    worst = graph.proof[0]["worst"]
    assert isinstance(worst, int)
    assert EXACT_LIMIT // 2 - 60 * 2047 < worst < EXACT_LIMIT


@pytest.mark.parametrize("function", [torch.sigmoid, torch.tanh, F.elu, F.silu])
@pytest.mark.parametrize("source", [WIDE, Grid(0, 255, 4)])
def test_a_table(function: Callable[[Tensor], Tensor], source: Grid) -> None:
    table = Table(function, source, Grid(-255, 255, 6))
    assert_parity(Applied(lambda f, a, b: f(a), table), rows(5, source), rows(1, SMALL))


@pytest.mark.parametrize("target", [Grid(-15, 12, 2), Grid(-100, 90, 3), Grid(-2000, 1999, 9)])
def test_snap_to_coarser_and_finer_grids(target: Grid) -> None:
    assert_parity(Applied(lambda f, a, b: f(a), Snap(target)), rows(3, SMALL), rows(1, SMALL))
    both = Applied(lambda f, a, b: f(torch.cat([a, b])), Snap(target))
    assert_parity(both, rows(3, SMALL), rows(2, WIDE))


def test_mean() -> None:
    mean = Applied(lambda f, a, b: f(a, b), Mean(Grid(0, 900, 4)))
    assert_parity(mean, uniform("", 4, 0, (1 << 22) - 1, 4), uniform("", 1, 1, 96, 0))


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cat": lambda a, b: torch.cat([a, b, a]),
    "slice": lambda a, b: torch.cat([a, b])[2:6],
    "slice from the end": lambda a, b: a[-2:],
    "add": lambda a, b: a + b,
    "add number": lambda a, b: 3 + a,
    "subtract": lambda a, b: a - b,
    "subtract from number": lambda a, b: 1 - a,
    "multiply": lambda a, b: a * b,
    "one row times all": lambda a, b: a[:1] * b + b[1:2],
    "powers of two": lambda a, b: a * 8.0 + 0.25 * b,
    "mixed grids": lambda a, b: torch.cat([a[:2], b[:2]]) + b,
    "maximum, minimum": lambda a, b: torch.maximum(torch.minimum(a, b), b * 0.5),
    "absolute": lambda a, b: torch.abs(a) - b.abs(),
    "clamp": lambda a, b: torch.clamp(a, -3.5, 2) + b.clamp(0, 1),
    "sum": lambda a, b: (a * b).sum(0, keepdim=True),
    "sum of mixed grids": lambda a, b: torch.sum(torch.cat([a, b]), 0, keepdim=True),
    "where": lambda a, b: torch.where(a < 0, b, a - b),
    "where with a number": lambda a, b: torch.where(b < 0, 0.0, a),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arithmetic(name: str) -> None:
    assert_parity(Applied(FUNCTIONS[name]), rows(4, WIDE), rows(4, SMALL))


def test_layers_in_a_row() -> None:
    """The gate of PixelCNN between two weighted sums."""
    half = Grid(-127, 127, 7)

    def gated(first: nn.Module, tanh: nn.Module, sigmoid: nn.Module, last: nn.Module, a: Tensor, b: Tensor) -> Tensor:
        h = first(torch.cat([a, b]))
        return last(tanh(h[:6]) * sigmoid(h[6:])) + a[:1]

    layers = (
        linear([(4, WIDE), (3, SMALL)], [(12, WIDE)]),
        Table(torch.tanh, WIDE, half),
        Table(torch.sigmoid, WIDE, half),
        linear([(6, Grid(-16129, 16129, 14))], [(5, WIDE)], 9),
    )
    graph = assert_parity(Applied(gated, *layers), rows(4, WIDE), rows(3, SMALL))
    assert [entry["layer"] for entry in graph.proof] == ["net.layers.0", "net.layers.3"]


# what cannot be proved


def refused(module: nn.Module, a: Value, b: Value | None = None) -> str:
    """The reason why the module is refused."""
    graph = ExactGraph()
    with pytest.raises(InexactGraph) as caught:
        lower(module, [replace(a, name="a"), replace(b or rows(4, SMALL), name="b")], graph, "net")
    return str(caught.value)


def test_a_sum_beyond_the_limit_is_refused_with_layer_and_figure() -> None:
    graph, x = ExactGraph(), uniform("x", 3, -1000, 1000, 0)
    weight = np.array([[1, 1, 1], [6000, -6000, 4777]])
    bias, exponents = np.array([0, 216]), np.zeros(2, np.int64)
    target = uniform("", 2, 0, 255, 0)
    with pytest.raises(InexactGraph, match=r"layer net\.deep cannot .* output 1 can reach 16777216, .* 16777216"):
        graph.linear("net.deep", x, weight, bias, exponents, target)
    assert not graph.proof
    graph.linear("net.deep", x, weight, bias - 1, exponents, target)
    assert graph.proof[0]["worst"] == EXACT_LIMIT - 1


@pytest.mark.parametrize(
    ("function", "figure"),
    [
        (lambda a, b: a * b, 4096 * 4097),
        (lambda a, b: (a * 2.0**-12) + b, 4097 * 4096),
        (lambda a, b: (a * torch.clamp(b, -3000, 0)).sum(0, keepdim=True), 2 * 4096 * 3000),
    ],
)
def test_arithmetic_beyond_the_limit_is_refused_with_layer_and_figure(
    function: Callable[[Tensor, Tensor], Tensor], figure: int
) -> None:
    reason = refused(Applied(function), uniform("", 2, -4096, 4096, 0), uniform("", 2, -4097, 17, 0))
    assert reason.startswith("layer net.")
    assert f"can reach {figure}" in reason


def test_a_product_just_below_the_limit_is_accepted() -> None:
    product = Applied(lambda a, b: a * b)
    assert_parity(product, uniform("", 2, -4095, 4095, 0), uniform("", 2, -4097, 17, 0))


def test_quotients_that_rounding_could_lift_are_refused() -> None:
    mean = Applied(lambda f, a, b: f(a, b), Mean(Grid(0, 255, 5)))
    count = uniform("", 1, 1, 9, 0)
    for total, counts in (
        (uniform("", 2, -1, 99, 5), count),
        (uniform("", 2, 0, 1 << 22, 5), count),
        (uniform("", 2, 0, 99, 4), count),
        (uniform("", 2, 0, 99, 5), uniform("", 1, 0, 9, 0)),
        (uniform("", 2, 0, 99, 5), uniform("", 1, 1, 9, 1)),
    ):
        assert "net.layers.0" in refused(mean, total, counts)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda a, b: torch.exp(a), "exp"),
        (lambda a, b: a / b, "truediv"),
        (lambda a, b: a.softmax(0), "softmax"),
        (lambda a, b: a * 3.0, "3.0"),
        (lambda a, b: a + 0.5, "0.5"),
        (lambda a, b: a[:, 1:], "slices of rows"),
        (lambda a, b: a[::2], "slices of rows"),
        (lambda a, b: torch.cat([a, b], 1), "joined"),
        (lambda a, b: a.sum(1, keepdim=True), "sums over rows"),
        (lambda a, b: torch.where(a < 1, a, b), "zero"),
    ],
)
def test_unsupported_operations_are_refused_by_name(function: Callable[[Tensor, Tensor], Tensor], named: str) -> None:
    reason = refused(Applied(function), rows(4, SMALL))
    assert reason.startswith("layer net.")
    assert named in reason


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Linear(4, 4)])
def test_unsupported_layers_are_refused_by_name(layer: nn.Module) -> None:
    reason = refused(Applied(lambda f, a, b: f(a), layer), rows(4, SMALL))
    assert reason == f"layer net.layers.0 cannot be proved exact: {type(layer).__name__} is not supported"


def test_comparisons_are_not_numbers() -> None:
    assert "net." in refused(Applied(lambda a, b: (a < 0) * b), rows(4, SMALL))


def test_ends_between_the_points_of_a_grid_are_refused() -> None:
    assert "net.clamp" in refused(Applied(lambda a, b: torch.clamp(a, -0.3, 0.5)), rows(4, Grid(-8, 7, 2)))


def test_weights_that_the_file_cannot_hold_are_refused() -> None:
    layer = linear([(4, SMALL)], [(1, Grid(0, 2**20, 12))], 18)
    assert "net.layers.0" in refused(Applied(lambda f, a, b: f(a), layer), rows(4, SMALL))


def test_a_layer_too_wide_for_any_scale_is_refused() -> None:
    grid = Grid(-2047, 2047, 0)
    layer = linear([(16400, grid)], [(1, grid)])
    assert "net.layers.0" in refused(Applied(lambda f, a, b: f(a), layer), rows(16400, grid))


def test_reasons_are_one_line() -> None:
    assert "\n" not in refused(Applied(lambda a, b: torch.exp(a)), rows(4, SMALL))


@pytest.mark.parametrize("layer", [linear([(4, SMALL)], [(1, WIDE)]), Table(torch.tanh, SMALL, SMALL)])
def test_inputs_on_other_grids_than_declared_are_refused(layer: nn.Module) -> None:
    module = Applied(lambda f, a, b: f(a), layer)
    for grid in (Grid(-31, 31, 4), Grid(-32, 31, 3), Grid(-31, 32, 3)):
        assert "net.layers.0" in refused(module, rows(4, grid))
    lower(module, [replace(rows(4, Grid(-3, 31, 3)), name=letter) for letter in "ab"], ExactGraph(), "net")


def test_more_rows_than_declared_are_refused() -> None:
    layer = linear([(4, SMALL)], [(1, WIDE)])
    assert "net.layers.0" in refused(Applied(lambda f, a, b: f(a), layer), rows(5, SMALL))


# the photo network


def test_the_photo_file_has_a_sound_proof_and_its_geometry(tiny_photo: Photo, tiny_file: Path) -> None:
    file = onnxfile.read(tiny_file.read_bytes())
    assert file.metadata["gencodec.family"] == "photo"
    assert file.metadata["gencodec.format"] == "3"
    assert file.metadata["gencodec.licence"] == "none"
    assert json.loads(file.metadata["gencodec.adapts"]) == []
    config = json.loads(file.metadata["gencodec.config"])
    assert config["lag"] == tiny_photo.config.lag
    assert config["hidden"] == 8
    linears = [m for m in tiny_photo.modules() if isinstance(m, ExactLinear)]
    stated = json.loads(file.metadata["gencodec.proof"])
    # layers that take part in several stages are proved in each
    assert len(stated) >= len(linears)
    assert proof.check(file) == max(layer["worst"] for layer in stated) < quantize.ROOM
    onnx.checker.check_model(onnx.load(tiny_file), full_check=True)


def test_exports_are_reproducible(tiny_photo: Photo, tiny_file: Path, tmp_path: Path) -> None:
    export_photo(tiny_photo, tmp_path / "again.onnx", {"licence": "none"})
    assert (tmp_path / "again.onnx").read_bytes() == tiny_file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.onnx"]


def test_exports_that_adapt_are_reproducible(
    adaptive_photo: Photo, adaptive_file: Path, slopes: Tensor, tmp_path: Path
) -> None:
    again = tmp_path / "again.onnx"
    export_photo(adaptive_photo, again, {"licence": "none"}, slopes)
    assert again.read_bytes() == adaptive_file.read_bytes()
    steps = [path.with_suffix(".step.onnx").read_bytes() for path in (again, adaptive_file)]
    assert steps[0] == steps[1]


def test_a_model_that_adapts_codes_as_the_same_model_that_does_not(
    adaptive_photo: Photo, adaptive: Model, tmp_path: Path
) -> None:
    export_photo(adaptive_photo, tmp_path / "plain.onnx", {"licence": "none"})
    plain = load(tmp_path / "plain.onnx", threads=1, device="cpu")
    pixels = smooth_picture(40, 60, 3, seed=1)
    assert photo_codec.encode(pixels, plain).payload == photo_codec.encode(pixels, adaptive).payload
    added = adaptive.file.constants.keys() - plain.file.constants.keys()
    layers = json.loads(adaptive.file.metadata["gencodec.adapts"])
    assert added == {"shapes.mixture", *(f"{one}.{part}_units" for one in layers for part in ("row", "column"))}


def test_units_say_what_integers_mean(adaptive_photo: Photo, adaptive: Model) -> None:
    """`integer * 2**(column - row)` is the weight that the exact network has."""
    names = adaptable(adaptive_photo)
    assert list(names) == json.loads(adaptive.file.metadata["gencodec.adapts"])
    set_exact(adaptive_photo, True)
    for name, own in names.items():
        layer = adaptive_photo.layer(own)
        weight, bias = (adaptive.constant(f"{name}.{part}").astype(np.int64) for part in ("weight", "bias"))
        rows, columns = (adaptive.constant(f"{name}.{part}_units") for part in ("row", "column"))
        assert rows.dtype == columns.dtype == np.int8
        assert (rows.shape, columns.shape) == ((2, len(weight)), (2, weight.shape[1] + 1))
        scale = np.exp2(columns[0].astype(float) - rows[0][:, None])
        expected = [part.detach().numpy() for part in layer.rounded()]
        np.testing.assert_array_equal(weight * scale[:, :-1], expected[0])
        np.testing.assert_array_equal(bias * scale[:, -1], expected[1])


def test_steps_of_changes_cost_about_as_much(adaptive_photo: Photo, adaptive: Model, slopes: Tensor) -> None:
    """A step's square times the mean square of the weight's gradients is 12 / REFERENCE, but for rounding."""
    set_exact(adaptive_photo, True)
    for name, own in list(adaptable(adaptive_photo).items())[:3]:
        rows, columns = (adaptive.constant(f"{name}.{part}_units").astype(float) for part in ("row", "column"))
        step = np.exp2(columns.sum(0) - rows[0][:, None] + rows[1][:, None])
        layer, seen = adaptive_photo.layer(own), {}

        def remember(_: nn.Module, inputs: tuple[Tensor], output: Tensor, seen: dict[str, Tensor] = seen) -> None:
            seen["inputs"] = inputs[0].detach().flatten(1)
            output.register_hook(lambda gradient: seen.__setitem__("outputs", gradient.flatten(1)))

        hook = layer.register_forward_hook(remember)
        (adaptive_photo(slopes).sum() * np.log(2)).backward()
        hook.remove()
        squares = [seen[key].square().mean(1).double().numpy() for key in ("outputs", "inputs")]
        alive = np.ix_(squares[0] > 1e-6, np.append(squares[1] > 1e-6, True))
        cost = step**2 * squares[0][:, None] * np.append(squares[1], 1) * REFERENCE / 12
        assert alive[0].size > len(step) // 2
        assert (np.abs(np.log2(cost[alive])) <= 2.01).all()


def test_names_of_constants_do_not_change_from_run_to_run() -> None:
    program = "import numpy; from gencodec.export.exact import ExactGraph;print(ExactGraph().constant(numpy.arange(5)))"
    names = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(names) == 1


def smooth_picture(height: int, width: int, noise: float, seed: int) -> NDArray[np.uint8]:
    """Gradients, an edge and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    plane = 90 + 0.9 * x + 40 * (x + y > width) - 0.7 * y
    return np.clip(plane[..., None] + (0, 9, -20) + noise * rng.standard_normal((height, width, 3)), 0, 255).astype(
        np.uint8
    )


def bits_of(photo: Photo, pixels: NDArray[np.uint8]) -> float:
    """What `pixels` take by the exact torch network."""
    set_exact(photo, True)
    total, tiling = 0.0, Tiling.of(pixels.shape[1], pixels.shape[0])
    for box in tiling.all_tiles():
        tile = pixels[box.y : box.y + box.height, box.x : box.x + box.width, (1, 0, 2)]
        x = torch.from_numpy(tile.transpose(2, 0, 1)[:, None].astype(np.float32))
        with torch.no_grad():
            total += float(photo(x).double().sum())
    return total


@pytest.mark.parametrize(
    ("height", "width", "noise"), [(61, 90, 2), (61, 90, 4), (128, 40, 0), (130, 150, 6), (1, 77, 9), (50, 1, 9)]
)
def test_the_codecs_bits_are_those_of_the_exact_torch_network(
    tiny_photo: Photo, tiny: Model, height: int, width: int, noise: float
) -> None:
    """Within 0.05 % or six bits, which is the tables' rounding; a pixel in a wrong context costs more."""
    pixels = smooth_picture(height, width, noise, seed=height)
    expected = bits_of(tiny_photo, pixels)
    found = photo_codec.encode(pixels, tiny).estimate_bits
    assert found == pytest.approx(expected, rel=5e-4, abs=6)


@pytest.mark.parametrize("bits", [4, 9])
def test_features_may_be_coarser_or_finer(tiny_photo: Photo, tmp_path: Path, bits: int) -> None:
    other = Photo(replace(tiny_photo.config, hidden_bits=bits))
    other.load_state_dict(tiny_photo.state_dict())
    export_photo(other, tmp_path / "other.onnx", {"licence": "none"})
    model = load(tmp_path / "other.onnx", threads=1, device="cpu")
    assert model.config["hidden_bits"] == bits
    pixels = smooth_picture(61, 90, 4, seed=2)
    found = photo_codec.encode(pixels, model).estimate_bits
    assert found == pytest.approx(bits_of(other, pixels), rel=5e-4)
    assert found != pytest.approx(bits_of(tiny_photo, pixels), rel=1e-7)


@pytest.mark.parametrize(("bits", "version"), [(16, "2"), (20, "3")])
def test_tables_are_as_fine_as_the_network_says(tiny_photo: Photo, tmp_path: Path, bits: int, version: str) -> None:
    other = Photo(replace(tiny_photo.config, total_bits=bits))
    other.load_state_dict(tiny_photo.state_dict())
    export_photo(other, tmp_path / "other.onnx", {"licence": "none"})
    model = load(tmp_path / "other.onnx", threads=1, device="cpu")
    assert model.format == version
    pixels = smooth_picture(61, 90, 4, seed=2)
    encoded = photo_codec.encode(pixels, model)
    assert encoded.estimate_bits == pytest.approx(bits_of(other, pixels), rel=5e-4)
    np.testing.assert_array_equal(photo_codec.decode(encoded.payload, pixels.shape, model), pixels)

"""Adapting to a picture: its gradients are torch's, it never makes a file larger, and decoders do not notice."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import gencodec
from gencodec import GencodecError, UsageError
from gencodec.codec import adaptation, adapting, choice, levels, photo, samples, symmetry, tiling
from gencodec.codec import container as gnc
from gencodec.codec.adapting import Adapted, Adapter, adapted, pool_of
from gencodec.codec.container import SectionKind
from gencodec.export.adaptation import Loss, adaptable
from gencodec.models.photo import Photo
from gencodec.models.quantize import set_exact
from gencodec.runtime import Model, find_model, load

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]
POOL = ("relative", "near", "pooled", "base", "pixel")
WORKERS = ThreadPoolExecutor(2)


def stripes(height: int, width: int, colors: int = 3, seed: int = 0) -> Pixels:
    """Nothing like slopes: a pattern that repeats every few columns, with hardly any grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    plane = 120 + 40 * ((x // 2 + y // 5) % 2) + 20 * np.sin(x / 40) + 0.1 * y
    return np.clip(plane[..., None] + rng.normal(0, 1, (height, width, colors)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return stripes(90, 110)


@pytest.fixture(autouse=True)
def model_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns suit ordinary coders better than a network of a few hundred weights."""
    monkeypatch.setattr(choice, "model_wins", lambda *_: True)


# the training step


def reference(photo: Photo, inputs: dict[str, Array]) -> tuple[float, list[Array]]:
    """Bits and gradients of all adaptable parameters by torch; `inputs` are those of the exported step."""
    own = copy.deepcopy(photo)
    set_exact(own, True)
    tensors = {name: torch.from_numpy(np.array(values)) for name, values in inputs.items()}
    parameters = []
    for name, mine in adaptable(own).items():
        layer = own.layer(mine)
        layer.weight = torch.nn.Parameter(tensors[f"{name}.weight"])
        layer.bias = torch.nn.Parameter(tensors[f"{name}.bias"])
        layer.rounded = lambda layer=layer: (layer.weight, layer.bias)  # type: ignore[method-assign]
        parameters += [layer.weight, layer.bias]
    own.shapes.weights = lambda: tensors["mixture"]  # type: ignore[method-assign]
    bits = Loss(own)(*(tensors[name] for name in (*POOL, "colors")))
    gradients = torch.autograd.grad(bits, parameters)
    return float(bits.detach()), [g.numpy() for g in gradients]


class OpenClip(torch.autograd.Function):
    """Clips; gradients pass at the ends of the range too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((x >= low) & (x <= high))
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.saved_tensors[0], None, None


def adapter_of(pixels: Pixels, model: Model) -> Adapter:
    return Adapter(model, model.step, pool_of(pixels, model, WORKERS), pixels.shape, WORKERS)


def drawn(adapter: Adapter, seed: int, change: float) -> dict[str, Array]:
    """Inputs of the training step: random pixels, and weights with random changes."""
    rng = np.random.default_rng(seed)
    changes = [rng.normal(0, change, fit.change.shape).astype(np.float32) for fit in adapter.fits]
    return {**adapter.pool.given(adapter.pool.draw(adapter.count, rng)), **adapter.weights(changes)}


@pytest.mark.parametrize(("colors", "change"), [(3, 0.0), (3, 2.0), (1, 1.0)])
def test_the_steps_gradients_are_torchs(
    adaptive: Model, adaptive_photo: Photo, monkeypatch: pytest.MonkeyPatch, colors: int, change: float
) -> None:
    adapter = adapter_of(stripes(90, 120, colors), adaptive)
    inputs = drawn(adapter, 1, change)
    bits, *found = adapter.step.run(None, inputs)
    monkeypatch.setattr("gencodec.models.quantize.F.hardtanh", OpenClip.apply)
    expected_bits, expected = reference(adaptive_photo, inputs)
    assert float(bits) == pytest.approx(expected_bits, rel=1e-5)
    outputs = [output.name for output in adapter.step.get_outputs()]
    assert outputs == ["bits", *(f"gradient.{n}.{p}" for n in adaptable(adaptive_photo) for p in ("weight", "bias"))]
    assert len(found) == len(expected)
    for name, a, b in zip(outputs[1:], found, expected, strict=True):
        # weights between whole steps give sums that are not exact: a few may be floored to another integer
        assert np.linalg.norm(a - b) <= 5e-3 * np.linalg.norm(b), name
        assert b.any() or colors == 1


def pixels_of(array: NDArray[np.int16]) -> NDArray[np.int16]:
    """An input of the pool as (rows, pixels)."""
    return array.reshape(len(array), -1)


def test_the_steps_bits_are_those_of_the_codec(adaptive: Model) -> None:
    """Over all pixels, by the integers that files hold: within the tables' rounding."""
    for colors in (3, 1):
        picture = stripes(96, 128, colors)  # a whole number of batches
        adapter = adapter_of(picture, adaptive)
        weights, bits = adapter.weights([fit.change for fit in adapter.fits]), []
        inputs = {name: pixels_of(a) for name, a in adapter.pool.arrays.items()}
        for start in range(0, picture.shape[0] * picture.shape[1], adapter.count):
            part = {name: a[:, start : start + adapter.count].astype(np.float32) for name, a in inputs.items()}
            assert part["pixel"].shape[1] == adapter.count
            bits.append(float(adapter.step.run(["bits"], {**part, **weights})[0]))
        expected = photo.encode(picture, adaptive).estimate_bits / picture.size
        assert np.mean(bits) == pytest.approx(expected, rel=5e-3)
        assert adapter.measured(adapter.rounded()) == pytest.approx(expected, rel=0.02)


def test_grey_pictures_have_no_gradients_of_other_colors(adaptive: Model, pixels: Pixels) -> None:
    adapter = adapter_of(pixels[..., :1], adaptive)
    _, gradients = adapter.gradients(whole=False)
    for fit, gradient in zip(adapter.fits, gradients, strict=True):
        assert gradient.shape == fit.layer.weight.shape
        assert (gradient != 0).any() == (not fit.layer.name.startswith(("red", "blue")))


def test_gradients_are_those_of_whole_changes_towards_the_end(
    adaptive: Model, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes that would be rounded to nothing count as nothing there."""
    found = {}
    for change in (0.0, 0.6, 1.0):
        for whole in (False, True):
            adapter = adapter_of(pixels, adaptive)
            for fit in adapter.fits:
                fit.change[...] = change
            found[change, whole] = adapter.gradients(whole=whole)[0]
    assert found[0.6, True] == found[0.0, True] == found[0.0, False]
    assert found[0.6, False] not in (found[0.0, False], found[1.0, False])
    assert found[1.0, True] == found[1.0, False]
    asked: list[bool] = []
    adapter = adapter_of(pixels, adaptive)
    gradients = adapter.gradients
    monkeypatch.setattr(adapter, "gradients", lambda *, whole: asked.append(whole) or gradients(whole=whole))
    adapter.run(10)
    assert asked == [False] * 6 + [True] * 4


def test_the_starting_weights_are_the_models(adaptive: Model, adaptive_photo: Photo, pixels: Pixels) -> None:
    adapter = adapter_of(pixels, adaptive)
    weights = adapter.weights([fit.change for fit in adapter.fits])
    for name, mine in adaptable(adaptive_photo).items():
        weight, bias = adaptive_photo.layer(mine).rounded()
        np.testing.assert_array_equal(weights[f"{name}.weight"], weight.detach().numpy())
        np.testing.assert_array_equal(weights[f"{name}.bias"], bias.detach().numpy())


def test_whole_steps_are_whole_changes(adaptive: Model, pixels: Pixels) -> None:
    """What training takes a change to be is what the file's model makes of it."""
    adapter = adapter_of(pixels, adaptive)
    rng = np.random.default_rng(3)
    for fit in adapter.fits:
        fit.change[...] = rng.normal(0, 2, fit.change.shape)
    changes = adapter.rounded()
    model = adaptation.applied(adaptive, changes, adapter.coarseness)
    weights = adapter.weights([changes[fit.layer.name].astype(np.float32) for fit in adapter.fits])
    for layer in adaptation.layers(model):
        whole = np.concatenate([weights[f"{layer.name}.weight"], weights[f"{layer.name}.bias"][:, None]], 1)
        np.testing.assert_array_equal(whole, layer.weight * layer.scale)


def test_coarser_steps_are_for_smaller_pictures(adaptive: Model) -> None:
    pool = pool_of(stripes(64, 128), adaptive, WORKERS)
    sizes = [(64, 128, 3), (512, 512, 3), (1024, 1024, 1), (1 << 14, 1 << 15, 3)]
    assert [Adapter(adaptive, adaptive.step, pool, size, WORKERS).coarseness for size in sizes] == [2, 0, -1, -6]


def test_the_pool_is_the_picture_in_tiles(adaptive: Model) -> None:
    picture = stripes(70, 200)
    pool = pool_of(picture, adaptive, WORKERS)
    assert set(pool.arrays) == set(POOL)
    assert all(pixels_of(a).shape[1] == 70 * 200 for a in pool.arrays.values())
    for color, channel in enumerate((1, 0, 2)):
        found, levels = np.sort(pixels_of(pool.arrays["pixel"])[color]), np.sort(picture[..., channel].ravel())
        np.testing.assert_array_equal(found, levels)


def test_drawn_pixels_stay_together(adaptive: Model) -> None:
    """All inputs are those of the same pixels, which neighbor each other by RUN."""
    picture = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    pool = pool_of(picture, adaptive, WORKERS)
    whole = {name: pixels_of(a) for name, a in pool.arrays.items()}
    drawn = pool.given(pool.draw(640, np.random.default_rng(0)))
    columns = np.concatenate([whole[name] for name in POOL]).T
    places = {column.tobytes(): place for place, column in enumerate(columns)}
    found = np.concatenate([drawn[name] for name in POOL])
    assert found.shape[1] == 640
    at = np.array([places[column.astype(np.int16).tobytes()] for column in found.T])
    assert (np.diff(at.reshape(-1, adapting.RUN)) == 1).all()
    assert len(set(at.tolist())) > 400


def test_of_large_pictures_tiles_all_over_are_looked_at(adaptive: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = stripes(256, 256)
    picture[:128, :, 0], picture[128:, :, 0] = 10, 200
    pool = pool_of(picture, adaptive, WORKERS, most=1 << 15)
    assert pixels_of(pool.arrays["pixel"]).shape[1] == 1 << 15
    assert {10, 200} == set(pixels_of(pool.arrays["pixel"])[1].tolist())


@pytest.mark.parametrize(
    ("effort", "wide", "looked_at"), [(2, False, "MOST"), (5, False, "MOST"), (6, False, "WHOLE"), (2, True, "WHOLE")]
)
@pytest.mark.parametrize("large", [False, True])
def test_wide_networks_and_more_effort_look_at_all_of_a_picture(
    adaptive: Model, monkeypatch: pytest.MonkeyPatch, effort: int, wide: bool, looked_at: str, large: bool
) -> None:
    picture = stripes(128, 128)
    monkeypatch.setattr(adapting, "WHOLE_PIXELS", 128 * 128 - large)
    monkeypatch.setattr(adapting, "WIDE_ROWS", 1 if wide else 1 << 10)
    asked: list[int] = []

    def noted(_: Pixels, __: Model, ___: object, most: int) -> None:
        asked.append(most)
        raise KeyboardInterrupt

    monkeypatch.setattr(adapting, "pool_of", noted)
    with pytest.raises(KeyboardInterrupt):
        adapted(picture, adaptive, effort)
    assert asked == [adapting.WHOLE_PIXELS if looked_at == "WHOLE" and not large else adapting.MOST_PIXELS]


# whole pictures


@pytest.fixture(autouse=True)
def all_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of stripes leave out most gray levels, which is not what is tested here."""
    monkeypatch.setattr(levels, "find", lambda _: None)


def coded(picture: Pixels, model: Model, effort: int) -> tuple[gnc.Section, ...]:
    return samples.encode(picture, samples.Means(lambda: model, None, effort))


def length(sections: tuple[gnc.Section, ...]) -> int:
    return sum(section.file_bytes for section in sections)


def kinds(sections: tuple[gnc.Section, ...]) -> list[SectionKind]:
    return [section.kind for section in sections]


def decoded(picture: Pixels, sections: tuple[gnc.Section, ...], model: Model) -> NDArray[Any]:
    height, width, channels = picture.shape
    container = gnc.Container(width, height, channels, 8, 0, sections)
    return samples.decode(gnc.read(gnc.write(container)), lambda _: model)


@pytest.mark.parametrize("colors", [1, 3])
def test_adapting_makes_files_of_other_pictures_smaller(adaptive: Model, colors: int) -> None:
    picture = stripes(90, 110, colors)
    plain, fitted = (coded(picture, adaptive, effort) for effort in (1, 3))
    assert kinds(plain) == [SectionKind.COLOR]
    assert kinds(fitted) == [SectionKind.COLOR, SectionKind.ADAPTATION]
    assert length(fitted) < 0.95 * length(plain)
    for sections in (plain, fitted):
        np.testing.assert_array_equal(decoded(picture, sections, adaptive), picture)


def test_more_effort_saves_more(adaptive: Model, pixels: Pixels) -> None:
    sizes = [length(coded(pixels, adaptive, effort)) for effort in (1, 2, 3)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_what_is_saved_is_estimated_well(adaptive: Model, pixels: Pixels) -> None:
    fit = adapted(pixels, adaptive, 3)
    assert fit is not None
    plain, smaller = (8 * len(photo.encode(pixels, model).payload) for model in (adaptive, fit.model))
    assert fit.saved == pytest.approx(1 - (smaller + 8 * len(fit.payload)) / plain, abs=0.01)
    changes, coarseness = adaptation.unpack(fit.payload, adaptive)
    assert adaptation.applied(adaptive, changes, coarseness).file.data == fit.model.file.data


def test_grey_pictures_change_no_weights_of_other_colors(adaptive: Model) -> None:
    fit = adapted(stripes(90, 110, 1), adaptive, 3)
    assert fit is not None
    changes, _ = adaptation.unpack(fit.payload, adaptive)
    for name, values in changes.items():
        assert not name.startswith(("red", "blue")) or not values.any()


def test_the_same_picture_gives_the_same_file(adaptive: Model, pixels: Pixels) -> None:
    assert coded(pixels, adaptive, 2) == coded(pixels, adaptive, 2)


def test_the_encoders_threads_are_no_matter_to_the_decoder(adaptive_file: Path, pixels: Pixels) -> None:
    for threads in (1, 2):
        data = gencodec.compress(pixels, model=str(adaptive_file), effort=2, threads=threads, device="cpu")
        assert gencodec.info(data).version == 2
        found = gencodec.decompress(data, model=str(adaptive_file), threads=3 - threads, device="cpu")
        np.testing.assert_array_equal(found.pixels, pixels)


# when it does not pay


def test_effort_1_does_not_adapt(adaptive: Model, pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapting, "pool_of", None)
    assert adapted(pixels, adaptive, 1) is None


def test_tiny_pictures_are_not_adapted_to(adaptive: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapting, "pool_of", None)
    assert adapted(stripes(64, 127), adaptive, 9) is None
    with pytest.raises(TypeError):
        adapted(stripes(64, 128), adaptive, 9)


@pytest.mark.parametrize("name", ["photo-base.1", "tiny", "without a step"])
def test_models_that_cannot_adapt_do_not(
    name: str, tiny: Model, adaptive_file: Path, tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "without a step":
        path = tmp_path / "alone.onnx"
        path.write_bytes(adaptive_file.read_bytes())
        model = load(path, threads=1, device="cpu")
        assert adaptation.layers(model)
        assert model.step is None
    else:
        model = tiny if name == "tiny" else load(name, threads=1, device="cpu")
    monkeypatch.setattr(adapting, "pool_of", None)
    monkeypatch.setattr(symmetry, "chosen", lambda *_: 0)
    assert adapted(pixels, model, 9) is None
    small = pixels[:70, :130]
    sections = coded(small, model, 9)
    assert kinds(sections) == [SectionKind.COLOR]
    assert sections == coded(small, model, 1)
    np.testing.assert_array_equal(decoded(small, sections, model), small)


def test_a_step_that_is_no_model_is_an_error(adaptive_file: Path, tmp_path: Path, pixels: Pixels) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(adaptive_file.read_bytes())
    path.with_suffix(".step.onnx").write_bytes(b"no graph")
    with pytest.raises(GencodecError, match="cannot load"):
        gencodec.compress(pixels, model=str(path), threads=1, device="cpu")
    assert gencodec.info(gencodec.compress(pixels, model=str(path), effort=1, threads=1, device="cpu")).version == 1


def test_what_does_not_pay_is_left_out(adaptive: Model, pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descent that goes nowhere, and descent that goes astray."""

    def astray(self: Adapter, steps: int, report: object = None) -> None:
        rng = np.random.default_rng(0)
        for fit in self.fits:
            fit.change += rng.normal(0, 3, fit.change.shape).astype(np.float32)

    plain = coded(pixels, adaptive, 1)
    for run in (lambda *_: None, astray):
        monkeypatch.setattr(Adapter, "run", run)
        assert coded(pixels, adaptive, 2) == plain


def test_a_small_gain_is_taken_only_if_it_is_one(
    adaptive: Model, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was estimated to save a little is compared with the file without it."""
    fit = adapted(pixels, adaptive, 2)
    assert fit is not None
    plain, much = coded(pixels, adaptive, 1), replace(fit, saved=0.5)
    little = replace(fit, saved=samples.CLEARLY / 2)
    worse = Adapted(fit.model, bytes(len(plain[0].payload)), samples.CLEARLY / 2)
    for found, taken in ((much, True), (little, True), (worse, False)):
        monkeypatch.setattr(adapting, "adapted", lambda *_, found=found: found)
        sections = coded(pixels, adaptive, 2)
        assert (kinds(sections) == [SectionKind.COLOR, SectionKind.ADAPTATION]) == taken
        assert length(sections) <= length(plain)


def test_the_step_of_another_network_is_refused(adaptive_file: Path, pixels: Pixels, tmp_path: Path) -> None:
    model = tmp_path / "own.onnx"
    model.write_bytes(adaptive_file.read_bytes())
    shipped = find_model("photo").file.with_suffix(".step.onnx")
    model.with_suffix(".step.onnx").write_bytes(shipped.read_bytes())
    with pytest.raises(UsageError, match="is not that of its network"):
        adapted(pixels, load(model, threads=1, device="cpu"), 2)


# who is told


def test_progress_rises_and_notes_name_the_steps(adaptive: Model, pixels: Pixels) -> None:
    shares: list[float] = []
    notes: list[str] = []
    means = samples.Means(lambda: adaptive, None, 2)
    samples.encode(pixels, means, samples.Listener(shares.append, notes.append))
    assert len(notes) == adapting.STEPS[1] + 1
    for step, note in enumerate(notes[:-1], 1):
        assert note.startswith(f"step {step} of {adapting.STEPS[1]}, about ")
        assert 1 < float(note.split()[-2]) < 60
        assert note.endswith(" kB")
    assert notes[-1] == ""
    assert len(shares) > adapting.STEPS[1]
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == pytest.approx(1)
    assert shares[adapting.STEPS[1] - 1] == pytest.approx(samples.FITTING)


def test_callers_hear_of_it(adaptive_file: Path, pixels: Pixels) -> None:
    shares: list[float] = []
    notes: list[str] = []
    gencodec.compress(
        pixels, model=str(adaptive_file), effort=2, threads=1, progress=shares.append, note=notes.append, device="cpu"
    )
    assert notes[0].startswith("step 1 of ")
    assert shares[-1] == 1.0
    only: list[str] = []
    gencodec.compress(pixels, model=str(adaptive_file), effort=1, threads=1, note=only.append, device="cpu")
    assert only == [""]


@pytest.mark.parametrize("case", ["not paying", "compared"])
def test_progress_never_falls(adaptive: Model, pixels: Pixels, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Where fitting was in vain, and where both files are made."""
    monkeypatch.setattr(tiling, "GROUP", 1)
    monkeypatch.setattr(tiling, "SMALL", 0)
    if case == "compared":
        monkeypatch.setattr(samples, "CLEARLY", 1.0)
    else:
        monkeypatch.setattr(adapting, "RATE", 0.0)
    shares: list[float] = []
    samples.encode(pixels, samples.Means(lambda: adaptive, None, 2), samples.Listener(shares.append))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


@pytest.mark.parametrize("effort", [0, 10, -1, 100])
def test_efforts_are_from_1_to_9(effort: int, pixels: Pixels, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"the effort is from 1 to 9, not {effort}"):
        gencodec.compress(pixels, effort=effort)
    with pytest.raises(UsageError):
        gencodec.save(pixels, tmp_path / "a.gnc", effort=effort)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("steps", [adapting.STEPS, adapting.WIDE_STEPS])
def test_there_is_a_count_of_steps_for_every_effort(steps: tuple[int, ...]) -> None:
    assert len(steps) == 9
    assert list(steps) == sorted(set(steps))
    assert steps[0] == 0

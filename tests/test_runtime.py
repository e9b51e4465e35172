"""The runtime: proofs are checked again, models found by name, and sessions shared without a difference in bits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gencodec.codec import photo
from gencodec.errors import GencodecError, InexactGraph, InvalidFile, UnknownModel, UsageError
from gencodec.runtime import Model, find_model, list_models, load, model_for, onnxfile, proof
from gencodec.runtime.onnxfile import OnnxFile
from gencodec.runtime.registry import UNREGISTERED, models_behind

ROOT = Path(__file__).resolve().parent.parent


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A gradient with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    plane = (2 * x + y)[..., None] + rng.integers(0, 12, (height, width, 3))
    return (plane % 256).astype(np.uint8)


# the proof

Layers = list[dict[str, Any]]


def with_proof(file: OnnxFile, layers: object) -> OnnxFile:
    """The file with another proof."""
    return replace(file, metadata={**file.metadata, "gencodec.proof": json.dumps(layers)})


@pytest.fixture(scope="module")
def proved(tiny_file: Path) -> OnnxFile:
    """A file with a sound proof."""
    return onnxfile.read(tiny_file.read_bytes())


@pytest.fixture
def layers(proved: OnnxFile) -> Layers:
    """The statements of its proof."""
    return json.loads(proved.metadata["gencodec.proof"])


def test_a_sound_proof_gives_the_largest_sum(proved: OnnxFile, layers: Layers) -> None:
    assert proof.check(proved) == max(layer["worst"] for layer in layers)


def test_a_changed_weight_is_noticed(proved: OnnxFile, layers: Layers) -> None:
    for layer in layers:
        for part in ("weight", "bias"):
            name = f"{layer['layer']}.{part}"
            changed = np.array(proved.constants[name], np.int64)
            reach = np.repeat([m for _, m in layer["reach"]], [n for n, _ in layer["reach"]])
            weight = np.abs(np.array(proved.constants[f"{layer['layer']}.weight"], np.int64))
            row = int((weight @ reach + np.abs(proved.constants[f"{layer['layer']}.bias"])).argmax())
            changed[row] += np.where(changed[row] < 0, -1, 1)
            constants = {**proved.constants, name: changed.astype(proved.constants[name].dtype)}
            with pytest.raises(InexactGraph, match=f"layer {layer['layer']} has other weights"):
                proof.check(replace(proved, constants=constants))


def test_a_weight_beyond_the_bound_is_refused_with_its_figure(proved: OnnxFile, layers: Layers) -> None:
    name = layers[0]["layer"]
    bias = np.array(proved.constants[f"{name}.bias"], np.int32)
    bias[0] = 1 << 24
    file = replace(proved, constants={**proved.constants, f"{name}.bias": bias})
    with pytest.raises(InexactGraph, match=rf"layer {name} is not exact: .* \d{{8}}, the limit is 16777216"):
        proof.check(file)


def test_changed_weights_have_the_same_limit(proved: OnnxFile, layers: Layers) -> None:
    name = layers[0]["layer"]
    reach = proof.reaches(proved)[name]
    weight = np.abs(np.array(proved.constants[f"{name}.weight"], np.int64))
    bias = np.array(proved.constants[f"{name}.bias"], np.int32)
    most = np.where(np.arange(len(bias)) == 0, proof.EXACT_LIMIT - 1 - weight @ reach, bias).astype(np.int32)
    file = replace(proved, constants={**proved.constants, f"{name}.bias": most})
    assert proof.check(file, adapted=True) == proof.EXACT_LIMIT - 1
    with pytest.raises(InexactGraph, match=f"layer {name} has other weights"):
        proof.check(file)
    more = most + (np.arange(len(bias)) == 0).astype(np.int32)
    over = replace(proved, constants={**proved.constants, f"{name}.bias": more})
    for adapted in (True, False):
        with pytest.raises(InexactGraph, match=rf"layer {name} is not exact: .* 16777216, the limit is 16777216"):
            proof.check(over, adapted=adapted)
    extra = {**proved.constants, "more.weight": np.zeros((1, 1), np.int16)}
    with pytest.raises(InexactGraph, match="layer more has no proof"):
        proof.check(replace(proved, constants=extra), adapted=True)


def test_reaches_are_those_of_every_input(proved: OnnxFile, layers: Layers) -> None:
    reaches = proof.reaches(proved)
    assert list(reaches) == [layer["layer"] for layer in layers]
    for name, reach in reaches.items():
        assert reach.shape == proved.constants[f"{name}.weight"].shape[1:]
        assert (reach > 0).all()


def test_weights_that_no_proof_names_are_refused(proved: OnnxFile, layers: Layers) -> None:
    for layer in layers[:3]:
        kept = [other for other in layers if other["layer"] != layer["layer"]]
        with pytest.raises(InexactGraph, match=f"layer {layer['layer']} has no proof"):
            proof.check(with_proof(proved, kept))
    extra = {**proved.constants, "more.weight": np.zeros((1, 1), np.int16)}
    with pytest.raises(InexactGraph, match="layer more has no proof"):
        proof.check(replace(proved, constants=extra))


@pytest.mark.parametrize(
    "layers",
    [
        None,
        7,
        [7],
        {"layer": "red"},
        [{"layer": "nowhere", "reach": [[1, 1]], "worst": 1}],
        [{"layer": "trunk.photo.inner"}],
        [{"layer": "trunk.photo.inner", "reach": [[1, 1]], "worst": 1}],
    ],
)
def test_proofs_that_say_nothing_are_refused(proved: OnnxFile, layers: object) -> None:
    with pytest.raises(InexactGraph):
        proof.check(with_proof(proved, layers))


def test_a_missing_proof_is_refused(proved: OnnxFile) -> None:
    metadata = {key: text for key, text in proved.metadata.items() if key != "gencodec.proof"}
    texts = ({}, {"gencodec.proof": "{"}, {"gencodec.proof": "[" * 200_000})
    for file in (replace(proved, metadata=metadata | text) for text in texts):
        with pytest.raises(InexactGraph, match="carries no proof"):
            proof.check(file)
    with pytest.raises(InexactGraph):
        proof.check(OnnxFile({}, {"gencodec.proof": "[]"}))


@pytest.mark.parametrize(
    "reach",
    [
        lambda n: [],
        lambda n: [[n - 1, 1]],
        lambda n: [[1 << 40, 1]],
        lambda n: [[n + 1, 1], [-1, 1]],
        lambda n: [[n, -100_000]],
        lambda n: [[n, 1 << 25]],
        lambda n: [[n, 1 << 70]],
        lambda n: [[n, float("inf")]],
    ],
)
def test_reaches_that_are_not_those_of_all_inputs_are_refused(
    proved: OnnxFile, layers: Layers, reach: Callable[[int], object]
) -> None:
    layers[0]["reach"] = reach(proved.constants[f"{layers[0]['layer']}.weight"].shape[1])
    with pytest.raises(InexactGraph, match="carries no proof"):
        proof.check(with_proof(proved, layers), adapted=True)


@pytest.mark.parametrize(
    ("part", "dtype"), [("weight", np.float32), ("weight", np.int64), ("bias", np.float32), ("bias", np.int64)]
)
def test_weights_of_wider_types_are_refused(proved: OnnxFile, layers: Layers, part: str, dtype: type) -> None:
    name = f"{layers[0]['layer']}.{part}"
    file = replace(proved, constants={**proved.constants, name: np.array(proved.constants[name], dtype)})
    with pytest.raises(InexactGraph, match="carries no proof"):
        proof.check(file)


def test_a_tampered_file_is_not_loaded(tiny_file: Path, tmp_path: Path, proved: OnnxFile, layers: Layers) -> None:
    """Even when its hash is as its card says: the proof alone refuses it."""
    data = tiny_file.read_bytes()
    weight = proved.constants[f"{layers[0]['layer']}.weight"].tobytes()
    assert data.count(weight) == 1
    changed = np.frombuffer(weight, "<i2") * 2
    path = tmp_path / "tampered.onnx"
    path.write_bytes(data.replace(weight, changed.astype("<i2").tobytes()))
    with pytest.raises(InexactGraph, match=layers[0]["layer"]):
        load(path, threads=1, device="cpu")


# reading ONNX files


def test_constants_are_those_that_onnx_reads(tiny_file: Path, proved: OnnxFile) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tiny_file)
    assert len(model.graph.initializer) == len(proved.constants)
    for tensor in model.graph.initializer:
        expected, found = onnx.numpy_helper.to_array(tensor), proved.constants[tensor.name]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert proved.metadata == {entry.key: entry.value for entry in model.metadata_props}


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_model_or_an_invalid_file(data: bytes) -> None:
    with suppress(InvalidFile):
        assert isinstance(onnxfile.read(data), OnnxFile)


@settings(max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), seed=st.integers(0, 4))
def test_damaged_models_are_refused_or_read(place: float, value: int, seed: int) -> None:
    data = bytearray(SMALLEST)
    data[int(place * len(data))] = value
    if seed == 0:
        del data[int(place * len(data)) :]
    with suppress(InvalidFile):
        assert isinstance(onnxfile.read(bytes(data)), OnnxFile)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


_TENSOR = b"\x08\x02\x08\x01\x10\x05" + _field(8, b"a.weight") + _field(9, b"\1\0\2\0")
SMALLEST = b"\x08\x08" + _field(7, _field(5, _TENSOR)) + _field(14, _field(1, b"key") + _field(2, b"text"))
"""A model with one constant, int16 of shape (2, 1), and one entry of metadata, written by hand."""


def test_a_model_written_by_hand_is_read() -> None:
    file = onnxfile.read(SMALLEST)
    assert file.metadata == {"key": "text"}
    np.testing.assert_array_equal(file.constants["a.weight"], np.array([[1], [2]], np.int16))


@pytest.mark.parametrize("dimension", [2**63, 2**64 - 1, 2**40])
def test_absurd_dimensions_are_refused(dimension: int) -> None:
    digits = [dimension >> shift & 127 | 128 for shift in range(0, 63, 7)] + [dimension >> 63]
    tensor = b"\x08" + bytes(digits) + b"\x10\x05" + _field(8, b"a") + _field(9, b"\1\0\2\0")
    with pytest.raises(InvalidFile):
        onnxfile.read(_field(7, _field(5, tensor)))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.onnx"
    path.write_bytes(b"not a model at all")
    with pytest.raises(GencodecError):
        load(path, threads=1, device="cpu")


# the registry


def test_the_models_behind_a_name_are_told_once() -> None:
    assert len(models_behind("photo-base.5")) == 1
    for alias in ("photo", "photo-codes"):
        names = [card.name for card in models_behind(alias)]
        assert len(names) > 1
        assert len(set(names)) == len(names)


def test_cards_are_sound() -> None:
    cards = list_models()
    names = [name for card in cards for name in (card.name, *card.aliases)]
    assert len(set(names)) == len(names)
    assert len({card.wire_id for card in cards}) == len(cards)
    for card in cards:
        assert 0 < card.wire_id < 1 << 16
        assert hashlib.sha256(card.file.read_bytes()).hexdigest() == card.sha256
        assert all(find_model(name) is card for name in (card.name, *card.aliases))
        assert model_for(card.wire_id, card.weights_prefix) is card
        file = onnxfile.read(card.file.read_bytes())
        assert proof.check(file) < proof.EXACT_LIMIT
        assert {card.for_codes, card.quick, card.medium, card.large, card.large_slow} <= {"", *names}
        assert (file.metadata.get("gencodec.adapts", "[]") != "[]") == card.file.with_suffix(".step.onnx").exists()


@pytest.mark.parametrize(("name", "hint"), [("photos", "did you mean photo"), ("foto-base", "did you mean photo-base")])
def test_a_misspelled_model_is_suggested(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        find_model(name)


def test_what_no_model_is_like_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"known are .*photo-base\.1"):
        find_model("zzzzzz")
    with pytest.raises(UsageError, match="cannot be read"):
        find_model(tmp_path / "missing.onnx")


def test_a_path_is_a_model(tiny_file: Path) -> None:
    for name in (tiny_file, str(tiny_file)):
        card = find_model(name)
        assert card.wire_id == UNREGISTERED
        assert card.sha256 == hashlib.sha256(tiny_file.read_bytes()).hexdigest()


def test_files_name_their_model(tiny_file: Path) -> None:
    shipped, own = list_models()[0], find_model(tiny_file)
    with pytest.raises(UnknownModel, match=f"other weights of {shipped.name}"):
        model_for(shipped.wire_id, bytes(8))
    with pytest.raises(UnknownModel, match="number 65535"):
        model_for(65535, shipped.weights_prefix)
    with pytest.raises(UnknownModel, match=own.weights_prefix.hex()):
        model_for(UNREGISTERED, own.weights_prefix)
    assert model_for(UNREGISTERED, own.weights_prefix, own) is own
    with pytest.raises(UnknownModel):
        model_for(UNREGISTERED, bytes(8), own)


# loading and running


def test_other_weights_than_the_cards_are_refused(tiny_file: Path) -> None:
    card = replace(list_models()[0], file=tiny_file, sha256="0" * 64)
    with pytest.raises(UnknownModel, match="not the ones that its card names"):
        load(card, threads=1, device="cpu")
    missing = replace(card, file=tiny_file.with_name("gone.onnx"))
    with pytest.raises(UnknownModel, match="missing"):
        load(missing, threads=1, device="cpu")


def test_models_stay_warm(tiny_file: Path, tiny: Model) -> None:
    assert load(tiny_file, threads=1, device="cpu") is tiny
    assert load(str(tiny_file), threads=1, device="cpu") is tiny
    assert load(tiny_file, threads=2, device="cpu") is not tiny
    assert load(tiny_file, threads=1, device="cpu", optimize=False) is not tiny


@pytest.mark.parametrize("device", ["abacus", "tensorrt", "CPUExecutionProvider", ""])
def test_unknown_devices_are_refused(tiny_file: Path, device: str) -> None:
    with pytest.raises(UsageError, match="known are auto, cpu and cuda"):
        load(tiny_file, threads=1, device=device)


def test_a_changed_model_is_another_one(adaptive_file: Path, adaptive: Model) -> None:
    name = "trunk.photo.bank.bias"
    values = np.array(adaptive.constant(name), np.int32) + np.int32(1)
    model = adaptive.changed({name: values})
    np.testing.assert_array_equal(model.constant(name), values)
    assert (adaptive.constant(name) != values).all()
    assert model.adapted
    assert model.card is adaptive.card
    assert load(adaptive_file, threads=1, device="cpu") is adaptive
    with pytest.raises(InexactGraph):
        adaptive.changed({name: values + np.int32(1 << 24)})
    for wrong in (values.astype(np.int64), values[:-1], values[:, None]):
        with pytest.raises(ValueError, match=name):
            adaptive.changed({name: wrong})


def test_the_training_step_stands_beside_its_model(adaptive: Model, tiny: Model) -> None:
    assert tiny.step is None
    assert adaptive.step is not None
    assert adaptive.step is adaptive.step
    names = [given.name for given in adaptive.step.get_inputs()]
    assert names[:7] == ["relative", "near", "pooled", "base", "pixel", "colors", "mixture"]
    layers = json.loads(adaptive.file.metadata["gencodec.adapts"])
    assert names[7:] == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    assert [given.name for given in adaptive.step.get_outputs()][1:] == [f"gradient.{name}" for name in names[7:]]


def test_constants_by_name(tiny: Model) -> None:
    assert tiny.constant("shapes.rate").dtype == np.int32
    with pytest.raises(InvalidFile, match="no table elsewhere"):
        tiny.constant("elsewhere")


def test_threads_share_a_model(tiny: Model) -> None:
    pictures = [picture(40 + seed, 70 - seed, seed) for seed in range(6)]
    expected = [photo.encode(p, tiny).payload for p in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: photo.encode(p, tiny).payload, pictures * 4))
        decoded = list(pool.map(lambda i: photo.decode(expected[i], pictures[i].shape, tiny), range(6)))
    assert found == expected * 4
    assert all(np.array_equal(a, b) for a, b in zip(decoded, pictures, strict=True))


def test_threads_that_load_at_once_get_one_model(tiny_file: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: load(tiny_file, threads=3, device="cpu"), range(8)))
    assert len({id(model) for model in models}) == 1


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_nothing_is_written_to_stderr(tiny_file: Path, device: str) -> None:
    program = f"""
import sys
import numpy as np
from gencodec.codec import photo
from gencodec.runtime import load
model = load({str(tiny_file)!r}, device={device!r})
photo.encode(np.zeros((9, 9, 3), np.uint8), model)
assert "torch" not in sys.modules and "onnx" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

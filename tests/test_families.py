"""The laws that every family's shipped model obeys: lossless, exact, close to its own estimate, and generative."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gencodec
from gencodec.codec import codecs, formats
from gencodec.codec.coder import IntervalCoder
from gencodec.errors import GencodecError, InvalidFile
from gencodec.evaluation import ours
from gencodec.runtime import Model, find_model, list_models, load

Pixels = NDArray[np.uint8]
COAST = Path(__file__).resolve().parent.parent / "examples" / "coast.png"
CARDS = [card for card in list_models() if card.family in (*codecs.AUTOREGRESSIVE, *codecs.BITS_BACK)]
NAMES = [card.name for card in CARDS]
BITS_BACK = [card.name for card in CARDS if card.family in codecs.BITS_BACK]


@pytest.fixture(scope="module")
def coast() -> Pixels:
    """A photograph, (312, 416, 3)."""
    return formats.read_image(COAST).pixels.astype(np.uint8)


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Model:
    return load(request.param, threads=2, device="cpu")


def test_every_family_ships() -> None:
    families = {card.family for card in CARDS}
    assert families == {*codecs.AUTOREGRESSIVE, *codecs.FLOWS, *codecs.LATENT}
    assert all(card.file.stat().st_size < 4 << 20 for card in CARDS)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 37, 3), (41, 3, 1), (65, 67, 3)])
def test_any_size_comes_back(model: Model, coast: Pixels, shape: tuple[int, int, int]) -> None:
    pixels = np.ascontiguousarray(coast[100 : 100 + shape[0], 200 : 200 + shape[1], : shape[2]])
    codec = codecs.codec_of(model)
    payload = codec.encode(pixels, model).payload
    assert np.array_equal(codec.decode(payload, shape, model), pixels)


def test_noise_and_flat_ground_come_back(model: Model) -> None:
    rng = np.random.default_rng(2)
    codec = codecs.codec_of(model)
    for pixels in (rng.integers(0, 256, (20, 70, 3), np.uint8), np.full((33, 24, 3), 255, np.uint8)):
        payload = codec.encode(pixels, model).payload
        assert np.array_equal(codec.decode(payload, pixels.shape, model), pixels)


def test_threads_and_optimizations_change_no_bit(model: Model, coast: Pixels) -> None:
    pixels = np.ascontiguousarray(coast[100:140, 40:112])
    codec = codecs.codec_of(model)
    payload = codec.encode(pixels, model).payload
    for threads, optimize in ((1, True), (2, False)):
        other = load(model.card, threads=threads, device="cpu", optimize=optimize)
        assert codec.encode(pixels, other).payload == payload
        assert np.array_equal(codec.decode(payload, pixels.shape, other), pixels)


def test_a_file_is_as_long_as_the_model_says(model: Model, coast: Pixels) -> None:
    pixels = np.ascontiguousarray(coast[:256, :256])
    coded = codecs.codec_of(model).encode(pixels, model)
    assert 8 * len(coded.payload) < 1.02 * coded.estimate_bits
    assert coded.estimate_bits < 0.75 * 8 * pixels.size  # a photograph, and a model of photographs


def test_a_region_is_the_part_of_the_whole(model: Model, coast: Pixels) -> None:
    pixels = np.ascontiguousarray(coast[:70, :135])
    codec = codecs.codec_of(model)
    payload = codec.encode(pixels, model).payload
    assert np.array_equal(codec.decode(payload, pixels.shape, model, region=(70, 66, 61, 3)), pixels[66:69, 70:131])


def test_damage_is_noticed(model: Model, coast: Pixels) -> None:
    pixels = np.ascontiguousarray(coast[:36, :36])
    codec = codecs.codec_of(model)
    payload = codec.encode(pixels, model).payload
    for length in (0, 3, 9, len(payload) // 2):
        with pytest.raises(InvalidFile):
            codec.decode(payload[:length], pixels.shape, model)
    rng = np.random.default_rng(4)
    for at in rng.integers(0, len(payload), 4):
        damaged = bytearray(payload)
        damaged[at] ^= 0x10
        try:
            result = codec.decode(bytes(damaged), pixels.shape, model)
        except InvalidFile:
            continue
        assert not np.array_equal(result, pixels)


@pytest.fixture(scope="module")
def samples(model: Model) -> Pixels:
    return codecs.sample(model, 2, 1)


def test_samples_are_pictures(model: Model, samples: Pixels) -> None:
    tile = model.config["tile"]
    one, again, other = samples, *(codecs.sample(model, 2, seed) for seed in (1, 2))
    assert one.shape == (2, tile, tile, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert all(sample.std() > 1 for sample in one)
    # neighbors are alike, as in photographs and unlike noise
    steps = np.abs(np.diff(one.astype(int), axis=2)).mean()
    assert steps < 0.6 * np.abs(one.astype(int) - one[:, :, ::-1].astype(int)).mean() + 4


def test_low_temperatures_are_calmer(model: Model, samples: Pixels) -> None:
    usual, calm = samples.astype(int), codecs.sample(model, 2, 1, 0.4).astype(int)
    assert np.abs(np.diff(calm, axis=1)).mean() < np.abs(np.diff(usual, axis=1)).mean()


def test_whole_files_by_name(model: Model, coast: Pixels) -> None:
    pixels = np.dstack([coast[:20, :70], np.arange(1400, dtype=np.uint8).reshape(20, 70)])  # with alpha
    file = gencodec.compress(pixels, model=model.card.family, threads=1, device="cpu")
    found = gencodec.info(file)
    assert found.model == model.card.name
    assert (found.initial_bits is not None) == (model.family in codecs.BITS_BACK)
    assert np.array_equal(gencodec.decompress(file, threads=1, device="cpu").pixels, pixels)


@pytest.mark.parametrize("name", BITS_BACK)
def test_popping_leaves_the_stack_as_it_was(name: str, coast: Pixels) -> None:
    codec = codecs.tile_codec(load(name, threads=1, device="cpu"))
    side = codec.tile
    tiles = np.ascontiguousarray(coast[: 3 * side, :side].reshape(3, side, side, 3).transpose(0, 3, 1, 2))
    words = np.random.default_rng(1).integers(1, 1 << 32, 40000, dtype=np.uint32)
    stack = IntervalCoder(words)
    codec.push(stack, tiles)
    assert stack.bits > tiles.size
    assert np.array_equal(codec.pop(stack, 3), tiles)
    assert np.array_equal(np.frombuffer(stack.to_bytes(), "<u4"), words)
    assert stack.bits == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("name", BITS_BACK)
def test_latents_keep_what_a_picture_shows(name: str, coast: Pixels) -> None:
    codec = codecs.tile_codec(load(name, threads=1, device="cpu"))
    side = codec.tile
    tiles = np.ascontiguousarray(coast[:side, : 3 * side].reshape(side, 3, side, 3).transpose(1, 3, 0, 2))
    back = codec.decoded(codec.latents(tiles)).astype(float)
    error = np.sqrt(np.mean((back - tiles) ** 2))
    assert error < 0.35 * tiles.std()


SPOILED = [
    ("photo-small", {"reach": [[-4, -1]]}),
    ("pixelcnn", {"hidden": 16}),
    ("pixelcnn", {"tile": float("inf")}),
    ("pixelcnn", {"reach": [[-4, -1]]}),
    ("pixelcnn", {"reach": []}),
    ("pixelrnn", {"near": []}),
    ("nice", {"steps": [{"step": "squeeze", "factor": 0}]}),
    ("glow", {"tile": 512}),
    ("vae", {"sizes": {}}),
    ("vq-vae", {"maps": [{"name": "bottom", "stages": 8, "stride": 0}, {"name": "bottom", "stages": 8, "stride": 8}]}),
    ("nvae-lossy", {"knots": 0}),
    ("nvae-lossy", {"latents": []}),
]


@pytest.mark.parametrize(("name", "changes"), SPOILED, ids=[f"{name}-{min(c)}" for name, c in SPOILED])
def test_a_model_that_is_not_built_as_it_says_is_refused(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    changed = onnx.load(find_model(name).file)
    entry = next(p for p in changed.metadata_props if p.key == "gencodec.config")
    entry.value = json.dumps({**json.loads(entry.value), **changes})
    onnx.save(changed, tmp_path / "changed.onnx")
    model = load(tmp_path / "changed.onnx", threads=1, device="cpu")
    lossy = model.family in codecs.LOSSY
    encode = partial(codecs.lossy_codec_of(model).encode, level=0) if lossy else codecs.codec_of(model).encode
    with pytest.raises(GencodecError), codecs.checked(model):
        encode(np.zeros((9, 9, 3), np.uint8), model)


def compressed(model: str, pixels: Pixels, **wish: float) -> bytes:
    return gencodec.compress(pixels, model=model, threads=1, device="cpu", **wish)  # type: ignore[arg-type]


def decompressed(model: str, pixels: Pixels) -> gencodec.Image:
    return gencodec.decompress(compressed(model, pixels), model=model, threads=1, device="cpu")


def swept(model: str, pixels: Pixels) -> Any:
    return ours.sweep(model, [50])


@pytest.mark.parametrize(
    ("name", "function", "call"),
    [
        ("nice", "bitsback.encode", compressed),
        ("nice", "bitsback.decode", decompressed),
        ("vq-vae", "vq.levels", compressed),
        ("vq-vae", "vq.levels", swept),
        ("vq-vae", "vq.encode", compressed),
        ("vq-vae", "vq.decode", decompressed),
        ("vq-vae", "vq.decode", partial(compressed, target_psnr=20)),
    ],
)
def test_whatever_a_model_of_the_users_own_fails_at_ends_in_one_sentence(
    name: str,
    function: str,
    call: Callable[[str, Pixels], Any],
    coast: Pixels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise ValueError

    own = shutil.copy(find_model(name).file, tmp_path / "own.onnx")
    monkeypatch.setattr(f"gencodec.codec.{function}", failing)
    with pytest.raises(InvalidFile, match=r"own\.onnx is not built as it says"):
        call(str(own), np.ascontiguousarray(coast[:64, :64]))

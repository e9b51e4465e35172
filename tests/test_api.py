"""The public functions: any image comes back, never larger than WebP, and `info` tells the truth."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image as PillowImage

import gencodec
from gencodec import Image, InvalidFile, Metadata, UnknownModel, UsageError
from gencodec.codec import choice, ordinary
from gencodec.codec.container import Coder, SectionKind
from tests.stand_in import StandIn, real_model_exists

METADATA = Metadata(icc=b"icc" * 50, exif=b"II*\0", xmp=b"<x/>", srgb_intent=1, density=(2835, 2835, 1))
quick = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in for the neural codec, installed."""
    found = StandIn()
    found.install(monkeypatch)
    return found


@pytest.fixture
def neural(monkeypatch: pytest.MonkeyPatch) -> None:
    """The neural codec where there is one, else its stand-in."""
    if not real_model_exists():
        StandIn().install(monkeypatch)


def photo(*shape: int, seed: int = 3) -> NDArray[np.uint8]:
    """Samples (H, W, C) with slopes, edges and grain, of many colors."""
    rng = np.random.default_rng(seed)
    y, x, c = np.ogrid[: shape[0], : shape[1], : shape[2]]
    slope = 70 + 1.3 * x + 0.7 * y * (c + 1) + 50 * (np.hypot(x - 30, y - 20) < 15)
    return np.clip(slope + rng.normal(0, 3, shape), 0, 255).astype(np.uint8)


def coders(data: bytes) -> list[tuple[SectionKind, Coder]]:
    return [(section.kind, section.coder) for section in gencodec.info(data).sections]


def webp_bytes(pixels: NDArray[np.uint8]) -> int:
    file = io.BytesIO()
    picture = PillowImage.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.save(file, "WEBP", lossless=True, quality=100, method=6)
    return len(file.getvalue())


@st.composite
def any_image(draw: st.DrawFn) -> Image:
    """An image of any shape, dtype, depth and content."""
    shape = draw(st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(1, 4)))
    depth = draw(st.sampled_from([1, 2, 4, 8, 8, 8, 10, 12, 16]))
    dtype = np.uint8 if depth in (1, 2, 4, 8) else np.uint16
    content = draw(st.sampled_from(["drawn", "noise", "photo"]))
    if content == "drawn":
        values = draw(hnp.arrays(dtype, shape))
    elif content == "noise":
        values = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 2**16, shape).astype(dtype)
    else:
        values = photo(*shape).astype(dtype)
    top = (1 << depth) - 1
    values = (values & top) * (255 // top) if dtype == np.uint8 else values & top
    return Image.from_array(
        values.astype(dtype), bit_depth=depth, metadata=draw(st.sampled_from([Metadata(), METADATA]))
    )


@given(any_image())
@quick
@pytest.mark.usefixtures("neural")
def test_any_image_comes_back(image: Image) -> None:
    assert gencodec.decompress(gencodec.compress(image)) == image


@given(any_image(), st.data())
@quick
@pytest.mark.usefixtures("neural")
def test_any_region_comes_back(image: Image, data: st.DataObject) -> None:
    x = data.draw(st.integers(0, image.width - 1))
    y = data.draw(st.integers(0, image.height - 1))
    width = data.draw(st.integers(1, image.width - x))
    height = data.draw(st.integers(1, image.height - y))
    part = gencodec.decompress(gencodec.compress(image), region=(x, y, width, height))
    np.testing.assert_array_equal(part.pixels, image.pixels[y : y + height, x : x + width])
    assert (part.bit_depth, part.metadata) == (image.bit_depth, image.metadata)


def test_a_region_of_one_color_takes_no_more_room_than_it_needs() -> None:
    data = gencodec.compress(np.full((1000, 1000, 3), 9, np.uint8))
    tracemalloc.start()
    part = gencodec.decompress(data, region=(10, 20, 30, 40))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    np.testing.assert_array_equal(part.pixels, np.full((40, 30, 3), 9, np.uint8))


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("region", [(0, 0, 0, 1), (-1, 0, 2, 2), (5, 5, 6, 1), (0, 9, 1, 2)])
def test_regions_outside_are_refused(region: tuple[int, int, int, int]) -> None:
    data = gencodec.compress(photo(10, 10, 3))
    with pytest.raises(UsageError, match="not within the image of 10 x 10"):
        gencodec.decompress(data, region=region)
    with pytest.raises(UsageError, match="a region is x, y, width and height"):
        gencodec.decompress(data, region=region[:3])  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_photographs_go_to_the_model(stand_in: StandIn, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "model_wins", lambda *_: True)
    pixels = photo(48, 64, channels)
    data = gencodec.compress(pixels)
    assert coders(data)[0] == (SectionKind.COLOR, Coder.MODEL)
    assert len(coders(data)) == (2 if channels in (2, 4) else 1)
    np.testing.assert_array_equal(gencodec.decompress(data).pixels, pixels)
    assert (stand_in.encoded, stand_in.decoded) == (1, 1)


def test_what_the_model_does_not_suit_never_reaches_it(stand_in: StandIn) -> None:
    icon, drawing = photo(31, 64, 3), photo(64, 64, 3) // 128 * 255
    scan, deep = photo(64, 64, 1) // 20, photo(64, 64, 3).astype(np.uint16) * 200
    for pixels in (icon, drawing, scan, deep):
        np.testing.assert_array_equal(gencodec.decompress(gencodec.compress(pixels)).pixels, pixels)
    assert stand_in.encoded == 0


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_never_larger_than_webp(stand_in: StandIn, channels: int) -> None:
    """A model that fails on an image costs its user nothing."""
    stand_in.padding = 100_000
    tile = photo(64, 64, channels)
    for pixels in (tile, np.tile(tile, (3, 3, 1)), np.repeat(tile, 2, axis=1)):
        data = gencodec.compress(pixels)
        assert len(data) <= webp_bytes(pixels) + 64
        assert Coder.MODEL not in [coder for _, coder in coders(data)]
    assert stand_in.encoded == 3


def test_probes_decide_on_larger_images() -> None:
    """A clear win needs no slow WebP; a near one, and any on a small image, is not taken for sure."""
    pixels = photo(200, 300, 3)
    webp = len(ordinary.encode_webp(pixels))
    sure = choice.sure_size(pixels)
    assert choice.model_wins(pixels, webp * 7 // 10, sure)
    assert not choice.model_wins(pixels, webp, sure)
    assert not choice.model_wins(pixels[:50, :50], 1, choice.sure_size(pixels[:50, :50]))


@pytest.mark.parametrize("width", range(1, 9))
def test_pictures_narrower_than_a_run_of_pixels_come_back(width: int) -> None:
    pixels = photo(6000, width, 3)
    assert pixels.size > 1 << 14  # fewer samples are not probed for repeats
    np.testing.assert_array_equal(gencodec.decompress(gencodec.compress(pixels)).pixels, pixels)


def test_of_large_images_parts_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they tell is close to what the whole does; where it does not settle the matter, the whole is looked at."""
    pixels = photo(1600, 240, 3) // 2 + np.random.default_rng(0).integers(0, 9, (1600, 240, 3), np.uint8)
    whole, quick = choice.sure_size(pixels), ordinary.quick_webp(pixels)
    monkeypatch.setattr(choice, "LARGE", 200 * 240)
    assert choice.sure_size(pixels) == whole  # too narrow
    monkeypatch.setattr(ordinary, "LEAST_STRIPE", 240)
    assert ordinary.has_stripes(pixels[:1536])
    assert not ordinary.has_stripes(pixels[:1535])
    assert ordinary.sampled_webp(pixels) == pytest.approx(quick, rel=0.05)
    sure = choice.sure_size(pixels)
    assert sure != whole
    assert sure == pytest.approx(choice.SAMPLED_SHARE * whole, rel=0.05)
    looked: list[int] = []
    monkeypatch.setattr(ordinary, "quick_webp", lambda _: looked.append(0) or quick)
    assert choice.model_wins(pixels, int(sure) - 1, sure)
    assert not looked
    assert choice.model_wins(pixels, int(whole) - 1, min(sure, whole - 2))
    assert looked


def test_stripes_that_recur_do_not_mislead_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fourth of the rows, evenly spaced, that takes WebP twice as much as the others do."""
    rng = np.random.default_rng(1)
    pixels = np.repeat(rng.integers(0, 256, (1600, 240, 1), np.uint8), 3, 2)
    for top in range(32, 1600, 64):
        pixels[top : top + 16] = rng.integers(0, 256, (16, 240, 3), np.uint8)
    monkeypatch.setattr(ordinary, "LEAST_STRIPE", 240)
    assert ordinary.sampled_webp(pixels) < 1.25 * ordinary.quick_webp(pixels)


def test_repeated_content_is_noticed() -> None:
    """Copies far apart, which quick WebP does not look for, show as repeated runs."""
    once = photo(100, 100, 3)
    assert choice.repeated_share(once) < choice.FEW_REPEATS
    assert choice.repeated_share(np.vstack([once, once])) > 0.4


@pytest.mark.usefixtures("neural")
def test_never_larger_than_webp_with_the_real_model() -> None:
    tile = photo(64, 64, 3)
    for pixels in (tile, np.tile(tile, (2, 3, 1)), tile // 64 * 64, np.ascontiguousarray(tile[:, :, :1])):
        assert len(gencodec.compress(pixels)) <= webp_bytes(pixels) + 64


def test_info_tells_what_was_written(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "model_wins", lambda *_: True)
    stand_in.padding = 10
    data = gencodec.compress(Image.from_array(photo(48, 64, 3), metadata=METADATA))
    found = gencodec.info(data)
    assert (found.width, found.height, found.channels, found.bit_depth, found.version) == (64, 48, 3, 8, 1)
    assert found.bytes == len(data)
    assert found.bpsp == pytest.approx(8 * len(data) / (64 * 48 * 3))
    assert (found.model, found.wire_id, found.weights) == ("photo-stand.1", 0xFFFE, "5e" * 8)
    coded = found.sections[-1].bytes
    assert found.estimate_bits == 8 * (coded - 10)
    assert found.overhead == pytest.approx(10 / (coded - 10))
    assert found.metadata == {
        "icc_bytes": 150, "exif_bytes": 4, "xmp_bytes": 4, "srgb_intent": 1, "density": (2835, 2835, 1)
    }  # fmt: skip
    assert gencodec.verify(data) == found
    assert stand_in.decoded == 1


@pytest.mark.usefixtures("neural")
def test_all_kinds_of_sources(tmp_path: Path) -> None:
    pixels = photo(20, 30, 3)
    PillowImage.fromarray(pixels).save(tmp_path / "in.png")
    expected = gencodec.compress(pixels)
    path = tmp_path / "in.png"
    for source in (
        path,
        str(path),
        path.read_bytes(),
        io.BytesIO(path.read_bytes()),
        Image.from_array(pixels),
    ):
        assert gencodec.compress(source) == expected
    (tmp_path / "out.gnc").write_bytes(expected)
    for source in (tmp_path / "out.gnc", str(tmp_path / "out.gnc"), expected, io.BytesIO(expected)):
        np.testing.assert_array_equal(gencodec.decompress(source).pixels, pixels)
        assert gencodec.info(expected).bytes == len(expected)


@pytest.mark.usefixtures("neural")
def test_save_and_open(tmp_path: Path) -> None:
    image = Image.from_array(photo(20, 30, 1), metadata=METADATA)
    gencodec.save(image, tmp_path / "a.gnc")
    buffer = io.BytesIO()
    gencodec.save(image, buffer)
    assert gencodec.open(tmp_path / "a.gnc") == image == gencodec.open(io.BytesIO(buffer.getvalue()))
    assert [path.name for path in tmp_path.iterdir()] == ["a.gnc"]


@pytest.mark.usefixtures("neural")
def test_progress_ends_at_one() -> None:
    for pixels in (photo(40, 40, 3), photo(9, 9, 1)):
        shares: list[float] = []
        data = gencodec.compress(pixels, progress=shares.append)
        assert shares[-1] == 1.0
        gencodec.decompress(data, progress=shares.append)
        assert shares[-1] == 1.0
        assert all(0 <= share <= 1 for share in shares)


@pytest.mark.parametrize("effort", [1, 2, 9])
def test_effort_reaches_the_codec(stand_in: StandIn, effort: int) -> None:
    pixels = photo(48, 64, 3)
    np.testing.assert_array_equal(gencodec.decompress(gencodec.compress(pixels, effort=effort)).pixels, pixels)
    gencodec.save(pixels, io.BytesIO(), effort=effort)
    assert stand_in.efforts == [effort, effort]


def test_effort_is_5_unless_said_otherwise(stand_in: StandIn) -> None:
    gencodec.compress(photo(48, 64, 3))
    gencodec.save(photo(48, 64, 3), io.BytesIO())
    assert stand_in.efforts == [5, 5]


@pytest.mark.usefixtures("neural")
def test_the_least_effort_is_lossless() -> None:
    pixels = photo(100, 100, 3)
    data = gencodec.compress(pixels, effort=1)
    np.testing.assert_array_equal(gencodec.decompress(data).pixels, pixels)
    assert SectionKind.ADAPTATION not in [kind for kind, _ in coders(data)]


@pytest.mark.usefixtures("neural")
def test_wrong_arguments_are_usage_errors() -> None:
    for effort in (0, 10, -5):
        with pytest.raises(UsageError, match=f"from 1 to 9, not {effort}"):
            gencodec.compress(photo(9, 9, 3), effort=effort)
    with pytest.raises(UsageError):
        gencodec.compress(photo(9, 9, 3), model="no-such-model")
    with pytest.raises(UsageError):
        gencodec.decompress(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        gencodec.decompress(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        gencodec.compress(np.zeros((4, 4), np.float32))
    with pytest.raises(InvalidFile):
        gencodec.decompress(b"")


def test_door_shows_all_and_only_its_names() -> None:
    assert list(gencodec.__all__) == sorted(gencodec.__all__, key=str)
    for name in gencodec.__all__:
        assert getattr(gencodec, name) is not None
    assert dir(gencodec) == sorted(gencodec.__all__)
    with pytest.raises(AttributeError):
        gencodec.no_such_name  # noqa: B018


def test_import_is_light() -> None:
    heavy = "{'numpy', 'onnxruntime', 'torch', 'PIL', 'imagecodecs'} & set(sys.modules)"
    lazy = "gencodec.compress; assert 'torch' not in sys.modules"
    code = f"import sys, gencodec; assert not {heavy}; {lazy}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parent.parent)


@pytest.mark.skipif(not real_model_exists(), reason="no model is registered yet")
def test_exported_models_code_without_being_installed(tmp_path: Path) -> None:
    """A file coded by a model that does not ship needs that model's ONNX file, and decodes with it."""
    from gencodec import runtime
    from gencodec.codec import photo as neural_codec
    from gencodec.codec.container import Container, ModelRef, Section, write

    own = tmp_path / "own.onnx"
    note = b"\x32\x03own"  # field 6 of ModelProto, doc_string: other bytes, the same network
    own.write_bytes(runtime.find_model("photo").file.read_bytes() + note)
    model, pixels = runtime.load(runtime.find_model(own)), photo(40, 50, 3)
    reference = ModelRef(model.card.wire_id, model.card.weights_prefix)
    section = Section(SectionKind.COLOR, Coder.MODEL, neural_codec.encode(pixels, model).payload, reference)
    data = write(Container(50, 40, 3, 8, ordinary.checksum(pixels), (section,)))
    assert gencodec.info(data).model is None
    with pytest.raises(UnknownModel, match="--model"):
        gencodec.decompress(data)
    np.testing.assert_array_equal(gencodec.decompress(data, model=str(own)).pixels, pixels)
    assert gencodec.verify(data, model=str(own)).model == str(own)


def test_models_that_are_none_are_wrong_usage(tmp_path: Path) -> None:
    from gencodec import runtime

    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    (tmp_path / "other.onnx").write_bytes(b"\x32\x03own")  # a ModelProto, but not of ours
    for name in ("broken.onnx", "other.onnx"):
        for use in (runtime.find_model, lambda path: gencodec.compress(photo(64, 64, 3), model=path)):
            with pytest.raises(UsageError, match=f"{name} is not a model that gencodec exported"):
                use(str(tmp_path / name))


@pytest.mark.skipif(not real_model_exists(), reason="no model is registered yet")
def test_damaged_weights_are_no_fault_of_the_image(tmp_path: Path) -> None:
    from gencodec import runtime

    weights = bytearray(runtime.find_model("photo-small.1").file.read_bytes())
    place = weights.index(b"gencodec.proof")
    weights[place : place + 14] = b"gencodec.other"
    (tmp_path / "damaged.onnx").write_bytes(weights)
    with pytest.raises(gencodec.GencodecError) as caught:
        gencodec.compress(photo(64, 64, 3), model=str(tmp_path / "damaged.onnx"))
    assert caught.value.exit_code == 1


def test_what_cannot_be_written_is_refused_before_it_is_coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gencodec.codec import api

    monkeypatch.setattr(api, "compress", lambda *_, **__: pytest.fail("coded"))
    with pytest.raises(FileNotFoundError, match="no folder"):
        gencodec.save(photo(9, 9, 3), tmp_path / "missing" / "a.gnc")


def test_threads_are_no_more_than_cores() -> None:
    from gencodec import runtime

    given = [runtime.load("photo-small.1", threads=n, device="cpu").given_threads for n in (None, 1, 100_000)]
    assert given == [None, 1, os.cpu_count()]
    for threads in (0, -1):
        with pytest.raises(UsageError, match="1 thread or more"):
            gencodec.compress(photo(64, 64, 3), threads=threads)


@pytest.mark.parametrize("effort", [0, 10, 2.5, "5", None])
def test_efforts_are_whole_numbers_from_1_to_9(effort: Any) -> None:
    with pytest.raises(UsageError, match="from 1 to 9"):
        gencodec.compress(photo(64, 64, 3), effort=effort)


@pytest.mark.parametrize("region", [5, "1111", (1.0, 1, 2, 2), (float("nan"), 0, 1, 1), (0, 0, 1), None.__class__])
def test_regions_are_four_whole_numbers(region: Any) -> None:
    with pytest.raises(UsageError, match="whole pixels"):
        gencodec.decompress(gencodec.compress(np.zeros((9, 9), np.uint8)), region=region)


def test_regions_may_be_of_narrow_integers() -> None:
    """Whose sums would wrap."""
    pixels = np.arange(200, dtype=np.uint8)[None].repeat(3, 0)
    file = gencodec.compress(pixels)
    found = gencodec.decompress(file, region=tuple(np.array([100, 1, 100, 2], np.uint8))).pixels
    np.testing.assert_array_equal(found[..., 0], pixels[1:, 100:])
    with pytest.raises(UsageError, match="not within"):
        gencodec.decompress(file, region=tuple(np.array([190, 0, 100, 1], np.uint8)))

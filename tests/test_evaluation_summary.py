"""What rows amount to, by hand: means, ratios, BD-rates, and what changed between two runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gencodec.evaluation import summary, tables
from gencodec.evaluation.compare import compare, table
from gencodec.evaluation.measure import Row
from gencodec.evaluation.store import Results
from gencodec.evaluation.summary import Point


def entry(codec: str, quality: float | None = None, missing: str = "", model: bool = False) -> dict[str, Any]:
    lossless = quality is None
    fields = {"codec": codec, "quality": quality, "lossless": lossless, "missing": missing, "model": model}
    return fields | {"version": "1", "settings": ""}


def row(image: str, codec: str, size: int, pixels: int = 100, quality: float | None = None, **more: Any) -> Row:
    """A row of an RGB image whose coding took 2 s and decoding 1 s."""
    name = codec if quality is None else f"{codec} {quality:g}"
    found = Row(image, f"hash of {image}", name, codec, quality, quality is None, "1", "", "here")
    rates = {"bytes": size, "bpp": 8 * size / pixels, "bpsp": 8 * size / pixels / 3}
    sizes = {"width": pixels, "height": 1, "channels": 3, "bit_depth": 8}
    return replace(found, **sizes, **rates, encode_seconds=2.0, decode_seconds=1.0, **more)


def results(rows: list[Row]) -> Results:
    found = Results(
        "1", "today", {"processor": "one", "cores": 1}, {"threads": 1, "device": "cpu", "jobs": 1}, rows=rows
    )
    found.contenders = {row.contender: entry(row.codec, row.quality) for row in rows}
    found.images = {row.image: "" for row in rows}
    return found


def test_means_over_images_and_over_bytes() -> None:
    rows = [
        row("a", "x", 75, 100, estimate_bits=500.0, overhead=0.2, initial_bits=60.0, peak_bytes=5),
        row("b", "x", 300, 200, estimate_bits=2000.0, overhead=0.2, initial_bits=0.0, peak_bytes=9),
    ]
    found = summary.totals([*rows, replace(rows[0], bytes=None, error="broken")])
    assert found is not None
    assert (found.images, found.bytes, found.peak_bytes, found.modelled) == (2, 375, 9, 2)
    assert found.bpsp_over_images == pytest.approx((2 + 4) / 2)
    assert found.bpsp_over_bytes == pytest.approx(8 * 375 / 900)
    assert found.bpp_over_bytes == pytest.approx(8 * 375 / 300)
    assert (found.encode_seconds, found.slowest_decode_seconds) == (2, 1)
    assert found.encode_mps == pytest.approx(300e-6 / 4)
    assert found.overhead == pytest.approx(0.2)
    assert found.initial_share == pytest.approx(60 / 3000)


def test_ratios_are_over_the_images_that_both_have() -> None:
    found = results([row("a", "x", 50), row("b", "x", 70), row("b", "jxl", 100), row("c", "jxl", 1)])
    assert summary.ratios(found, "x", "jxl") == {"bytes": 0.7, "encode_mps": 1.0, "decode_mps": 1.0}
    assert summary.ratios(found, "x", "png") is None
    assert summary.reference(found) == "jxl"
    assert summary.reference(found, ("png",)) == "x"


def sweep(codec: str, factor: float, images: tuple[str, ...] = ("a", "b")) -> list[Row]:
    """Files whose PSNR rises with the logarithm of their rate, and take `factor` of the bytes that they should."""
    return [
        row(image, codec, round(factor * 100 * 2**step), quality=step, psnr=30.0 + 2 * step, ms_ssim=0.9 + 0.01 * step)
        for step in range(4)
        for image in images
    ]


def test_bd_rate_of_curves_that_lie_apart_by_a_factor() -> None:
    pytest.importorskip("bjontegaard")
    curves = summary.curves(results(sweep("x", 1) + sweep("y", 1.5)))
    assert curves["x"][1] == Point(16, 32, 0.91, 1)
    for metric in ("psnr", "ms_ssim"):
        assert summary.bd_rate(curves["x"], curves["y"], metric) == pytest.approx(0.5)
        assert summary.bd_rate(curves["y"], curves["x"], metric) == pytest.approx(-1 / 3)
    far = [replace(point, psnr=(point.psnr or 0) + 20) for point in curves["y"]]
    assert summary.bd_rate(curves["x"], far) is None
    assert summary.bd_rate(curves["x"][:1], curves["y"]) is None


def test_points_no_better_than_cheaper_ones_do_not_count() -> None:
    pytest.importorskip("bjontegaard")
    curve = [Point(1, 30, None), Point(2, 32, None), Point(4, 34, None)]
    bent = [*curve[:2], Point(3, 31, None), curve[2]]
    assert summary.bd_rate(curve, bent) == pytest.approx(0)


def test_a_range_of_rates() -> None:
    points = [Point(rate, rate, None) for rate in (0.1, 0.2, 0.5, 1.0, 1.5, 2.0)]
    assert [point.bpp for point in summary.within(points, 0.15, 1.2)] == [0.1, 0.2, 0.5, 1.0, 1.5]


def test_tables_name_what_is_missing() -> None:
    found = results([row("a", "png", 200), row("a", "x", 50)])
    found.contenders |= {"webp": entry("webp", missing="no webp here"), "avif 3": entry("avif", 3, "no avif here")}
    lossless = tables.lossless(found)
    assert [line[0] for line in lossless] == ["codec", "x", "png", "webp"]
    assert lossless[1][2:5] == ["1.333", "1.333", "0.250"]
    assert lossless[3][-1] == "no webp here"
    assert tables.lossy(found)[1] == ["avif", "-", "-", "-", "no avif here"]
    assert tables.markdown(lossless).splitlines()[1].startswith("| --- | ---: |")
    widths = {len(line) - len(line.split("  ")[-1]) for line in tables.plain(lossless).splitlines()}
    assert len(widths) == 1
    assert tables.plain([]) == tables.markdown([]) == ""


def test_the_bootstrap_pairs_images() -> None:
    sizes = (100, 1000, 50, 70, 400)
    first = results([row(f"{i}", "x", size) for i, size in enumerate(sizes)])
    second = results([row(f"{i}", "x", size * 102 // 100) for i, size in enumerate(sizes)])
    (change,) = compare(first, second).changes
    assert (change.codec, change.measure, change.images) == ("x", "bytes", 5)
    grown = sum(size * 102 // 100 for size in sizes) / sum(sizes) - 1
    assert change.change == pytest.approx(grown)
    assert 0.01 < change.low <= change.change <= change.high <= 0.0201  # though sizes differ twentyfold
    assert table(compare(first, second))[1][:4] == ["x", "5", "bytes", f"{grown:+.3%}"]


def test_lossy_codecs_are_compared_by_bd_rate() -> None:
    pytest.importorskip("bjontegaard")
    (change,) = compare(results(sweep("x", 1)), results(sweep("x", 1.1))).changes
    assert (change.measure, change.images) == ("BD-rate", 2)
    assert change.change == pytest.approx(0.1, abs=0.002)


def test_what_has_no_counterpart_is_named() -> None:
    first = results([row("a", "x", 10), row("a", "gone", 10), row("b", "x", 10), row("a", "y", 10)])
    other = replace(row("a", "y", 10), sha256="another picture")
    second = results([row("a", "x", 10), other, replace(row("b", "x", 10), bytes=None, error="broken")])
    found = compare(first, second)
    assert [(change.codec, change.images, change.change) for change in found.changes] == [("x", 1, 0)]
    assert found.unmatched == ["gone", "y"]
    assert found.broken == ["b by x: broken"]
    assert compare(first, results([])).worst() < 0


def test_images_that_cannot_be_read_any_more_are_named() -> None:
    first, second = results([row("a", "x", 10), row("b", "x", 10)]), results([row("a", "x", 10)])
    assert compare(first, second).broken == []
    second.images |= {"b": "cannot be read: gone", "never measured": "cannot be read: gone"}
    assert compare(first, second).broken == ["b: cannot be read: gone"]

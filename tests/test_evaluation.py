"""`gencodec.evaluation`: runs, what they write, how they go on, and what is broken."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import time
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image as PillowImage

from gencodec.codec.image import Image
from gencodec.errors import UsageError
from gencodec.evaluation import baselines, contenders, corpus, metrics, report, run, store, summary
from gencodec.evaluation.contenders import Entry
from gencodec.evaluation.measure import Row
from gencodec.evaluation.protocol import Options
from gencodec.evaluation.store import Results
from tests.photographs import photograph

OPTIONS = Options(threads=1, device="cpu")
SHAPES = {"a.png": (40, 48), "b.png": (56, 36)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small images and one that is broken."""
    made = tmp_path / "set"
    made.mkdir()
    for name, (height, width) in SHAPES.items():
        PillowImage.fromarray(photograph(1, height, width)).save(made / name)
    (made / "c.png").write_bytes((made / "a.png").read_bytes()[:200])
    return made


def measured(folder: Path, names: str, output: Path | None = None, jobs: int = 1) -> Results:
    entries = contenders.entries([], contenders.split(names), OPTIONS)
    return run.run(corpus.find([str(folder)]), entries, OPTIONS, output, jobs=jobs)


def test_rows_hold_the_bytes_of_whole_files(folder: Path, tmp_path: Path) -> None:
    results = measured(folder, "jxl,jpeg", tmp_path / "report")
    found = {(row.image, row.contender): row for row in results.rows}
    for name, (height, width) in SHAPES.items():
        pixels = np.asarray(PillowImage.open(folder / name))
        one = found[f"set/{name}", "jxl"]
        assert one.bytes
        assert one.bpsp
        assert one.bytes == len(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=7))
        assert one.bpsp == pytest.approx(8 * one.bytes / (3 * height * width))
        assert one.bpp == pytest.approx(3 * one.bpsp)
        assert (one.width, one.height, one.identical, one.psnr) == (width, height, True, None)
        lossy = found[f"set/{name}", "jpeg 30"]
        decoded = baselines.make("jpeg", 30, 1).decode(baselines.make("jpeg", 30, 1).encode(Image.from_array(pixels)))
        assert lossy.psnr == pytest.approx(metrics.psnr(pixels, decoded.pixels))
        assert lossy.ms_ssim is None
    assert [sentence.partition(":")[0] for sentence in results.failures] == ["set/c.png"]


def test_both_files_hold_every_row(folder: Path, tmp_path: Path) -> None:
    results = measured(folder, "png", tmp_path / "report")
    content = json.loads((tmp_path / "report/results.json").read_text())
    assert [row["bytes"] for row in content["rows"]] == [row.bytes for row in results.rows]
    with (tmp_path / "report/results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["bytes"] for line in lines[:2]] == [str(row.bytes) for row in results.rows[:2]]
    assert lines[2]["error"]
    assert store.load(tmp_path / "report") == results


def test_a_run_goes_on_where_it_was_left(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(folder, "png", tmp_path / "report")
    done = []
    monkeypatch.setattr(run, "work", lambda task, work=run.work: done.append(task) or work(task))
    second = measured(folder, "png,jxl", tmp_path / "report")
    tasks = [(task.picture.name, task.entry.name) for task in done]
    assert tasks == [("set/a.png", "jxl"), ("set/b.png", "jxl"), ("set/c.png", "png"), ("set/c.png", "jxl")]
    assert [row for row in second.rows if row.contender == "png" and row.done] == first.of("png")
    done.clear()
    PillowImage.fromarray(photograph(1, 30, 30)).save(folder / "a.png")
    (folder / "c.png").unlink()
    measured(folder, "png,jxl", tmp_path / "report")
    assert [task.picture.name for task in done] == ["set/a.png"] * 2


def test_what_was_measured_is_kept_when_a_run_is_interrupted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(task: run.Task, work=run.work) -> Row:
        if task.picture.name == "set/b.png":
            raise KeyboardInterrupt
        return work(task)

    monkeypatch.setattr(run, "work", work)
    with pytest.raises(KeyboardInterrupt):
        measured(folder, "png", tmp_path / "report")
    assert [row.image for row in store.load(tmp_path / "report").rows] == ["set/a.png"]


def test_several_processes_find_the_same(folder: Path) -> None:
    first, second = measured(folder, "png,jpeg-ls"), measured(folder, "png,jpeg-ls", jobs=2)
    assert [(r.image, r.contender, r.bytes) for r in first.rows] == [
        (r.image, r.contender, r.bytes) for r in second.rows
    ]


def nap(task: run.Task) -> Row:
    """Work that is done at once for the first picture, and never for the others."""
    time.sleep(0 if task.picture.name == "set/a.png" else 1000)
    return Row(**task.known)


def test_a_run_in_several_processes_ends_when_it_is_broken_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "work", nap)
    entries = contenders.entries([], ["png"], OPTIONS)
    rows = run._measured(run.plan(corpus.find([str(folder)]), entries, OPTIONS, 2)[1], 2)
    assert next(rows).image == "set/a.png"
    rows.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_names_that_are_no_text_are_reported(folder: Path, tmp_path: Path) -> None:
    os.rename(folder / "a.png", os.fsencode(folder) + b"/\xff.png")
    results = measured(folder, "png", tmp_path / "report")
    assert [row.image for row in results.of("png")] == ["set/b.png", "set/\\udcff.png"]
    assert report.write(results, tmp_path / "report", corpus.find([str(folder)])).exists()


def test_a_contender_that_fails_does_not_end_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(threads: int) -> baselines.Baseline:
        def write(pixels: np.ndarray) -> bytes:
            raise ValueError("no")

        return baselines.Baseline("broken", "1", "", write, lambda data: np.zeros((1, 1, 3), np.uint8))

    def wrong(threads: int) -> baselines.Baseline:
        return baselines.Baseline("wrong", "1", "", lambda pixels: b"x", lambda data: np.zeros((1, 1, 3), np.uint8))

    monkeypatch.setitem(baselines.LOSSLESS, "broken", broken)
    monkeypatch.setitem(baselines.LOSSLESS, "wrong", wrong)
    run._warm.cache_clear()
    results = measured(folder, "broken,wrong,png")
    errors = {(row.contender, row.error) for row in results.rows if row.image == "set/a.png"}
    assert errors == {
        ("broken", "ValueError: no"),
        ("wrong", "the decoded pixels are not those of the image"),
        ("png", ""),
    }
    assert summary.totals(results.of("wrong")) is None


def test_entries_name_themselves() -> None:
    assert Entry("jxl-lossy", 1.5).name == "jxl-lossy 1.5"


def test_a_library_that_is_missing_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines.features, "check", lambda feature: feature != "webp")
    results = measured(folder, "webp,png")
    assert results.contenders["webp"]["missing"] == "this build of Pillow has no webp"
    assert {row.contender for row in results.rows} == {"png"}


def test_results_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    with pytest.raises(UsageError, match="does not hold results"):
        store.load(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be made: "):
        store.prepare(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        store.load(tmp_path)
    (tmp_path / "deep").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="does not hold results"):
        store.load(tmp_path / "deep")
    for name, value in (("bytes", "12"), ("encode_mps", [1]), ("image", 5), ("lossless", None)):
        values = dict.fromkeys(("contender", "codec", "version", "settings", "machine", "sha256", "image"), "")
        row = {**values, "quality": 50, "lossless": True, name: value}
        content = {"format": store.FORMAT, "version": "", "date": "", "machine": {}, "settings": {}, "rows": [row]}
        (tmp_path / "types").write_text(json.dumps(content))
        with pytest.raises(UsageError, match="does not hold results"):
            store.load(tmp_path / "types")
    (tmp_path / store.JSON).write_text("{")
    with pytest.raises(UsageError, match="does not hold results"):
        store.prepare(tmp_path)

"""The report, and the command that makes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from typer.testing import CliRunner, Result

from gencodec.cli import app
from gencodec.evaluation import baselines, report, samples, store
from tests.photographs import photograph

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images and a broken one, and the report on them."""
    pytest.importorskip("matplotlib")
    made = tmp_path_factory.mktemp("evaluation")
    (made / "set").mkdir()
    for seed, (height, width) in enumerate([(180, 170), (60, 90), (80, 70)]):
        PillowImage.fromarray(photograph(seed, height, width)).save(made / "set" / f"{seed}.png")
    (made / "set/bad<.png").write_bytes(b"\x89PNG")
    names = ("--models", "nice", "--baselines", "png,jpeg,webp-lossy", "--threads", "1", "-o", made / "report")
    with pytest.MonkeyPatch.context() as patch:
        for codec in ("jpeg", "webp-lossy"):
            patch.setitem(baselines.LOSSY, codec, (20, 50, 80))
        done = invoke(made / "set", *names)
    assert done.exit_code == 1, done.output
    assert "gencodec: set/bad<.png: " in done.stderr
    assert re.search(r"^nice +3 ", done.stdout, re.MULTILINE)
    return made


def test_the_report_holds_all_and_fetches_nothing(folder: Path) -> None:
    page = (folder / "report/report.html").read_text()
    for heading in ("Lossless", "Rates", "Speed against rate", "Lossy", "Rate and distortion", "How it was measured"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") == 5
    assert "best: set/" in page
    assert "worst: set/" in page
    assert "bad&lt;.png" in page
    assert not re.search(r"<script|<link (?!rel=\"icon\")|src=\"(?!data:)|url\((?!#)", page)


def test_a_report_can_do_without_plots_and_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "bjontegaard"):
        monkeypatch.setitem(sys.modules, name, None)
    page = report.page(store.load(folder / "report"))
    assert "<svg" not in page
    assert "best: set/" not in page
    assert "<h2>Lossless</h2>" in page
    assert "pip install 'gencodec[evaluate]'" in page
    assert "needs gencodec[evaluate]" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_the_report_without_complaint(folder: Path, tmp_path: Path) -> None:
    shot, page = tmp_path / "shot.png", folder / "report/report.html"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
    command = [str(CHROMIUM), *options, "--window-size=1200,3000", f"--screenshot={shot}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert "CONSOLE" not in done.stderr
    colors = np.unique(np.asarray(PillowImage.open(shot).convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colors) > 500  # text, plots and pictures


def test_a_detail_is_where_pictures_differ() -> None:
    pixels = np.zeros((300, 200, 3), np.uint8)
    decoded = pixels.copy()
    decoded[250:260, 150:160] = 9
    rows, columns = samples.detail(pixels, decoded)
    assert (rows.start <= 250, rows.stop >= 260, rows.stop - rows.start) == (True, True, samples.CROP)
    assert (columns.start <= 150, columns.stop >= 160, columns.stop <= 200) == (True, True, True)
    tiny = np.zeros((1, 5, 3), np.uint8)
    assert tiny[samples.detail(tiny, tiny)].shape == (1, 5, 3)


# the command


def test_rows_as_json(folder: Path, tmp_path: Path) -> None:
    done = invoke(folder / "set/1.png", "--models", "", "--baselines", "png", "-o", tmp_path, "--json", "--quiet")
    (row,) = map(json.loads, done.stdout.splitlines())
    assert (row["codec"], row["width"], row["identical"]) == ("png", 90, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["EMPTY"], "gencodec: EMPTY has no images (.png, "),
        (["IMAGE", "--baselines", "jpg"], "gencodec: there is no codec 'jpg'; did you mean jpeg?"),
        (["IMAGE", "--models", "photo@²"], "gencodec: there is no model 'photo@²'; did you mean photo?"),
        (["IMAGE", "--models", "fotos"], "gencodec: there is no model 'fotos'; did you mean photo?"),
        (["IMAGE", "--models", "", "--baselines", ""], "gencodec: no models and no baselines are named"),
        (["IMAGE", "--qualities", "low"], "gencodec: --qualities: 'low' is not a whole number"),
        (["IMAGE", "-o", "IMAGE"], "gencodec: the report folder IMAGE cannot be made: "),
        ([], "gencodec: no images are named"),
        (["IMAGE", "--fail-above", "1%"], "gencodec: --fail-above goes with --compare"),
        (["IMAGE", "--compare", "IMAGE", "IMAGE"], "gencodec: --compare takes two results and no images"),
        (["--compare", "IMAGE", "EMPTY"], "gencodec: IMAGE does not hold results of gencodec evaluate"),
        (["--compare", "EMPTY", "EMPTY"], "gencodec: the results EMPTY"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str, folder: Path, tmp_path: Path) -> None:
    places = {"EMPTY": str(tmp_path), "IMAGE": str(folder / "set/1.png")}
    done = invoke(*(places.get(argument, argument) for argument in arguments))
    assert done.exit_code == 2
    for name, place in places.items():
        sentence = sentence.replace(name, place)
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_runs_are_compared(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bjontegaard")
    first = folder / "report/results.json"
    content = json.loads(first.read_text())
    for row in content["rows"]:
        if row["codec"] == "png" and row["bytes"]:
            row["bytes"] = row["bytes"] * 101 // 100
    (tmp_path / "b.json").write_text(json.dumps(content))
    same = invoke("--compare", first, folder / "report", "--fail-above", "0.5%")
    assert same.exit_code == 0, same.output
    larger = invoke("--compare", first, tmp_path / "b.json", "--fail-above", "0.5%")
    assert larger.exit_code == 1
    assert larger.stdout.splitlines()[1].startswith("png ")
    assert invoke("--compare", first, tmp_path / "b.json").exit_code == 0
    assert invoke("--compare", tmp_path / "b.json", first, "--fail-above", "0").exit_code == 0
    for limit in ("much", "nan", "inf%"):
        wrong = invoke("--compare", first, first, "--fail-above", limit)
        assert (wrong.exit_code, "is not a number of percent" in wrong.stderr) == (2, True)


def test_the_program_needs_no_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys, gencodec.cli; sys.modules['torch'] = None\n"
        f"sys.argv = ['gencodec', 'evaluate', {str(folder / 'set/1.png')!r}, '--baselines', 'jxl-e1', '--models', '',"
        f" '-q', '-o', {str(tmp_path)!r}]\n"
        "gencodec.cli.main()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert (tmp_path / "report.html").exists()

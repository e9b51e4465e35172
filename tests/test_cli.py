"""The command line: names, exit codes, one-line errors, and what it says in words and in JSON."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from typer.testing import Result

from gencodec.cli import files
from gencodec.codec import api
from gencodec.errors import UsageError
from tests.command_line import gencodec, process
from tests.photographs import photograph

COMMANDS = ("compress", "decompress", "info", "verify", "models")
RECORD = ["file", "output", "width", "height", "channels", "bit_depth"]


def pixels(path: Path | str) -> np.ndarray:
    with PillowImage.open(path) as image:
        return np.asarray(image)


# Help


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
def test_help(arguments: list[str]) -> None:
    result = gencodec(*arguments, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert not result.stderr


def test_help_lists_commands_and_exit_codes() -> None:
    lines = gencodec("--help").stdout.splitlines()
    assert all(any(line.split()[:1] == [name] for line in lines) for name in COMMANDS)
    start = lines.index("  Exit codes:") + 1
    assert [line.split()[0] for line in lines[start : start + 5]] == ["0", "1", "2", "3", "130"]


def test_no_command_shows_help_as_an_error() -> None:
    result = gencodec()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")


# Names and round trips


def test_suffix_is_appended_and_stripped(coded: Path, picture: Path) -> None:
    before = pixels(picture)
    picture.unlink()
    result = gencodec("decompress", coded)
    assert (result.exit_code, result.stdout) == (0, "")
    assert np.array_equal(pixels(picture), before)
    assert coded.exists()


def test_output_names_the_file(picture: Path) -> None:
    assert gencodec("compress", picture, "-o", "b.gnc").exit_code == 0
    assert gencodec("decompress", "b.gnc").exit_code == 0
    assert np.array_equal(pixels("b.png"), pixels(picture))


def test_output_dir_is_made_and_takes_many(picture: Path) -> None:
    PillowImage.fromarray(photograph(2, 20, 20)).save("b.png")
    assert gencodec("compress", picture, "b.png", "--output-dir", "deep/small").exit_code == 0
    assert sorted(path.name for path in Path("deep/small").iterdir()) == ["a.png.gnc", "b.png.gnc"]


def test_streams(picture: Path) -> None:
    squeezed = gencodec("compress", "-", stdin=picture.read_bytes())
    assert squeezed.exit_code == 0
    result = gencodec("decompress", "-", "--format", "ppm", stdin=squeezed.stdout_bytes)
    assert result.stdout_bytes == b"P6\n40 30\n255\n" + pixels(picture).tobytes()


@pytest.mark.parametrize("name", ["out.ppm", "out.tif", "out.bmp", "out.webp", "out"])
def test_output_suffix_chooses_the_format(coded: Path, picture: Path, name: str) -> None:
    assert gencodec("decompress", coded, "-o", name).exit_code == 0
    assert np.array_equal(pixels(name), pixels(picture))


@pytest.mark.parametrize(
    ("name", "image_format", "expected"),
    [
        ("img.png.gnc", None, "img.png"),
        ("dir.d/img.TIFF.GNC", None, "dir.d/img.TIFF"),
        ("img.gnc", None, "img.png"),
        ("img.jpg.gnc", None, "img.jpg.png"),
        ("v1.5.gnc", None, "v1.5.png"),
        ("img.png.gnc", "tiff", "img.png.tiff"),
        ("img.tif.gnc", "tiff", "img.tif"),
    ],
)
def test_decompressed_name(name: str, image_format: str | None, expected: str) -> None:
    assert files.decompressed_name(name, image_format) == expected


@pytest.mark.parametrize("name", ["img.png", "gnc", ".gnc"])
def test_decompressed_name_needs_the_suffix(name: str) -> None:
    with pytest.raises(UsageError, match="does not end in"):
        files.decompressed_name(name)


def test_two_sources_never_share_a_target(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"x/a\.png and y/\.\./y/a\.png would both be written to"):
        files.plan(["x/a.png", "y/../y/a.png"], None, "out", files.compressed_name)


def test_region(coded: Path, picture: Path) -> None:
    assert gencodec("decompress", coded, "--region", "3,5,20,10", "-o", "part.png").exit_code == 0
    assert np.array_equal(pixels("part.png"), pixels(picture)[5:15, 3:23])


def test_options_reach_the_codec(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def compress(image: object, **options: object) -> bytes:
        given.update(options)
        return b"data"

    monkeypatch.setattr(api, "compress", compress)
    gencodec("compress", picture, "--threads", 3, "--device", "cpu")
    assert given == {
        "model": None, "effort": 5, "quality": None, "target_bpp": None, "target_psnr": None,
        "threads": 3, "device": "cpu", "progress": None, "note": None,
    }  # fmt: skip
    gencodec("compress", picture, "--effort", 9, "-f")
    assert given["effort"] == 9
    gencodec("compress", picture, "--quality", 30, "-f")
    assert given["quality"] == 30


def test_lossy_source_needs_force(folder: Path) -> None:
    PillowImage.fromarray(photograph(1, 30, 40)).save("a.jpg")
    refused = gencodec("compress", "a.jpg")
    assert refused.exit_code == 1
    assert "--force-lossy-source" in refused.stderr
    assert gencodec("compress", "a.jpg", "--force-lossy-source").exit_code == 0
    assert gencodec("decompress", "a.jpg.gnc").exit_code == 0
    assert np.array_equal(pixels("a.jpg.png"), pixels("a.jpg"))


@pytest.mark.parametrize("effort", [1, 9])
def test_any_effort_is_lossless(folder: Path, effort: int) -> None:
    PillowImage.fromarray(photograph(1, 40, 50)).save("a.png")
    assert gencodec("compress", "a.png", "--effort", effort, "-o", "b.gnc").exit_code == 0
    assert gencodec("decompress", "b.gnc").exit_code == 0
    assert np.array_equal(pixels("b.png"), pixels("a.png"))


# Overwriting


def test_existing_outputs_are_kept(coded: Path, picture: Path) -> None:
    coded.write_bytes(b"precious")
    result = gencodec("compress", picture)
    assert (result.exit_code, coded.read_bytes()) == (1, b"precious")
    assert result.stderr == "gencodec: a.png: a.png.gnc exists; use -f to overwrite it\n"
    assert gencodec("compress", picture, "-f").exit_code == 0
    assert gencodec("verify", coded).exit_code == 0


def test_source_is_never_the_target(picture: Path) -> None:
    before = picture.read_bytes()
    result = gencodec("compress", picture, "-f", "-o", f"../{picture.absolute().parent.name}/a.png")
    assert (result.exit_code, picture.read_bytes()) == (2, before)


def test_new_files_follow_the_umask(picture: Path) -> None:
    old = os.umask(0o027)
    try:
        gencodec("compress", picture)
    finally:
        os.umask(old)
    assert stat.S_IMODE(Path("a.png.gnc").stat().st_mode) == 0o640


def test_devices_stay_devices(picture: Path) -> None:
    assert gencodec("compress", picture, "-o", "/dev/null").exit_code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


# Failures


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["compress"], "Missing argument"),
        (["compres", "a.png"], "Did you mean 'compress'"),
        (["--nonsense"], "--nonsense"),
        (["compress", "a.png", "--threads", "0"], "--threads"),
        (["compress", "a.png", "--effort", "0"], "--effort"),
        (["compress", "a.png", "--effort", "10"], "--effort"),
        (["compress", "a.png", "--effort", "much"], "--effort"),
        (["compress", "a.png", "b.png", "-o", "c.gnc"], "--output-dir"),
        (["compress", "a.png", "-o", "b", "--output-dir", "c"], "exclude each other"),
        (["compress", "a.png", "-o", ""], "-o names no file"),
        (["compress", "-", "-"], "only once"),
        (["info", "-", "-"], "only once"),
        (["verify", "-", "-"], "only once"),
        (["compress", "a.png", "b.png", "--model", __file__], "not a model that gencodec exported"),
        (["compress", "-", "--output-dir", "c"], "use -o"),
        (["compress", "-", "--json"], "--json"),
        (["compress", "a.png", "--model", "nonsense", "--output-dir", "c"], "nonsense"),
        (["compress", "a.png", "b.png", "--model", "photo", "--quality", "60"], "photo codes without loss"),
        (["compress", "a.png", "--quality", "101", "--output-dir", "c"], "from 1 to 100"),
        (["compress", "a.png", "--device", "nonsense", "--output-dir", "c"], "nonsense"),
        (["decompress", "a.gnc", "--device", "nonsense", "--output-dir", "c"], "nonsense"),
        (["verify", "a.gnc", "--device", "nonsense"], "nonsense"),
        (["evaluate", "a.png", "--device", "nonsense"], "nonsense"),
        (["decompress", "a.png"], "does not end in .gnc"),
        (["decompress", "a.gnc", "--region", "1,2,3"], "--region"),
        (["decompress", "a.gnc", "--region", "0,0,0,5"], "--region"),
        (["decompress", "a.gnc", "--format", "jpg"], ".jpg"),
        (["decompress", "a.gnc", "--format", "x/y"], "suffix .x/y cannot"),
        (["decompress", "a.gnc", "--format", ""], "suffix . cannot"),
        (["decompress", "a.gnc", "-o", "a.jpg"], ".jpg"),
        (["decompress", "a.gnc", "--model", "none.onnx"], "none.onnx"),
        (["verify", "a.gnc", "--model", "none.onnx"], "none.onnx"),
        (["models", "nonsense"], "nonsense"),
    ],
)
def test_wrong_usage(folder: Path, arguments: list[str], reason: str) -> None:
    result = gencodec(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("gencodec: ")
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr
    assert not any(folder.iterdir())


def test_missing_file(folder: Path) -> None:
    result = gencodec("compress", "none.png")
    assert (result.exit_code, result.stderr) == (1, "gencodec: none.png: No such file or directory\n")


@pytest.mark.parametrize("name", ["compress", "decompress", "info", "verify"])
def test_invalid_file(folder: Path, name: str) -> None:
    Path("bad.gnc").write_bytes(b"no image at all")
    result = gencodec(name, "bad.gnc")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("gencodec: bad.gnc: ")
    assert result.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["bad.gnc"]


def test_output_without_a_folder_is_refused_before_any_work(picture: Path) -> None:
    result = gencodec("compress", picture, "-o", "none/a.gnc")
    reason = f"there is no folder {Path('none').resolve()} to write to"
    assert (result.exit_code, result.stderr) == (1, f"gencodec: a.png: {reason}\n")


@pytest.mark.parametrize("flags", [(), ("-f",)])
def test_a_name_that_ends_like_a_folder_is_none_of_a_file(coded: Path, picture: Path, flags: tuple[str, ...]) -> None:
    for target in ("none/", f"{picture}/"):
        result = gencodec("decompress", coded, "-o", target, *flags)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{target} is a folder" in result.stderr
    assert not Path("none").exists()


def test_links_in_a_circle_are_refused_before_any_work(picture: Path) -> None:
    Path("b").symlink_to("b")
    result = gencodec("compress", picture, "-f", "-o", "b")
    assert (result.exit_code, result.stderr) == (1, "gencodec: a.png: the links of b lead in a circle\n")


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    coded: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(api, "compress", lambda *_, **__: pytest.fail("the work is done"))
    result = gencodec("compress", picture, "-f")
    assert result.exit_code == 1
    assert "cannot be written to" in result.stderr


def test_compressed_twice(coded: Path) -> None:
    result = gencodec("compress", coded)
    assert result.exit_code == 3
    assert "already a .gnc file" in result.stderr


def test_named_twice_is_done_once(picture: Path) -> None:
    result = gencodec("compress", picture, picture)
    assert (result.exit_code, result.stderr.count("->")) == (0, 2)
    assert gencodec("info", "a.png.gnc", "a.png.gnc").stdout.count("a.png.gnc:") == 1


def test_damaged_file(coded: Path) -> None:
    data = bytearray(coded.read_bytes())
    data[-3] ^= 1
    coded.write_bytes(data)
    assert gencodec("verify", coded).exit_code == 3


def test_others_are_done_after_a_failure(picture: Path) -> None:
    Path("bad.png").write_bytes(b"nothing")
    result = gencodec("compress", "bad.png", picture, "none.png", "--quiet")
    assert result.exit_code == 1
    assert Path("a.png.gnc").exists()
    assert [line.split(": ")[:2] for line in result.stderr.splitlines()] == [
        ["gencodec", "bad.png"],
        ["gencodec", "none.png"],
    ]


def test_odd_names_stay_on_one_line(folder: Path) -> None:
    result = gencodec("info", "two\nlines\x1b[31m.gnc")
    assert result.stderr == "gencodec: two?lines?[31m.gnc: No such file or directory\n"


def test_lack_of_memory_is_a_failure(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compress(*_: object, **__: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(api, "compress", compress)
    result = gencodec("compress", picture)
    assert (result.exit_code, result.stderr) == (1, "gencodec: a.png: not enough memory\n")


def test_bugs_keep_their_traceback(picture: Path) -> None:
    before = "from gencodec.codec import api\napi.compress = lambda *a, **k: 1 / 0"
    done = process("compress", picture, before=before)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Traceback")
    assert done.stderr.endswith(b"ZeroDivisionError: division by zero\n")


# JSON


def records(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_json_of_compress_and_decompress(picture: Path) -> None:
    (record,) = records(gencodec("compress", picture, "--json"))
    assert list(record) == [*RECORD, "source_bytes", "bytes", "bpsp", "seconds"]
    assert [record[key] for key in RECORD] == ["a.png", "a.png.gnc", 40, 30, 3, 8]
    assert record["bytes"] == Path("a.png.gnc").stat().st_size
    (record,) = records(gencodec("decompress", "a.png.gnc", "-o", "b.png", "--json"))
    assert list(record) == [*RECORD, "bytes", "seconds"]


@pytest.mark.parametrize("name", ["info", "verify"])
def test_json_of_a_file(coded: Path, name: str) -> None:
    (record,) = records(gencodec(name, coded, "--json"))
    assert {
        "file": "a.png.gnc",
        "width": 40,
        "height": 30,
        "channels": 3,
        "bit_depth": 8,
    }.items() <= record.items()


def test_json_of_failures(coded: Path) -> None:
    result = gencodec("info", "none.gnc", coded, "--json")
    assert result.exit_code == 1
    failed, good = records(result)
    assert failed == {"file": "none.gnc", "error": "No such file or directory", "exit_code": 1}
    assert good["file"] == "a.png.gnc"


def test_json_of_models() -> None:
    cards = records(gencodec("models", "--json"))
    assert cards
    assert all({"name", "wire_id", "sha256"} <= set(card) for card in cards)
    assert all("/" not in str(card["file"]) for card in cards)
    assert records(gencodec("models", cards[0]["name"], "--json")) == cards[:1]


# Words for people


def test_info_in_words(coded: Path) -> None:
    result = gencodec("info", coded)
    assert result.stdout.startswith("a.png.gnc: 40 x 30, RGB, 8 bit, ")


def test_verify_in_words(coded: Path) -> None:
    assert gencodec("verify", coded).stdout == "a.png.gnc: ok\n"
    assert gencodec("verify", coded, "--quiet").stdout == ""


def test_models_in_words() -> None:
    assert "photo" in gencodec("models").stdout


def test_summary_goes_to_stderr(picture: Path) -> None:
    result = gencodec("compress", picture)
    assert result.stdout == ""
    assert result.stderr.startswith("a.png -> a.png.gnc: ")
    assert gencodec("compress", picture, "-f", "--quiet").stderr == ""

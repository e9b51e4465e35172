"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from gencodec.codec.atomic import write_file


def test_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a"
    write_file(target, b"first")
    write_file(str(target), b"second")
    assert target.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failure_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise error

    target = tmp_path / "a"
    target.write_bytes(b"old")
    monkeypatch.setattr(*((os, "fsync", fail) if call == "fsync" else (Path, "replace", fail)))
    with pytest.raises(error):
        write_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_errors_name_what_was_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for target in (tmp_path / "a", tmp_path / "none" / "a"):
        reason = errno.ENOSPC if target.parent == tmp_path else errno.ENOENT
        with pytest.raises(OSError, match=os.strerror(reason)) as caught:
            write_file(target, b"data")
        assert caught.value.filename == str(target)


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "none/a", b"data")


def test_links_and_permissions_are_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "a", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to("a")
    write_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_devices_are_written_directly() -> None:
    write_file("/dev/null", b"data")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(OSError, match="No space left"):
        write_file("/dev/full", b"data")


def test_pipes_are_written_by_their_numbers() -> None:
    reading, writing = os.pipe()
    write_file(f"/dev/fd/{writing}", b"data")
    os.close(writing)
    with open(reading, "rb") as file:
        assert file.read() == b"data"


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="lead in a circle"):
        write_file(tmp_path / "a", b"data")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]

"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path


def write_file(target: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that at every moment the old content stands there, or the new one.

    The bytes go to a temporary file in the same folder, which then takes the target's name; on any failure or
    interruption it is removed. Permissions of a file that is replaced are kept, a link stays a link, and a
    device or named pipe is written directly. Raises OSError.
    """
    path = Path(target)
    if path.exists() and not path.is_file():  # before links are followed: those of /dev/fd lead to no path
        path.write_bytes(data)
        return
    path = followed(path)
    temporary = path.with_name(f".gencodec-{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = os.fspath(target)  # not the temporary one
        raise


def check_target(target: str | os.PathLike[str]) -> None:
    """Raise OSError where there is no folder that takes what `write_file` would write."""
    path = Path(target)
    if path.exists() and not path.is_file():
        return
    folder = followed(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder {folder} to write to")
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, f"the folder {folder} cannot be written to")


def followed(path: Path) -> Path:
    """The place that a path leads to, whether or not anything is there. Raises OSError where links lead in a circle."""
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise OSError(errno.ELOOP, f"the links of {path} lead in a circle")
    return place

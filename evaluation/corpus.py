"""The pictures to measure on: files, folders, patterns, lists of files, and sets of small pictures as arrays."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gencodec.codec import formats
from gencodec.errors import MALFORMED, InvalidFile, UsageError

if TYPE_CHECKING:
    from gencodec.codec.image import Image

SETS = ("cifar10", "mnist")
TEST = "test_x.npy"
"""Where a set's folder holds its test pictures."""
PLACE = "GENCODEC_DATA"
"""The environment variable that names the folder of the sets."""
LISTS = (".txt", ".lst")
SUFFIXES = (*formats.SUFFIXES, ".gif", ".pcx", ".qoi")
"""Of the pictures that are taken from a folder."""


@dataclass(frozen=True)
class Picture:
    """One picture that is there to be read: a file, or the `index`-th of an array of pictures.

    `name` tells it apart in reports: the folder that was asked for, and the path within it, as UTF-8.
    """

    name: str
    path: Path
    index: int | None = None

    @property
    def group(self) -> str:
        """The folder or set that the picture was found in."""
        return self.name.partition("/")[0] if "/" in self.name else ""

    def digest(self) -> str:
        """SHA-256 of the file's bytes, or of the shape, type and samples of an array's picture. Raises OSError."""
        if self.index is None:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        samples = _pictures(self.path)[self.index]
        return hashlib.sha256(f"{samples.shape} {samples.dtype} ".encode() + samples.tobytes()).hexdigest()

    def read(self) -> Image:
        """The image. Raises OSError, InvalidFile, and UnsupportedImage."""
        if self.index is None:
            return formats.read_image(self.path)
        from gencodec.codec.image import Image

        return Image.from_array(np.array(_pictures(self.path)[self.index]))


def find(sources: Sequence[str], *, every: int = 1, limit: int | None = None) -> list[Picture]:
    """The pictures of all sources in order, each once; every `every`-th of them, `limit` at most.

    A source is an image file; a folder, with all below it; a pattern with `*`, `?` or `[`; a list (.txt or .lst) of
    files, one a line, relative to it; an array (.npy) of pictures (n, height, width) or (n, height, width, channels),
    or a folder that holds one as test_x.npy; or `cifar10` or `mnist`, which are such folders in $GENCODEC_DATA. Raises
    UsageError for a source that has no pictures.
    """
    found: dict[tuple[Path, int | None], Picture] = {}
    for source in sources:
        pictures = list(_source(source))
        if not pictures:
            raise UsageError(f"{source} has no images ({', '.join(SUFFIXES)})")
        for picture in pictures:
            found.setdefault((picture.path.resolve(), picture.index), picture)
    return _distinct(list(found.values()))[::every][:limit]


def _source(source: str) -> Iterator[Picture]:
    """The pictures of one source. Raises UsageError."""
    path = Path(source)
    if not path.exists() and source in SETS and os.environ.get(PLACE):
        path = Path(os.environ[PLACE]) / source
    if path.is_dir():
        yield from _folder(path)
    elif path.suffix.lower() == ".npy" and path.is_file():
        yield from _array(path, path.stem)
    elif path.suffix.lower() in LISTS and path.is_file():
        yield from _list(path)
    elif path.exists():
        yield Picture(path.name, path)
    elif glob.has_magic(source):
        paths = map(Path, sorted(glob.glob(source, recursive=True)))
        yield from (Picture(path.as_posix(), path) for path in paths if not path.is_dir())
    else:
        hint = f", nor one in ${PLACE}" if source in SETS else ""
        raise UsageError(f"there is no file or folder {source}{hint}")


def _folder(folder: Path) -> Iterator[Picture]:
    if (folder / TEST).is_file():
        yield from _array(folder / TEST, folder.resolve().name)
        return
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.is_dir():
            yield Picture(f"{folder.resolve().name}/{path.relative_to(folder).as_posix()}", path)


def _list(path: Path) -> Iterator[Picture]:
    """The pictures of a list. Raises UsageError."""
    try:
        text = path.read_text("utf-8-sig")
        if "\0" in text:
            raise ValueError("no name of a file holds a NUL")
    except ValueError:
        raise UsageError(f"{path} is not a list of files, one a line") from None
    for line in text.splitlines():
        if name := line.strip():
            yield Picture(f"{path.stem}/{name}", path.parent / name)


def _array(path: Path, name: str) -> Iterator[Picture]:
    """The pictures of an array. Raises UsageError."""
    try:
        count = len(_pictures(path))
    except InvalidFile as error:
        raise UsageError(f"{path}: {error}") from error
    digits = len(str(count - 1))
    yield from (Picture(f"{name}/{index:0{digits}}", path, index) for index in range(count))


@cache
def _pictures(path: Path) -> NDArray[Any]:
    """The array of a file, on disk. Raises InvalidFile."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (*MALFORMED, SyntaxError, TokenError) as error:
        raise InvalidFile(f"not an array of numpy's: {error}") from error
    if array.ndim not in (3, 4) or array.dtype != np.uint8:
        raise InvalidFile(f"pictures are an array of uint8 and 3 or 4 axes, not of {array.dtype} and {array.ndim}")
    return array


def _distinct(pictures: list[Picture]) -> list[Picture]:
    """The pictures, those with a name that others have under their whole paths."""
    count = Counter(picture.name for picture in pictures)
    names = (picture.name if count[picture.name] == 1 else _whole_name(picture) for picture in pictures)
    # Bytes of a path that are no UTF-8 are lone surrogates, which no report can hold.
    printable = (name.encode("utf-8", "backslashreplace").decode() for name in names)
    return [replace(picture, name=name) for picture, name in zip(pictures, printable, strict=True)]


def _whole_name(picture: Picture) -> str:
    """The path of a picture and, in an array, its place."""
    path = picture.path.as_posix()
    return path if picture.index is None else f"{path}/{picture.name.rpartition('/')[2]}"

"""The codecs that are compared, by the names that people give them: `photo@9`, `jxl-e9`, `jpeg`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gencodec.errors import unknown_name
from gencodec.evaluation import baselines, ours
from gencodec.evaluation.protocol import Contender, Options


@dataclass(frozen=True)
class Entry:
    """One contender's place in a run; names it in another process too."""

    codec: str
    quality: float | None = None
    model: bool = False

    @property
    def name(self) -> str:
        return self.codec if self.quality is None else f"{self.codec} {self.quality:g}"


def entries(models: Iterable[str], codecs: Iterable[str], options: Options) -> list[Entry]:
    """The contenders of a run: models `NAME` or `NAME@EFFORT`, then baselines, each lossy one at all its qualities.

    Raises UsageError for names that are not known.
    """
    found = [Entry(name, quality, True) for name in models for quality in ours.sweep(name, options.qualities)]
    for name in codecs:
        if not baselines.known(name):
            raise unknown_name("codec", name, baselines.names())
        found += [Entry(name, quality) for quality in baselines.sweep(name)]
    return list(dict.fromkeys(found))


def make(entry: Entry, options: Options) -> Contender:
    """The contender of an entry. Raises UsageError."""
    if entry.model:
        return ours.make(entry.codec, entry.quality, options)
    return baselines.make(entry.codec, entry.quality, options.threads)


def split(text: str) -> Sequence[str]:
    """The names of a list with commas."""
    return [name for part in text.split(",") if (name := part.strip())]

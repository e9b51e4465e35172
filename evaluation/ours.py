"""gencodec's models as contenders: installed ones by name, exported ones by file, lossless and lossy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gencodec
from gencodec import runtime
from gencodec.codec import codecs, lossy
from gencodec.codec.api import DEFAULT_EFFORT
from gencodec.errors import UsageError
from gencodec.evaluation.protocol import Estimate, Options
from gencodec.runtime.registry import UNREGISTERED, models_behind

if TYPE_CHECKING:
    from gencodec.codec.image import Image
    from gencodec.runtime import ModelCard


@dataclass(frozen=True)
class Own:
    """gencodec with one model at one effort or, where it is lossy, at one quality."""

    codec: str
    quality: float | None
    model: str
    card: ModelCard
    effort: int
    options: Options
    missing: str = ""

    @property
    def version(self) -> str:
        return f"gencodec {gencodec.__version__}"

    @property
    def settings(self) -> str:
        rate = f"effort {self.effort}" if self.quality is None else f"quality {self.quality:g}"
        models = ", ".join(f"{c.name}, weights {c.sha256[:16]}" for c in models_behind(self.model))
        threads, device = self.options.threads, self.options.device
        return f"{models}, {rate}, {threads} threads, device {device}"

    @property
    def lossless(self) -> bool:
        return self.quality is None

    @property
    def foreign(self) -> str | None:
        """What a reader has to be told: the model's file, if it does not ship."""
        return str(self.card.file) if self.card.wire_id == UNREGISTERED else None

    def encode(self, image: Image) -> bytes:
        """Return the .gnc file."""
        rate: dict[str, Any] = {"effort": self.effort} if self.quality is None else {"quality": self.quality}
        return gencodec.compress(
            image, model=self.model, threads=self.options.threads, device=self.options.device, **rate
        )

    def decode(self, data: bytes) -> Image:
        """Return the image, by the model's own file where it does not ship."""
        threads, device = self.options.threads, self.options.device
        return gencodec.decompress(data, model=self.foreign, threads=threads, device=device)

    def estimate(self, data: bytes) -> Estimate | None:
        """What the file says that the model expected."""
        found = gencodec.info(data, model=self.foreign)
        return Estimate(found.estimate_bits, found.initial_bits) if found.estimate_bits else None


def parse(name: str) -> tuple[ModelCard, str, int]:
    """Card, model and effort of `NAME`, `NAME@EFFORT`, or a file instead of a name. Raises UsageError."""
    model, mark, effort = name.rpartition("@")
    if not mark or not (effort.isascii() and effort.isdigit()):
        model, effort = name, str(DEFAULT_EFFORT)
    if not 1 <= int(effort) <= 9:
        raise UsageError(f"the effort of {name} is not from 1 to 9")
    return runtime.find_model(model), model, int(effort)


def sweep(name: str, qualities: Sequence[int]) -> Sequence[float | None]:
    """The qualities at which a model is measured: none for a lossless one. Raises UsageError.

    A model that has no more quality levels than there are qualities is measured once at each level.
    """
    card, _, _ = parse(name)
    if card.family not in codecs.LOSSY:
        return (None,)
    if not all(1 <= quality <= 100 for quality in qualities):
        raise UsageError("the qualities of lossy models are from 1 to 100")
    model = runtime.load(card)
    with codecs.checked(model):
        levels = codecs.lossy_codec_of(model).levels(model)
    if levels > len(qualities):
        return qualities
    return [lossy.quality_of(level, levels) for level in range(levels)]


def make(name: str, quality: float | None, options: Options) -> Own:
    """The contender of a model's name. Raises UsageError."""
    card, model, effort = parse(name)
    return Own(name, quality, model, card, effort, options)

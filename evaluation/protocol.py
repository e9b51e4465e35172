"""What a codec has to give to be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gencodec.codec.image import Image


@dataclass(frozen=True)
class Estimate:
    """What a model itself expects a file to take; in bits.

    `initial_bits`: of bits-back, what is coded directly, for the first choices to be drawn from.
    """

    bits: float
    initial_bits: float | None = None


class Contender(Protocol):
    """A codec with all its settings: images to whole files and back.

    `codec` is the name that was asked for, and `quality` the place in its sweep, by the codec's own scale, where it is
    lossy. `version` and `settings` tell all that the bytes of a file depend on. `missing` says why the codec is not to
    be had here, and is empty otherwise.
    """

    @property
    def codec(self) -> str: ...
    @property
    def quality(self) -> float | None: ...
    @property
    def version(self) -> str: ...
    @property
    def settings(self) -> str: ...
    @property
    def lossless(self) -> bool: ...
    @property
    def missing(self) -> str: ...

    def encode(self, image: Image) -> bytes:
        """Return the whole file. Raises UnsupportedImage for samples that the format cannot hold."""
        ...

    def decode(self, data: bytes) -> Image:
        """Return the image of a file that `encode` wrote."""
        ...

    def estimate(self, data: bytes) -> Estimate | None:
        """What the model expected of a file that `encode` wrote; None where no model coded it."""
        ...


@dataclass(frozen=True)
class Options:
    """What all contenders of a run share: threads of those that know threads, device, and the lossy models' sweep."""

    threads: int = 1
    device: str = "auto"
    qualities: tuple[int, ...] = (10, 30, 50, 70, 90)

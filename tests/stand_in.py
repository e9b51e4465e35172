"""A stand-in for the neural codec: the same seam, no network, and a size that a test can set."""

from __future__ import annotations

import sys
import types
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from gencodec.codec import bitsback, symmetry  # noqa: F401  # loaded before the modules that they need are replaced
from gencodec.errors import InvalidFile, UnknownModel, UsageError

WEIGHTS = "5e" * 32


@dataclass(frozen=True)
class Card:
    name: str = "photo-stand.1"
    aliases: tuple[str, ...] = ("photo",)
    wire_id: int = 0xFFFE
    sha256: str = WEIGHTS
    for_codes: str = ""
    quick: str = ""
    medium: str = ""
    large: str = ""
    large_slow: str = ""
    family: str = "photo"

    @property
    def weights_prefix(self) -> bytes:
        return bytes.fromhex(self.sha256)[:8]


@dataclass
class Model:
    card: Card = field(default_factory=Card)
    family: str = "photo"


@dataclass
class Encoded:
    payload: bytes
    estimate_bits: float


@dataclass
class StandIn:
    """Counts the calls; `padding` zero bytes follow every payload. No picture is worth adapting to or turning."""

    padding: int = 0
    encoded: int = 0
    decoded: int = 0
    efforts: list[int] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of gencodec.runtime, and of the modules of gencodec.codec that run networks."""
        names = ("codec.photo", "codec.adapting", "codec.adaptation", "runtime")
        modules = {name: types.ModuleType(f"gencodec.{name}") for name in names}
        photo, adapting, _, runtime = modules.values()
        vars(photo).update(encode=self.encode, decode=self.decode)
        vars(adapting).update(adapted=lambda pixels, model, effort, report: self.efforts.append(effort))
        vars(runtime).update(
            list_models=lambda: [Card()],
            find_model=find_model,
            model_for=model_for,
            load=lambda card, **_: Model(card),
        )
        monkeypatch.setattr(symmetry, "chosen", lambda *_: 0)
        for name, module in modules.items():
            parent, _, child = f"gencodec.{name}".rpartition(".")
            monkeypatch.setitem(sys.modules, f"gencodec.{name}", module)
            monkeypatch.setattr(sys.modules[parent], child, module, raising=False)

    def encode(
        self,
        pixels: NDArray[np.uint8],
        model: Model,
        *,
        turn: int = 0,
        patient: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> Encoded:
        self.encoded += 1
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] in (1, 3)
        payload = zlib.compress(pixels.tobytes())
        return Encoded(payload + bytes(self.padding), 8.0 * len(payload))

    def decode(
        self,
        payload: bytes,
        shape: tuple[int, int, int],
        model: Model,
        *,
        region: tuple[int, int, int, int] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> NDArray[np.uint8]:
        self.decoded += 1
        expected = shape[0] * shape[1] * shape[2]
        try:
            data = zlib.decompressobj().decompress(payload, expected + 1)
        except zlib.error as error:
            raise InvalidFile("the neural section is damaged") from error
        if len(data) != expected:
            raise InvalidFile("the neural section is damaged")
        pixels = np.frombuffer(data, np.uint8).reshape(shape)
        x, y, width, height = region or (0, 0, shape[1], shape[0])
        return pixels[y : y + height, x : x + width].copy()


def find_model(name: str) -> Card:
    """As gencodec.runtime.find_model."""
    if name not in ("photo", Card().name):
        raise UsageError(f"there is no model {name!r}; did you mean 'photo'?")
    return Card()


def model_for(wire_id: int, weights: bytes, extra: Card | None = None) -> Card:
    """As gencodec.runtime.model_for."""
    if wire_id != Card().wire_id or weights != bytes.fromhex(WEIGHTS)[:8]:
        raise UnknownModel(f"the file needs the model with the wire id {wire_id}, which is not installed")
    return Card()


def real_model_exists() -> bool:
    """Whether the neural codec itself is there, with a registered model."""
    try:
        from gencodec import runtime
        from gencodec.codec import photo

        return bool(runtime.list_models()) and callable(photo.encode)
    except (ImportError, AttributeError):
        return False

"""Which codec a model's family has: pictures <-> payloads, tiles <-> stacks, and samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.coder import RandomCoder
from gencodec.errors import MALFORMED, InvalidFile, UsageError
from gencodec.runtime.registry import UNREGISTERED

if TYPE_CHECKING:
    from gencodec.codec.bitsback import TileCodec
    from gencodec.codec.groups import Encoded, Progress
    from gencodec.codec.lossy import LossyCodec
    from gencodec.runtime import Model

Pixels = NDArray[np.uint8]
AUTOREGRESSIVE = ("pixelcnn", "pixelrnn")
FLOWS = ("nice", "realnvp", "glow")
LATENT = ("vae", "nvae")
BITS_BACK = (*FLOWS, *LATENT)
HIERARCHIES = ("beta-vae", "nvae-lossy")
LOSSY = (*HIERARCHIES, "vq-vae", "vq-vae-2")
SPRITES = "beta-vae-sprites"
"""The family whose latents stand for a whole picture; it does not code any."""
LARGEST_TILE = 256
"""Side of tiles that are coded by bits-back."""
BATCH = 32
"""Samples that are drawn at a time."""


class PictureCodec(Protocol):
    """What a family's module gives: whole pictures to payloads and back."""

    def encode(self, pixels: Pixels, model: Model, *, progress: Progress | None = None) -> Encoded:
        """Code pixels (height, width, 1 or 3) without loss."""
        ...

    def decode(
        self,
        payload: bytes,
        shape: tuple[int, int, int],
        model: Model,
        *,
        region: tuple[int, int, int, int] | None = None,
        progress: Progress | None = None,
    ) -> Pixels:
        """The pixels of `shape`, or of a region (x, y, width, height). Raises `InvalidFile`."""
        ...


@contextmanager
def checked(model: Model) -> Iterator[None]:
    """Raise `InvalidFile` where graphs, tables and sizes of a user's own model do not fit each other.

    With a model that ships, such an error is one of this program.
    """
    try:
        yield
    except MALFORMED as error:
        if model.card.wire_id != UNREGISTERED:
            raise
        raise InvalidFile(f"the model {model.card.name} is not built as it says") from error


def codec_of(model: Model) -> PictureCodec:
    """The codec of a model's family.

    Raises `InvalidFile` for a family that is not known, `UsageError` for one that only generates.
    """
    if model.family in AUTOREGRESSIVE:
        from gencodec.codec import autoregressive

        return autoregressive
    if model.family in BITS_BACK:
        from gencodec.codec import bitsback

        return bitsback
    if model.family in LOSSY:
        raise InvalidFile(f"the model {model.card.name} codes with loss, and the file claims to be lossless")
    if model.family == SPRITES:
        raise UsageError(
            f"the model {model.card.name} does not code pictures; it is for `gencodec generate --traverse`"
        )
    from gencodec.codec import photo

    return photo  # it refuses other families


def lossy_codec_of(model: Model) -> LossyCodec:
    """The codec of a model's family. Raises `InvalidFile` for a family that codes without loss."""
    if model.family in HIERARCHIES:
        from gencodec.codec import hierarchy

        return hierarchy
    if model.family in LOSSY:
        from gencodec.codec import vq

        return vq
    raise InvalidFile(f"the model {model.card.name} codes without loss, and the file claims to be lossy")


def tile_codec(model: Model, temperature: float = 1.0) -> TileCodec:
    """The codec of tiles of a family that codes by bits-back. Raises `InvalidFile` for others, and for large tiles."""
    if model.family not in BITS_BACK:
        raise InvalidFile(f"the model {model.card.name} is of the family {model.family}, which has no latents")
    from gencodec.codec.flow import FlowCodec
    from gencodec.codec.latents import LatentCodec

    codec = (FlowCodec if model.family in FLOWS else LatentCodec)(model, temperature)
    if not 1 <= codec.tile <= LARGEST_TILE:
        raise InvalidFile(f"the model {model.card.name} is made for tiles of {codec.tile} pixels")
    return codec


def sample(model: Model, count: int, seed: int, temperature: float = 1.0) -> Pixels:
    """What the model's decoder makes of random bits: `count` pictures (count, tile, tile, 3), red, green, blue.

    Below 1, the `temperature` narrows the distributions. Raises `UsageError` for families that do not sample.
    """
    if model.family in AUTOREGRESSIVE:
        from gencodec.codec import autoregressive

        return autoregressive.sample(model, count, seed, temperature)
    if model.family in LOSSY:
        return lossy_codec_of(model).sample(model, count, seed, temperature)
    if model.family not in BITS_BACK:
        raise UsageError(f"the family {model.family} of the model {model.card.name} does not generate pictures")
    codec, coder = tile_codec(model, temperature), RandomCoder(seed)
    parts = [codec.pop(coder, min(BATCH, count - done)) for done in range(0, count, BATCH)]
    return pixels_of(np.concatenate(parts))


def planes_of(pictures: Pixels) -> Pixels:
    """Pictures (n, height, width, 3) of red, green, blue as (n, 3, height, width) of green, red, blue."""
    return np.ascontiguousarray(pictures[..., [1, 0, 2]].transpose(0, 3, 1, 2))


def pixels_of(planes: Pixels) -> Pixels:
    """The pictures that `planes_of` turned."""
    return np.ascontiguousarray(planes[:, [1, 0, 2]].transpose(0, 2, 3, 1))

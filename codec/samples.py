"""The samples of an image <-> the sections that hold them: COLOR with or without ALPHA, or PIXELS."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from gencodec.codec import choice, ordinary
from gencodec.codec.container import Coder, Container, ModelRef, Section, SectionKind, least_payload
from gencodec.codec.image import PACKED_DEPTHS, Pixels
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

Region = tuple[int, int, int, int]
Progress = Callable[[float], None]


def encode(pixels: Pixels, load_model: Callable[[], Model], *, progress: Progress | None = None) -> tuple[Section, ...]:
    """Code samples (H, W, C) as the smallest of the sections worth trying, in the order of their kinds.

    `load_model` is called only where the neural codec suits the samples.
    """
    least = least_payload(pixels.shape[0] * pixels.shape[1])
    color, alpha = _split(pixels)
    if not choice.suits_model(color):
        return _encode_ordinary(pixels, color, alpha, least)
    neural = _encode_neural(color, alpha, load_model(), progress)
    long_enough = sum(len(section.payload) for section in neural) >= least
    if long_enough and choice.model_wins(pixels, _file_bytes(neural)):
        return neural
    ordinary_sections = _encode_ordinary(pixels, color, alpha, least, most=_file_bytes(neural))
    return min(neural, ordinary_sections, key=_file_bytes) if long_enough else ordinary_sections


def decode(
    container: Container,
    load_model: Callable[[ModelRef], Model],
    *,
    region: Region | None = None,
    progress: Progress | None = None,
) -> Pixels:
    """Decode the samples (h, w, C) of a region (x, y, width, height) within the image, or of the whole of it.

    Raises InvalidFile where a payload does not hold what it must.
    """
    parts = [
        _decode_section(section, container, load_model, region, progress)
        for section in container.sections
        if section.kind is not SectionKind.METADATA
    ]
    return np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]


def _encode_neural(color: Pixels, alpha: Pixels | None, model: Model, progress: Progress | None) -> tuple[Section, ...]:
    """Code the color by the neural codec, and alpha, if any, by an ordinary coder."""
    from gencodec.codec import photo

    encoded = photo.encode(cast(NDArray[np.uint8], color), model, progress=progress)
    reference = ModelRef(model.card.wire_id, model.card.weights_prefix)
    estimate = int(np.ceil(encoded.estimate_bits / 8))
    section = Section(SectionKind.COLOR, Coder.MODEL, encoded.payload, reference, estimate)
    return (section,) if alpha is None else (section, _encode_section(SectionKind.ALPHA, alpha))


def _encode_ordinary(
    pixels: Pixels, color: Pixels, alpha: Pixels | None, least: int, most: int | None = None
) -> tuple[Section, ...]:
    """Code all channels together, but alpha apart where it is constant, as in an opaque image."""
    if alpha is None:
        return (_encode_section(SectionKind.COLOR, color, least, most),)
    if (alpha == alpha[0, 0]).all():
        return (
            _encode_section(SectionKind.COLOR, color, least, most),
            _encode_section(SectionKind.ALPHA, alpha),
        )
    return (_encode_section(SectionKind.PIXELS, pixels, least, most),)


def _encode_section(kind: SectionKind, pixels: Pixels, least: int = 0, most: int | None = None) -> Section:
    """Code samples by the best ordinary coder."""
    coded = ordinary.encode(pixels, least=least, most=most)
    return Section(kind, coded.coder, coded.payload)


def _decode_section(
    section: Section,
    container: Container,
    load_model: Callable[[ModelRef], Model],
    region: Region | None,
    progress: Progress | None,
) -> Pixels:
    """Decode the samples of one section, of the region if there is one."""
    colors = container.channels - (container.channels in (2, 4))
    channels = {SectionKind.COLOR: colors, SectionKind.ALPHA: 1}.get(section.kind, container.channels)
    itemsize = 1 if container.bit_depth in PACKED_DEPTHS else 2
    shape = ordinary.Shape(container.height, container.width, channels, itemsize)
    if section.model is not None:
        return _decode_neural(section.payload, shape, load_model(section.model), region, progress)
    samples = ordinary.decode(section.coder, section.payload, shape)
    if region is None:
        return samples
    x, y, width, height = region
    return np.ascontiguousarray(samples[y : y + height, x : x + width])


def _decode_neural(
    payload: bytes, shape: ordinary.Shape, model: Model, region: Region | None, progress: Progress | None
) -> NDArray[np.uint8]:
    """Decode samples by the neural codec, which holds 8-bit samples only."""
    from gencodec.codec import photo

    if shape.itemsize != 1:
        raise InvalidFile("the coder MODEL holds 8-bit samples only, and the file claims more")
    return photo.decode(payload, shape[:3], model, region=region, progress=progress)


def _split(pixels: Pixels) -> tuple[Pixels, Pixels | None]:
    """Part samples into color and alpha, each contiguous; None where there is no alpha."""
    channels = pixels.shape[2]
    if channels in (1, 3):
        return pixels, None
    return np.ascontiguousarray(pixels[:, :, :-1]), np.ascontiguousarray(pixels[:, :, -1:])


def _file_bytes(sections: tuple[Section, ...]) -> int:
    """Bytes that the sections add to a file."""
    return sum(section.file_bytes for section in sections)

"""The samples of an image <-> the sections that hold them: COLOR with or without ALPHA, or PIXELS."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from gencodec.codec import choice, colorcodes, levels, ordinary, symmetry
from gencodec.codec.container import Coder, Container, ModelRef, Section, SectionKind, least_payload, long_enough
from gencodec.codec.image import PACKED_DEPTHS, Pixels
from gencodec.errors import InvalidFile, UnsupportedImage, UsageError

if TYPE_CHECKING:
    from gencodec.runtime import Model

Region = tuple[int, int, int, int]
Progress = Callable[[float], None]
FITTING = 0.7
"""Share of the work that fitting a model to the picture is told as."""
PATIENT_EFFORT = 9
"""At which files may take longer to decode."""
CLEARLY = 0.01
"""Estimated share of saved bytes from which a fitted model is taken without comparing."""


@dataclass(frozen=True)
class Means:
    """What the neural codec may use: models, loaded only where they are needed, and effort."""

    load_model: Callable[[], Model]
    load_codes_model: Callable[[], Model] | None
    """For pictures that were made of luma and chroma codes; None where their colors are to be coded as they are."""
    effort: int
    """From 1, quick, to 9; see `gencodec.codec.adapting.STEPS`."""
    always: bool = False
    """Whether the model codes all that it can, be ordinary coders better or not."""


@dataclass(frozen=True)
class Listener:
    """Whom to tell how far coding is."""

    share: Progress | None = None
    """Takes the share done, 0 to 1."""
    note: Callable[[str], None] | None = None
    """Takes a line that says what is being done."""

    def part(self, first: float, last: float) -> Progress | None:
        """What takes the share done of a part."""
        share = self.share
        return None if share is None else lambda done: share(first + (last - first) * done)


def encode(pixels: Pixels, means: Means, listener: Listener = Listener()) -> tuple[Section, ...]:
    """Code samples (H, W, C) as the smallest of the sections worth trying, in the order of their kinds."""
    area = pixels.shape[0] * pixels.shape[1]
    color, alpha = _split(pixels)
    if means.always and color.dtype == np.uint8:
        forced = _encode_neural(color, alpha, means, listener)
        if long_enough(forced, area):
            return forced
    if means.always or not choice.suits_model(color):
        return _encode_ordinary(pixels, color, alpha)
    with ThreadPoolExecutor(1) as beside:
        sure = beside.submit(choice.sure_size, pixels)
        neural = _encode_neural(color, alpha, means, listener)
    allowed = long_enough(neural, area)
    if allowed and choice.model_wins(pixels, _file_bytes(neural), sure.result()):
        return neural
    ordinary_sections = _encode_ordinary(pixels, color, alpha, most=_file_bytes(neural))
    return min(neural, ordinary_sections, key=_file_bytes) if allowed else ordinary_sections


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
        if section.kind in (SectionKind.COLOR, SectionKind.ALPHA, SectionKind.PIXELS)
    ]
    return np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]


def encode_ordinary(pixels: Pixels) -> tuple[Section, ...]:
    """Code samples (H, W, C) without loss by the best ordinary coders."""
    color, alpha = _split(pixels)
    return _encode_ordinary(pixels, color, alpha)


def color_of(pixels: Pixels) -> Pixels:
    """Samples (H, W, C) without alpha."""
    return _split(pixels)[0]


def color_payload(sections: tuple[Section, ...]) -> bytes:
    """The payload of the section that holds the color."""
    return next(section.payload for section in sections if section.kind is SectionKind.COLOR)


def encode_lossy(
    pixels: Pixels, bit_depth: int, model: Model, level: int, progress: Progress | None = None
) -> tuple[tuple[Section, ...], int]:
    """Code samples (H, W, C) at a quality level of the model, alpha without loss; and the file's checksum.

    Raises `UnsupportedImage` for samples of other than 8 bits.
    """
    from gencodec.codec import codecs

    if bit_depth != 8:
        raise UnsupportedImage(f"lossy coding takes samples of 8 bits, and the image has {bit_depth}")
    color, alpha = _split(pixels)
    samples = cast(NDArray[np.uint8], color)
    with codecs.checked(model):
        coded = codecs.lossy_codec_of(model).encode(samples, model, level=level, progress=progress)
    reference = ModelRef(model.card.wire_id, model.card.weights_prefix)
    sections = [Section(SectionKind.COLOR, Coder.MODEL, coded.payload, reference, int(np.ceil(coded.bits / 8)))]
    if alpha is None:
        return tuple(sections), coded.checksum
    sections.append(_encode_section(SectionKind.ALPHA, alpha))
    return tuple(sections), zlib.crc32(alpha.tobytes(), coded.checksum)


def decode_lossy(
    container: Container,
    load_model: Callable[[ModelRef], Model],
    *,
    region: Region | None = None,
    preview: bool = False,
    progress: Progress | None = None,
) -> tuple[Pixels, int | None]:
    """Decode the samples (h, w, C) of a region, or of the whole image, and their checksum, None if it is not known.

    Raises InvalidFile where a payload does not hold what it must.
    """
    from gencodec.codec import codecs

    color, alpha = (container.section(kind) for kind in (SectionKind.COLOR, SectionKind.ALPHA))
    if color is None or color.model is None:
        raise InvalidFile("the file claims to be lossy, but no model coded its color")
    model = load_model(color.model)
    shape = (container.height, container.width, container.channels - (container.channels in (2, 4)))
    decode = codecs.lossy_codec_of(model).decode
    with codecs.checked(model):
        found = decode(color.payload, shape, model, region=region, preview=preview, progress=progress)
    if alpha is None:
        return found.pixels, found.checksum
    plane = _decode_section(alpha, container, load_model, region, None)
    # of a region the color's checksum may be known all the same, where all of it had to be decoded
    crc = None if found.checksum is None or region else zlib.crc32(plane.tobytes(), found.checksum)
    return np.concatenate([found.pixels, plane], axis=2), crc


def color_system(codes: Section) -> colorcodes.ColorCodes:
    """The system whose codes a section CODES says were coded. Raises `InvalidFile`."""
    if not codes.payload:
        raise InvalidFile("the file's section CODES is empty")
    return colorcodes.find_system(codes.payload[0])


def _encode_neural(color: Pixels, alpha: Pixels | None, means: Means, listener: Listener) -> tuple[Section, ...]:
    """Code the color by the neural codec, and alpha, if any, by an ordinary coder."""
    from gencodec.codec import codecs

    samples = cast(NDArray[np.uint8], color)
    sections = [] if alpha is None else [_encode_section(SectionKind.ALPHA, alpha)]
    found = _codes_of(samples) if means.load_codes_model else None
    if found and means.load_codes_model:
        model, (samples, section) = means.load_codes_model(), found
        sections.append(section)
    else:
        model = means.load_model()
        if (used := levels.find(samples)) is not None:
            samples = levels.mapped(samples, used.numbers)
            sections.append(Section(SectionKind.LEVELS, Coder.RAW, used.pack()))
    with codecs.checked(model):
        sections.extend(_neural_sections(samples, model, means.effort, listener))
    return tuple(sorted(sections, key=lambda section: section.kind))


def _codes_of(color: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Section] | None:
    """The luma and chroma codes that a color image was made of, and the section that tells how, if it was."""
    system = colorcodes.detect(color) if color.shape[2] == 3 else None
    result = colorcodes.to_codes(color, system) if system else None
    if system is None or result is None:
        return None
    planes, exceptions = result
    payload = bytes((system.wire_id,)) + colorcodes.pack_exceptions(exceptions)
    return planes, Section(SectionKind.CODES, Coder.RAW, payload)


def _neural_sections(samples: NDArray[np.uint8], model: Model, effort: int, listener: Listener) -> tuple[Section, ...]:
    """The section of a model's payload, with that of its changes where they make both together smaller."""
    from gencodec.codec import adapting, codecs, photo

    patient = effort == PATIENT_EFFORT and model.family == "photo"
    turn = symmetry.chosen(samples, model, effort)
    samples = cast(NDArray[np.uint8], symmetry.turned(samples, turn))
    done = 0.0

    def report(step: int, steps: int, bits: float) -> None:
        nonlocal done
        done = FITTING * step / steps
        if listener.share:
            listener.share(done)
        if listener.note:
            listener.note(f"step {step} of {steps}, about {bits * samples.size / 8e3:.0f} kB")

    def coded(used: Model, last: float = 1.0) -> Section:
        nonlocal done
        encode = partial(photo.encode, turn=turn, patient=patient) if turn or patient else codecs.codec_of(used).encode
        encoded = encode(samples, used, progress=listener.part(done, last))
        done = last
        reference = ModelRef(model.card.wire_id, model.card.weights_prefix)
        estimate = int(np.ceil(encoded.estimate_bits / 8))
        return Section(SectionKind.COLOR, Coder.MODEL, encoded.payload, reference, estimate)

    fit = adapting.adapted(samples, model, effort, report)
    if listener.note:
        listener.note("")
    if fit is None:
        return (coded(model),)
    clear = fit.saved > CLEARLY
    changes = Section(SectionKind.ADAPTATION, Coder.CHANGES, fit.payload)
    fitted = (coded(fit.model, 1.0 if clear else (1 + FITTING) / 2), changes)
    return fitted if clear else min(fitted, (coded(model),), key=_file_bytes)


def _encode_ordinary(
    pixels: Pixels, color: Pixels, alpha: Pixels | None, most: int | None = None
) -> tuple[Section, ...]:
    """Code all channels together, but alpha apart where it is constant, as in an opaque image."""
    least = least_payload(pixels.shape[0] * pixels.shape[1])
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
        return _decode_neural(section, container, shape, load_model(section.model), region, progress)
    x, y, width, height = region or (0, 0, container.width, container.height)
    if section.coder is Coder.CONSTANT:
        return ordinary.decode(section.coder, section.payload, shape._replace(height=height, width=width))
    samples = ordinary.decode(section.coder, section.payload, shape)
    return np.ascontiguousarray(samples[y : y + height, x : x + width])


def _decode_neural(
    section: Section,
    container: Container,
    shape: ordinary.Shape,
    model: Model,
    region: Region | None,
    progress: Progress | None,
) -> NDArray[np.uint8]:
    """Decode samples by the neural codec, which holds 8-bit samples only."""
    from gencodec.codec import adaptation, codecs

    if shape.itemsize != 1:
        raise InvalidFile("the coder MODEL holds 8-bit samples only, and the file claims more")
    changes, codes, listed = (
        container.section(kind) for kind in (SectionKind.ADAPTATION, SectionKind.CODES, SectionKind.LEVELS)
    )
    used = None if listed is None else levels.unpack(listed.payload, shape.channels)
    try:
        codec = codecs.codec_of(model)
    except UsageError as error:
        raise InvalidFile(f"the file names {model.card.name}, which does not code pictures") from error
    with codecs.checked(model):
        if changes is not None:
            model = adaptation.applied(model, *adaptation.unpack(changes.payload, model))
        samples = codec.decode(section.payload, shape[:3], model, region=region, progress=progress)
    if used is not None:
        return levels.mapped(samples, used.levels)
    if codes is None:
        return samples
    exceptions = colorcodes.unpack_exceptions(codes.payload[1:], container.width, container.height)
    pixels = colorcodes.to_pixels(samples, color_system(codes))
    colorcodes.apply_exceptions(pixels, exceptions, region)
    return pixels


def _split(pixels: Pixels) -> tuple[Pixels, Pixels | None]:
    """Part samples into color and alpha, each contiguous; None where there is no alpha."""
    channels = pixels.shape[2]
    if channels in (1, 3):
        return pixels, None
    return np.ascontiguousarray(pixels[:, :, :-1]), np.ascontiguousarray(pixels[:, :, -1:])


def _file_bytes(sections: tuple[Section, ...]) -> int:
    """Bytes that the sections add to a file."""
    return sum(section.file_bytes for section in sections)

"""Images <-> .gnc files: what the public door and the command line call."""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gencodec.codec import choice, levels, ordinary, samples
from gencodec.codec import container as gnc
from gencodec.codec.atomic import check_target, write_file
from gencodec.codec.codecs import LOSSY
from gencodec.codec.container import Coder, Container, Header, ModelRef, Section, SectionKind
from gencodec.codec.image import Image, Metadata
from gencodec.codec.quality import Wish
from gencodec.codec.samples import Progress, Region
from gencodec.errors import GencodecError, InvalidFile, UnknownModel, UnsupportedImage, UsageError

if TYPE_CHECKING:
    from gencodec.runtime import Model, ModelCard

MAX_METADATA = 1 << 26
"""The most bytes that metadata may have, before DEFLATE."""

DEFAULT_EFFORT = 5
DEFAULT_LOSSY = "nvae-lossy"
DEFAULT_FAMILY = "photo"
"""The family that gives way to ordinary coders where these are better; others are asked for to see what they do."""

Source = str | os.PathLike[str] | BinaryIO | bytes


@dataclass(frozen=True)
class SectionInfo:
    """One section of a file: what it holds, how it is coded, and the bytes of its payload."""

    kind: SectionKind
    coder: Coder
    bytes: int


@dataclass(frozen=True)
class FileInfo:
    """What a file says of itself.

    `bytes`: length of the whole file. `bpsp`: bits of the whole file per sample. `model`: name of the model
    that coded the color, None where none did or it is not installed; `wire_id` and `weights` (hex digits)
    tell it apart in either case. `estimate_bits`: what the model itself expected the color to take;
    `overhead`: the share by which the payload exceeds that. `initial_bits`: of a model that codes by bits-back, what
    the tiles take that are coded directly, for the first choices to be drawn from. `color_codes`: the system whose
    luma and chroma codes were coded in place of colors, if they were. `lossy`: whether the samples differ from those
    that were coded. `metadata`: the fields present, profiles and
    packets by their length.
    """

    version: int
    width: int
    height: int
    channels: int
    bit_depth: int
    bytes: int
    bpsp: float
    sections: tuple[SectionInfo, ...]
    model: str | None
    wire_id: int | None
    weights: str | None
    estimate_bits: int | None
    overhead: float | None
    initial_bits: int | None
    color_codes: str | None
    metadata: dict[str, int | tuple[int, ...]]
    lossy: bool


def compress(
    image: Image | NDArray[Any] | Source,
    *,
    model: str | None = None,
    effort: int = DEFAULT_EFFORT,
    quality: float | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    threads: int | None = None,
    device: str = "auto",
    allow_lossy: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> bytes:
    """Code an image as the bytes of a .gnc file, losslessly unless a quality or target is given.

    `image`: an Image; an array of shape (H, W) or (H, W, C) and dtype bool, uint8 or uint16; or an image
    file as a path, an open binary file or bytes. `model` is a model's name or alias, or the path of an
    exported ONNX file, by default `photo` or, with loss, `nvae-lossy`; `photo` stands for several models, by effort, by
    the image's size, and for pictures that were made of luma and chroma codes.
    `effort` from 1 to 9: how long a lossless model is fitted to the image, from not at all to as long as it pays.

    A `quality` from 1 to 100, a `target_bpp` in bits a pixel of the whole file, or a `target_psnr`, the least PSNR in
    dB, codes with loss, but alpha without; where a lossless file would be no larger, it is lossless.

    `allow_lossy` takes image files of lossy formats too. `progress` is called with the share done, 0 to 1, and `note`
    with lines that say what is being done. Raises GencodecError on what cannot be coded.
    """
    from gencodec import runtime

    if effort not in range(1, 10):
        raise UsageError(f"the effort is from 1 to 9, not {effort}")
    wish = Wish(quality, target_bpp, target_psnr)
    card = encoder_card(model, wish)
    load = partial(_load_encoder, threads=threads, device=device)
    if card.family in LOSSY:
        image = _as_image(image, allow_lossy=True)
        coded = _encode_lossy(image, load(card), wish, progress)
        return coded or compress(image, effort=effort, threads=threads, device=device, progress=progress, note=note)
    image = _as_image(image, allow_lossy)
    # a model that is asked for by its full name codes all pictures, and their colors as they are
    by_alias = (model or DEFAULT_FAMILY) in card.aliases
    for_codes = None
    if by_alias:
        chosen = partial(choice.chosen_model, pixels=image.width * image.height, effort=effort)
        if card.for_codes:
            for_codes = partial(load, runtime.find_model(chosen(runtime.find_model(card.for_codes))))
        card = runtime.find_model(chosen(card))
    means = samples.Means(partial(load, card), for_codes, effort, always=card.family not in ("", DEFAULT_FAMILY))
    coded = samples.encode(image.pixels, means, samples.Listener(progress, note))
    file = gnc.write(
        Container(
            image.width,
            image.height,
            image.channels,
            image.bit_depth,
            ordinary.checksum(image.pixels),
            _encode_metadata(image.metadata) + coded,
        )
    )
    if progress:
        progress(1.0)
    return file


def encoder_card(model: str | None, wish: Wish) -> ModelCard:
    """The card of the model that codes as is wished. Raises UsageError where the model named cannot."""
    from gencodec import runtime

    name = model or (DEFAULT_LOSSY if wish.given else DEFAULT_FAMILY)
    card = runtime.find_model(name)
    if wish.given and card.family not in LOSSY:
        raise UsageError(f"the model {name} codes without loss; a quality or target is for others")
    return card


def _encode_lossy(image: Image, model: Model, wish: Wish, progress: Progress | None) -> bytes | None:
    """The file of an image at the quality that is wished for; None where it is to be coded without loss."""
    from gencodec.codec import quality

    metadata = _encode_metadata(image.metadata)

    def file(coded: quality.Coded) -> bytes:
        sections, checksum = coded
        return gnc.write(
            Container(image.width, image.height, image.channels, 8, checksum, metadata + sections, lossy=True)
        )

    coded = quality.encode(image, model, wish, lambda coded: len(file(coded)), progress=progress)
    if progress:
        progress(1.0)
    return None if coded is None else file(coded)


def decompress(
    data: Source,
    *,
    region: Region | None = None,
    preview: bool = False,
    model: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Image:
    """Decode a .gnc file, given as a path, an open binary file or bytes.

    A file names the model it was coded by; `model` is needed only where that is not an installed one, and is
    then the path of its ONNX file.

    `region` (x, y, width, height) decodes only that part, and no more of the neural codec's tiles than it
    needs; the checksum over all samples is then left unchecked. `preview` decodes the coarse latents of a lossy file
    alone. Raises InvalidFile on damaged files and on
    files that need a model which is not installed, UsageError on a region outside the image.
    """
    container = gnc.read(_load(data))
    if region is not None:
        region = _checked_region(region, container.width, container.height)
    metadata = _decode_metadata(container.section(SectionKind.METADATA))

    def load_model(reference: ModelRef) -> Model:
        from gencodec import runtime

        return runtime.load(_find_card(reference, model), threads=threads, device=device)

    if container.lossy:
        pixels, checksum = samples.decode_lossy(
            container, load_model, region=region, preview=preview, progress=progress
        )
    elif preview:
        raise UsageError("the file is lossless: it has no preview")
    else:
        pixels = samples.decode(container, load_model, region=region, progress=progress)
        checksum = ordinary.checksum(pixels) if region is None else None
    if checksum not in (None, container.pixel_crc):
        raise InvalidFile("the decoded samples do not match their checksum")
    try:
        image = Image(pixels, container.bit_depth, metadata)
    except UsageError as error:
        raise InvalidFile(f"the file holds an image that cannot be: {error}") from error
    if progress:
        progress(1.0)
    return image


def info(data: Source, *, model: str | None = None) -> FileInfo:
    """Tell what a .gnc file holds without decoding its samples; raises InvalidFile on a damaged file.

    `model` as in `decompress`: lets a model that is not installed be named.
    """
    file = _load(data)
    container = gnc.read(file)
    codes = container.section(SectionKind.CODES)
    system = samples.color_system(codes).name if codes else None
    if listed := container.section(SectionKind.LEVELS):
        levels.unpack(listed.payload, 1 if container.channels <= 2 else 3)
    metadata = _decode_metadata(container.section(SectionKind.METADATA))
    return _describe(gnc.read_header(file), metadata, len(file), model, system, _initial_bits(container, model))


def verify(
    data: Source,
    *,
    model: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> FileInfo:
    """Decode a .gnc file fully and check all of its checksums; raises InvalidFile where anything is wrong."""
    file = _load(data)
    decompress(file, model=model, threads=threads, device=device, progress=progress)
    return info(file, model=model)


def open(  # noqa: A001
    source: Source,
    *,
    region: Region | None = None,
    model: str | None = None,
    threads: int | None = None,
    device: str = "auto",
) -> Image:
    """Decode the .gnc file at a path, or in an open binary file; as `decompress`."""
    return decompress(source, region=region, model=model, threads=threads, device=device)


def save(
    image: Image | NDArray[Any],
    target: str | os.PathLike[str] | BinaryIO,
    *,
    model: str | None = None,
    effort: int = DEFAULT_EFFORT,
    quality: float | None = None,
    threads: int | None = None,
    device: str = "auto",
) -> None:
    """Write an image as a .gnc file to a path or an open binary file; as `compress`.

    A file at the path is replaced only when the new one is complete. Raises OSError where none can be written, if that
    shows before anything is coded.
    """
    if isinstance(target, str | os.PathLike):
        check_target(target)
    data = compress(image, model=model, effort=effort, quality=quality, threads=threads, device=device)
    if isinstance(target, str | os.PathLike):
        write_file(target, data)
    else:
        target.write(data)


def _as_image(image: Image | NDArray[Any] | Source, allow_lossy: bool) -> Image:
    """Return an image for whatever `compress` takes."""
    if isinstance(image, Image):
        return image
    if isinstance(image, np.ndarray):
        return Image.from_array(image)
    from gencodec.codec import formats

    return formats.read_image(image, allow_lossy=allow_lossy)


def _load(data: Source) -> bytes:
    """Return the bytes of a .gnc file; raises UsageError on what is no binary source."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    if isinstance(data, str | os.PathLike):
        return Path(data).read_bytes()
    if not hasattr(data, "read"):
        raise UsageError(f"a .gnc file is given as a path, an open file or bytes, not {type(data).__name__}")
    content = data.read()
    if not isinstance(content, bytes):
        raise UsageError("the .gnc file is open in text mode; open it in binary mode")
    return content


def _encode_metadata(metadata: Metadata) -> tuple[Section, ...]:
    """Write the METADATA section, deflated where that is shorter; none for empty metadata."""
    plain = metadata.to_bytes()
    if len(plain) > MAX_METADATA:
        raise UnsupportedImage(f"the image has {len(plain)} bytes of metadata; {MAX_METADATA} are allowed")
    if not plain:
        return ()
    deflated = ordinary.deflate(plain)
    if len(deflated) < len(plain):
        return (Section(SectionKind.METADATA, Coder.DEFLATE, deflated),)
    return (Section(SectionKind.METADATA, Coder.RAW, plain),)


def _decode_metadata(section: Section | None) -> Metadata:
    """Read the METADATA section; raises InvalidFile where it is damaged or too long."""
    if section is None:
        return Metadata()
    if section.coder is Coder.DEFLATE:
        return Metadata.from_bytes(ordinary.inflate(section.payload, MAX_METADATA))
    if len(section.payload) > MAX_METADATA:
        raise InvalidFile(f"the file has {len(section.payload)} bytes of metadata; {MAX_METADATA} are allowed")
    return Metadata.from_bytes(section.payload)


def _checked_region(region: Region, width: int, height: int) -> Region:
    """The region in plain integers; raises UsageError unless it is a part of the image, of at least one pixel."""
    try:
        x, y, w, h = map(operator.index, region)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a region is x, y, width and height in whole pixels, not {region}") from error
    if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
        raise UsageError(f"the region {x},{y},{w},{h} is not within the image of {width} x {height} pixels")
    return x, y, w, h


def _describe(
    header: Header,
    metadata: Metadata,
    file_bytes: int,
    model: str | None,
    color_codes: str | None,
    initial_bits: int | None,
) -> FileInfo:
    """Gather what a file says of itself."""
    coded = next((entry for entry in header.entries if entry.model), None)
    reference = coded.model if coded else None
    estimate = coded.estimate if coded else 0
    return FileInfo(
        header.version,
        header.width,
        header.height,
        header.channels,
        header.bit_depth,
        file_bytes,
        8 * file_bytes / (header.width * header.height * header.channels),
        tuple(SectionInfo(entry.kind, entry.coder, entry.length) for entry in header.entries),
        _model_name(reference, model),
        reference.wire_id if reference else None,
        reference.weights.hex() if reference else None,
        8 * estimate if estimate else None,
        coded.length / estimate - 1 if coded and estimate else None,
        initial_bits,
        color_codes,
        _summary(metadata),
        header.lossy,
    )


def _initial_bits(container: Container, model: str | None) -> int | None:
    """What a model that codes by bits-back began with, None for others and for those that are not at hand."""
    from gencodec.codec import bitsback, codecs

    color = container.section(SectionKind.COLOR)
    try:
        if color and color.model and _find_card(color.model, model).family in codecs.BITS_BACK:
            return bitsback.initial_bits(color.payload, container.width, container.height)
    except UnknownModel:
        pass
    return None


def _find_card(reference: ModelRef, model: str | None) -> ModelCard:
    """Find the model that a file names, be it installed or the one that the caller points to."""
    from gencodec import runtime

    extra = None if model is None else runtime.find_model(model)
    return runtime.model_for(reference.wire_id, reference.weights, extra)


def _model_name(reference: ModelRef | None, model: str | None) -> str | None:
    """Name of a model that is at hand, None where there is none such."""
    if reference is None:
        return None
    try:
        return _find_card(reference, model).name
    except UnknownModel:
        return None


def _load_encoder(card: ModelCard, threads: int | None, device: str) -> Model:
    """Load a model to encode with: where its weights are missing or damaged, no file is to blame."""
    from gencodec import runtime

    try:
        return runtime.load(card, threads=threads, device=device)
    except InvalidFile as error:
        raise GencodecError(str(error)) from error


def _summary(metadata: Metadata) -> dict[str, Any]:
    """The metadata fields that are present: profiles and packets as NAME_bytes, the others as they are."""
    present: dict[str, Any] = {}
    for field in dataclasses.fields(metadata):
        value = getattr(metadata, field.name)
        if isinstance(value, bytes):
            present[f"{field.name}_bytes"] = len(value)
        elif value is not None:
            present[field.name] = value
    return present

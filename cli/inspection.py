"""The commands `info`, `verify` and `models`: what files hold, and what is installed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gencodec.cli import failures, files, progress, stdout
from gencodec.cli.options import Device, ForeignModel, Json, Quiet, Sources, Threads, check_device, check_model

if TYPE_CHECKING:
    from gencodec.codec.api import FileInfo, SectionInfo
    from gencodec.runtime import ModelCard

LAYOUTS = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGBA"}


def info(sources: Sources, model: ForeignModel = None, as_json: Json = False) -> None:
    """Show what .gnc files hold, without decoding them."""
    from gencodec.codec import api

    check_model(model)
    sources = files.distinct(sources)

    def work(source: str) -> None:
        found = api.info(files.read(source), model=model)
        stdout.say(_json(source, found) if as_json else describe(failures.printable(source), found))

    failures.run_each(sources, str, work, as_json=as_json)


def verify(
    sources: Sources,
    model: ForeignModel = None,
    threads: Threads = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Decode .gnc files fully and check every checksum."""
    from gencodec.codec import api

    check_model(model)
    check_device(device)
    sources = files.distinct(sources)

    def work(source: str) -> None:
        data = files.read(source)
        with progress.bar(source, quiet=quiet) as advance:
            found = api.verify(data, model=model, threads=threads, device=device, progress=advance)
        if as_json:
            stdout.say(_json(source, found))
        elif not quiet:
            stdout.say(f"{failures.printable(source)}: ok")

    failures.run_each(sources, str, work, as_json=as_json)


def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Models to show; default: all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the installed models and their licenses."""
    from gencodec import runtime

    cards = [runtime.find_model(name) for name in names] if names else runtime.list_models()
    for card in cards:
        record = as_record(card) | {"file": card.file.name}
        stdout.say(json.dumps(record) if as_json else describe_model(card))


def _json(source: str, found: FileInfo) -> str:
    """Return one line of JSON about a file."""
    return json.dumps({"file": source} | as_record(found))


def as_record(value: Any) -> Any:
    """Return a value as JSON knows it: dataclasses as objects, enums as their names, bytes as hex digits."""
    if dataclasses.is_dataclass(value):
        return {field.name: as_record(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {key: as_record(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_record(item) for item in value]
    return value


def describe(name: str, found: FileInfo) -> str:
    """Return what `info` says of a file in words: a line on the image, then a line a section."""
    size = f"{found.width} x {found.height}, {LAYOUTS[found.channels]}, {found.bit_depth} bit"
    size += ", with loss" if found.lossy else ""
    lines = [f"{name}: {size}, {found.bytes} bytes, {found.bpsp:.3f} bits per sub-pixel"]
    for section in found.sections:
        kind, coder = section.kind.name.lower(), section.coder.name.lower()
        lines.append(f"  {kind:<10} {coder:<9} {section.bytes:>10} bytes  {_detail(section, found)}".rstrip())
    return "\n".join(lines)


def _detail(section: SectionInfo, found: FileInfo) -> str:
    """Return what is known of one section beyond its size."""
    if section.kind.name == "METADATA":
        return ", ".join(key.removesuffix("_bytes") for key in found.metadata)
    if section.kind.name == "CODES":
        return f"the color was made of {found.color_codes} codes"
    if section.kind.name == "LEVELS":
        return "the color leaves out some gray levels"
    if section.coder.name != "MODEL":
        return ""
    model = found.model or f"model {found.wire_id} with weights {found.weights}, which is not installed"
    words = model if found.overhead is None else f"{model}, {found.overhead:+.2%} against its own estimate"
    return words if found.initial_bits is None else f"{words}, {found.initial_bits} initial bits"


def describe_model(card: ModelCard) -> str:
    """Return what `models` says of a model in words."""
    names = ", ".join((card.name, *card.aliases))
    weights = f"wire id {card.wire_id}, weights {card.sha256[:16]}, {card.licence}"
    return f"{names}: {card.summary}\n  {weights}\n  trained on {card.data}"

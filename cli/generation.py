"""The command `generate`: pictures that a model makes up, that lie between two, or that one latent changes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gencodec.cli import failures, files, stdout
from gencodec.cli.options import Device, Force, Json, OutputDir, Quiet, Threads
from gencodec.errors import GencodecError, UsageError

if TYPE_CHECKING:
    from gencodec.codec.image import Image


def generate(
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="A name of `gencodec models`, or an ONNX file.")
    ],
    count: Annotated[int | None, typer.Option("-n", "--count", min=1, help="Pictures to make; default: 64.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random bits: the same gives the same.")] = 0,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Below 1: likelier pictures, with less variety.")
    ] = 1.0,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option("--between", metavar="A B", help="Go from one image's middle square to another's instead."),
    ] = None,
    traverse: Annotated[
        bool, typer.Option("--traverse", help="Draw a row for every latent, whose value rises along it, instead.")
    ] = False,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Pictures on that way or in a row, with its ends.")] = 9,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="All pictures as a grid; - is standard output.")
    ] = None,
    output_dir: OutputDir = None,
    force: Force = False,
    threads: Threads = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make pictures: what a model's decoder makes of random bits."""
    check_asked(count, between, traverse, output_dir)
    total = steps if between is not None else count or 64
    targets = plan(output, output_dir, "between" if between is not None else "sample", total)
    if as_json and targets == [files.STANDARD]:
        raise UsageError("--json and an image cannot both go to standard output; use -o")
    from gencodec import runtime
    from gencodec.codec import formats, generation
    from gencodec.codec.image import Image

    kinds = [formats.format_of(target) for target in targets]
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    for target in targets:
        for source in between or (files.STANDARD,):
            files.check_target(files.Job(source, target), force=force)
    start = time.perf_counter()
    loaded = runtime.load(model, threads=threads, device=device)
    columns = steps
    if traverse:
        rows = generation.traversed(loaded, steps, seed, temperature)
        made = rows.reshape(-1, *rows.shape[2:])
    elif between is not None:
        a, b = (read(name) for name in between)
        made = generation.between(loaded, a, b, total)
    else:
        columns = None
        made = generation.samples(loaded, total, seed, temperature)
    seconds = time.perf_counter() - start
    pictures = made if output is None else [generation.grid(made, columns)]
    for target, pixels, kind in zip(targets, pictures, kinds, strict=True):
        files.write(target, formats.encode_image(Image.from_array(pixels), kind))
        if as_json:
            record = {"output": target, "model": loaded.card.name, "pictures": len(made) // len(targets)}
            size = {"width": pixels.shape[1], "height": pixels.shape[0], "seconds": round(seconds, 3)}
            stdout.say(json.dumps(record | size))
    if not quiet and not as_json:
        place = failures.printable(output or str(output_dir), "output")
        words = f"{len(made)} pictures of {made.shape[2]} x {made.shape[1]} pixels, {seconds:.2f} s"
        typer.echo(f"{loaded.card.name} -> {place}: {words}", err=True)


def check_asked(count: int | None, between: tuple[str, str] | None, traverse: bool, output_dir: str | None) -> None:
    """Raise UsageError for options that exclude each other."""
    if between is not None and traverse:
        raise UsageError("--between and --traverse exclude each other")
    if between is not None and count is not None:
        raise UsageError("--between and -n exclude each other; --steps says how many pictures lie between")
    if traverse and count is not None:
        raise UsageError("--traverse and -n exclude each other; --steps says how many pictures a latent has")
    if traverse and output_dir is not None:
        raise UsageError("--traverse draws one grid: name it with -o")


def plan(output: str | None, output_dir: str | None, name: str, total: int) -> list[str]:
    """The files to write: one for a grid, or one a picture in a folder.

    Raises UsageError unless one is asked for, and for too many pictures.
    """
    from gencodec.codec import generation

    generation.check_count(total)
    if (output is None) == (output_dir is None):
        raise UsageError("name one output: -o for a grid, --output-dir for single files")
    if output is not None:
        return [output]
    digits = len(str(total - 1))
    return [str(Path(str(output_dir)) / f"{name}-{index:0{digits}}.png") for index in range(total)]


def read(name: str) -> Image:
    """An image file, of a lossy format too. Raises GencodecError that names the file, and OSError."""
    from gencodec.codec import formats

    try:
        return formats.read_image(files.read(name), allow_lossy=True)
    except GencodecError as error:
        raise type(error)(f"{failures.printable(name)}: {error}") from error

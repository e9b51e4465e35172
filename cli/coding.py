"""The commands `compress` and `decompress`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gencodec.cli import failures, files, progress, stdout
from gencodec.cli.options import (
    Device,
    Force,
    ForeignModel,
    Json,
    Output,
    OutputDir,
    Quiet,
    Sources,
    Threads,
    check_device,
    check_model,
)
from gencodec.errors import UsageError

if TYPE_CHECKING:
    from gencodec.codec.image import Image

Region = tuple[int, int, int, int]
Outcome = tuple[dict[str, object], str]  # the record for --json, and the summary in words


def parse_region(text: str) -> Region:
    """Return (x, y, width, height) in pixels from `x,y,w,h`. Raises UsageError."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--region: {text!r} is not x,y,w,h in whole pixels") from None
    if min(x, y) < 0 or min(width, height) < 1:
        raise UsageError(f"--region: {text!r} has a negative corner or an empty side")
    return x, y, width, height


def compress(
    sources: Sources,
    output: Output = None,
    output_dir: OutputDir = None,
    force: Force = False,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="A name of `gencodec models`, or an ONNX file.")
    ] = None,
    quality: Annotated[
        float | None, typer.Option("--quality", metavar="1..100", help="Code with loss; 100 is the most accurate.")
    ] = None,
    target_bpp: Annotated[
        float | None, typer.Option("--target-bpp", metavar="BITS", help="Code with loss, to so many bits a pixel.")
    ] = None,
    target_psnr: Annotated[
        float | None, typer.Option("--target-psnr", metavar="DB", help="Code with loss, to at least this PSNR.")
    ] = None,
    effort: Annotated[
        int, typer.Option("--effort", min=1, max=9, help="1: quick, 9: as long as it makes smaller files.")
    ] = 5,
    force_lossy_source: Annotated[
        bool,
        typer.Option("--force-lossy-source", help="Take JPEG and other lossy files: keeps their pixels."),
    ] = False,
    threads: Threads = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write images as .gnc files: img.png becomes img.png.gnc. Without loss, unless a quality, a target or
    a lossy model is given."""
    jobs = files.plan(sources, output, output_dir, files.compressed_name)
    from gencodec.codec import api, formats
    from gencodec.codec.codecs import LOSSY
    from gencodec.codec.quality import Wish

    check_device(device)
    lossy = api.encoder_card(model, Wish(quality, target_bpp, target_psnr)).family in LOSSY
    _prepare(jobs, output_dir, as_json)
    wish = {"quality": quality, "target_bpp": target_bpp, "target_psnr": target_psnr}
    encode = partial(api.compress, model=model, effort=effort, **wish, threads=threads, device=device)

    def work(job: files.Job) -> Outcome:
        source = files.read(job.source)
        image = formats.read_image(source, allow_lossy=force_lossy_source or lossy)
        with progress.bar(job.source, quiet=quiet) as advance:
            data = encode(image, progress=advance, note=advance and advance.note)
        files.write(job.target, data)
        bpsp = 8 * len(data) / (image.height * image.width * image.channels)
        sizes = {"source_bytes": len(source), "bytes": len(data), "bpsp": round(bpsp, 4)}
        words = f"{len(source)} -> {len(data)} bytes, {bpsp:.3f} bits per sub-pixel"
        return _record(job, image) | sizes, words

    _run(jobs, work, force=force, quiet=quiet, as_json=as_json)


def decompress(
    sources: Sources,
    output: Output = None,
    output_dir: OutputDir = None,
    force: Force = False,
    region: Annotated[
        str | None, typer.Option("--region", metavar="X,Y,W,H", help="Decode only this part, in pixels.")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Decode a lossy file's coarse latents alone: a rougher picture, sooner.")
    ] = False,
    image_format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="png, ppm, tiff...; default: by output name."),
    ] = None,
    model: ForeignModel = None,
    threads: Threads = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write .gnc files as images again: img.png.gnc becomes img.png."""
    part = None if region is None else parse_region(region)
    from gencodec.codec import api, formats

    check_model(model)
    check_device(device)
    chosen = None if image_format is None else formats.format_named(image_format)
    jobs = files.plan(sources, output, output_dir, partial(files.decompressed_name, image_format=chosen))
    _prepare(jobs, output_dir, as_json)
    decode = partial(api.decompress, region=part, preview=preview, model=model, threads=threads, device=device)

    def work(job: files.Job) -> Outcome:
        target_format = chosen or formats.format_of(job.target)
        data = files.read(job.source)
        with progress.bar(job.source, quiet=quiet) as advance:
            image = decode(data, progress=advance)
        files.write(job.target, formats.encode_image(image, target_format))
        return _record(job, image) | {"bytes": len(data)}, f"{image.width} x {image.height} pixels"

    _run(jobs, work, force=force, quiet=quiet, as_json=as_json)


def _prepare(jobs: list[files.Job], output_dir: str | None, as_json: bool) -> None:
    """Make the folder of the outputs, and refuse two kinds of data on one stdout."""
    if as_json and any(job.target == files.STANDARD for job in jobs):
        raise UsageError("--json and an image cannot both go to standard output; use -o")
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)


def _record(job: files.Job, image: Image) -> dict[str, object]:
    """Return what --json says of every file, however it was made."""
    return {
        "file": job.source,
        "output": job.target,
        "width": image.width,
        "height": image.height,
        "channels": image.channels,
        "bit_depth": image.bit_depth,
    }


def _run(
    jobs: list[files.Job], work: Callable[[files.Job], Outcome], *, force: bool, quiet: bool, as_json: bool
) -> None:
    """Do the work for every job, timed, and tell its outcome."""

    def timed(job: files.Job) -> None:
        files.check_target(job, force=force)
        start = time.perf_counter()
        record, words = work(job)
        seconds = time.perf_counter() - start
        if as_json:
            stdout.say(json.dumps(record | {"seconds": round(seconds, 3)}))
        elif not quiet:
            source, target = failures.printable(job.source), failures.printable(job.target, "output")
            typer.echo(f"{source} -> {target}: {words}, {seconds:.2f} s", err=True)

    failures.run_each(jobs, lambda job: job.source, timed, as_json=as_json)

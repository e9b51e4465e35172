"""The commands `train` and `export`: from photographs to a model file. They need torch."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gencodec.cli import files, progress, stdout
from gencodec.cli.options import Force, Quiet, Threads
from gencodec.errors import GencodecError, UsageError


def train(
    family: Annotated[
        str,
        typer.Argument(
            metavar="FAMILY",
            help="photo, pixelcnn, pixelrnn, nice, realnvp, glow, vae, nvae, nvae-lossy, beta-vae, vq-vae, vq-vae-2 or"
            " beta-vae-sprites.",
        ),
    ],
    data: Annotated[
        str, typer.Option("--data", metavar="DIR", help="Folder of lossless photographs, or cifar10, mnist, sprites.")
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="Where the training is kept; default: FAMILY.pt."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.0, help="Time to train in all; default: 40.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps to train in all, instead of a time.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="FILE", help="Begin with the weights of a checkpoint, or of a photo model."),
    ] = None,
    revive: Annotated[
        bool, typer.Option("--revive", help="Give features of a photo network that are zero there new weights.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Train the integer network, after a training without this.")
    ] = False,
    finish: Annotated[
        float, typer.Option("--finish", min=0.0, max=1.0, help="Share at the end in which it is trained anyway.")
    ] = 0.2,
    mild: Annotated[bool, typer.Option("--mild", help="Change photographs less, for the end.")] = False,
    codes: Annotated[bool, typer.Option("--codes", help="Learn luma and chroma codes, not colors.")] = False,
    rate: Annotated[float, typer.Option("--rate", min=0.0, help="Learning rate at its highest.")] = 2e-3,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Tiles a step; default: as many as make 32768 pixels.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=8, max=128, help="Side of a tile in pixels; default: by family.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of weights, tiles and noise.")] = 1,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Threads = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A size of the network, such as width=64 or groups=2,1; may be repeated.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a model on pictures, and keep it in a checkpoint.

    Under PyTorch's torchrun, many processes train one model together.
    """
    checkpoint = checkpoint or Path(f"{family}.pt")
    if not re.fullmatch("cpu|cuda(:[0-9]+)?", device):
        raise UsageError(f"there is no device {device!r}; known are cpu, cuda and cuda:N")
    if minutes is not None and steps is not None:
        raise UsageError("--minutes and --steps exclude each other")
    if resume and not checkpoint.is_file():
        raise UsageError(f"there is no checkpoint {checkpoint}")
    if not resume and checkpoint.exists():
        raise UsageError(f"the checkpoint {checkpoint} exists; --resume goes on with it")
    _need_torch()
    import torch

    from gencodec.models.data import find_data
    from gencodec.models.families import find_family
    from gencodec.models.train import Course, train
    from gencodec.models.training import Schedule

    if device != "cpu" and int(device[5:] or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {device!r} is not available here")
    if threads:
        torch.set_num_threads(threads)
    schedule = Schedule(40.0 if minutes is None else minutes, steps, rate, exact=exact, finish=finish)
    quiet = quiet or os.environ.get("RANK", "0") != "0"  # of many processes the first speaks
    with _started_from(start) as begun, progress.bar(checkpoint.name, quiet=quiet) as advance:
        course = Course(
            find_data(data), checkpoint, schedule, begun, revive, resume, mild, codes, batch, size, seed, device
        )

        def log(line: str) -> None:
            if advance:
                advance.note(line)
            elif not quiet:
                typer.echo(line, err=True)

        train(find_family(family), sizes or [], course, log, advance or (lambda _: None))


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="What a training has kept.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The ONNX file to write.")],
    photos: Annotated[
        Path | None,
        typer.Option("--photos", metavar="DIR", help="Photographs by which --effort learns what to change."),
    ] = None,
    codes: Annotated[bool, typer.Option("--codes", help="The model codes luma and chroma codes.")] = False,
    licence: Annotated[str, typer.Option("--licence", metavar="NAME", help="Of the weights.")] = "unknown",
    trained_on: Annotated[str, typer.Option("--trained-on", metavar="TEXT", help="What the data were.")] = "unknown",
    force: Force = False,
) -> None:
    """Write a checkpoint's model as an exact ONNX file, for `--model FILE`."""
    if output.suffix != ".onnx":
        raise UsageError(f"the model file {output} must end in .onnx")
    files.check_target(files.Job(str(checkpoint), str(output)), force=force)
    if photos is not None:
        _check_folder(photos)
    if not checkpoint.is_file():
        raise UsageError(f"there is no checkpoint {checkpoint}")
    _need_torch()
    from gencodec.export.checkpoint import export

    export(checkpoint, output, licence=licence, trained_on=trained_on, photos=photos, codes=codes)
    data = output.read_bytes()
    stdout.say(f"{output}: {len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")


@contextmanager
def _started_from(start: str | None) -> Iterator[Path | None]:
    """A checkpoint of the weights to start from, which are in a checkpoint or an exported model."""
    if start is None or (Path(start).is_file() and Path(start).suffix != ".onnx"):
        yield None if start is None else Path(start)
        return
    if start.endswith(".pt"):
        raise UsageError(f"there is no checkpoint {start}")
    from gencodec import runtime
    from gencodec.export.restore import write_checkpoint

    with tempfile.TemporaryDirectory() as place:
        checkpoint = Path(place) / "start.pt"
        write_checkpoint(runtime.load(start, threads=1, device="cpu"), checkpoint)
        yield checkpoint


def _check_folder(folder: Path) -> None:
    """Raise UsageError unless there is such a folder."""
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")


def _need_torch() -> None:
    """Raise GencodecError where the packages for training are missing."""
    try:
        import onnx  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise GencodecError("training and export need more packages: pip install 'gencodec[train]'") from error

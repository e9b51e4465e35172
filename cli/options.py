"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Sources = Annotated[list[str], typer.Argument(metavar="FILE", help="Files to read; - is standard input.")]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Output of one file; - is standard output."),
]
OutputDir = Annotated[
    str | None, typer.Option("--output-dir", metavar="DIR", help="Folder for the outputs; made if missing.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite outputs that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary; errors only.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a file on standard output.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, metavar="N", help="Processor threads; default: every core.")
]
ForeignModel = Annotated[
    str | None, typer.Option("--model", metavar="FILE", help="ONNX file, for files of a model not installed.")
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")]


def check_model(model: str | None) -> None:
    """Raise UsageError for a wrong model: one error, not one failure a file."""
    from gencodec import runtime

    if model is not None:
        runtime.find_model(model)


def check_device(device: str) -> None:
    """Raise UsageError for a device that is not here, also where no model will be needed."""
    if device != "auto":
        from gencodec.runtime.session import provider_of

        provider_of(device)

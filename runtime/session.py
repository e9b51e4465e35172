"""ONNX Runtime sessions with the settings that keep exact graphs exact, on the provider that the caller names."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import onnxruntime as ort

from gencodec.errors import GencodecError, UsageError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Those that are known to compute exact graphs exactly."""
EXACT_OPTIONS: dict[str, dict[str, str]] = {
    # no 11-bit multiplications, no transforms that round
    "CUDAExecutionProvider": {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"},
}
FATAL_ONLY = 4
"""Of ONNX Runtime's own lines; its errors come as exceptions too."""


def provider_of(device: str) -> str:
    """The execution provider called `device` ("auto" chooses). Raises `UsageError` if there is none here."""
    if device not in ("auto", *PROVIDERS):
        raise UsageError(f"there is no device {device!r}; known are auto, cpu and cuda")
    available = ort.get_available_providers()
    if device == "auto":
        return PROVIDERS["cuda"] if has_gpu() and PROVIDERS["cuda"] in available else PROVIDERS["cpu"]
    if PROVIDERS[device] not in available:
        raise UsageError(f"device {device!r} is not available here: this ONNX Runtime has no CUDA provider")
    return PROVIDERS[device]


@cache
def has_gpu() -> bool:
    """Whether an NVIDIA device can be opened."""
    return os.path.exists("/dev/nvidiactl") or os.name == "nt"


def open_session(
    model: bytes, *, threads: int | None = None, device: str = "auto", optimize: bool = True, long: bool = False
) -> ort.InferenceSession:
    """A session for a serialized model.

    `threads` is the number of CPU threads of one operation (None: all cores); `optimize=False` switches graph
    optimizations off, which changes speed and nothing else. `long`: the graph has hundreds of operations, so that
    planning which share memory, and fusing them, takes longer than it saves. Raises `UsageError` for devices that are
    not there.
    """
    ort.set_default_logger_severity(FATAL_ONLY)
    provider = provider_of(device)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    full = level.ORT_ENABLE_BASIC if long else level.ORT_ENABLE_ALL
    options.graph_optimization_level = full if optimize else level.ORT_DISABLE_ALL
    options.enable_mem_reuse = not long
    providers: list[Any] = [(provider, EXACT_OPTIONS.get(provider, {}))]
    if provider != PROVIDERS["cpu"]:
        providers.append(PROVIDERS["cpu"])
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        raise GencodecError(f"ONNX Runtime cannot load the model on {device}: {first_line(error)}") from error
    if device != "auto" and session.get_providers()[0] != provider:
        raise UsageError(f"device {device!r} is not usable here: ONNX Runtime fell back to the CPU")
    return session


def first_line(error: Exception) -> str:
    """What an error of ONNX Runtime says, in short."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

"""Checks again, from the weights themselves, that a graph's sums stay where float32 is exact."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencodec.errors import MALFORMED, InexactGraph
from gencodec.runtime.onnxfile import OnnxFile

EXACT_LIMIT = 1 << 24


def check(file: OnnxFile, *, adapted: bool = False) -> int:
    """The largest sum that any layer of `file` can reach.

    Every layer named in the proof has its bound, max|a| * sum|w| + |b| per output, computed from the integer
    weights and compared with 2**24 and with what the proof states; weights that no layer of the proof names are
    refused too. The weights of an `adapted` file have sums other than stated, and the same limit. Raises
    `InexactGraph`.
    """
    try:
        layers: list[dict[str, Any]] = json.loads(file.metadata["gencodec.proof"])
        worst = {layer["layer"]: _worst(file, layer) for layer in layers}
        stated = {layer["layer"]: int(layer["worst"]) for layer in layers}
    except MALFORMED as error:
        raise InexactGraph("the model carries no proof that it is exact; export it with gencodec") from error
    if not worst:
        raise InexactGraph("the model carries no proof that it is exact; export it with gencodec")
    for layer, value in worst.items():
        if value >= EXACT_LIMIT:
            raise InexactGraph(f"layer {layer} is not exact: its sums can reach {value}, the limit is {EXACT_LIMIT}")
        if value != stated[layer] and not adapted:
            raise InexactGraph(f"layer {layer} has other weights than its proof")
    weights = {name.removesuffix(".weight") for name in file.constants if name.endswith(".weight")}
    if unproved := sorted(weights - worst.keys()):
        raise InexactGraph(f"layer {unproved[0]} has no proof that it is exact")
    return max(worst.values())


def reaches(file: OnnxFile) -> dict[str, NDArray[np.int64]]:
    """Largest magnitudes of each layer's inputs, (columns,), as the proof of a checked `file` states them."""
    return {layer["layer"]: _reach(file, layer) for layer in json.loads(file.metadata["gencodec.proof"])}


def _reach(file: OnnxFile, layer: dict[str, Any]) -> NDArray[np.int64]:
    counts, magnitudes = np.array([[int(n), int(m)] for n, m in layer["reach"]], np.int64).T
    rows, columns = file.constants[f"{layer['layer']}.weight"].shape[:2]
    groups = int(layer.get("groups", 1))
    if rows % groups or counts.min() < 0 or counts.max() > groups * columns or counts.sum() != groups * columns:
        raise ValueError("inputs of another layer")
    if magnitudes.min() < 0 or magnitudes.max() > EXACT_LIMIT:
        raise ValueError("magnitudes that float32 does not hold")
    return np.repeat(magnitudes, counts)


def _worst(file: OnnxFile, layer: dict[str, Any]) -> int:
    weight, bias = (file.constants[f"{layer['layer']}.{part}"] for part in ("weight", "bias"))
    if weight.dtype not in (np.int8, np.int16) or bias.dtype != np.int32 or not weight.size:
        raise TypeError("weights of other types than the exporter writes")
    reach, groups = _reach(file, layer), int(layer.get("groups", 1))
    # in float64, sums that matter are exact, and none wraps around
    taps = np.abs(weight.astype(np.float64)).reshape(*weight.shape[:2], -1).sum(2)
    # output o of a grouped convolution sees the inputs of its group alone
    seen = reach.reshape(groups, -1).repeat(len(weight) // groups, 0)
    return int(((taps * seen).sum(1) + np.abs(bias.astype(np.float64))).max())

"""Flows as ONNX files: a graph for every network, integer constants for the rest, and the steps as configuration.

What the entries of the configuration and the constants mean is in docs/format-flow.md.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencodec.codec.flow import FRACTION
from gencodec.codec.integerflow import MATRIX_BITS, SCALE_BITS
from gencodec.errors import InexactGraph
from gencodec.export.photo import scale_rates, shape_tables
from gencodec.export.stages import Stage, write_model
from gencodec.export.values import uniform
from gencodec.models.conditioners import LEVELS, OCTAVE, SHIFT, VALUE, Network
from gencodec.models.flows import Coupling, Factor, Flow, Mix
from gencodec.models.quantize import set_exact
from gencodec.models.shapes import SHAPE, SPREAD

FORMAT = "1"
"""Version of the configuration and the constants."""
Constants = dict[str, NDArray[np.generic]]


def export_flow(network: Flow, target: Path, card: dict[str, str], tiles: Tensor | None = None) -> None:  # noqa: ARG001
    """Write a flow as an exact ONNX file with its tables, proof and `card`. Raises `InexactGraph`."""
    network.eval()
    set_exact(network, True)
    sizes = asdict(network.config)  # type: ignore[call-overload]
    constants: Constants = {
        "shapes.cdf": shape_tables(network.shapes),
        "shapes.rate": scale_rates(),
        "factors": coupling_factors(),
    }
    stages: list[Stage] = []
    entries: list[dict[str, Any]] = []
    for i, step in enumerate(network.steps):
        name = f"{type(step).__name__.lower()}{i}"
        entries.append({**step.describe(), "name": name})  # type: ignore[operator]
        inner = step.network if isinstance(step, Coupling) else step.given if isinstance(step, Factor) else None
        if isinstance(inner, Network):
            stages.append(Stage(name, inner, [uniform("", step.kept, VALUE.low, VALUE.high, VALUE.bits)]))  # type: ignore[arg-type]
        elif isinstance(step, Factor):
            constants[f"{name}.distribution"] = constant_distribution(step)
        if isinstance(step, Mix):
            constants |= {f"{name}.{part}": array for part, array in mix_integers(step, name).items()}
    config = {"tile": sizes["tile"], "sizes": sizes, "steps": entries}
    write_model(target, type(network).__name__.lower(), FORMAT, config, stages, constants, card, axis=1)


def coupling_factors() -> NDArray[np.int32]:
    """Factors of the modular scale transform, of every index of OCTAVE."""
    octaves = np.arange(OCTAVE.low, OCTAVE.high + 1) * OCTAVE.step
    return np.rint(np.exp2(octaves + SCALE_BITS)).astype(np.int32)


def constant_distribution(step: Factor) -> NDArray[np.int32]:
    """Means in sixteenths of a gray level, scale and shape indices of all features, one after the other."""
    with torch.no_grad():
        given = step.given().flatten().chunk(3)
    grids = (SHIFT, SPREAD, SHAPE)
    return np.concatenate([np.rint(part.numpy() * 2.0**g.bits) for part, g in zip(given, grids, strict=True)]).astype(
        np.int32
    )


def mix_integers(step: Mix, name: str) -> Constants:
    """The parts of actnorm and a 1x1 convolution as integers, in the order of their use.

    With P L (U + diag(s)) diag(a) = P L D (1 + V): the bias, V = D^-1 U diag(a), D = diag(s a), L and P. Raises
    `InexactGraph` for a matrix that 32 bits do not hold.
    """
    with torch.no_grad():
        scales = torch.exp2(step.scales().double())
        upper = step.upper.double().triu(1) * torch.exp2(step.octaves.double()) * (step.sign / scales)[:, None]
        parts = {
            "bias": step.bias.double() * (LEVELS * 2**FRACTION),
            "upper": upper * 2**MATRIX_BITS,
            "factor": scales * 2**SCALE_BITS * step.sign,
            "lower": step.lower.double().tril(-1) * 2**MATRIX_BITS,
        }
    integers = {part: np.rint(value.numpy()) for part, value in parts.items()}
    worst = max(float(np.abs(value).max()) for value in integers.values())
    if not worst < 2**31:
        raise InexactGraph(f"layer {name} cannot be written: a number of {worst:.0f} does not fit into 32 bits")
    order = step.permutation.numpy().astype(np.int32)
    return {**{part: value.astype(np.int32) for part, value in integers.items()}, "order": order}

"""The `photo` network as one ONNX file: four exact per-pixel graphs behind a stage number.

Stage     | a        | b           | c         | d          | y      | z
0 trunk   | relative | near, flags | pooled    | green base | hidden | green, red bank, blue bank
1 red     | hidden   | innovation  | red bank  | red base   | red    |
2 blue    | hidden   | innovations | blue bank | blue base  | blue   |
3 trace   | relative | residual    |           |            | trace  |

Inputs and outputs are (rows, positions) float32 integers; unused ones are empty. A color is three rows: mean in
sixteenths of a gray level, scale index, shape index. Near are the traces at the places that the configuration names,
relative and residual are gray levels less the base predictions.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from gencodec.export.adaptation import adaptable, export_step, units
from gencodec.export.exact import ExactGraph
from gencodec.export.lower import lower
from gencodec.export.stages import assembled
from gencodec.export.values import Value, joined, uniform
from gencodec.models.photo import BANK, DRIFT, ENERGY, FLAG, LEVELS, MEAN, PIXEL, Head, Photo
from gencodec.models.quantize import Grid, set_exact
from gencodec.models.shapes import FINE_BITS, SCALE_OF_ONE, SCALES_PER_OCTAVE, TOTAL_BITS, Shapes, kernel_cdfs

INPUTS = "abcd"
FORMATS = {TOTAL_BITS: "2", FINE_BITS: "3"}
"""Version of what the stages take and give, by the logarithm of what table rows sum to."""
CDF_POINTS_PER_SCALE = 256
CDF_REACH = 32
"""The shapes' distribution functions are tabulated from -CDF_REACH to CDF_REACH scales."""


class Trunk(nn.Module):
    """Stage 0: everything known before a pixel's first color."""

    def __init__(self, photo: Photo):
        super().__init__()
        self.photo = photo

    def forward(self, relative: Tensor, near: Tensor, pooled: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        photo, bank = self.photo, self.photo.config.bank
        hidden = photo.trunk(torch.cat([relative, near, pooled]))
        banks = photo.bank(relative)
        green = distribution(photo.green, hidden, banks[:bank], base)
        return hidden, torch.cat([green, banks[bank : 3 * bank]])


class Color(nn.Module):
    """Stages 1 and 2: a color's distribution, given the innovations of those before it."""

    def __init__(self, layer: nn.Module, head: Head):
        super().__init__()
        self.layer, self.head = layer, head

    def forward(self, hidden: Tensor, innovations: Tensor, bank: Tensor, base: Tensor) -> Tensor:
        features = self.layer(torch.cat([hidden, innovations]))
        return distribution(self.head, features, torch.cat([bank, innovations]), base)


class Trace(nn.Module):
    """Stage 3: what a decoded pixel leaves for later ones."""

    def __init__(self, photo: Photo):
        super().__init__()
        self.photo = photo

    def forward(self, relative: Tensor, residual: Tensor) -> Tensor:
        return self.photo.trace(relative, residual)


def distribution(head: Head, features: Tensor, predictions: Tensor, base: Tensor) -> Tensor:
    """Mean in sixteenths of a gray level, scale and shape indices; (3, ...)."""
    offset, spread_shape = head(features, predictions)
    return torch.cat([torch.clamp(base + offset * LEVELS, 0, 255), spread_shape])


def stages(photo: Photo) -> list[tuple[str, nn.Module, list[Value]]]:
    """Name, module and inputs of every stage."""
    c = photo.config
    near, context = len(c.trace_at), 3 * len(c.context)

    def grid(rows: int, g: Grid) -> Value:
        return uniform("", rows, g.low, g.high, g.bits)

    traces = [grid(c.energies, ENERGY), grid(c.drifts, DRIFT)] * near
    flags, hidden, one_base, one_bank = (
        grid(4, FLAG),
        grid(c.hidden, c.features),
        uniform("", 1, 0, 255, 0),
        grid(c.bank, BANK),
    )
    relative = grid(context, PIXEL)
    return [
        ("trunk", Trunk(photo), [relative, joined([*traces, flags]), grid(2 * c.energies, ENERGY), one_base]),
        ("red", Color(photo.red_layer, photo.red), [hidden, grid(1, MEAN), one_bank, one_base]),
        ("blue", Color(photo.blue_layer, photo.blue), [hidden, grid(2, MEAN), one_bank, one_base]),
        ("trace", Trace(photo), [relative, grid(3, PIXEL)]),
    ]


def export_photo(photo: Photo, target: Path, card: dict[str, str], tiles: Tensor | None = None) -> None:
    """Write `photo` as an exact ONNX file with its tables, geometry, proof and `card`. Raises `InexactGraph`.

    With `tiles` (3, batch, height, width) of gray levels to measure its weights' sensitivity on, the model can adapt
    to pictures, and the training step is written beside it, `target` with the suffix .step.onnx.
    """
    photo.eval()
    set_exact(photo, True)
    graph = ExactGraph()
    branches = []
    for name, module, inputs in stages(photo):
        graph.begin()
        named = [replace(value, name=letter) for letter, value in zip(INPUTS, inputs, strict=False)]
        outputs = [value.name for value in lower(module, named, graph, name)]
        branches.append((graph.nodes, outputs))
    graph.constant(shape_tables(photo.shapes), "shapes.cdf")
    graph.constant(scale_rates(), "shapes.rate")
    adapts = []
    if tiles is not None:
        for name, values in units(photo, tiles).items():
            graph.constant(values, name)
        graph.constant(photo.shapes.weights().detach().numpy(), "shapes.mixture")
        export_step(copy.deepcopy(photo), target.with_suffix(".step.onnx"))
        adapts = list(adaptable(photo))
    model = assembled(graph, branches, dict.fromkeys(INPUTS, 2), dict.fromkeys("yz", 2), "photo")
    metadata = {
        "family": "photo",
        "format": FORMATS[photo.config.total_bits],
        "config": json.dumps(asdict(photo.config)),
        "proof": json.dumps(graph.proof),
        "adapts": json.dumps(adapts),
        **card,
    }
    helper.set_model_props(model, {f"gencodec.{key}": value for key, value in metadata.items()})
    onnx.checker.check_model(model)
    target.write_bytes(model.SerializeToString())


def shape_tables(shapes: Shapes) -> np.ndarray:
    """Distribution functions of the shapes as rising integers, (shapes, points) uint16.

    They rise to what a row sums to, less the one unit that each of the 256 symbols gets beforehand, in units of as many
    bits as leave 16.
    """
    points = torch.arange(-CDF_REACH * CDF_POINTS_PER_SCALE, CDF_REACH * CDF_POINTS_PER_SCALE + 1, dtype=torch.float64)
    with torch.no_grad():
        cdf = torch.tensordot(shapes.weights().double(), kernel_cdfs(points / CDF_POINTS_PER_SCALE), dims=1)
    cdf = (cdf - cdf[:, :1]) / (cdf[:, -1:] - cdf[:, :1])
    total = ((1 << shapes.total_bits) - 256) >> (shapes.total_bits - TOTAL_BITS)
    return np.rint(cdf.numpy() * total).astype(np.uint16)


def scale_rates() -> np.ndarray:
    """Table points per sixteenth of a gray level, times 256, of every scale index; int32."""
    scale = np.exp2((np.arange(64) - SCALE_OF_ONE) / SCALES_PER_OCTAVE)
    return np.rint(256 * CDF_POINTS_PER_SCALE / (16 * scale)).astype(np.int32)

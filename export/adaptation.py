"""The training step of the `photo` network as a float ONNX graph, by which encoders adapt weights to a picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gencodec.codec.adaptation import REFERENCE
from gencodec.export.aten import to_onnx
from gencodec.models.photo import DRIFT, ENERGY, FLAG, PIXEL, Photo
from gencodec.models.quantize import set_exact

POSITIONS = 1536
"""Pixels of a batch: few enough for a processor's cache."""


def adaptable(photo: Photo) -> dict[str, str]:
    """The layers that adapt: their names in the exact graph, and in `photo`."""
    layers = {f"trunk.photo.layers.{i}": f"layers.{i}" for i in range(photo.config.layers)}
    layers |= {f"trunk.photo.{name}": name for name in ("bank", "green.linear")}
    for color in ("red", "blue"):
        layers |= {f"{color}.layer": f"{color}_layer", f"{color}.head.linear": f"{color}.linear"}
    return layers


class Loss(nn.Module):
    """Mean bits a subpixel of positions given by the trunk's integer inputs, over the colors that count."""

    def __init__(self, photo: Photo):
        super().__init__()
        self.photo = photo
        c = photo.config
        near = [(c.energies, ENERGY), (c.drifts, DRIFT)] * len(c.trace_at) + [(4, FLAG)]
        self.steps = [
            torch.cat([torch.full((n, 1), grid.step) for n, grid in groups])
            for groups in ([(3 * len(c.context), PIXEL)], near, [(2 * c.energies, ENERGY)])
        ]

    def forward(
        self, relative: Tensor, near: Tensor, pooled: Tensor, base: Tensor, pixel: Tensor, colors: Tensor
    ) -> Tensor:
        a, b, c = (x * step for x, step in zip((relative, near, pooled), self.steps, strict=True))
        h = self.photo.trunk(torch.cat([a, b, c]))
        return (self.photo.bits(pixel, base, a, h) * colors).mean() * (3 / colors.sum())


def export_step(photo: Photo, target: Path, positions: int = POSITIONS) -> None:
    """Write the step: inputs relative, near, pooled, base, pixel (rows, positions), colors (3, 1), which is 1 for those
    that count and else 0, the shapes' mixture weights, and all adaptable weights and biases in real units by their
    names; outputs the mean bits a subpixel, and gradients named `gradient.NAME`. Activations are floored as in the
    exact graph; weights are taken as they are.
    """
    photo.eval()
    set_exact(photo, True)
    own = adaptable(photo)
    for layer in map(photo.layer, own.values()):
        layer.rounded = lambda layer=layer: (layer.weight, layer.bias)  # type: ignore[method-assign]
    names = {f"{name}.{part}": f"{mine}.{part}" for name, mine in own.items() for part in ("weight", "bias")}
    loss = Loss(photo)
    c = photo.config
    rows = {
        "relative": 3 * len(c.context),
        "near": c.traces * len(c.trace_at) + 4,
        "pooled": 2 * c.energies,
        "base": 3,
        "pixel": 3,
    }
    example = {name: torch.rand(n, positions) for name, n in rows.items()}
    example["colors"] = torch.ones(3, 1)
    example["mixture"] = photo.shapes.weights().detach()
    parameters = {name: photo.get_parameter(mine).detach().clone() for name, mine in names.items()}

    def step(*arguments: Tensor) -> tuple[Tensor, ...]:
        data, (mixture, *weights) = arguments[: len(rows) + 1], arguments[len(rows) + 1 :]
        with torch.enable_grad():
            weights = [w.detach().requires_grad_() for w in weights]
            given = {f"photo.{mine}": w for mine, w in zip(names.values(), weights, strict=True)}
            photo.shapes.weights = lambda: mixture  # type: ignore[method-assign]
            bits = torch.func.functional_call(loss, given, data)
            gradients = torch.autograd.grad(bits, weights)
        return (bits.detach(), *gradients)

    outputs = ["bits", *(f"gradient.{name}" for name in names)]
    target.write_bytes(to_onnx(step, {**example, **parameters}, outputs).SerializeToString())


def units(photo: Photo, tiles: Tensor) -> dict[str, NDArray[np.int8]]:
    """Constants of the exact model that say what its weights' integers mean, and in what steps they are changed.

    Per layer: `NAME.row_units` (2, rows) and `NAME.column_units` (2, columns + 1), the last column the bias'. A weight
    is `integer * 2**(column_units[0] - row_units[0])`; changes are multiples of `2**(column_units[1] + row_units[1])`
    integers, such that each costs about as much when it is rounded: 1 / 12 nat a weight over a picture of REFERENCE
    pixels. The cost is that of the diagonal of the Fisher information, as a product of a row's mean squared gradient
    and a column's mean square (Martens and Grosse 2015, arXiv 1503.05671), on `tiles` (3, batch, height, width).
    """
    set_exact(photo, True)
    seen: dict[str, Tensor] = {}
    hooks = []
    for name, mine in adaptable(photo).items():

        def remember(_: nn.Module, inputs: tuple[Tensor], output: Tensor, name: str = name) -> None:
            seen[f"{name}.columns"] = inputs[0].detach().flatten(1).square().mean(1)
            output.register_hook(lambda g: seen.__setitem__(f"{name}.rows", g.flatten(1).square().mean(1)))

        hooks.append(photo.layer(mine).register_forward_hook(remember))
    (photo(tiles).sum() * math.log(2)).backward()
    for hook in hooks:
        hook.remove()
    result = {}
    for name, mine in adaptable(photo).items():
        layer = photo.layer(mine)
        bits = torch.cat([-torch.log2(layer.steps), torch.zeros(1)])
        squares = torch.cat([seen[f"{name}.columns"], torch.ones(1)])
        exponents = layer.scale_bits()
        rows = 0.5 * torch.log2(12 / REFERENCE / seen[f"{name}.rows"].clamp_min(1e-9)) + exponents
        columns = -0.5 * torch.log2(squares.clamp_min(1e-9)) - bits
        for part, values in (("row", [exponents, rows]), ("column", [bits, columns])):
            result[f"{name}.{part}_units"] = torch.stack(values).round().clamp(-64, 64).to(torch.int8).numpy()
    return result

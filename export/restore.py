"""An exported `photo` model -> a checkpoint that a training can start from.

The checkpoint's layers have the weights of the model, to the last digit, and its tables the same shapes, but for
rounding: what shipped can be trained on without the files of its own training.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gencodec.errors import InvalidFile, UsageError
from gencodec.export.adaptation import adaptable
from gencodec.export.photo import FORMATS
from gencodec.models.families import find_family
from gencodec.models.photo import Photo
from gencodec.models.quantize import ExactLinear

if TYPE_CHECKING:
    from gencodec.runtime import Model

FIXED = {f"trace.photo.{name}": name for name in ("inner", "errors")}
"""The layers that do not adapt, as `adaptable` has those that do."""
FIRST_FORMAT = "1"
"""Of models whose tiles had other edges."""
BITS_OF_FORMATS = {version: bits for bits, version in FORMATS.items()}
LEAST = 1e-12
"""The least weight of a kernel in a shape's mixture."""


def write_checkpoint(model: Model, target: Path) -> None:
    """Write the checkpoint of an exported model. Raises `UsageError`, and `InvalidFile` for what no exporter wrote."""
    if model.family != "photo":
        raise UsageError(f"a training can start from models of the photo family, not from {model.card.name}")
    if model.format == FIRST_FORMAT:
        raise UsageError(f"a training cannot start from {model.card.name}: such networks are not trained any more")
    family = find_family(model.family)
    try:
        sizes = {name: _tuples(value) for name, value in model.config.items()}
        config = family.sized({**sizes, "total_bits": BITS_OF_FORMATS[model.format]})
        network = Photo(config)
        restore(network, model)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidFile(f"the model {model.card.name} is not built as it says") from error
    state: dict[str, Any] = {"family": family.name, "config": asdict(config), "averaged": network.state_dict()}
    torch.save({**state, "steps": 0}, target)


@torch.no_grad()
def restore(network: Photo, model: Model) -> None:
    """Give `network` the weights of `model`, which is of its sizes."""
    for name, mine in {**adaptable(network), **FIXED}.items():
        layer = network.layer(mine)
        weight, bias, scale = (_double(model.constant(f"{name}.{part}")) for part in ("weight", "bias", "scale"))
        unit = torch.exp2(-torch.log2(scale) - torch.log2(layer.target_steps.double())[:, None])
        layer.weight.copy_(weight / (layer.steps.double() * unit))
        layer.bias.copy_(bias / unit[:, 0])
        _check(layer, unit)
    mixture = _double(model.constant("shapes.mixture"))
    network.shapes.logits.copy_(mixture.clamp_min(LEAST).log())


def _check(layer: ExactLinear, unit: Tensor) -> None:
    """Raise `ValueError` unless the layer, exported again, would have integers at least as fine."""
    if bool((torch.exp2(layer.scale_bits()) < unit[:, 0]).any()):
        raise ValueError("a layer's integers are finer than its sums allow")


def _double(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float64))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

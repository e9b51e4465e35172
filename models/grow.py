"""Larger `photo` networks that compute what a smaller one does, for a training to go on from.

As in Net2Net (Chen et al. 2016, arXiv 1511.05641), but features that are added begin with random weights to them and
none from them, so that they need not be told apart from copies.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from gencodec.models.photo import Photo, PhotoConfig

Names = Sequence[Hashable]
"""What the rows or columns of a weight matrix stand for."""
ALIKE = ("lag", "energies", "drifts", "row_pool", "pool_rows", "pool_columns", "layers", "bank")
"""Sizes that cannot grow."""


def grown(small: PhotoConfig, large: PhotoConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network of the sizes `large` that computes what one of the sizes `small` does with `weights`.

    These may be on any device, and are returned on the CPU. Raises `ValueError` where `large` lacks something that
    `small` has.
    """
    if any(getattr(small, name) != getattr(large, name) for name in ALIKE):
        raise ValueError("only the width of layers and what they look at can grow")
    weights = {name: value.cpu() for name, value in weights.items()}
    result = Photo(large).state_dict()
    theirs = matrices(large)
    for name, (rows, columns) in matrices(small).items():
        places = [_places(theirs[name][i], names) for i, names in enumerate((rows, columns))]
        weight, bias = result[f"{name}.weight"], result[f"{name}.bias"]
        weight[places[0]] = 0
        weight[places[0][:, None], places[1]] = weights[f"{name}.weight"]
        bias[places[0]] = weights[f"{name}.bias"]
    return {**result, **{name: value for name, value in weights.items() if name.startswith("shapes.")}}


def matrices(c: PhotoConfig) -> dict[str, tuple[Names, Names]]:
    """What the rows and columns of every layer stand for, by the layer's name."""
    context = [(at, color) for at in c.context for color in range(3)]
    near = [("trace", at, i) for at in c.trace_at for i in range(c.traces)]
    inputs = [*context, *near, *(("flag", i) for i in range(4)), *(("pool", i) for i in range(2 * c.energies))]
    hidden, inner = range(c.hidden), range(c.inner)
    found: dict[str, tuple[Names, Names]] = {
        "inner": (inner, context),
        "errors": (range(c.traces), [*inner, "green", "red", "blue"]),
        "layers.0": (hidden, inputs),
        **{f"layers.{i}": (hidden, hidden) for i in range(1, c.layers)},
        "bank": (range(3 * c.bank), context),
        "green.linear": (range(3 + c.bank), hidden),
    }
    for color, before in (("red", ["green"]), ("blue", ["green", "red"])):
        found[f"{color}_layer"] = (range(c.color_hidden), [*hidden, *before])
        found[f"{color}.linear"] = (range(3 + c.bank + len(before)), range(c.color_hidden))
    return found


def _places(names: Names, wanted: Names) -> Tensor:
    """Where the `wanted` stand among the `names`. Raises `ValueError` where one is missing."""
    at = {name: i for i, name in enumerate(names)}
    if missing := [name for name in wanted if name not in at]:
        raise ValueError(f"there is no {missing[0]} in the larger network")
    return torch.tensor([at[name] for name in wanted])

"""New weights for features of a `photo` network that are zero everywhere.

Such features learn nothing any more: they pass no gradient. Of the last layer of `photo-base.4`, which grew out of a
smaller network, 120 features of 192 were.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gencodec.models.photo import Photo

SILENT = 1e-3
"""A feature that is above zero at a smaller share of pixels is given new weights."""
LIVELY = (0.05, 0.95)
"""Shares between which features are worth imitating."""
SHARE = (0.35, 0.85)
"""Of the first of the two features whose weights, mixed, are the new ones."""
NOISE = 0.35
"""Standard deviation of what is added to them, in those of the layer's weights."""


def readers(photo: Photo) -> dict[str, list[str]]:
    """The layers whose features can fall silent, and those that read them."""
    last = photo.config.layers - 1
    found = {f"layers.{i}": [f"layers.{i + 1}"] for i in range(last)}
    found[f"layers.{last}"] = ["green.linear", "red_layer", "blue_layer"]
    return {**found, "red_layer": ["red.linear"], "blue_layer": ["blue.linear"]}


@torch.no_grad()
def revive(photo: Photo, tiles: Tensor) -> int:
    """Make silent features like mixtures of lively ones, which nothing reads yet; returns how many there were.

    `tiles` (3, batch, height, width) show which they are. What the network computes stays the same, but for what rare
    features gave.
    """
    count = 0
    for (name, readings), share in zip(readers(photo).items(), activity(photo, tiles), strict=True):
        layer = photo.layer(name)
        silent, lively = torch.nonzero(share < SILENT)[:, 0], torch.nonzero((share > LIVELY[0]) & (share < LIVELY[1]))
        if not len(silent) or not len(lively):
            continue
        one, other = (lively[torch.randint(len(lively), (len(silent),)), 0] for _ in range(2))
        first = torch.empty(len(silent), 1).uniform_(*SHARE).to(layer.weight)
        noise = NOISE * layer.weight[lively[:, 0]].std(0, correction=0) * torch.randn_like(layer.weight[silent])
        layer.weight[silent] = layer.weight[one] * first + layer.weight[other] * (1 - first) + noise
        layer.bias[silent] = layer.bias[one] * first[:, 0] + layer.bias[other] * (1 - first[:, 0])
        for reader in readings:
            photo.layer(reader).weight[:, silent] = 0
        count += len(silent)
    return count


def activity(photo: Photo, tiles: Tensor) -> list[Tensor]:
    """Of every layer of `readers`, the share of pixels of `tiles` at which each feature is above zero."""
    found: list[Tensor] = []

    def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((output.flatten(1) > 0).float().mean(1))

    hooks = [photo.layer(name).register_forward_hook(note) for name in readers(photo)]
    photo(tiles)
    for hook in hooks:
        hook.remove()
    return found

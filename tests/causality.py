"""Which values of a tile an autoregressive network's distributions depend on."""

from __future__ import annotations

import torch
from torch import Tensor

from gencodec.models.autoregressive import Autoregressive


def noise(height: int, width: int, batch: int = 1) -> Tensor:
    """Gray levels (3, batch, height, width) around the middle."""
    torch.manual_seed(height * width)
    return (128 + 20 * torch.randn(3, batch, height, width)).round().clamp(0, 255)


@torch.no_grad()
def changed(network: Autoregressive, x: Tensor, color: int, y: int, column: int) -> Tensor:
    """Where distributions change with one value of a tile; (3, height, width)."""
    other = x.clone()
    other[color, 0, y, column] = 255 - x[color, 0, y, column]
    pairs = zip(network.distributions(x), network.distributions(other), strict=True)
    return torch.stack([(a != b)[:, 0] for a, b in pairs]).any(0)

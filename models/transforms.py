"""Pictures <-> latents of 8 x 8 blocks: a cosine transform that learns, with residual blocks beside it.

Both directions compute in floating point: of a lossy codec, only what reaches the entropy coder has to be exact.
Pictures are (N, 3, H, W) of green, red, blue in units of `UNIT` gray levels around the middle one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.vae import cosines

BLOCK = 8
"""Side of the pixels that one latent vector stands for."""
SCALE = 3
UNIT = 16.0
MIDDLE = 128.0
FILTERED = 4
"""Stride at which the synthesis evens out the blocks' borders."""


def in_units(x: Tensor) -> Tensor:
    """Tiles of gray levels (3, N, H, W) as pictures (N, 3, H, W)."""
    return ((x - MIDDLE) * (1 / UNIT)).transpose(0, 1).contiguous(memory_format=torch.channels_last)


class Block(nn.Module):
    """A residual block: depthwise 5 x 5, expansion by 1 x 1 to twice the features, projection by 1 x 1."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.expand, self.project = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)
        with torch.no_grad():
            self.project.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.silu(self.expand(self.depthwise(x))))


class Features(nn.Sequential):
    """A learned correction: (N, source, H, W) -> (N, target, H, W), with `blocks` residual blocks; it begins small."""

    def __init__(self, source: int, width: int, blocks: int, target: int):
        into, out = nn.Conv2d(source, width, 1), nn.Conv2d(width, target, 1)
        with torch.no_grad():
            out.weight.mul_(0.1)
            out.bias.zero_()  # type: ignore[union-attr]
        super().__init__(into, *(Block(width) for _ in range(blocks)), nn.SiLU(), out)


class Analysis(nn.Module):
    """Pictures -> latents (N, dim, H / 8, W / 8), at first `dim` components of a cosine transform."""

    def __init__(self, dim: int, width: int, blocks: int):
        super().__init__()
        self.linear = nn.Conv2d(3 * BLOCK**2, dim, 1)
        self.features = Features(3 * BLOCK**2, width, blocks, dim)
        with torch.no_grad():
            self.linear.weight.copy_(F.pixel_unshuffle(basis(dim), BLOCK))
            self.linear.bias.zero_()  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        blocks = F.pixel_unshuffle(x, BLOCK)
        return self.linear(blocks) + self.features(blocks)


class Synthesis(nn.Module):
    """Latents (N, dim, h, w) and marks of their level (N, levels, h, w), 0 or 1 -> pictures (N, 3, 8 h, 8 w)."""

    def __init__(self, dim: int, levels: int, width: int, blocks: int, filtered: int):
        """`filtered`: features of the filter at stride 4 that evens out borders."""
        super().__init__()
        depth = 3 * FILTERED**2
        self.dim = dim
        self.linear = nn.Conv2d(dim, 3 * BLOCK**2, 1)
        self.features = Features(dim + levels, width, blocks, 3 * BLOCK**2)
        self.seen, self.smoothed = nn.Conv2d(depth, filtered, 3, padding=1), nn.Conv2d(filtered, depth, 3, padding=1)
        with torch.no_grad():
            inverse = F.pixel_unshuffle(F.pixel_unshuffle(basis(dim), FILTERED), BLOCK // FILTERED)
            self.linear.weight.copy_(inverse.transpose(0, 1))
            self.linear.bias.zero_()  # type: ignore[union-attr]
            self.smoothed.weight.mul_(0.1)
            self.smoothed.bias.zero_()  # type: ignore[union-attr]

    def forward(self, latents: Tensor) -> Tensor:
        """`latents` (N, dim + levels, h, w): the marks of the level stand behind the latents."""
        blocks = self.linear(latents[:, : self.dim]) + self.features(latents)
        quarters = F.pixel_shuffle(blocks, BLOCK // FILTERED)
        quarters = quarters + self.smoothed(F.silu(self.seen(quarters)))
        return F.pixel_shuffle(quarters, FILTERED)


def basis(dim: int) -> Tensor:
    """Orthonormal cosine transform of blocks by luma and chromas, its first components; (dim, 3, 8, 8)."""
    waves = cosines(SCALE, dim, inverse=False)
    return waves / waves.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def marked(latents: Tensor, level: Tensor, levels: int) -> Tensor:
    """Latents (N, dim, h, w) with marks of their levels (N,) behind: (N, dim + levels, h, w)."""
    marks = F.one_hot(level, levels).to(latents.dtype)[:, :, None, None]
    return torch.cat([latents, marks.expand(-1, -1, *latents.shape[2:])], 1)

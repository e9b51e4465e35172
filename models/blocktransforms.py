"""Transforms of lossy codecs: pictures to continuous latents at strides 8, 16 and 32, and back.

Both directions are linear transforms on 8 x 8 blocks plus residual networks. The linear parts begin as a discrete
cosine transform of luma and chroma, as in JPEG, and of pairs of its low frequencies: training starts from a working
codec. Residual blocks follow ConvNeXt (Liu et al. 2022, arXiv 2201.03545): depthwise 5 x 5, expansion, projection,
without normalisation. Arrays are (batch, features, height, width). Floating point: only the latents' integers, which
are coded exactly, decide what a decoder sees.

One network serves all rates (Cui et al. 2021, arXiv 2003.02012, "asymmetric gained"): a quality level's position
between KNOTS knots blends the knots' gains, which divide and multiply the latents, and the scales and shifts of every
block (feature modulation, Perez et al. 2018, arXiv 1709.07871).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 8
"""Side of the blocks of the linear transform."""
RANGE = 64.0
"""Gray levels in a unit of the networks' pixels."""
MIDDLE_GRAY = 127.5
GENTLENESS = 0.1
REFINING = 2
"""Residual blocks of the filter against blocks' edges."""
KNOTS = 8
"""Quality levels at which gains and modulations are learned; those between are blends."""


def color_rotation() -> Tensor:
    """The orthonormal rotation (3, 3) of green, red and blue into luma and two chroma signals."""
    rows = torch.tensor([[1, 1, 1], [2, -1, -1], [0, 1, -1]], dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def cosine_basis(side: int) -> Tensor:
    """The orthonormal discrete cosine transform (side, side): row k is the k-th frequency."""
    k, n = torch.arange(side, dtype=torch.float64)[:, None], torch.arange(side, dtype=torch.float64)[None]
    basis = torch.cos(math.pi / side * (n + 0.5) * k) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis


def block_transform() -> tuple[Tensor, list[tuple[int, int, int]]]:
    """The orthonormal transform (192, 192) of `pixel_unshuffle`d blocks, and (color, row, column) of its rows.

    Rows are ordered from low frequencies to high ones, of luma before those of chroma that are half as high.
    """
    rows, names, dct = color_rotation(), [], cosine_basis(BLOCK)
    for color in range(3):
        for v in range(BLOCK):
            for u in range(BLOCK):
                names.append((color, v, u))
    names.sort(key=lambda name: ((name[1] + name[2] + 1) * (1.0 if name[0] == 0 else 2.0), name))
    found = [(rows[c][:, None, None] * (dct[v][:, None] * dct[u][None])[None]).reshape(-1) for c, v, u in names]
    return torch.stack(found).float(), names


class Gentle(nn.Conv2d):
    """A convolution without bias whose weights are the parameters times GENTLENESS: steps change it so much less.

    Linear transforms begin near where they end, and take inputs of very different sizes.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__(inputs, outputs, kernel, stride=kernel, bias=False)

    @torch.no_grad()
    def begin(self, weight: Tensor) -> None:
        """Set the weights (outputs, inputs, kernel, kernel)."""
        self.weight.copy_(weight / GENTLENESS)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return F.conv2d(input, self.weight * GENTLENESS, stride=self.stride)


class Modulation(nn.Module):
    """A scale and a shift of each feature (N, features, H, W) by the blend of knots (N, KNOTS)."""

    def __init__(self, features: int):
        super().__init__()
        self.scale = nn.Linear(KNOTS, features, bias=False)
        self.shift = nn.Linear(KNOTS, features, bias=False)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, blend: Tensor) -> Tensor:
        return x * self.scale(blend)[:, :, None, None] + self.shift(blend)[:, :, None, None]


class Block(nn.Module):
    """A residual block, (N, width, H, W) in and out."""

    def __init__(self, width: int, expansion: int = 2, kernel: int = 5):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.expand = nn.Conv2d(width, expansion * width, 1)
        self.project = nn.Conv2d(expansion * width, width, 1)
        self.modulation = Modulation(width)
        with torch.no_grad():
            self.project.weight.mul_(0.3)

    def forward(self, x: Tensor, blend: Tensor) -> Tensor:
        inner = F.leaky_relu(self.expand(self.modulation(self.depthwise(x), blend)), 0.1)
        return x + self.project(inner)


class Blocks(nn.Module):
    """Residual blocks, one after the other."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(count))

    def forward(self, x: Tensor, blend: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, blend)
        return x


class Gains(nn.Module):
    """The logarithm to base 2 of each latent's gain by the blend of knots: (N, KNOTS) -> (N, latents, 1, 1)."""

    def __init__(self, latents: int, start: Tensor):
        """`start` (KNOTS,): where all latents begin."""
        super().__init__()
        self.log2 = nn.Parameter(start[None].repeat(latents, 1))

    def forward(self, blend: Tensor) -> Tensor:
        return (blend @ self.log2.t())[:, :, None, None]


def half_rotation(latents: int, low: list[int], inputs: int) -> Tensor:
    """Haar transforms of 2 x 2 neighbors of the `low` ones of `inputs` features: weights (latents, inputs, 2, 2).

    The first rows are the means of all the features, and so on; there are at most 4 a feature.
    """
    signs = [[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]
    weight = torch.zeros(latents, inputs, 2, 2)
    for i in range(min(latents, 4 * len(low))):
        weight[i, low[i % len(low)]] = torch.tensor(signs[i // len(low)]).float().view(2, 2) / 2
    return weight


def block_means(latents: int, dc: list[int], inputs: int) -> Tensor:
    """Half the means over 4 x 4 blocks of the features `dc`: weights (latents, inputs, 4, 4)."""
    weight = torch.zeros(latents, inputs, 4, 4)
    weight[range(len(dc)), dc] = 1 / 32
    return weight


class Transforms(nn.Module):
    """What analysis and synthesis agree on: the block transform, and which frequencies begin at which stride."""

    basis: Tensor
    evened: Tensor
    """Factors that give all frequencies of photographs about the same size, (1, 192, 1, 1)."""

    def __init__(self, coarse: int, fine: int):
        """`coarse` and `fine`: latents at strides 16 and 8."""
        super().__init__()
        basis, names = block_transform()
        self.register_buffer("basis", basis[:, :, None, None], persistent=False)
        low = [i for i, (_, v, u) in enumerate(names) if v < 2 and u < 2] if coarse else []
        self.dc = [i for i, (_, v, u) in enumerate(names) if v == u == 0]
        self.low = sorted(low, key=lambda i: i not in self.dc)[: coarse // 4]
        sizes = torch.tensor([(v + u + 1) * (1 if c == 0 else 3) / 8 for c, v, u in names])
        self.register_buffer("evened", sizes.clamp(max=2)[None, :, None, None], persistent=False)
        self.high = [i for i in range(len(names)) if i not in self.low][:fine]

    def selection(self, latents: int) -> Tensor:
        """The frequencies that begin as latents of stride 8: weights (latents, 192, 1, 1)."""
        weight = torch.zeros(latents, len(self.basis), 1, 1)
        weight[range(len(self.high)), self.high] = 1.0
        return weight


class Analysis(Transforms):
    """Pixels (N, 3, H, W), sides divisible by 32, and a blend -> latents of strides 8, 16 and 32, finest first.

    Pixels are (gray level - 127.5) / 64. Latents have not yet been multiplied by gains.
    """

    def __init__(self, fine: int, coarse: int, top: int, width: int, blocks: int):
        super().__init__(coarse, fine)
        bands = len(self.basis)
        self.stem = nn.Conv2d(bands, width, 1)
        self.fine, self.middle, self.last = Blocks(width, blocks), Blocks(width, 2), Blocks(width, 1)
        self.down = nn.ModuleList(nn.Conv2d(width, width, 2, stride=2) for _ in range(2))
        self.fine_linear, self.fine_head = Gentle(bands, fine, 1), nn.Conv2d(width, fine, 1)
        self.top_linear, self.top_head = Gentle(bands, top, 4), nn.Conv2d(width, top, 1)
        self.coarse_linear = self.coarse_head = None
        self.top_linear.begin(block_means(top, self.dc, bands))
        self.fine_linear.begin(self.selection(fine))
        with torch.no_grad():
            self.top_head.weight.mul_(0.02)
            self.fine_head.weight.mul_(0.02)
        if coarse:
            self.coarse_linear, self.coarse_head = Gentle(bands, coarse, 2), nn.Conv2d(width, coarse, 1)
            self.coarse_linear.begin(half_rotation(coarse, self.low, bands))
            with torch.no_grad():
                self.coarse_head.weight.mul_(0.02)

    def forward(self, x: Tensor, blend: Tensor) -> tuple[Tensor, ...]:
        bands = F.conv2d(F.pixel_unshuffle(x, BLOCK), self.basis)
        f = self.fine(self.stem(bands * self.evened), blend)
        found = [self.fine_linear(bands) + self.fine_head(f)]
        f = self.middle(self.down[0](f), blend)
        if self.coarse_linear is not None and self.coarse_head is not None:
            found.append(self.coarse_linear(bands) + self.coarse_head(f))
        f = self.last(self.down[1](f), blend)
        return (*found, self.top_linear(bands) + self.top_head(f))


class Synthesis(Transforms):
    """The inverse of `Analysis`: latents, already divided by their gains, and a blend -> pixels (N, 3, H, W)."""

    def __init__(self, fine: int, coarse: int, top: int, width: int, blocks: int, filtering: int):
        """`filtering`: features of the filter against blocks' edges, on 4 x 4 pixels."""
        super().__init__(coarse, fine)
        bands = len(self.basis)
        self.fine_linear = Gentle(fine, bands, 1)
        self.top_linear = nn.Conv2d(top, 16 * width, 1)
        self.stem, self.blocks = nn.Conv2d(bands, width, 1), Blocks(width, blocks)
        self.head = nn.Conv2d(width, bands, 1)
        self.before, self.after = nn.Conv2d(48, filtering, 3, padding=1), nn.Conv2d(filtering, 48, 3, padding=1)
        self.modulation, self.refining = Modulation(filtering), Blocks(filtering, REFINING)
        self.places = nn.Conv2d(width, 4 * filtering, 1)
        self.coarse_linear = None
        self.fine_linear.begin(self.selection(fine).transpose(0, 1))
        if coarse:
            self.coarse_linear = Gentle(coarse, 4 * bands, 1)
            weight = half_rotation(coarse, self.low, bands).permute(1, 2, 3, 0)
            self.coarse_linear.begin(weight.reshape(4 * bands, coarse, 1, 1))
        with torch.no_grad():
            self.top_linear.weight.mul_(0.02)
            self.head.weight.mul_(0.02)
            self.after.weight.mul_(0.02)
            self.places.weight.mul_(0.3)

    def forward(self, *given: Tensor) -> Tensor:
        *latents, blend = given
        bands = self.fine_linear(latents[0])
        if self.coarse_linear is not None:
            bands = bands + F.pixel_shuffle(self.coarse_linear(latents[1]), 2)
        f = self.stem(bands * self.evened) + F.pixel_shuffle(self.top_linear(latents[-1]), 4)
        f = self.blocks(f, blend)
        x = F.pixel_shuffle(F.conv2d(bands + self.head(f), self.basis.transpose(0, 1)), BLOCK)
        small = F.pixel_unshuffle(x, 4)
        # blocks know where their edges are, pixels do not
        inner = self.before(small) + F.pixel_shuffle(self.places(f), 2)
        inner = self.refining(F.leaky_relu(self.modulation(inner, blend), 0.1), blend)
        return F.pixel_shuffle(small + self.after(inner), 4)

"""What the flows share: steps that are invertible, the networks inside them, and the code length of a picture.

A flow (Dinh et al. 2014, arXiv 1410.8516, section 2) maps a picture with added uniform noise by invertible steps to
latents with a simple density; its code length is that of the latents, less the logarithm of the map's volume change.
Values are (batch, features, height, width) in units of 16 gray levels around the middle gray, features beginning
as green, red, blue. Networks inside the steps are exact when exported, so that a codec can make the same steps on
integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.conditioners import (
    LEVELS,
    MIDDLE,
    OCTAVE,
    SHIFT,
    START_SHAPE,
    VALUE,
    Network,
    spread_of,
)
from gencodec.models.quantize import Group, Snap
from gencodec.models.shapes import (
    NORMAL_WIDTH,
    SCALE_OF_ONE,
    SCALES_PER_OCTAVE,
    SHAPE,
    SPREAD,
    WIDTHS,
    Shapes,
)

TABLE_SHARE = 255 / 256
"""Of the probability, what tables leave to symbols after each got its least share."""
FIT_OCTAVES = (0.0, 2.5)
"""By how much actnorm magnifies features at the beginning: large ones stay as they are."""


class Step(nn.Module):
    """An invertible map of values (N, C, H, W), and the code length that its change of volume costs, (N,) in bits.

    That is minus the binary logarithm of the determinant of its Jacobian. `fit` may set the step's parameters by the
    values that it will see first.
    """

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inverse(self, y: Tensor) -> Tensor:
        """The values that the step makes `y` of."""
        raise NotImplementedError

    def fit(self, y: Tensor) -> None:
        """Begin well for values `y`."""

    def describe(self) -> dict[str, Any]:
        """The step as the codec reads it."""
        raise NotImplementedError


class Squeeze(Step):
    """Blocks of `factor` x `factor` positions become features (RealNVP, arXiv 1605.08803, section 3.6).

    Feature c of position (y * factor + i, x * factor + j) becomes feature (c * factor + i) * factor + j of (y, x).
    """

    def __init__(self, factor: int = 2):
        super().__init__()
        self.factor = factor

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(y, self.factor), y.new_zeros(len(y))

    def inverse(self, y: Tensor) -> Tensor:
        return F.pixel_shuffle(y, self.factor)

    def describe(self) -> dict[str, Any]:
        return {"step": "squeeze", "factor": self.factor}


class Order(Step):
    """Features in another order: feature i is what was feature `order[i]`."""

    order: Tensor
    back: Tensor

    def __init__(self, order: list[int]):
        super().__init__()
        back = sorted(range(len(order)), key=order.__getitem__)
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("back", torch.tensor(back), persistent=False)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y.index_select(1, self.order), y.new_zeros(len(y))

    def inverse(self, y: Tensor) -> Tensor:
        return y.index_select(1, self.back)

    def describe(self) -> dict[str, Any]:
        return {"step": "order", "order": self.order.tolist()}


class Coupling(Step):
    """The first `kept` features decide how the others are shifted and, if `affine`, scaled.

    `y2' = (y2 + shift(y1)) * 2**octaves(y1)`: NICE's additive coupling (equation 8) and Glow's affine one
    (arXiv 1807.03039, table 1). `network` is made for the kept features, its targets are `targets`.
    """

    def __init__(self, kept: int, network: Network, affine: bool):
        super().__init__()
        self.kept, self.network, self.affine = kept, network, affine
        self.seen = Snap(VALUE)

    @staticmethod
    def targets(changed: int, affine: bool) -> list[Group]:
        """What a coupling's network has to give."""
        return [(changed, SHIFT), (changed, OCTAVE)] if affine else [(changed, SHIFT)]

    def parameters_of(self, kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """Shift and octaves for the kept features."""
        given = self.network(padded(self.seen(kept), self.network.reach))
        if not self.affine:
            return given, None
        shift, octaves = given.chunk(2, 1)
        return shift, octaves

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed = y[:, : self.kept], y[:, self.kept :]
        shift, octaves = self.parameters_of(kept)
        if octaves is None:
            return torch.cat([kept, changed + shift], 1), y.new_zeros(len(y))
        return torch.cat([kept, (changed + shift) * torch.exp2(octaves)], 1), -octaves.sum((1, 2, 3))

    def inverse(self, y: Tensor) -> Tensor:
        kept, changed = y[:, : self.kept], y[:, self.kept :]
        shift, octaves = self.parameters_of(kept)
        if octaves is not None:
            changed = changed * torch.exp2(-octaves)
        return torch.cat([kept, changed - shift], 1)

    def fit(self, y: Tensor) -> None:
        kept = padded(self.seen(y[:, : self.kept]), self.network.reach)
        self.network.fit(kept, -y[:, self.kept :])

    def describe(self) -> dict[str, Any]:
        return {"step": "coupling", "kept": self.kept, "affine": self.affine, "reach": self.network.reach}


class Mix(Step):
    """Actnorm and an invertible 1x1 convolution (Glow, sections 3.1 and 3.2): features scaled, shifted and mixed.

    `y' = P L (U + diag(s)) ((y + bias) * 2**octaves)` with a fixed permutation P, unit lower triangular L, strictly
    upper triangular U, and s of fixed signs.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, features: int, start: Tensor):
        """`start`: the 1x1 convolution's matrix to begin with (features, features), invertible."""
        super().__init__()
        P, L, U = torch.linalg.lu(start.double())
        self.register_buffer("permutation", P.argmax(1))
        self.register_buffer("sign", U.diagonal().sign().float())
        self.bias = nn.Parameter(torch.zeros(features))
        self.octaves = nn.Parameter(torch.zeros(features))
        self.lower = nn.Parameter(L.tril(-1).float())
        self.upper = nn.Parameter(U.triu(1).float())
        self.diagonal = nn.Parameter(U.diagonal().abs().log2().float())
        """Logarithm of |s|, to base 2."""

    def scales(self) -> Tensor:
        """Octaves by which the diagonal and actnorm together scale the features, limited to what OCTAVE holds."""
        limit = OCTAVE.high * OCTAVE.step
        return (self.octaves + self.diagonal).clamp(-limit, limit)

    def matrix(self) -> Tensor:
        """The linear map of actnorm and convolution, (features, features)."""
        unit = torch.eye(len(self.bias), device=self.bias.device)
        upper = self.upper.triu(1) * torch.exp2(self.octaves) + torch.diag(self.sign * torch.exp2(self.scales()))
        return ((self.lower.tril(-1) + unit) @ upper).index_select(0, self.permutation)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        matrix = self.matrix()
        mixed = F.conv2d(y, matrix[:, :, None, None], matrix @ self.bias)
        return mixed, (-self.scales().sum() * (y.shape[2] * y.shape[3])).expand(len(y))

    def inverse(self, y: Tensor) -> Tensor:
        back = torch.linalg.inv(self.matrix().double()).to(y.dtype)
        return F.conv2d(y, back[:, :, None, None]) - self.bias[:, None, None]

    @torch.no_grad()
    def fit(self, y: Tensor) -> None:
        """Each feature of zero mean and unit variance after actnorm, as far as its scales reach."""
        std, mean = torch.std_mean(y, (0, 2, 3), correction=0)
        self.bias.copy_(-mean)
        self.octaves.copy_((-std.clamp_min(1e-3).log2()).clamp(*FIT_OCTAVES))

    def describe(self) -> dict[str, Any]:
        return {"step": "mix"}


class Constant(nn.Module):
    """A learned distribution a feature, the same everywhere: mean, scale and shape on the grids, (3 * features,)."""

    def __init__(self, features: int):
        super().__init__()
        self.exact, self.features = False, features
        self.mean = nn.Parameter(torch.zeros(features))
        self.spread = nn.Parameter(torch.full((features,), 30 / 8))
        self.shape = nn.Parameter(torch.full((features,), START_SHAPE))

    def forward(self) -> Tensor:
        """(1, 3 * features, 1, 1)."""
        pairs = ((self.mean, SHIFT), (self.spread, SPREAD), (self.shape, SHAPE))
        snaps = [Snap(grid) for _, grid in pairs]
        for layer in snaps:
            layer.exact = self.exact
        return torch.cat([layer(value) for layer, (value, _) in zip(snaps, pairs, strict=True)])[None, :, None, None]

    @torch.no_grad()
    def fit(self, aside: Tensor) -> None:
        """Begin as the distribution of latents (N, features, H, W)."""
        mean = aside.mean((0, 2, 3), keepdim=True)
        self.mean.copy_(mean.flatten())
        self.spread.copy_(spread_of(aside - mean))


class Factor(nn.Module):
    """Puts all but the first `kept` features aside as latents (RealNVP, section 3.6).

    Their distribution is a learned constant a feature or, with `network`, depends on the kept ones (Glow's
    multi-scale prior). It is a mixture of logistic and normal kernels (`Shapes`), which holds NICE's logistic prior and
    the normal ones of RealNVP and Glow.
    """

    def __init__(self, kept: int, aside: int, network: Network | None = None):
        super().__init__()
        self.kept, self.given = kept, network or Constant(aside)
        self.exact = False
        self.seen = Snap(VALUE)

    @staticmethod
    def targets(aside: int) -> list[Group]:
        """What a network for the distribution has to give."""
        return [(aside, SHIFT), (aside, SPREAD), (aside, SHAPE)]

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The features that go on, and the latents."""
        return y[:, : self.kept], y[:, self.kept :]

    def distribution(self, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means in units, scale and shape indices of the latents."""
        if isinstance(self.given, Network):
            given = self.given(padded(self.seen(kept), self.given.reach))
        else:
            given = self.given()
        mean, spread, shape = given.chunk(3, 1)
        shift = 0.0 if self.exact else 0.5
        return mean, spread * 8 - shift, shape * 2 - shift

    def fit(self, y: Tensor) -> None:
        """Begin with the distribution of values `y`."""
        kept, latents = self(y)
        if isinstance(self.given, Network):
            self.given.fit_distribution(padded(self.seen(kept), self.given.reach), latents)
        else:
            self.given.fit(latents)

    def describe(self) -> dict[str, Any]:
        """The step as the codec reads it."""
        reach = {"reach": self.given.reach} if isinstance(self.given, Network) else {}
        return {"step": "factor", "kept": self.kept, **reach}


def density_bits(shapes: Shapes, z: Tensor, mean: Tensor, scale_index: Tensor, shape_index: Tensor) -> Tensor:
    """Code length of latents `z` in bits, as a density per gray level; shaped as `z`.

    `z` and `mean` are in units; distributions may be shaped as `z` or spread to it. Between two shapes their mixture
    is taken.
    """
    octaves = (scale_index - SCALE_OF_ONE) / SCALES_PER_OCTAVE
    away = (z - mean).abs() * (LEVELS * torch.exp2(-octaves))
    mixture = shapes.mixture(shape_index)
    logarithms = [-away / w - 2 * F.softplus(-away / w) - math.log(w) for w in WIDTHS]
    logarithms.append(-0.5 * (away / NORMAL_WIDTH).square() - math.log(NORMAL_WIDTH * math.sqrt(2 * math.pi)))
    total = torch.logsumexp(torch.stack(logarithms) + torch.log(mixture), 0)
    return octaves - total / math.log(2) - math.log2(TABLE_SHARE)


def padded(x: Tensor, reach: int) -> Tensor:
    """`x` (N, C, H, W) with its border repeated `reach` times on every side."""
    return F.pad(x, (reach, reach, reach, reach), mode="replicate") if reach else x


class Flow(nn.Module):
    """Steps in order; the last, a `Factor`, puts all aside that is left."""

    begun: Tensor

    def __init__(self, steps: Sequence[Step | Factor]):
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.shapes = Shapes()
        self.register_buffer("begun", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        """Code length of tiles `x` (3, N, height, width) of gray levels in bits a sub-pixel, (N,).

        It is an upper bound by uniform dequantisation (Theis et al. 2016, arXiv 1511.01844, section 3.1). At the first
        batch of a training the steps begin by what they see (Glow, section 3.1).
        """
        y = values_of(x + torch.rand_like(x))
        if self.training and not self.begun:
            self.fit(y)
        return self.bits(y) / x[:, 0].numel()

    def bits(self, y: Tensor) -> Tensor:
        """Minus the binary logarithm of the density of values `y` (N, 3, height, width) per gray level, (N,)."""
        total = y.new_zeros(len(y))
        for step in self.steps:
            if isinstance(step, Factor):
                y, latents = step(y)
                bits = density_bits(self.shapes, latents, *step.distribution(y)).sum((1, 2, 3))
            else:
                y, bits = step(y)
            total = total + bits
        return total

    @torch.no_grad()
    def fit(self, y: Tensor) -> None:
        """Let every step begin well for values `y`."""
        for step in self.steps:
            cast(Step, step).fit(y)
            y = step(y)[0]
        self.begun.fill_(True)

    def latents(self, y: Tensor) -> list[Tensor]:
        """What the factors put aside of values `y`, in order."""
        found = []
        for step in self.steps:
            y, rest = step(y)
            if isinstance(step, Factor):
                found.append(rest)
        return found

    def inverse(self, latents: Sequence[Tensor]) -> Tensor:
        """The values whose latents these are."""
        left = list(latents)
        y = left[-1][:, :0]
        for step in reversed(self.steps):
            y = torch.cat([y, left.pop()], 1) if isinstance(step, Factor) else cast(Step, step).inverse(y)
        return y


def values_of(x: Tensor) -> Tensor:
    """Gray levels (3, N, height, width) as values (N, 3, height, width) in units."""
    return (x.transpose(0, 1) - MIDDLE) * (1 / LEVELS)


Label = tuple[int, ...]
"""What a feature is: its color, and its position in the block of each squeeze, 2 * row + column."""
Mask = tuple[tuple[int, ...], tuple[int, ...]]
"""Features by color (green, red, blue: 0, 1, 2), and position in the block of the last squeeze."""
Maker = Callable[[int, int], Network]
"""A network of numbers of kept and changed features."""
COLORS = (0, 1, 2)
BLOCK = (0, 1, 2, 3)
LIFTING: tuple[Mask, ...] = (
    ((1, 2), BLOCK),
    ((2,), BLOCK),
    (COLORS, (1, 2)),
    (COLORS, (3,)),
    (COLORS, (0,)),
)
"""What the couplings of a level change, from fine to coarse: red and blue, blue, the checkerboard's one color, half of
the other, and the coarse positions, which take up the mean of what has been predicted by them."""
DETAILS: Mask = (COLORS, (1, 2, 3))
"""What is put aside after them: all but the coarse positions."""


class Layout:
    """Steps as they are planned, and what each feature is."""

    def __init__(self) -> None:
        self.steps: list[Step | Factor] = []
        self.labels: list[Label] = [(color,) for color in COLORS]

    def squeeze(self) -> None:
        """Blocks of 2x2 become features."""
        self.steps.append(Squeeze())
        self.labels = [(*label, place) for label in self.labels for place in BLOCK]

    def order(self, mask: Mask) -> tuple[list[int], int]:
        """Places of all features, those of the `mask` last, and how many others there are."""
        places = range(len(self.labels))
        chosen = [i for i in places if self.labels[i][0] in mask[0] and self.labels[i][-1] in mask[1]]
        others = [i for i in places if i not in chosen]
        return sorted(others, key=lambda i: self.labels[i]) + sorted(chosen, key=lambda i: self.labels[i]), len(others)

    def arrange(self, mask: Mask) -> int:
        """Bring the features of the `mask` to the end; returns how many others there are."""
        order, others = self.order(mask)
        if order != sorted(order):
            self.steps.append(Order(order))
        self.labels = [self.labels[i] for i in order]
        return others

    def couple(self, mask: Mask, network: Maker, *, affine: bool) -> None:
        """A coupling that changes the features of the `mask`."""
        kept = self.arrange(mask)
        self.steps.append(Coupling(kept, network(kept, len(self.labels) - kept), affine))

    def mix(self, mask: Mask) -> None:
        """A 1x1 convolution that begins by bringing the features of the `mask` to the end."""
        order, _ = self.order(mask)
        self.steps.append(Mix(len(order), torch.eye(len(order))[order]))
        self.labels = [self.labels[i] for i in order]

    def put_aside(self, mask: Mask, network: Maker | None = None) -> None:
        """The features of the `mask` become latents; their distribution depends on the others by a `network`."""
        kept = self.arrange(mask)
        aside = len(self.labels) - kept
        self.steps.append(Factor(kept, aside, network(kept, aside) if network and kept else None))
        self.labels = self.labels[:kept]

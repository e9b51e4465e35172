"""Residual vector quantisation: codebooks that follow what they quantise (van den Oord et al. 2017, arXiv 1711.00937).

Every stage quantises what the stages before it left over, of the features in which that is most: what one code says of
few features is worth more than what it says of many. Codebooks are moving averages of the vectors that chose them
(appendix A.1), and a code that hardly any vector chooses starts again from a vector at hand. Codes are chosen by
distance and by what they cost at their frequency, as in entropy-constrained vector quantisation (Chou et al. 1989), so
that a stage can do nothing where there is nothing to be gained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

POINT_BITS = 6
"""Codebooks hold whole numbers of 2**-6, so that sums of them are exact everywhere."""
DECAY = 0.99
RENEWED = 10
"""Steps between restarts of codes that are not used."""
DEAD = 0.03
"""Share of the mean frequency below which a code is not used."""
REBORN = 0.3
"""Share of the mean frequency that a code starts with."""
SETTLING = 300
"""Steps in which stages still choose their features."""
DEAREST = 4.0
"""Bits above those of equally frequent codes that the choice reckons with at most."""


@dataclass(frozen=True)
class Quantised:
    """Codes (stages, N, H, W), and the sums of their vectors up to each stage, (stages, N, features, H, W)."""

    codes: Tensor
    sums: Tensor


class Codebooks(nn.Module):
    """`stages` codebooks of `size` vectors of `dim` features each; they are buffers, and learn while in training."""

    vectors: Tensor
    mass: Tensor
    totals: Tensor
    spread: Tensor
    age: Tensor

    def __init__(
        self, stages: int, size: int, dim: int, prices: tuple[float, ...], active: int, *, frozen: bool = False
    ):
        """`prices`: of each stage, the squared distance that a bit must save; `active`: features that it quantises.

        Those that are `frozen` do not learn.
        """
        super().__init__()
        self.stages, self.size, self.dim, self.prices = stages, size, dim, prices
        self.active, self.frozen, self.exact = min(active, dim), frozen, False
        self.register_buffer("vectors", torch.zeros(stages, size, dim))
        self.register_buffer("totals", torch.zeros(stages, size, dim))
        self.register_buffer("mass", torch.zeros(stages, size))
        """Moving averages of how many vectors of a step choose each code, and of their sums."""
        self.register_buffer("spread", torch.zeros(stages, dim))
        """Moving averages of the squares of what each stage is to quantise."""
        self.register_buffer("age", torch.zeros((), dtype=torch.long))

    def points(self) -> Tensor:
        """The vectors on their grid, (stages, size, dim)."""
        return (self.vectors * 2**POINT_BITS).round() * 2.0**-POINT_BITS

    def costs(self) -> Tensor:
        """What choosing each code is charged with, (stages, size)."""
        share = self.mass / self.mass.sum(1, keepdim=True).clamp_min(1e-9)
        bits = -torch.log2(share.clamp_min(2.0**-DEAREST / self.size))
        return bits * torch.tensor(self.prices, device=bits.device)[:, None]

    @torch.no_grad()
    def forward(self, z: Tensor) -> Quantised:
        """Quantise (N, dim, H, W). In training, unless integers are trained, the codebooks learn from it."""
        count, _, height, width = z.shape
        rest = z.detach().float().permute(0, 2, 3, 1).reshape(-1, self.dim)
        learning = self.training and not (self.exact or self.frozen)
        points, costs = self.points(), self.costs()
        codes, left = [], [rest]
        for stage in range(self.stages):
            if learning and not self.age:
                self.begin(stage, left[-1])
                points, costs = self.points(), self.costs()
            chosen = nearest(left[-1], points[stage], costs[stage])
            if learning:
                self.learn(stage, left[-1], chosen)
            codes.append(chosen)
            left.append(left[-1] - points[stage][chosen])
        if learning:
            self.age += 1
        sums = torch.stack([rest - part for part in left[1:]]).view(self.stages, count, height, width, self.dim)
        return Quantised(torch.stack(codes).view(self.stages, count, height, width), sums.permute(0, 1, 4, 2, 3))

    def mask(self, stage: int) -> Tensor:
        """1 for the features that a stage quantises, else 0; (dim,)."""
        return torch.zeros_like(self.spread[stage]).scatter(0, self.spread[stage].topk(self.active).indices, 1.0)

    def begin(self, stage: int, rest: Tensor) -> None:
        """Start a codebook from vectors (n, dim) drawn among those to be quantised, and one of zeros."""
        self.spread[stage] = rest.square().mean(0)
        self.vectors[stage] = rest[torch.randint(len(rest), (self.size,), device=rest.device)] * self.mask(stage)
        self.vectors[stage, 0] = 0
        self.mass[stage] = len(rest) / self.size
        self.totals[stage] = self.vectors[stage] * self.mass[stage][:, None]

    def learn(self, stage: int, rest: Tensor, chosen: Tensor) -> None:
        """Move the codebook of a stage towards the vectors (n, dim) that chose its codes (n,)."""
        if self.age < SETTLING:
            self.spread[stage].lerp_(rest.square().mean(0), 1 - DECAY)
        mass, totals = torch.zeros_like(self.mass[stage]), torch.zeros_like(self.totals[stage])
        mass.index_add_(0, chosen, torch.ones_like(chosen, dtype=mass.dtype))
        totals.index_add_(0, chosen, rest)
        self.mass[stage].lerp_(mass, 1 - DECAY)
        self.totals[stage].lerp_(totals, 1 - DECAY)
        if self.age % RENEWED == RENEWED - 1:
            self.renew(stage, rest)
        self.vectors[stage] = self.mask(stage) * self.totals[stage] / self.mass[stage][:, None].clamp_min(1e-6)

    def renew(self, stage: int, rest: Tensor) -> None:
        """Let codes that are not used start again from vectors at hand."""
        mean = self.mass[stage].mean()
        dead = torch.nonzero(self.mass[stage] < DEAD * mean)[:, 0]
        self.mass[stage, dead] = REBORN * mean
        self.totals[stage, dead] = REBORN * mean * rest[torch.randint(len(rest), dead.shape, device=rest.device)]

    def entropy(self) -> Tensor:
        """Bits of each stage's codes by their frequencies alone, (stages,)."""
        share = self.mass / self.mass.sum(1, keepdim=True)
        return -(share * torch.log2(share.clamp_min(1e-12))).sum(1)


def nearest(rest: Tensor, points: Tensor, costs: Tensor) -> Tensor:
    """Of vectors (n, dim), the codes (n,) of least squared distance to `points` (size, dim) and cost together."""
    offsets = points.square().sum(1) + costs
    return torch.addmm(offsets, rest, points.t(), alpha=-2).argmin(1)


def fixed_bits(stages: int, size: int) -> float:
    """Bits of `stages` codes of fixed length."""
    return stages * math.log2(size)

"""Learned priors of quantised latents: exact networks that walk from coarse groups of latents to fine ones.

A group is a number of neighboring features of one stride, at all positions or at those of one color of a checkerboard
(He et al. 2021, arXiv 2103.15306). Each gets means, scales and shapes from a state that has seen all groups before it
(top-down, Vahdat & Kautz 2020, arXiv 2007.03898; channel by channel, Minnen & Singh 2020, arXiv 2007.08739). What is
coded is the whole number

    k = round(y - mean),    and the latent is    z = mean + k

so that a latent that costs nothing is its prior's mean (Minnen et al. 2018, arXiv 1809.02736). Means are sixteenths of
a quantisation step. All of it is whole numbers in the integer network; values here are in units of 16 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.blocktransforms import GENTLENESS, KNOTS
from gencodec.models.latents import HIDDEN, LEVELS, MIDDLE, SIGNED, Cell, Distribution, Grown
from gencodec.models.quantize import ExactConv, Grid, Snap, Table
from gencodec.models.shapes import SCALES_PER_OCTAVE, SHAPE, SPREAD, Shapes

LEVELS_A_KNOT = 32
BLEND = Grid(0, LEVELS_A_KNOT, 5)
"""Shares of the knots: a quality level lies so many 32nds between two of them."""
QUALITIES = (KNOTS - 1) * LEVELS_A_KNOT + 1
"""Quality levels, from 0."""
LATENT = Grid(-8191, 8191, 8)
"""Latents: up to 512 quantisation steps."""
SQUEEZED = Grid(-639, 639, 6)
OCTAVES_A_KNOT = 6.0 / (KNOTS - 1)
"""Of gains, from knot to knot, as they begin: as the root of what errors cost."""
TOP, COARSE, FINE = 5, 4, 3
"""Scales: strides 32, 16 and 8."""


def blend_of(level: Tensor) -> Tensor:
    """Shares of the knots (N, KNOTS) for quality levels (N,) from 0 to QUALITIES - 1."""
    knots = torch.arange(KNOTS, device=level.device)
    return (1 - (level[:, None] / LEVELS_A_KNOT - knots).abs()).clamp_min(0)


def squeezed(z: Tensor) -> Tensor:
    """Signed logarithms: so far as latents matter to a state, small ones do."""
    return torch.sign(z) * torch.log2(1 + LEVELS * z.abs())


@dataclass(frozen=True)
class Group:
    """Latents that are coded at once: features `first` to `last - 1` of a scale, at positions of one `parity`."""

    scale: int
    first: int
    last: int
    parity: int | None = None
    """Of the sum of row and column; None: all positions."""

    @property
    def latents(self) -> int:
        """Features."""
        return self.last - self.first

    def mask(self, height: int, width: int, device: torch.device | None = None) -> Tensor:
        """1 where the group has latents, (height, width)."""
        if self.parity is None:
            return torch.ones(height, width, device=device)
        rows, columns = (torch.arange(n, device=device) for n in (height, width))
        return ((rows[:, None] + columns[None]) % 2 == self.parity).float()


class Learn(nn.Module):
    """The state (N, width, H, W) and latents of a group, zeros where there are none -> the state that knows them."""

    def __init__(self, latents: int, width: int):
        super().__init__()
        self.squeezed = Table(squeezed, LATENT, SQUEEZED)
        self.seen = ExactConv([(latents, SQUEEZED)], [(width, SIGNED)], 3)
        self.added = Snap(HIDDEN)
        with torch.no_grad():
            self.seen.weight.mul_(0.5)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        return self.added(h + self.seen(self.squeezed(z)))


class Head(nn.Module):
    """The state and the knots' shares -> the prior of a group's latents: rows (N, 3 * latents, H, W).

    These are means, scales and shapes. `near` (N, latents, H, W), if given, is a linear prediction that is added to the
    means.
    """

    def __init__(self, latents: int, width: int):
        super().__init__()
        self.latents = latents
        targets = [(latents, LATENT), (latents, SPREAD), (latents, SHAPE)]
        self.conv = ExactConv([(width, HIDDEN), (KNOTS, BLEND)], targets, 1)
        self.summed = Snap(LATENT)
        with torch.no_grad():
            self.conv.weight.mul_(0.1)
            self.conv.weight[:latents] *= 0.1
            spread = slice(latents, 2 * latents)
            finer = torch.arange(KNOTS) - (KNOTS - 1.0)
            self.conv.weight[spread, width:, 0, 0] = finer * (OCTAVES_A_KNOT * SCALES_PER_OCTAVE / 8)
            self.conv.bias[spread] = 36 / 8
            self.conv.bias[2 * latents :] = 3.5 / 2

    def forward(self, h: Tensor, blend: Tensor, near: Tensor | None = None) -> Tensor:
        rows = self.conv(torch.cat([h, blend], 1))
        if near is None:
            return rows
        return torch.cat([self.summed(rows[:, : self.latents] + near), rows[:, self.latents :]], 1)


class First(nn.Module):
    """The blend of knots (N, KNOTS, H, W) at every position -> the first state, and the prior of the first group."""

    def __init__(self, group: Group, width: int):
        super().__init__()
        self.start = ExactConv([(KNOTS, BLEND)], [(width, HIDDEN)], 1)
        self.head = Head(group.latents, width)

    def forward(self, blend: Tensor) -> tuple[Tensor, Tensor]:
        h = self.start(blend)
        return h, self.head(h, blend)


class Next(nn.Module):
    """The state, the latents of the group before, and the blend -> the state, and the prior of a group of that scale.

    Of the two halves of a checkerboard the second has means near those of its neighbors.
    """

    def __init__(self, before: Group, group: Group, width: int, expansion: int, smooth: int):
        """`smooth`: of the latents, so many begin with their neighbors' mean."""
        super().__init__()
        self.learn, self.cell = Learn(before.latents, width), Cell(width, expansion, 3, 0)
        self.head = Head(group.latents, width)
        halves = before.parity is not None
        self.near = Linear(before.latents, group.latents, 3) if halves else None
        if self.near is not None:
            with torch.no_grad():
                for i in range(smooth):
                    cross = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
                    self.near.weight[i, i] = cross / (4 * GENTLENESS)

    def forward(self, h: Tensor, z: Tensor, blend: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(self.learn(h, z))
        return h, self.head(h, blend, None if self.near is None else self.near(z))


class Enter(nn.Module):
    """The state and all latents of the next coarser scale, and the blend where it leads to -> a finer state.

    And the prior of the first group there. `doublings` of the resolution: two where a scale has no latents.
    """

    def __init__(self, known: int, group: Group, width: int, expansion: int, doublings: int, smooth: int):
        """`smooth`: so many latents begin with what the coarser latents say of them as their mean."""
        super().__init__()
        self.learn = Learn(known, width)
        self.before = Cell(width, expansion, 3, 0)
        self.grown = Grown(width, width)
        self.again = nn.Sequential(Snap(HIDDEN), Grown(width, width)) if doublings == 2 else None
        self.quality = ExactConv([(KNOTS, BLEND)], [(width, SIGNED)], 1)
        self.added, self.cell = Snap(HIDDEN), Cell(width, expansion, 3, 0)
        self.head = Head(group.latents, width)
        self.near = Linear(known, 4**doublings * group.latents, 1)
        with torch.no_grad():
            places = 4**doublings
            for i in range(smooth):
                self.near.weight[places * i : places * (i + 1), i, 0, 0] = 2 * (3.0 - doublings) / GENTLENESS

    def forward(self, h: Tensor, z: Tensor, blend: Tensor) -> tuple[Tensor, Tensor]:
        h, near = self.grown(self.before(self.learn(h, z))), F.pixel_shuffle(self.near(z), 2)
        if self.again is not None:
            h, near = self.again(h), F.pixel_shuffle(near, 2)
        h = self.cell(self.added(h + self.quality(blend)))
        return h, self.head(h, blend, near)


class Linear(ExactConv):
    """Linear predictions of latents from others: steps of training change them little, for latents are large."""

    def __init__(self, known: int, latents: int, kernel: int):
        super().__init__([(known, LATENT)], [(latents, LATENT)], kernel, weight_bits=14)
        nn.init.normal_(self.weight, std=1e-3 / GENTLENESS)

    def effective(self) -> Tensor:
        return super().effective() * GENTLENESS


class Hierarchy(nn.Module):
    """The priors of all groups, and what coding latents costs."""

    def __init__(self, top: int, coarse: int, fine: tuple[int, ...], width: int, expansion: int):
        """Latents of the strides 32 and 16, of which the second are coded in two halves, and of groups of stride 8."""
        super().__init__()
        self.width = width
        self.groups = [Group(TOP, 0, top)]
        if coarse:
            self.groups += [Group(COARSE, 0, coarse, parity) for parity in (0, 1)]
        first = 0
        for latents in fine:
            self.groups.append(Group(FINE, first, first + latents))
            first += latents
        self.latents = {TOP: top, COARSE: coarse, FINE: first}
        self.steps = nn.ModuleList([First(self.groups[0], width)])
        for before, group in zip(self.groups, self.groups[1:], strict=False):
            if before.scale == group.scale:
                step = Next(before, group, width, expansion, 3 if group.scale == COARSE else 0)
            else:
                doublings = before.scale - group.scale
                smooth = 3 if before.scale == TOP else 0
                step = Enter(self.latents[before.scale], group, width, expansion, doublings, smooth)
            self.steps.append(step)
        self.shapes = Shapes()
        self.exact = False

    def walk(self, wanted: dict[int, Tensor], blend: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """Latents as a decoder sees them, by scale, and the bits that each tile costs (N,).

        `wanted`: continuous latents (N, features, H, W) by scale, in units; `blend` (N, KNOTS). Bits are those of
        latents with uniform noise in the place of rounding (Balle et al. 2017, arXiv 1611.01704), and gradients pass
        the rounding unchanged.
        """
        known = {scale: torch.zeros_like(y) for scale, y in wanted.items()}
        h, before, costs = blend, None, []
        for group, step in zip(self.groups, self.steps, strict=True):
            y = wanted[group.scale][:, group.first : group.last]
            plane = blend[:, :, None, None].expand(-1, -1, *y.shape[2:])
            if before is None:
                h, rows = step(plane)
            elif before.scale == group.scale:
                h, rows = step(h, known[before.scale][:, before.first : before.last], plane)
            else:
                h, rows = step(h, known[before.scale], plane)
            mean, _, _ = rows.chunk(3, 1)
            mask = group.mask(*y.shape[2:], device=y.device)
            costs.append((self.bits(y - mean, rows) * mask).sum((1, 2, 3)))
            z = (mean + torch.round(LEVELS * (y - mean)) / LEVELS).detach() + (y - y.detach())
            z = torch.clamp(z, LATENT.low * LATENT.step, LATENT.high * LATENT.step)
            behind = self.latents[group.scale] - group.last
            known[group.scale] = known[group.scale] + F.pad(z * mask, (0, 0, 0, 0, group.first, behind))
            before = group
        return known, torch.stack(costs).sum(0)

    def bits(self, away: Tensor, rows: Tensor) -> Tensor:
        """Code lengths of latents that are so far `away` from their means, in units; all (N, latents, H, W).

        In training those of latents with uniform noise, which are longer where distributions are narrow.
        """
        steps = LEVELS * away
        steps = steps + torch.rand_like(away) - 0.5 if self.training else torch.round(steps)
        d = Distribution.of(rows, self.exact)
        middle = MIDDLE * LEVELS
        return self.shapes.bits(steps + middle, torch.full_like(steps, middle), d.scale, d.shape)

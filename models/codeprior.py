"""Gated PixelCNN over maps of codes (van den Oord et al. 2016, arXiv 1606.05328), whose integer form is exact.

A map of codes is seen as the map of their codebook's vectors. A vertical stack sees the rows above a position, a
horizontal one what is left of it. What is known of the whole map, the latents of earlier stages and of a coarser map,
enters all gates, as in the paper's equation 4. With attention a position also reads from all earlier ones (Razavi et
al. 2019, arXiv 1906.00446, section 3.2). Out come logits to base 2 in sixteenths; `code_bits` says what codes cost.

All arrays are feature-first, (features, N, height, width) on maps or (features, positions), so that every layer is a
matrix product of features that the caller gathers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencodec.models.autoregressive import GATED, HIDDEN, SIGNED, STATE, SUM, Gate
from gencodec.models.codebooks import POINT_BITS, Codebooks, Quantised
from gencodec.models.quantize import EXACT_LIMIT, ExactLinear, Grid, Group, Snap

LATENT = Grid(-1023, 1023, 3)
"""Latents as priors see them."""
PLAIN = Grid(-2047, 2047, 7)
EMBEDDED = Grid(-127, 127, 5)
CONTEXT = Grid(0, 255, 5)
"""Coarse, for the sums of many of them to stay in bounds with weights that are fine."""
LOGIT = Grid(-512, 511, 7)
"""Logits in units of 8 binary digits, in which they learn as fast as other features do: whole numbers are sixteenths
of a digit."""
LOGIT_UNIT = 8.0
SCORE_BITS = 4
"""Scores of attention are sixteenths of binary digits too."""
TOTAL_BITS = 16
FINE_BITS = 24
"""Bits of the largest entry of the table of powers of two."""
POWERS = 384
"""Entries of that table: for distances of 0, 1/16, ... from the largest logit; further ones count as nothing."""

ABOVE = tuple((up, dx) for up in (1, 2) for dx in range(-2, 3))
"""What the vertical stack's first layer sees: (rows up, column offset)."""
LATER = tuple((up, dx) for up in (0, 1) for dx in range(-1, 2))
"""What its later layers see, of its own features."""
LEFT = ((0, -3), (0, -2), (0, -1))
"""What the horizontal stack's first layer sees."""
BESIDE = ((0, -1), (0, 0))
"""What its later layers see, of its own features."""
AROUND = tuple((up, dx) for up in (1, 0, -1) for dx in (-1, 0, 1))
"""What is known around a position."""


@dataclass(frozen=True)
class PriorSizes:
    """Sizes of a prior."""

    codes: int
    """Of the codebook."""
    dim: int
    """Features of its vectors."""
    hidden: int = 32
    layers: int = 3
    embed: int = 24
    context: int = 32
    """Features of what is known."""
    output: int = 64
    known: int = 0
    """Latents that are known at every position: the sum of earlier stages'."""
    lifted: int = 0
    """Latents that are known at every 2 x 2 positions."""
    attention: int = 0
    """Features of queries, keys and values."""
    weight_bits: int = 12
    """Of the integer network's weights."""


def prior_sizes(config: object, **more: int) -> PriorSizes:
    """The sizes that the config of a network names for all its priors, and `more`."""
    names = ("codes", "dim", "hidden", "layers", "embed", "context", "output", "weight_bits")
    return PriorSizes(**{name: getattr(config, name) for name in names}, **more)


Dense = Callable[[list[Group], list[Group]], ExactLinear]


def dense(s: PriorSizes) -> Dense:
    """Makes layers whose sums may use all the room that there is: nothing changes their weights later."""
    return partial(ExactLinear, weight_bits=s.weight_bits, room=EXACT_LIMIT)


class Known(nn.Module):
    """What is known of the whole map -> what it adds to the gates of every layer; parts are called one by one."""

    def __init__(self, s: PriorSizes):
        super().__init__()
        c, layer = s.context, dense(s)
        self.enter = layer([(s.known, LATENT)], [(c, PLAIN)]) if s.known else None
        self.lift = layer([(s.lifted, LATENT)], [(4 * c, PLAIN)]) if s.lifted else None
        self.joined = Snap(CONTEXT)
        self.around = layer([(len(AROUND) * c, CONTEXT)], [(c, HIDDEN)])
        self.spread = layer([(c, HIDDEN)], [(s.layers * 2 * s.hidden, SUM)])
        for part in (self.enter, self.lift):
            if part is not None:
                damp(part, 0.1)

    def forward(self, known: Tensor | None, lifted: Tensor | None) -> Tensor:
        """(layers * 2 * hidden, N, h, w) of latents (known, N, h, w) and (lifted, N, h / 2, w / 2)."""
        parts = []
        if self.enter is not None and known is not None:
            parts.append(self.enter(known))
        if self.lift is not None and lifted is not None:
            parts.append(quartered(self.lift(lifted)))
        joined = self.joined(sum(parts[1:], parts[0]))
        return self.spread(self.around(taps(joined, AROUND)))


class Attention(nn.Module):
    """Causal attention with one head: what earlier positions hold, weighted by the softmax to base 2 of products.

    A position's key and value are made when its code is known; its query from what is known before.
    """

    def __init__(self, s: PriorSizes):
        super().__init__()
        self.width, self.exact = s.attention, False
        self.query = dense(s)([(s.output, HIDDEN)], [(s.attention, SIGNED)])
        told: list[Group] = [(s.output, HIDDEN), (s.embed, EMBEDDED)]
        self.memory = dense(s)(told, [(2 * s.attention, SIGNED)])

    def forward(self, features: Tensor, embedded: Tensor) -> Tensor:
        """What each position reads, (attention, N, h, w), of features (output, ...) and embedded codes (embed, ...)."""
        shape = features.shape[1:]
        query = self.query(features)
        key, value = self.memory(torch.cat([features, embedded])).chunk(2, 0)
        q, k, v = (x.flatten(2).transpose(0, 1) for x in (query, key, value))  # (N, width, positions)
        read = read_smooth(q, k, v)
        if self.exact:
            with torch.no_grad():
                exact = read_exact(*(x.double() * 2**SIGNED.bits for x in (q, k, v))).to(read) * SIGNED.step
            read = read + (exact - read).detach()
        return read.transpose(0, 1).reshape(self.width, *shape)


def read_smooth(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention (N, width, positions) of each position to those before it; the first one reads zeros."""
    scores = torch.einsum("nai,naj->nij", q, k)
    earlier = torch.ones_like(scores[0]).tril(-1)
    scores = scores.masked_fill(earlier == 0, -1e30)
    power = torch.exp2(scores - scores.detach().amax(2, keepdim=True)) * earlier
    return torch.einsum("nij,naj->nai", power / power.sum(2, keepdim=True).clamp_min(1e-30), v)


def read_exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`read_smooth` in whole numbers (float64, all below 2**53), as `gencodec.codec.codeprior` computes it."""
    scores = torch.floor(torch.einsum("nai,naj->nij", q, k) * 2.0 ** (SCORE_BITS - 2 * SIGNED.bits))
    earlier = torch.ones_like(scores[0], dtype=torch.bool).tril(-1)
    scores = scores.masked_fill(~earlier, -torch.inf)
    distance = scores.amax(2, keepdim=True) - scores
    distance = torch.where(earlier, distance, POWERS).clamp_max(POWERS)
    power = torch.cat([powers(), torch.zeros(1)]).double()[distance.long()]
    share = torch.floor(power * (1 << TOTAL_BITS) / power.sum(2, keepdim=True).clamp_min(1))
    return torch.floor(torch.einsum("nij,naj->nai", share, v) * 2.0**-TOTAL_BITS)


class CodePrior(nn.Module):
    """Logits (codes, N, h, w) of the codes of a map, each given those before it and what is known."""

    def __init__(self, sizes: PriorSizes):
        super().__init__()
        self.sizes = s = sizes
        layer = dense(s)
        sums, gated, state = [(2 * s.hidden, SUM)], (s.hidden, GATED), (s.hidden, STATE)
        self.embed = layer([(s.dim, LATENT)], [(s.embed, EMBEDDED)])
        damp(self.embed, 0.1)
        self.known = Known(s) if s.known or s.lifted else None
        seen = [[(len(ABOVE) * s.embed, EMBEDDED)], *[[(len(LATER) * s.hidden, GATED)]] * (s.layers - 1)]
        self.vertical = nn.ModuleList(layer(groups, sums) for groups in seen)
        self.links = nn.ModuleList(layer(sums, sums) for _ in range(s.layers))
        beside = [[(len(LEFT) * s.embed, EMBEDDED)], *[[(len(BESIDE) * s.hidden, STATE)]] * (s.layers - 1)]
        self.horizontal = nn.ModuleList(layer(groups, sums) for groups in beside)
        self.residuals = nn.ModuleList(layer([gated], [state]) for _ in range(s.layers - 1))
        self.skips = layer([(s.layers * s.hidden, GATED)], [(s.output, HIDDEN)])
        self.attention = Attention(s) if s.attention else None
        read: list[Group] = [(s.attention, SIGNED)] if s.attention else []
        self.head = layer([(s.output, HIDDEN), *read], [(s.codes, LOGIT)])
        damp(self.head, 0.05)
        self.gate, self.state, self.sum = Gate(), Snap(STATE), Snap(SUM)

    def forward(self, own: Tensor, known: Tensor | None = None, lifted: Tensor | None = None) -> Tensor:
        """`own`: vectors of the map's codes (dim, N, h, w); `known` and `lifted` as `Known` says; on LATENT's grid."""
        embedded = self.embed(own)
        above = self.above(embedded)
        if self.known is not None:
            given = self.known(known, lifted).split(2 * self.sizes.hidden)
            above = [self.sum(part + more) for part, more in zip(above, given, strict=True)]
        features = self.features(taps(embedded, LEFT), above)
        if self.attention is not None:
            features = torch.cat([features, self.attention(features, embedded)])
        return self.head(features)

    def above(self, embedded: Tensor) -> list[Tensor]:
        """What the vertical stack gives each layer of the horizontal one, (2 * hidden, N, h, w) each."""
        sums, result = None, []
        for layer, link in zip(self.vertical, self.links, strict=True):
            around = taps(embedded, ABOVE) if sums is None else taps(self.gate(*sums.chunk(2, 0)), LATER)
            sums = layer(around)
            result.append(link(sums))
        return result

    def features(self, left: Tensor, above: list[Tensor]) -> Tensor:
        """What the logits are made of, (output, N, h, w)."""
        along, state = self.horizontal[0](left), None
        skips = []
        for layer, given in enumerate(above):
            if state is not None:
                along = self.horizontal[layer](taps(state, BESIDE))
            skips.append(self.gate(*(along + given).chunk(2, 0)))
            if layer + 1 < len(above):
                change = self.residuals[layer](skips[-1])
                state = change if state is None else self.state(state + change)
        return self.skips(torch.cat(skips))


def damp(layer: ExactLinear, factor: float) -> None:
    """Let a layer begin with smaller weights."""
    with torch.no_grad():
        layer.weight.mul_(factor)


def taps(x: Tensor, offsets: tuple[tuple[int, int], ...]) -> Tensor:
    """Features (C, N, h, w) at offsets (rows up, columns to the right), zeros outside: (offsets * C, N, h, w)."""
    height, width = x.shape[-2:]
    reach = max(max(abs(up), abs(dx)) for up, dx in offsets)
    canvas = F.pad(x, (reach, reach, reach, reach))
    parts = [canvas[..., reach - up : reach - up + height, reach + dx : reach + dx + width] for up, dx in offsets]
    return torch.cat(parts)


def quartered(x: Tensor) -> Tensor:
    """Feature 4 c + 2 i + j of a position (4 C, N, h, w) to its quarter (i, j): (C, N, 2 h, 2 w)."""
    return F.pixel_shuffle(x.transpose(0, 1), 2).transpose(0, 1)


def powers() -> Tensor:
    """The table of `POWERS` whole numbers 2**(24 - d / 16), rounded."""
    distance = torch.arange(POWERS, dtype=torch.float64) / (1 << SCORE_BITS)
    return torch.round(torch.exp2(FINE_BITS - distance))


def code_bits(logits: Tensor, codes: Tensor) -> Tensor:
    """What codes (N, h, w) cost by logits (size, N, h, w): every code has at least one of 2**16."""
    size, total = len(logits), 1 << TOTAL_BITS
    share = torch.softmax(logits.float() * (LOGIT_UNIT * math.log(2)), 0)
    chosen = share.gather(0, codes[None])[0]
    return TOTAL_BITS - torch.log2(1 + (total - size) * chosen)


def stage_bits(prior: nn.Module, books: Codebooks, quantised: Quantised, stage: int, *coarser: Tensor) -> Tensor:
    """What every code of a stage costs by its prior, (N, h, w), given `coarser` latents as priors see them."""
    codes = quantised.codes[stage]
    own = seen(books.points()[stage][codes].permute(0, 3, 1, 2))
    known = seen(quantised.sums[stage - 1]) if stage else None
    return code_bits(prior(own, known, *coarser), codes)


def seen(latents: Tensor) -> Tensor:
    """Latents (N, dim, h, w) as priors see them, feature-first and floored to LATENT's grid, without a gradient."""
    fine = torch.round(latents.detach() * 2**POINT_BITS)
    coarse = torch.floor((fine + (1 << (POINT_BITS - LATENT.bits - 1))) * 2.0 ** (LATENT.bits - POINT_BITS))
    return (coarse.clamp(LATENT.low, LATENT.high) * LATENT.step).transpose(0, 1)

"""Latent traversals: what a decoder makes of latents of which one moves (Higgins et al. 2017, figure 1). No torch.

A row has one latent's value in equal steps from -3 to 3 standard deviations of its prior, and all other latents as they
are. `beta-vae-sprites` has ten latents for a picture. The lossy hierarchies have latents at every position of several
strides: here those of one feature at stride 32 move together at all positions, and finer latents follow as their means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.codecs import HIERARCHIES, SPRITES, pixels_of
from gencodec.codec.tables import SCALES_PER_OCTAVE
from gencodec.codec.tiling import Box
from gencodec.errors import InvalidFile, UsageError

if TYPE_CHECKING:
    from gencodec.codec.hierarchy import Group, HierarchyCodec, Prior
    from gencodec.runtime import Model

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]
Index = NDArray[np.int64]

FORMAT = "1"
SPAN = 3.0
"""Standard deviations to either side of the mean."""
MOST_STEPS = 256
MOST_ROWS = 10
SIDE = 128
"""Side of the pictures of lossy hierarchies."""
BATCH = 256
"""Pictures that are decoded at a time."""
NARROWEST = 0.5
"""Least spread, in quantisation steps, of a latent that is moved by standard deviations."""
SCALE_OF_ONE = 24
"""Scale index of a width of one, as in `gencodec.models.shapes`."""


def traversal(model: Model, steps: int, seed: int = 0, temperature: float = 1.0) -> Pixels:
    """Pictures (rows, steps, side, side, 3), a row for a latent.

    For `beta-vae-sprites` the latents that do not move are a sample of the prior, by the `seed`, whose standard
    deviations are multiplied by the `temperature`. For lossy hierarchies they are the prior's means, and the rows are
    those of the features that change pictures most, in that order. Raises `UsageError` for other families.
    """
    if not 2 <= steps <= MOST_STEPS:
        raise UsageError(f"a latent is drawn in from 2 to {MOST_STEPS} steps, not {steps}")
    away = np.linspace(-SPAN, SPAN, steps)
    if model.family == SPRITES:
        return of_sprites(SpriteDecoder(model), away, seed, temperature)
    if model.family in HIERARCHIES:
        from gencodec.codec.hierarchy import HierarchyCodec

        return of_hierarchy(HierarchyCodec(model), away)
    raise UsageError(f"the family {model.family} of the model {model.card.name} has no latents to traverse")


# sprites


class SpriteDecoder:
    """Latents -> pictures, and the prior of the latents."""

    def __init__(self, model: Model):
        if model.format != FORMAT:
            raise InvalidFile(
                f"the model {model.card.name} has format {model.format}, and this gencodec reads {FORMAT}"
            )
        self.model = model
        rows = model.call("prior", np.ones((1, 1, 1, 1), np.float32))[0].ravel()
        self.mean, self.deviation = np.split(rows, 2)

    def sampled(self, count: int, seed: int, temperature: float) -> Array:
        """Latents (count, latents) of the prior; below 1, the `temperature` narrows it."""
        noise = np.random.default_rng(seed).standard_normal((count, len(self.mean)))
        return (self.mean + temperature * self.deviation * noise).astype(np.float32)

    def pictures(self, latents: Array) -> Pixels:
        """The pixels' means (n, side, side, 3) for latents (n, latents)."""
        parts = [latents[i : i + BATCH, :, None, None] for i in range(0, len(latents), BATCH)]
        white = np.concatenate([self.model.run_float("decode", np.ascontiguousarray(z))[0] for z in parts])
        levels = np.rint(255 * white.transpose(0, 2, 3, 1)).astype(np.uint8)
        return np.repeat(levels, 3, 3)


def of_sprites(decoder: SpriteDecoder, away: NDArray[np.float64], seed: int, temperature: float) -> Pixels:
    """A row for every latent."""
    start = decoder.sampled(1, seed, temperature)
    count, steps = start.shape[1], len(away)
    latents = np.tile(start, (count, steps, 1))
    each = np.arange(count)
    latents[each, :, each] = decoder.mean[:, None] + decoder.deviation[:, None] * away
    pictures = decoder.pictures(latents.reshape(count * steps, count))
    return pictures.reshape(count, steps, *pictures.shape[1:])


# lossy hierarchies


class Moved:
    """A way through the groups on which one feature of the first lies beside its means, and all else on them."""

    def __init__(self, feature: int, away: float):
        """`away`: standard deviations, rounded to whole quantisation steps."""
        self.feature, self.away = feature, away
        self.first = True

    def steps(self, group: Group, where: NDArray[np.bool_], prior: Prior) -> Index:  # noqa: ARG002
        """As `gencodec.codec.hierarchy.Pass` has it."""
        first, self.first = self.first, False
        if not first:
            return np.zeros(len(prior.mean), np.int64)
        moves = np.nonzero(where)[0] == self.feature
        return np.where(moves, np.rint(self.away * deviations(prior.scale)), 0).astype(np.int64)


def deviations(scale: Index) -> NDArray[np.float64]:
    """About the standard deviations, in quantisation steps, of distributions with scale indices (n,)."""
    return np.maximum(NARROWEST, np.exp2((scale - SCALE_OF_ONE) / SCALES_PER_OCTAVE))


def of_hierarchy(codec: HierarchyCodec, away: NDArray[np.float64]) -> Pixels:
    """Rows of the features that change pictures most between the ends, at the quality level in the middle."""
    ends = (away[0], away[-1])
    effects = []
    for feature in range(codec.groups[0].last):
        low, high = (decoded(codec, Moved(feature, end)).astype(np.float64) for end in ends)
        effects.append(np.square(high - low).mean())
    strongest = np.argsort(effects, kind="stable")[::-1][:MOST_ROWS]
    return np.stack([np.stack([decoded(codec, Moved(int(f), a)) for a in away]) for f in strongest])


def decoded(codec: HierarchyCodec, way: Moved) -> Pixels:
    """The picture (SIDE, SIDE, 3) of latents as a way has them."""
    level = (codec.levels - 1) // 2
    latents = codec.walk(way, level, SIDE, SIDE, codec.model)
    return pixels_of(codec.synthesized(latents, level, Box(0, 0, SIDE, SIDE))[None])[0]

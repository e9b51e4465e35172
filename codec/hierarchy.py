"""The lossy codec of `nvae-lossy` and `beta-vae`: pictures <-> latents <-> bytes.

An analysis of floating point gives latents in quantisation steps. Exact graphs then walk through their groups, from
coarse to fine, and give each its means, scales and shapes; what is coded is how many steps a latent lies from its mean.
Encoder and decoder take the same walk. A synthesis of floating point makes pixels of the latents. The byte layout is in
docs/format-lossy.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.codecs import pixels_of
from gencodec.codec.coder import IntervalCoder, RandomCoder
from gencodec.codec.groups import CODING_ORDER, Pixels, Progress, Tracker, packed, parsed, run_all
from gencodec.codec.lossy import LossyDecoded, LossyEncoded, Region, checksum
from gencodec.codec.sparse import STEPS, ZERO, SparseTables
from gencodec.codec.tables import Tables, scale_shift
from gencodec.codec.tiling import Box, Tiling, grown
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

Array = NDArray[np.float32]
Index = NDArray[np.int64]

FORMAT = "1"
LEVEL = struct.Struct("<B")
COARSEST = 5
UNIT = 1 << COARSEST
"""Pixels between the coarsest latents: sides of tiles are multiples of it."""
TILE = 512
"""Greatest side of a tile that the encoder chooses: tiles are coded each for itself."""
WINDOW = 1024
"""Side of the parts of a picture that go through a transform at a time."""
UNITS = 256.0
"""Sixteenths of a step in a unit of the analysis."""
LARGEST = 8191
"""Of latents, in sixteenths."""
FARTHEST = 127
"""Steps from the mean that a symbol can state; the last one says that a number follows by which they are more."""
MORE = 1024
"""Such numbers are below this."""
SAMPLED = 0.6
"""The quality level of samples, as a share of the highest."""
ERROR_PRICE = 30.0
"""Bits that the square of a quantisation step is worth, as far as the encoder looks."""


@dataclass(frozen=True)
class Group:
    """Latents that are coded at once: features `first` to `last - 1` of a scale, at positions of one parity."""

    scale: int
    first: int
    last: int
    parity: int | None

    def places(self, height: int, width: int) -> NDArray[np.bool_]:
        """Which positions have latents of the group, (height, width)."""
        if self.parity is None:
            return np.ones((height, width), bool)
        rows, columns = np.ogrid[:height, :width]
        return (rows + columns) % 2 == self.parity


@dataclass(frozen=True)
class Prior:
    """What the walk says of latents that are coded, (n,) each: means in sixteenths, scale and shape indices."""

    mean: Index
    scale: Index
    shape: Index


class Pass(Protocol):
    """One way through the groups: where latents come from."""

    def steps(self, group: Group, where: NDArray[np.bool_], prior: Prior) -> Index:
        """How many quantisation steps latents lie from their means, (n,); `where` (features, height, width)."""
        ...


class Encoding:
    """Steps from wanted latents, in sixteenths of a step by scale, which are pushed when the walk is over."""

    def __init__(self, tables: SparseTables, wanted: dict[int, Array]):
        self.tables, self.wanted = tables, wanted
        self.known: list[tuple[Index, Prior]] = []

    def steps(self, group: Group, where: NDArray[np.bool_], prior: Prior) -> Index:
        away = (self.wanted[group.scale][group.first : group.last][where] - prior.mean) / STEPS
        k = self.cheaper(away, np.rint(away).astype(np.int64), prior)
        k = np.clip(k, 1 - FARTHEST - MORE, FARTHEST + MORE - 1)
        self.known.append((k, prior))
        return k

    def cheaper(self, away: NDArray[np.floating], k: Index, prior: Prior) -> Index:
        """The numbers `k` of steps, or one less where that saves more bits than the greater error is worth."""
        less = k - np.sign(k)
        row = self.tables.rows(prior.scale, prior.shape)
        most, fewer = (self.tables.bits[row, np.clip(n, -FARTHEST, FARTHEST) + ZERO] for n in (k, less))
        worse = (away - less) ** 2 - (away - k) ** 2
        return np.where(most - fewer > ERROR_PRICE * worse, less, k)

    def stream(self) -> tuple[bytes, float]:
        """The coder's bytes, and the code length in bits."""
        coder = IntervalCoder()
        for k, prior in reversed(self.known):
            near = np.clip(k, -FARTHEST, FARTHEST)
            far = np.abs(near) == FARTHEST
            coder.push_uniform(np.abs(k - near)[far], MORE)
            self.tables.push(coder, near, prior.scale, prior.shape)
        return coder.to_bytes(), coder.bits


class Decoding:
    """Steps from a coder's bytes."""

    def __init__(self, tables: SparseTables, stream: bytes, last: int):
        """`last`: the finest scale that is decoded; finer latents are their means."""
        self.tables, self.coder, self.last = tables, IntervalCoder.from_bytes(stream), last

    def steps(self, group: Group, where: NDArray[np.bool_], prior: Prior) -> Index:  # noqa: ARG002
        if group.scale < self.last:
            return np.zeros(len(prior.mean), np.int64)
        k = np.clip(self.tables.pop(self.coder, prior.scale, prior.shape), -FARTHEST, FARTHEST)
        far = np.abs(k) == FARTHEST
        k[far] += np.sign(k[far]) * self.coder.pop_uniform(MORE, int(far.sum()))
        return k

    def finish(self) -> None:
        """Raise `InvalidFile` unless everything has been decoded."""
        if not self.coder.empty:
            raise InvalidFile("the coded pixels are damaged: a stream does not end where its latents do")


class Sampling:
    """Steps at random, of distributions that are so many scale indices wider."""

    def __init__(self, tables: SparseTables, coder: RandomCoder, wider: int):
        self.tables, self.coder, self.wider = tables, coder, wider

    def steps(self, group: Group, where: NDArray[np.bool_], prior: Prior) -> Index:  # noqa: ARG002
        scale = np.clip(prior.scale + self.wider, 0, len(self.tables.tables.rate) - 1)
        return self.tables.pop(self.coder, scale, prior.shape)


class HierarchyCodec:
    """The two directions, for one model."""

    def __init__(self, model: Model):
        if model.format != FORMAT:
            raise InvalidFile(
                f"the model {model.card.name} has format {model.format}, and this gencodec reads {FORMAT}"
            )
        self.model = model
        tables = Tables(model.constant("shapes.cdf"), model.constant("shapes.rate"))  # type: ignore[arg-type]
        self.tables = SparseTables(tables)
        try:
            config = model.config
            self.groups = [Group(g["scale"], g["first"], g["last"], g["parity"]) for g in config["groups"]]
            self.latents = {int(scale): int(count) for scale, count in config["latents"]}
            self.knots, self.each = int(config["knots"]), int(config["levels_a_knot"])
            self.margin, self.skip, self.tile = (int(config[name]) for name in ("margin", "skip", "tile"))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFile(f"the model {model.card.name} does not say how it is built") from error

    @property
    def levels(self) -> int:
        """Quality levels, from 0."""
        return (self.knots - 1) * self.each + 1

    @cached_property
    def finest(self) -> int:
        """The finest scale of latents."""
        return min(self.latents)

    def blend(self, level: int, height: int = 1, width: int = 1) -> Array:
        """Shares of the knots, which sum to the levels between two of them, (1, knots, height, width)."""
        away = np.abs(level - self.each * np.arange(self.knots))
        shares = np.clip(self.each - away, 0, None).astype(np.float32)
        return np.ascontiguousarray(np.broadcast_to(shares[None, :, None, None], (1, self.knots, height, width)))

    # transforms

    def analyzed(self, planes: NDArray[np.uint8], level: int) -> dict[int, Array]:
        """Latents in sixteenths of a quantisation step, by scale, of planes (3, height, width) with sides of UNIT."""
        height, width = planes.shape[1:]
        found = {s: np.empty((n, height >> s, width >> s), np.float32) for s, n in self.latents.items()}
        shares = self.blend(level) / np.float32(self.each)
        for box, area in self.windows(Box(0, 0, width, height), width, height):
            part = planes[None, :, area.y : area.y + area.height, area.x : area.x + area.width]
            pixels = (part.astype(np.float32) - np.float32(127.5)) / np.float32(64)
            given = self.model.run_float("analysis", pixels, shares)
            for scale, latents in zip(self.latents, given, strict=True):
                own, place = (crop(b, scale) for b in (moved(box, area), box))
                found[scale][:, *place] = np.clip(latents[0][:, *own] * UNITS, -LARGEST, LARGEST)
        return found

    def synthesized(self, latents: dict[int, NDArray[np.int16]], level: int, wanted: Box) -> NDArray[np.uint8]:
        """Planes (3, height, width) of a box, with sides of UNIT, of latents of a whole picture."""
        finest = latents[self.finest].shape[1:]
        height, width = (n << self.finest for n in finest)
        planes = np.empty((3, wanted.height, wanted.width), np.uint8)
        shares = self.blend(level) / np.float32(self.each)
        for box, area in self.windows(wanted, width, height):
            given = [z[None, :, *crop(area, s)].astype(np.float32) / np.float32(UNITS) for s, z in latents.items()]
            pixels = self.model.run_float("synthesis", *given, shares)[0][0]
            own, place = (crop(b, 0) for b in (moved(box, area), moved(box, wanted)))
            planes[:, *place] = np.clip(np.rint(pixels[:, *own] * 64 + np.float32(127.5)), 0, 255)
        return planes

    def windows(self, wanted: Box, width: int, height: int) -> list[tuple[Box, Box]]:
        """Parts of a box, and what a transform must see for each: with a margin, within the picture."""
        found = []
        for y in range(wanted.y, wanted.y + wanted.height, WINDOW):
            for x in range(wanted.x, wanted.x + wanted.width, WINDOW):
                across, down = min(WINDOW, wanted.x + wanted.width - x), min(WINDOW, wanted.y + wanted.height - y)
                box = Box(x, y, across, down)
                found.append((box, grown(box, self.margin, Box(0, 0, width, height))))
        return found

    # latents

    def walk(self, to: Pass, level: int, height: int, width: int, model: Model) -> dict[int, NDArray[np.int16]]:
        """The latents of a tile of `height` x `width` pixels, in sixteenths of a step, by scale."""
        known = {s: np.zeros((n, height >> s, width >> s), np.int64) for s, n in self.latents.items()}
        h: Array | None = None
        before: Group | None = None
        for i, group in enumerate(self.groups):
            rows, columns = known[group.scale].shape[1:]
            blend = self.blend(level, rows, columns)
            if before is None or h is None:
                given = [blend]
            else:
                seen = known[before.scale]
                seen = seen[before.first : before.last] if before.scale == group.scale else seen
                given = [h, seen[None].astype(np.float32), blend]
            h, found = model.call(f"group.{i}", *given)
            self.place(to, group, found[0].astype(np.int64), known[group.scale])
            before = group
        return {s: z.astype(np.int16) for s, z in known.items()}

    def place(self, to: Pass, group: Group, rows: Index, known: Index) -> None:
        """Put a group's latents in their places, as its prior's `rows` (3 * features, height, width) have it."""
        mean, scale, shape = np.split(rows, 3)
        own = group.places(*known.shape[1:])
        coded = own & (scale >= self.skip)
        prior = Prior(mean[coded], scale[coded], shape[coded])
        z = np.where(own, mean, known[group.first : group.last])
        z[coded] += STEPS * to.steps(group, coded, prior)
        known[group.first : group.last] = np.clip(z, -LARGEST, LARGEST)


def crop(box: Box, scale: int) -> tuple[slice, slice]:
    """Rows and columns of a box at the stride 2**scale."""
    return (
        slice(box.y >> scale, (box.y + box.height) >> scale),
        slice(box.x >> scale, (box.x + box.width) >> scale),
    )


def moved(box: Box, origin: Box) -> Box:
    """A box seen from another one's corner."""
    return Box(box.x - origin.x, box.y - origin.y, box.width, box.height)


def raised(length: int) -> int:
    """To the next multiple of UNIT."""
    return -(-length // UNIT) * UNIT


def padded(pixels: Pixels) -> NDArray[np.uint8]:
    """Pixels (height, width, 1 or 3) as planes (3, ...) in coding order, continued to sides of whole UNITs."""
    height, width, colors = pixels.shape
    planes = pixels[..., CODING_ORDER if colors == 3 else (0, 0, 0)].transpose(2, 0, 1)
    return np.pad(planes, ((0, 0), (0, raised(height) - height), (0, raised(width) - width)), mode="edge")


def tiling_of(width: int, height: int) -> Tiling:
    """Tiles as even as can be, with sides that are multiples of UNIT, each with a stream of its own."""

    def divided(length: int) -> int:
        return raised(-(-length // -(-length // TILE)))

    return Tiling(raised(width), raised(height), divided(raised(width)), divided(raised(height)), 1, 1)


def levels(model: Model) -> int:
    """How many quality levels there are."""
    return HierarchyCodec(model).levels


def encode(pixels: Pixels, model: Model, *, level: int, progress: Progress | None = None) -> LossyEncoded:
    """Code `pixels` (height, width, 1 or 3) uint8 at a quality level from 0."""
    codec = HierarchyCodec(model)
    height, width, _ = pixels.shape
    tiling = tiling_of(width, height)
    wanted = codec.analyzed(padded(pixels), level)
    tiles = list(tiling.groups())
    tracker = Tracker(len(tiles), progress)
    known = {s: np.empty(y.shape, np.int16) for s, y in wanted.items()}
    walker = model if len(tiles) == 1 else model.serial

    def encode_tile(index: int) -> tuple[bytes, float]:
        tile = tiles[index]
        parts = {s: y[:, *crop(tile, s)] for s, y in wanted.items()}
        way = Encoding(codec.tables, parts)
        found = codec.walk(way, level, tile.height, tile.width, walker)
        for s, z in found.items():
            known[s][:, *crop(tile, s)] = z
        tracker.report(index, 1.0)
        return way.stream()

    coded = run_all(encode_tile, len(tiles), model.threads, tracker)
    payload = LEVEL.pack(level) + packed(tiling, [stream for stream, _ in coded])
    return LossyEncoded(payload, sum(bits for _, bits in coded), checksum(known.values()))


def decode(
    payload: bytes,
    shape: tuple[int, int, int],
    model: Model,
    *,
    region: Region | None = None,
    preview: bool = False,
    progress: Progress | None = None,
) -> LossyDecoded:
    """The pixels of `shape` (height, width, 1 or 3), or of `region`; only tiles near it are decoded.

    Without what the finest latents add to their means for a `preview`. Raises `InvalidFile` for damaged payloads.
    """
    codec = HierarchyCodec(model)
    height, width, colors = shape
    level, tiling, streams = unpacked(payload, width, height, codec)
    wanted = Box(*region) if region else Box(0, 0, width, height)
    area = aligned(wanted)
    near = grown(area, codec.margin, Box(0, 0, tiling.width, tiling.height))
    tiles = [(tile, stream) for tile, stream in zip(tiling.groups(), streams, strict=True) if tile.overlaps(near)]
    tracker = Tracker(len(tiles), progress)
    walker = model if len(tiles) == 1 else model.serial
    known = {s: np.zeros((n, tiling.height >> s, tiling.width >> s), np.int16) for s, n in codec.latents.items()}

    def decode_tile(index: int) -> None:
        tile, stream = tiles[index]
        way = Decoding(codec.tables, stream, codec.finest + 1 if preview else codec.finest)
        for s, z in codec.walk(way, level, tile.height, tile.width, walker).items():
            known[s][:, *crop(tile, s)] = z
        if not preview:
            way.finish()
        tracker.report(index, 1.0)

    run_all(decode_tile, len(tiles), model.threads, tracker)
    planes = codec.synthesized(known, level, area)[:, *crop(moved(wanted, area), 0)]
    pixels = pixels_of(planes[None])[0]
    if colors == 1:
        pixels = np.rint(pixels.mean(2, keepdims=True)).astype(np.uint8)
    return LossyDecoded(np.ascontiguousarray(pixels), None if region or preview else checksum(known.values()))


def aligned(box: Box) -> Box:
    """The smallest box of whole UNITs around another."""
    x, y = box.x // UNIT * UNIT, box.y // UNIT * UNIT
    return Box(x, y, raised(box.x + box.width) - x, raised(box.y + box.height) - y)


def unpacked(payload: bytes, width: int, height: int, codec: HierarchyCodec) -> tuple[int, Tiling, list[bytes]]:
    """Level, tiling and streams of a payload. Raises `InvalidFile`."""
    if len(payload) < LEVEL.size:
        raise InvalidFile("the coded pixels are truncated")
    (level,) = LEVEL.unpack_from(payload)
    if level >= codec.levels:
        raise InvalidFile(f"the coded pixels are damaged: the model has no quality level {level}")
    tiling, streams = parsed(payload[LEVEL.size :], raised(width), raised(height))
    if tiling.tile_width % UNIT or tiling.tile_height % UNIT or tiling.group_columns * tiling.group_rows != 1:
        raise InvalidFile(f"the coded pixels are damaged: tiles of {tiling.tile_width} x {tiling.tile_height}")
    return level, tiling, streams


def sample(model: Model, count: int, seed: int, temperature: float = 1.0) -> NDArray[np.uint8]:
    """What the decoder makes of random numbers: `count` pictures (count, tile, tile, 3), red, green, blue.

    Below 1, the `temperature` narrows the distributions. Quality is SAMPLED of the highest level.
    """
    codec, coder = HierarchyCodec(model), RandomCoder(seed)
    level, side = int(SAMPLED * (codec.levels - 1)), codec.tile
    pictures = np.empty((count, side, side, 3), np.uint8)
    for picture in pictures:
        latents = codec.walk(Sampling(codec.tables, coder, scale_shift(temperature)), level, side, side, model)
        picture[...] = pixels_of(codec.synthesized(latents, level, Box(0, 0, side, side))[None])[0]
    return pictures

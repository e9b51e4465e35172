"""The codec of VQ-VAE and VQ-VAE-2: pictures <-> codes <-> bytes, by exact priors of codes.

Codes stand for blocks of 8 x 8 or 16 x 16 pixels. Maps of codes are cut into tiles that are coded in lockstep, map by
map and stage by stage, so that a stage knows all that is before it of its tile; a lower quality level is the beginning
of what a higher one holds. Pixels come out of floating point, window by window. The byte layout is in
docs/format-vq.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gencodec.codec.autoregressive import Lanes, SampleCoders, tiling_of
from gencodec.codec.autoregressive import check as check_tiling
from gencodec.codec.codeprior import Prior, Softmax, Walk, find, softmax_of
from gencodec.codec.coder import IntervalCoder, RandomCoder
from gencodec.codec.groups import (
    CODING_ORDER,
    Group,
    GroupCoders,
    Progress,
    Tracker,
    in_batches,
    packed,
    parsed,
    run_all,
)
from gencodec.codec.lossy import LossyDecoded, LossyEncoded, Region, checksum
from gencodec.codec.tiling import Box, Tiling, grown
from gencodec.errors import InvalidFile

if TYPE_CHECKING:
    from gencodec.runtime import Model

FORMAT = "1"
FAMILIES = ("vq-vae", "vq-vae-2")
BLOCK = 8
"""Side of the pixels of a code of the finest map."""
WINDOW = 64
"""Side, in codes of the finest map, of what goes through the transforms at a time."""
POINT = 1 / 64
"""Unit of codebooks' whole numbers."""
LARGEST_TILE = 64
SAMPLED = 32
"""Samples that are drawn at a time."""

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]
Index = NDArray[np.int64]
Codes = NDArray[np.uint16]


@dataclass(frozen=True)
class CodeMap:
    """One map: its name, the pixels between its codes, and its codebooks (stages, codes, dim) as whole numbers."""

    name: str
    stride: int
    books: NDArray[np.int64]
    costs: Array
    """What the encoder charges for codes, (stages, codes)."""
    priors: list[Prior]

    @property
    def stages(self) -> int:
        """How many codes stand at a place."""
        return len(self.books)

    def sums(self, codes: Codes) -> Index:
        """Sums of the vectors of codes (stages, ...), some of the first stages: (..., dim) whole numbers."""
        total = np.zeros((*codes.shape[1:], self.books.shape[2]), np.int64)
        for book, code in zip(self.books, codes, strict=False):
            total += book[code]
        return total

    def nearest(self, latents: Array) -> Codes:
        """Codes (stages, h, w) for latents (dim, h, w): the nearest, if they are not too dear."""
        rest = latents.reshape(len(latents), -1).T.copy()
        result = np.empty((self.stages, len(rest)), np.uint16)
        for stage, (book, costs) in enumerate(zip(self.books * np.float32(POINT), self.costs, strict=True)):
            book = book.astype(np.float32)
            result[stage] = (np.square(book).sum(1) + costs - 2 * (rest @ book.T)).argmin(1)
            rest -= book[result[stage]]
        return result.reshape(self.stages, *latents.shape[1:])


class VQCodec:
    """The two directions, for one model."""

    def __init__(self, model: Model, temperature: float = 1.0):
        """Below 1, the `temperature` of samples narrows the priors. Raises `InvalidFile`."""
        if model.family not in FAMILIES or model.format != FORMAT:
            raise InvalidFile(f"the model {model.card.name} is no VQ-VAE of a format that is known here")
        self.model, softmax = model, softmax_of(model, temperature)
        try:
            described = [(m["name"], int(m["stride"]), int(m["stages"])) for m in model.config["maps"]]
            self.maps = [self.map(softmax, *each) for each in described]
            self.tile = int(model.config["tile"])
            self.margins = {name: int(model.config["margins"][name]) for name in ("analysis", "predicted", "synthesis")}
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFile(f"the model {model.card.name} does not say what its codes are") from error
        if not self.maps or self.maps[-1].stride != BLOCK or not BLOCK <= self.tile <= BLOCK * LARGEST_TILE:
            raise InvalidFile(f"the model {model.card.name} does not say what its codes are")

    def map(self, softmax: Softmax, name: str, stride: int, stages: int) -> CodeMap:
        """A map of the model."""
        books = self.model.constant(f"{name}.codebooks").astype(np.int64)
        costs = self.model.constant(f"{name}.costs").astype(np.float32)
        if books.ndim != 3 or len(books) != stages or costs.shape != books.shape[:2]:
            raise InvalidFile(f"the model {self.model.card.name} does not say what its codes are")
        priors = [Prior(self.model, f"{name}{stage}", softmax) for stage in range(stages)]
        return CodeMap(name, stride, books, costs, priors)

    # sizes

    @property
    def levels(self) -> int:
        """Quality levels: of one map its stages, of two the coarse one and every stage of the fine one."""
        return self.maps[-1].stages + len(self.maps) - 1

    def stages(self, level: int) -> list[int]:
        """How many stages of each map a level has."""
        return [*(m.stages for m in self.maps[:-1]), level + 1 - (len(self.maps) - 1)]

    @property
    def coarsest(self) -> int:
        """Pixels between codes of the coarsest map."""
        return self.maps[0].stride

    def extent(self, height: int, width: int) -> tuple[int, int]:
        """Codes of the coarsest map, down and across, of a picture of so many pixels."""
        return -(-height // self.coarsest), -(-width // self.coarsest)

    def blank(self, level: int, height: int, width: int) -> list[Codes]:
        """Maps (stages, h, w) to be filled, of so many codes of the coarsest map."""
        scales = [self.coarsest // m.stride for m in self.maps]
        return [
            np.zeros((stages, height * f, width * f), np.uint16)
            for stages, f in zip(self.stages(level), scales, strict=True)
        ]

    def fixed_bits(self, level: int, height: int, width: int) -> float:
        """What the codes of a picture of so many pixels would take if all were of one length."""
        maps = self.blank(level, *self.extent(height, width))
        return sum(codes.size * math.log2(m.books.shape[1]) for m, codes in zip(self.maps, maps, strict=True))

    def tiling(self, height: int, width: int) -> Tiling:
        """Tiles of a picture, in codes of the coarsest map."""
        return tiling_of(width, height, self.side)

    @property
    def side(self) -> int:
        """Side of the largest tile, in codes of the coarsest map."""
        return self.tile // self.coarsest

    # codes <-> streams

    def walks(self, maps: list[Codes], lanes: list[Lanes]) -> Iterator[tuple[int, int, Walk]]:
        """The stages of maps (stages, h, w, lanes) in order, each with its walk; earlier ones are to be filled then."""
        coarse: Index | None = None
        for number, (code_map, codes) in enumerate(zip(self.maps, maps, strict=True)):
            inside = inside_of(lanes[number])
            for stage in range(len(codes)):
                latents = self.vectors(code_map, codes[:stage]) if stage else None
                prior = code_map.priors[stage]
                yield number, stage, Walk(prior, inside, prior.given(latents, coarse, inside))
            coarse = self.vectors(code_map, codes)

    def vectors(self, code_map: CodeMap, codes: Codes) -> Index:
        """Sums of vectors as priors take them, (dim, h, w, lanes), of codes (stages, h, w, lanes)."""
        return np.ascontiguousarray(code_map.sums(codes).transpose(3, 0, 1, 2))

    def encode_group(self, maps: list[Codes], tiles: list[Box], tiling: Tiling) -> tuple[bytes, float]:
        """The stream of a group of tiles, and its length in bits by the model's own probabilities."""
        lanes = [lanes_of(tiles, tiling, self.coarsest // m.stride) for m in self.maps]
        inputs = [gathered(m, tiles, one) for m, one in zip(maps, lanes, strict=True)]
        intervals = [(n, *walk.known(inputs[n][s].astype(np.int64))) for n, s, walk in self.walks(inputs, lanes)]
        coder = IntervalCoder()
        for number, left, length in reversed(intervals):
            for y in reversed(range(left.shape[0])):
                for x in reversed(range(left.shape[1])):
                    coded = lanes[number].coded(y, x)
                    every = slice(None) if coded is None else coded
                    coder.push(left[y, x, every], length[y, x, every])
        return coder.to_bytes(), coder.bits

    def decode_lanes(self, coders: GroupCoders, lanes: list[Lanes], maps: list[Codes], report: Progress) -> None:
        """Fill maps (stages, h, w, lanes) from streams of tiles in lockstep."""
        total, done = sum(codes[..., 0].size for codes in maps), 0
        for number, stage, walk in self.walks(maps, lanes):
            codes = maps[number][stage]
            for y in range(walk.height):
                walk.begin(y, y + 1)
                for x in range(walk.width):
                    codes[y, x] = self.pop(coders, walk, x, lanes[number].coded(y, x))
                    walk.learn(x, codes[y, x].astype(np.int64))
                done += walk.width
                report(done / total)

    def pop(self, coders: GroupCoders, walk: Walk, x: int, coded: Index | None) -> Index:
        """The codes (lanes,) of a position; zero where `coded` does not list the lane."""
        result = np.zeros(walk.lanes, np.int64)
        frequencies = walk.frequencies(x)
        coders.begin(1, coded)
        every = slice(None) if coded is None else coded
        quantile = coders.pop_quantiles()
        result[every], left, length = find(frequencies[every], quantile)
        coders.give_back(quantile - left, length)
        return result

    def decode_groups(
        self, groups: list[Group], tiling: Tiling, maps: list[Codes], complete: bool, report: Progress
    ) -> None:
        """Decode groups in lockstep into whole maps (stages, h, w). Raises `InvalidFile` for streams that do not end.

        Those that are not `complete` are decoded no further than `maps` has stages.
        """
        tiles = [tile for group in groups for tile in group.tiles]
        lanes = [lanes_of(tiles, tiling, self.coarsest // m.stride) for m in self.maps]
        local = [
            np.zeros((len(whole), one.height, one.width, len(tiles)), np.uint16)
            for whole, one in zip(maps, lanes, strict=True)
        ]
        coders = GroupCoders(groups)
        self.decode_lanes(coders, lanes, local, report)
        if complete:
            coders.finish()
        for whole, part, code_map in zip(maps, local, self.maps, strict=True):
            for lane, tile in enumerate(tiles):
                box = scaled(tile, self.coarsest // code_map.stride)
                place = whole[:, box.y : box.y + box.height, box.x : box.x + box.width]
                place[...] = part[:, : box.height, : box.width, lane]

    # pixels <-> codes

    def quantise(self, pixels: Pixels, level: int) -> list[Codes]:
        """The maps of codes of pixels (height, width, 3)."""
        height, width = self.extent(*pixels.shape[:2])
        maps = self.blank(level, height, width)
        finest = Box(0, 0, maps[-1].shape[2], maps[-1].shape[1])
        if len(self.maps) > 1:
            for core, outer in windows(finest, finest, self.margins["analysis"]):
                top = self.analysed(pixels, outer)[1]
                fill(maps[0], self.maps[0].nearest(top), core, outer, 2)
        for core, outer in windows(finest, finest, self.margins["analysis"]):
            latents = self.analysed(pixels, outer)[0]
            if len(self.maps) > 1:
                latents = latents - self.predicted(maps[0], outer)
            if len(maps[-1]):
                fill(maps[-1], self.maps[-1].nearest(latents)[: len(maps[-1])], core, outer, 1)
        return maps

    def analysed(self, pixels: Pixels, box: Box) -> list[Array]:
        """The latents (dim, h, w) of a box of finest codes, and those of the coarse map."""
        rows = np.minimum(np.arange(box.y * BLOCK, (box.y + box.height) * BLOCK), pixels.shape[0] - 1)
        columns = np.minimum(np.arange(box.x * BLOCK, (box.x + box.width) * BLOCK), pixels.shape[1] - 1)
        part = pixels[rows[:, None], columns][..., CODING_ORDER if pixels.shape[2] == 3 else (0, 0, 0)]
        planes = np.ascontiguousarray(part.transpose(2, 0, 1)[None], np.float32)
        return [found[0] for found in self.model.run_float("analysis", planes)]

    def predicted(self, top: Codes, outer: Box) -> Array:
        """What the coarse map's codes say of the finest latents of a box, (dim, h, w), with the codes around it."""
        edge = Box(0, 0, 2 * top.shape[2], 2 * top.shape[1])
        box = grown(outer, self.margins["predicted"], edge)
        part = top[:, box.y // 2 : (box.y + box.height) // 2, box.x // 2 : (box.x + box.width) // 2]
        sums = self.maps[0].sums(part).transpose(2, 0, 1)[None]
        found = self.model.run_float("predicted", np.ascontiguousarray(sums * POINT, np.float32))[0][0]
        y, x = outer.y - box.y, outer.x - box.x
        return found[:, y : y + outer.height, x : x + outer.width]

    def synthesised(self, maps: list[Codes], level: int, box: Box) -> Array:
        """Pixels (3, rows, columns) of a box of finest codes, whose borders it takes for the picture's; not rounded."""
        latents = np.zeros((self.maps[-1].books.shape[2], box.height, box.width), np.float32)
        if len(maps[-1]):
            part = maps[-1][:, box.y : box.y + box.height, box.x : box.x + box.width]
            latents += self.maps[-1].sums(part).transpose(2, 0, 1) * np.float32(POINT)
        if len(self.maps) > 1:
            latents += self.predicted(maps[0], box)
        marks = np.zeros((self.levels, box.height, box.width), np.float32)
        marks[level] = 1
        return self.model.run_float("synthesis", np.concatenate([latents, marks])[None])[0][0]

    def paint(self, maps: list[Codes], level: int, wanted: Box, colors: int, report: Progress) -> Pixels:
        """The pixels (height, width, colors) of a box of the picture."""
        result = np.empty((wanted.height, wanted.width, colors), np.uint8)
        edge = Box(0, 0, maps[-1].shape[2], maps[-1].shape[1])
        left, top = wanted.x // BLOCK, wanted.y // BLOCK
        right, bottom = (-(-(at + n) // BLOCK) for at, n in ((wanted.x, wanted.width), (wanted.y, wanted.height)))
        parts = list(windows(Box(left, top, right - left, bottom - top), edge, self.margins["synthesis"]))
        for i, (core, outer) in enumerate(parts):
            planes = self.synthesised(maps, level, outer)
            # back to red, green, blue: the order is its own inverse
            planes = planes.mean(0, keepdims=True) if colors == 1 else planes[CODING_ORDER, :, :]
            pixels = np.rint(np.clip(planes, 0, 255)).astype(np.uint8)
            place(result, wanted, pixels, core, outer)
            report((i + 1) / len(parts))
        return result


# boxes and windows


def lanes_of(tiles: list[Box], tiling: Tiling, scale: int) -> Lanes:
    """Tiles of codes of a map that is `scale` times as fine as the tiling."""
    sizes = np.array([[tile.height * scale, tile.width * scale] for tile in tiles])
    return Lanes(sizes, tiling.tile_width * scale)


def inside_of(lanes: Lanes) -> Array:
    """1 where lanes have a position and 0 beyond, (height, width, lanes)."""
    rows = np.arange(lanes.height)[:, None, None] < lanes.sizes[:, 0]
    return (rows & (np.arange(lanes.width)[None, :, None] < lanes.sizes[:, 1])).astype(np.float32)


def scaled(box: Box, factor: int) -> Box:
    """A box in finer units."""
    return Box(box.x * factor, box.y * factor, box.width * factor, box.height * factor)


def windows(box: Box, edge: Box, margin: int) -> Iterator[tuple[Box, Box]]:
    """Parts of a box of codes, at places that do not depend on it, each alone and with a margin within `edge`."""
    for y in range(box.y // WINDOW * WINDOW, box.y + box.height, WINDOW):
        for x in range(box.x // WINDOW * WINDOW, box.x + box.width, WINDOW):
            core = grown(Box(x, y, WINDOW, WINDOW), 0, edge)
            yield core, grown(core, margin, edge)


def gathered(codes: Codes, tiles: list[Box], lanes: Lanes) -> Codes:
    """Tiles of a map (stages, h, w) as lanes (stages, height, width, n), zeros beyond smaller ones."""
    result = np.zeros((len(codes), lanes.height, lanes.width, len(tiles)), np.uint16)
    for lane, (tile, (height, width)) in enumerate(zip(tiles, lanes.sizes.tolist(), strict=True)):
        scale = width // tile.width
        top, left = tile.y * scale, tile.x * scale
        result[:, :height, :width, lane] = codes[:, top : top + height, left : left + width]
    return result


def fill(codes: Codes, found: Codes, core: Box, outer: Box, scale: int) -> None:
    """Put the codes of a window's core into a map that is `scale` times coarser than the boxes."""
    y, x = (core.y - outer.y) // scale, (core.x - outer.x) // scale
    top, left, height, width = (n // scale for n in (core.y, core.x, core.height, core.width))
    codes[:, top : top + height, left : left + width] = found[:, y : y + height, x : x + width]


def place(result: Pixels, wanted: Box, pixels: Pixels, core: Box, outer: Box) -> None:
    """Put the pixels (colors, rows, columns) of a window's core where they belong in what is wanted."""
    inside = scaled(core, BLOCK)
    x, y = max(inside.x, wanted.x), max(inside.y, wanted.y)
    right = min(inside.x + inside.width, wanted.x + wanted.width)
    bottom = min(inside.y + inside.height, wanted.y + wanted.height)
    part = pixels[:, y - outer.y * BLOCK : bottom - outer.y * BLOCK, x - outer.x * BLOCK : right - outer.x * BLOCK]
    result[y - wanted.y : bottom - wanted.y, x - wanted.x : right - wanted.x] = part.transpose(1, 2, 0)


# pictures


def levels(model: Model) -> int:
    """Number of quality levels, of rising rate."""
    return VQCodec(model).levels


def encode(pixels: Pixels, model: Model, *, level: int, progress: Progress | None = None) -> LossyEncoded:
    """Code pixels (height, width, 1 or 3) at a level from 0."""
    codec = VQCodec(model)
    maps = codec.quantise(pixels, level)
    tiling = codec.tiling(*codec.extent(*pixels.shape[:2]))
    groups = list(tiling.groups())
    tracker = Tracker(len(groups), progress)

    def encode_group(index: int) -> tuple[bytes, float]:
        result = codec.encode_group(maps, list(tiling.tiles(groups[index])), tiling)
        tracker.report(index, 1.0)
        return result

    coded = run_all(encode_group, len(groups), model.threads, tracker)
    payload = bytes([level]) + packed(tiling, [stream for stream, _ in coded])
    return LossyEncoded(payload, sum(bits for _, bits in coded), checksum(maps))


def decode(
    payload: bytes,
    shape: tuple[int, int, int],
    model: Model,
    *,
    region: Region | None = None,
    preview: bool = False,
    progress: Progress | None = None,
) -> LossyDecoded:
    """The pixels of `shape`, or of a region (x, y, width, height); `preview`: of the lowest level that the file holds.

    Raises `InvalidFile` for damaged payloads.
    """
    codec = VQCodec(model)
    height, width, colors = shape
    if not payload or payload[0] >= codec.levels:
        raise InvalidFile("the coded pixels are damaged: they are of a quality level that the model does not have")
    level = 0 if preview else payload[0]
    rows, columns = codec.extent(height, width)
    tiling, streams = parsed(payload[1:], columns, rows)
    check_tiling(tiling, codec.side)
    wanted = Box(*region) if region else Box(0, 0, width, height)
    needed = codes_of(wanted, codec, Box(0, 0, columns, rows))
    boxes = list(zip(tiling.groups(), streams, strict=True))
    groups = [Group(list(tiling.tiles(box)), stream) for box, stream in boxes if box.overlaps(needed)]
    maps = codec.blank(level, rows, columns)
    batches = in_batches(groups, model.threads)
    tracker = Tracker(len(batches) + 1, progress)

    def decode_batch(index: int) -> None:
        report = partial(tracker.report, index)
        codec.decode_groups(batches[index], tiling, maps, level == payload[0], report)
        report(1.0)

    run_all(decode_batch, len(batches), model.threads, tracker)
    pixels = codec.paint(maps, level, wanted, colors, partial(tracker.report, len(batches)))
    whole = len(groups) == len(boxes) and not preview
    return LossyDecoded(pixels, checksum(maps) if whole else None)


def codes_of(wanted: Box, codec: VQCodec, edge: Box) -> Box:
    """The codes of the coarsest map that the pixels of a box depend on."""
    stride = codec.coarsest
    x, y = wanted.x // stride, wanted.y // stride
    right, bottom = -(-(wanted.x + wanted.width) // stride), -(-(wanted.y + wanted.height) // stride)
    margin = -(-(codec.margins["synthesis"] + codec.margins["predicted"]) * BLOCK // stride)
    return grown(Box(x, y, right - x, bottom - y), margin, edge)


def sample(model: Model, count: int, seed: int, temperature: float = 1.0) -> Pixels:
    """What the decoder makes of random numbers: `count` tiles (count, tile, tile, 3), red, green, blue."""
    codec, coder = VQCodec(model, temperature), RandomCoder(seed)
    level, side = codec.levels - 1, codec.side
    pictures = []
    for first in range(0, count, SAMPLED):
        number = min(SAMPLED, count - first)
        lanes = [
            Lanes(np.full((number, 2), side * s), side * s) for s in (codec.coarsest // m.stride for m in codec.maps)
        ]
        blanks = codec.blank(level, side, side)
        maps = [np.zeros((*codes.shape, number), np.uint16) for codes in blanks]
        codec.decode_lanes(SampleCoders(coder, number), lanes, maps, ignore)
        for lane in range(number):
            one = [np.ascontiguousarray(codes[..., lane]) for codes in maps]
            pictures.append(codec.paint(one, level, Box(0, 0, codec.tile, codec.tile), 3, ignore))
    return np.stack(pictures)


ignore: Callable[[float], None] = lambda _: None  # noqa: E731

"""The exact graph against the float model it was made from: code lengths of the same tiles. Needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sets import Picture, images, say

from gencodec.codec.image import Pixels
from gencodec.codec.tiling import Tiling
from gencodec.models.data import COLOR_ORDER
from gencodec.models.photo import Photo
from gencodec.models.quantize import set_exact
from gencodec.models.train_photo import configured

BATCH = 6


def compare(
    checkpoint: Path, settings: list[str], folder: Path, pictures: Sequence[Picture], *, threads: int
) -> dict[str, float | int]:
    """Compare, over the RGB images of a folder that the model coded, three code lengths.

    In bits per sub-pixel: of the float model, of the same model in integer arithmetic, and of the exported
    graph with its tables, as gencodec's files state it; then the share by which the last exceeds the first.
    """
    torch.set_num_threads(threads)
    photo = Photo(configured(settings)).eval()
    photo.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["averaged"])
    stated = {picture.file: picture.estimate_bits for picture in pictures}
    smooth = exact = coded = 0.0
    samples = count = 0
    for name, pixels in images(folder):
        estimate = stated[name]
        if estimate is None or pixels.shape[2] != 3:
            continue
        say(f"{name}: float model")
        smooth += code_length(photo, pixels, exact=False)
        exact += code_length(photo, pixels, exact=True)
        coded += estimate
        samples, count = samples + pixels.size, count + 1
    if not count:
        return {"images": 0}
    rates = {"float": smooth / samples, "integer": exact / samples, "exported": coded / samples}
    return {"images": count, **{f"{k}_bpsp": v for k, v in rates.items()}, "loss": coded / smooth - 1}


def code_length(photo: Photo, pixels: Pixels, *, exact: bool) -> float:
    """Bits of samples (height, width, 3) by the model, in the tiles that the codec cuts them into."""
    set_exact(photo, exact)
    height, width, _ = pixels.shape
    tiling = Tiling.of(width, height)
    planes = pixels[..., COLOR_ORDER].transpose(2, 0, 1).astype(np.float32)
    shapes: dict[tuple[int, int], list[np.ndarray]] = {}
    for box in (box for group in tiling.groups() for box in tiling.tiles(group)):
        tile = planes[:, box.y : box.y + box.height, box.x : box.x + box.width]
        shapes.setdefault(tile.shape[1:], []).append(tile)
    bits = 0.0
    with torch.no_grad():
        for tiles in shapes.values():
            for first in range(0, len(tiles), BATCH):
                batch = torch.from_numpy(np.stack(tiles[first : first + BATCH], 1))
                bits += float(photo(batch).sum(dtype=torch.float64))
    return bits

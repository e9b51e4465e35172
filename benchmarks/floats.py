"""The exact graph against the float model it was made from: code lengths of the same tiles. Needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from sets import images, say

from gencodec import runtime
from gencodec.codec.image import Pixels
from gencodec.codec.photo import encode
from gencodec.codec.tiling import Tiling
from gencodec.models.data import COLOR_ORDER
from gencodec.models.families import find_family
from gencodec.models.photo import Photo
from gencodec.models.quantize import set_exact

BATCH = 6


def compare(checkpoint: Path, settings: list[str], folder: Path, model: str, *, threads: int) -> dict[str, float | int]:
    """Compare, over the RGB images of a folder, three code lengths of a model that is not fitted to them.

    In bits per sub-pixel: of the float model, of the same model in integer arithmetic, and of the exported
    graph with its tables; then the share by which the last exceeds the first.
    """
    torch.set_num_threads(threads)
    photo = Photo(find_family("photo").configured(settings)).eval()
    photo.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["averaged"])
    exported = runtime.load(model, threads=threads)
    smooth = exact = coded = 0.0
    samples = count = 0
    for name, pixels in images(folder):
        if pixels.dtype != np.uint8 or pixels.shape[2] != 3:
            continue
        say(f"{name}: float model")
        smooth += code_length(photo, pixels, exact=False)
        exact += code_length(photo, pixels, exact=True)
        coded += encode(cast(NDArray[np.uint8], pixels), exported).estimate_bits
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

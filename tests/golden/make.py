"""Write the golden files, and the manifest of what they must decode to, into this folder.

Run from the repository root: python -m tests.golden.make. Files that exist stay: what an older version
wrote must be read for ever. Only new names are added.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

import gencodec
from gencodec import runtime
from gencodec.codec import codecs, formats, ordinary, photo
from gencodec.codec import container as gnc
from gencodec.codec.container import Coder, Container, ModelRef, Section, SectionKind
from gencodec.codec.image import PACKED_DEPTHS, Pixels

FOLDER = Path(__file__).resolve().parent
MANIFEST = FOLDER / "manifest.json"
METADATA = gencodec.Metadata(icc=b"profile" * 9, gamma=45455, density=(2835, 2835, 1), cicp=(1, 13, 0, 1))


def gradient(channels: int, depth: int = 8, height: int = 19, width: int = 23) -> Pixels:
    """Samples (H, W, C) with slopes and a little noise, the same on every machine."""
    y, x, c = np.ogrid[:height, :width, :channels]
    values = (1103 * y + 1511 * x * (c + 1) + 7919 * c + (y * x * 40503 >> 7) % 997) & ((1 << depth) - 1)
    if depth in PACKED_DEPTHS:
        return (values * (255 // ((1 << depth) - 1))).astype(np.uint8)
    return values.astype(np.uint16)


def pack(pixels: Pixels, depth: int, *sections: Section) -> bytes:
    """Put sections into a file as `gencodec.compress` does."""
    height, width, channels = pixels.shape
    crc = ordinary.checksum(pixels)
    return gnc.write(Container(width, height, channels, depth, crc, sections))


def one_section(pixels: Pixels, depth: int, coder: Coder) -> bytes:
    """Code all channels by one coder."""
    kind = SectionKind.PIXELS if pixels.shape[2] in (2, 4) else SectionKind.COLOR
    return pack(pixels, depth, Section(kind, coder, ordinary.encode_by(coder, pixels)))


def by_model(name: str, pixels: Pixels) -> bytes:
    """Code gray levels by the neural codec, whether or not that is smallest."""
    model = runtime.load(name, threads=1, device="cpu")
    encoded = photo.encode(pixels.astype(np.uint8), model)
    reference = ModelRef(model.card.wire_id, model.card.weights_prefix)
    estimate = math.ceil(encoded.estimate_bits / 8)
    return pack(pixels, 8, Section(SectionKind.COLOR, Coder.MODEL, encoded.payload, reference, estimate))


def neural_files() -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every golden file of a model."""
    photograph = formats.read_image(FOLDER.parent.parent / "examples" / "coast.png").pixels
    for name in (card.name for card in runtime.list_models() if card.family == "photo"):
        yield f"{name}-color", by_model(name, np.ascontiguousarray(photograph[100:231, 50:195]))
        yield f"{name}-grey", by_model(name, np.ascontiguousarray(photograph[150:240, 100:201, 1:2]))
        yield f"{name}-groups", by_model(name, gradient(3, height=3, width=2100) // 16 + 100)
        yield f"{name}-pixel", by_model(name, gradient(3, height=1, width=1))
    for card in runtime.list_models():
        if card.family not in ("photo", codecs.SPRITES):
            for kind, part in (("color", photograph[100:171, 50:155]), ("grey", photograph[150:190, 100:141, 1:2])):
                data = gencodec.compress(np.ascontiguousarray(part), model=card.name, device="cpu")
                yield f"{card.name}-{kind}", data
    for name in ("photo-base.1", "photo-small.1", "photo-base.5"):  # of each format of photo's networks
        yield f"{name}-steps", by_model(name, np.ascontiguousarray(photograph[100:231, 50:195]))
        yield f"{name}-steps-grey", by_model(name, np.ascontiguousarray(photograph[150:240, 100:201, 1:2]))
    part = np.ascontiguousarray(photograph[100:290, 30:220])
    stripes = np.where(np.arange(190)[:, None] % 3 == 0, 40, 0)  # unlike what was trained on
    yield "fitted-2", gencodec.compress((part // 2 + stripes).astype(np.uint8), model="photo-base.2", effort=4)
    file = io.BytesIO()
    PillowImage.fromarray(part).save(file, "JPEG", quality=93)
    decoded = np.asarray(PillowImage.open(file)).copy()
    decoded[::40, 7] ^= 3  # exceptions
    yield "codes-2", gencodec.compress(decoded, effort=1)
    yield "codes-fitted-2", gencodec.compress(decoded, effort=4)
    yield "levels-2", gencodec.compress(np.clip(part * 1.4 - 40, 0, 255).astype(np.uint8), effort=1)


def golden_files() -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every golden file."""
    yield from neural_files()
    for coder in (Coder.RAW, Coder.DEFLATE, Coder.WEBP, Coder.JXL, Coder.PNG):
        for channels in (1, 2, 3, 4):
            yield f"{coder.name.lower()}-{channels}", one_section(gradient(channels), 8, coder)
            if coder is not Coder.WEBP:
                yield f"{coder.name.lower()}-{channels}-16", one_section(gradient(channels, 16), 16, coder)
    yield "depth-1", one_section(gradient(1, 1), 1, Coder.WEBP)
    yield "depth-12", one_section(gradient(3, 12), 12, Coder.JXL)
    yield "pixel", gencodec.compress(np.array([[[1, 2, 3]]], np.uint8))
    yield "opaque", gencodec.compress(np.dstack([gradient(3), np.full((19, 23), 255, np.uint8)]))
    yield "metadata", gencodec.compress(gencodec.Image.from_array(gradient(1), metadata=METADATA))


def describe(data: bytes) -> dict[str, object]:
    """What a file must decode to."""
    image = gencodec.decompress(data)
    stored = image.pixels.astype(image.pixels.dtype.newbyteorder("<"))
    # samples of lossy files may differ by one level between machines; what they are made of has a checksum in the file
    lossy = gnc.read_header(data).lossy
    samples = {"means": [round(float(mean), 2) for mean in image.pixels.mean((0, 1))]}
    return {
        "shape": list(image.pixels.shape),
        "bit_depth": image.bit_depth,
        **(samples if lossy else {"samples_sha256": hashlib.sha256(stored.tobytes()).hexdigest()}),
        "metadata": image.metadata.to_bytes().hex(),
    }


def main() -> None:
    """Add the files that are missing."""
    manifest = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {}
    for name, data in golden_files():
        path = FOLDER / f"{name}.gnc"
        if not path.exists():
            path.write_bytes(data)
            manifest[path.name] = describe(data)
            sys.stderr.write(f"{path.name}: {len(data)} bytes\n")
    MANIFEST.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()

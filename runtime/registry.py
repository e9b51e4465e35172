"""The models that ship: one card each, with the number that files name it by. Cards are never changed or reused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import gencodec
from gencodec.errors import InvalidFile, UnknownModel, UsageError, unknown_name

WEIGHTS = Path(gencodec.__file__).parent / "weights"
PREFIX = 8
"""Bytes of the weights' SHA-256 that files carry."""
UNREGISTERED = 0
"""Wire id of files coded by a model that does not ship; its weights' hash tells which."""

PHOTOGRAPHS = "749 openly licensed photographs, rescaled, toned, noisy, chroma-subsampled and JPEG-coded at random"
CODES = "749 openly licensed photographs, rescaled, toned and noisy at random, as codes of Photo CD and JPEG"
PHOTO_PAPERS = "descends from PixelCNN (arXiv 1606.05328) and PixelCNN++ (arXiv 1701.05517)"


@dataclass(frozen=True)
class ModelCard:
    """All that is needed to find, trust and credit a model's weights."""

    name: str
    """`family-size.tag`"""
    wire_id: int
    """What files call the model; hand-written, from 1 to 65535."""
    sha256: str
    """Of the ONNX file, in hexadecimal."""
    file: Path
    summary: str
    licence: str
    data: str
    """What the weights were trained on."""
    paper: str
    aliases: tuple[str, ...] = field(default=())
    for_codes: str = ""
    """The model that its aliases stand for where pictures were made of luma and chroma codes."""
    quick: str = ""
    """The smaller model that its aliases stand for at effort 1."""
    medium: str = ""
    """The smaller model that its aliases stand for at low efforts."""
    large: str = ""
    """The smallest model, which its aliases stand for where pictures have many pixels."""
    large_slow: str = ""
    """The one that they stand for there at high efforts."""
    stated_family: str = ""
    """What an exported file says of itself."""

    @property
    def family(self) -> str:
        """The part of the name before the size, or what the file states."""
        return self.stated_family or self.name.rsplit("-", 1)[0]

    @property
    def weights_prefix(self) -> bytes:
        """What files carry to recognize the weights."""
        return bytes.fromhex(self.sha256)[:PREFIX]


MODELS: tuple[ModelCard, ...] = (
    ModelCard(
        name="photo-base.1",
        wire_id=1,
        sha256="8072876bb14f020f6ee7ab164ab4c2aa209828df533dd155b398b060605c3a4f",
        file=WEIGHTS / "photo-base.1.onnx",
        summary="lossless photographs: the first network, 29 thousand weights",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper=PHOTO_PAPERS,
    ),
    ModelCard(
        name="photo-base.2",
        wire_id=2,
        sha256="2d6781206d84a8b5ee9a67e59d59126e0237d282b4a30a4973dd08d697b2e24d",
        file=WEIGHTS / "photo-base.2.onnx",
        summary="lossless photographs: photo at effort 1 and for large pictures from effort 6 on, 17 thousand weights",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper=PHOTO_PAPERS,
    ),
    ModelCard(
        name="photo-base.3",
        wire_id=4,
        sha256="c4b1bca1ed79e87adfad4c32f0d8736b0b3747532ed16a614b7f7697fa304248",
        file=WEIGHTS / "photo-base.3.onnx",
        summary="lossless photographs: photo at efforts 2 to 4, 49 thousand weights",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper=PHOTO_PAPERS,
    ),
    ModelCard(
        name="photo-base.4",
        wire_id=7,
        sha256="72c5c2821706ac41ed37d15f9b3c2c97d54c8359b5b154c678b5c2d8487d6ee9",
        file=WEIGHTS / "photo-base.4.onnx",
        summary="lossless photographs: what photo-base.5 was trained on from, 152 thousand weights",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper=PHOTO_PAPERS,
    ),
    ModelCard(
        name="photo-base.5",
        wire_id=8,
        sha256="15d6ff56bcf70d28402bdadade9aa7f10be9297650a1065c23c49cdd55dc326e",
        file=WEIGHTS / "photo-base.5.onnx",
        summary="lossless photographs: a causal network over decoded neighbors, fitted to pictures, 152 k weights",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper=PHOTO_PAPERS,
        aliases=("photo", "photo-base"),
        for_codes="photo-codes.2",
        quick="photo-base.2",
        medium="photo-base.3",
        large="photo-small.1",
        large_slow="photo-base.2",
    ),
    ModelCard(
        name="photo-codes.1",
        wire_id=3,
        sha256="d2a14f46a905e620b6b2d153807a0213cf0abb578eb2bc27b5a032f5546837e1",
        file=WEIGHTS / "photo-codes.1.onnx",
        summary="luma and chroma codes: what photo-codes.2 was trained on from, kept for its files",
        licence="Apache-2.0",
        data=CODES,
        paper=PHOTO_PAPERS,
    ),
    ModelCard(
        name="photo-codes.2",
        wire_id=9,
        sha256="145fb09bb0375b725a201d044f9a8f39dd44d503aafca3cad740799f4c4c463f",
        file=WEIGHTS / "photo-codes.2.onnx",
        summary="photo-base.2's network for luma and chroma codes, as of pictures that were JPEG, WebP or Photo CD",
        licence="Apache-2.0",
        data=CODES,
        paper=PHOTO_PAPERS,
        aliases=("photo-codes",),
        quick="photo-smallcodes.2",
        large="photo-smallcodes.2",
    ),
    ModelCard(
        name="photo-small.1",
        wire_id=5,
        sha256="75a424da6562ec66b929afa051717e3a34ee4b12b3e7974960d8bce29a10da64",
        file=WEIGHTS / "photo-small.1.onnx",
        summary="lossless photographs: photo for large pictures, 6 thousand weights",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper=PHOTO_PAPERS,
        aliases=("photo-small",),
        for_codes="photo-smallcodes.2",
    ),
    ModelCard(
        name="photo-smallcodes.1",
        wire_id=6,
        sha256="0b45b50b4055271cd9b9b76b1a5ff397a10a5650390342be28670579561478ce",
        file=WEIGHTS / "photo-smallcodes.1.onnx",
        summary="luma and chroma codes: what photo-smallcodes.2 was trained on from, kept for its files",
        licence="Apache-2.0",
        data=CODES,
        paper=PHOTO_PAPERS,
    ),
    ModelCard(
        name="photo-smallcodes.2",
        wire_id=10,
        sha256="13cb61150a5b263a6081031e2bd3a4fd5206bcd466f624bddc8e1c906c66c1af",
        file=WEIGHTS / "photo-smallcodes.2.onnx",
        summary="photo-small.1's network for luma and chroma codes, at effort 1 and for large pictures",
        licence="Apache-2.0",
        data=CODES,
        paper=PHOTO_PAPERS,
        aliases=("photo-smallcodes",),
    ),
    ModelCard(
        name="pixelcnn-base.1",
        wire_id=16,
        sha256="2c4f21d7ac304a9b820dc609083f2f738cb32e7ba3bc4b4cf4efa19e47251f0c",
        file=WEIGHTS / "pixelcnn-base.1.onnx",
        summary="lossless: gated PixelCNN, 103 thousand weights",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper="arXiv 1606.05328",
        aliases=("pixelcnn", "pixelcnn-base"),
    ),
    ModelCard(
        name="pixelrnn-base.1",
        wire_id=17,
        sha256="734cf9d6b0643fd59773b0491eafb826826d1ea7442188f1d3a5b998f29a76a5",
        file=WEIGHTS / "pixelrnn-base.1.onnx",
        summary="lossless: PixelRNN with Row LSTM, 105 thousand weights",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper="arXiv 1601.06759",
        aliases=("pixelrnn", "pixelrnn-base"),
    ),
    ModelCard(
        name="nice-base.1",
        wire_id=18,
        sha256="6fab35f2185a6ed51ececc7d379cf9951b197c9696daba321d0f1c0fb8202332",
        file=WEIGHTS / "nice-base.1.onnx",
        summary="lossless: NICE, a flow of additive couplings",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper="arXiv 1410.8516",
        aliases=("nice", "nice-base"),
    ),
    ModelCard(
        name="realnvp-base.1",
        wire_id=19,
        sha256="4c8ca10a73ec76a77b2786f91273be736209910667e2acb1dad9d52c941f49b9",
        file=WEIGHTS / "realnvp-base.1.onnx",
        summary="lossless: RealNVP, a multi-scale flow of affine couplings",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper="arXiv 1605.08803",
        aliases=("realnvp", "realnvp-base"),
    ),
    ModelCard(
        name="glow-base.1",
        wire_id=20,
        sha256="673c3f0826b3bb2005072ad58883ba0672f4925b93d2ecd9b8a86c150a3101e4",
        file=WEIGHTS / "glow-base.1.onnx",
        summary="lossless: Glow, a flow with 1 x 1 convolutions",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper="arXiv 1807.03039",
        aliases=("glow", "glow-base"),
    ),
    ModelCard(
        name="vae-base.1",
        wire_id=21,
        sha256="78b9d2ba045b9ff601d3970955a5ef567585ea1878c039c578d855955bf9f8f7",
        file=WEIGHTS / "vae-base.1.onnx",
        summary="lossless: a VAE with one layer of latents, coded by bits-back",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper="arXiv 1312.6114",
        aliases=("vae", "vae-base"),
    ),
    ModelCard(
        name="nvae-base.1",
        wire_id=22,
        sha256="be40565e83818e4aafef14aaf33f9407fbc3234fa5aba84c768ba9153ed47e8e",
        file=WEIGHTS / "nvae-base.1.onnx",
        summary="lossless: NVAE, a hierarchy of latent groups, coded by bits-back",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper="arXiv 2007.03898",
        aliases=("nvae", "nvae-base"),
    ),
    ModelCard(
        name="nvae-lossy-base.1",
        wire_id=24,
        sha256="26138ab150dc3ac0baa1318aa2b7e1d8fa9616e7069b7a85818196502236b969",
        file=WEIGHTS / "nvae-lossy-base.1.onnx",
        summary="lossy, all rates: NVAE's hierarchy with quantised posteriors",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper="arXiv 2007.03898, quantised as in arXiv 2208.13056",
        aliases=("nvae-lossy", "nvae-lossy-base"),
    ),
    ModelCard(
        name="beta-vae-base.1",
        wire_id=25,
        sha256="8f0d43533e87b3b9c6d9c8cd84d974d479299d85a00bd41723af980a645e40ec",
        file=WEIGHTS / "beta-vae-base.1.onnx",
        summary="lossy, all rates: a VAE with one layer of latents and a hyper-latent, conditioned on beta",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper="Higgins et al. 2017, beta-VAE (ICLR); hyper-latent as in arXiv 1802.01436",
        aliases=("beta-vae", "beta-vae-base"),
    ),
    ModelCard(
        name="beta-vae-sprites.1",
        wire_id=28,
        sha256="bf3d3412864b2c481e57bb414fab9e023531b6b5e3ff67ec28d3b03585e25a1e",
        file=WEIGHTS / "beta-vae-sprites.1.onnx",
        summary="makes pictures up: a beta-VAE of ten latents, for latent traversals; it codes none",
        licence="Apache-2.0",
        data="generated sprites of five factors, after dSprites",
        paper="Higgins et al. 2017, beta-VAE (ICLR)",
        aliases=("beta-vae-sprites",),
        stated_family="beta-vae-sprites",
    ),
    ModelCard(
        name="vq-vae-base.1",
        wire_id=26,
        sha256="f8c646370537c3c86a295a90d64dac605b113ae507f728a1af15398b90570152",
        file=WEIGHTS / "vq-vae-base.1.onnx",
        summary="lossy, 8 levels from about 0.08 to 0.7 bits a pixel: VQ-VAE of residual stages, with exact priors",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper="arXiv 1711.00937",
        aliases=("vq-vae", "vq-vae-base"),
        stated_family="vq-vae",
    ),
    ModelCard(
        name="vq-vae-2-base.1",
        wire_id=27,
        sha256="c8e31631c2028a377c16bb38fba03ce60453a7bab213dbb3ef637c9ef5312080",
        file=WEIGHTS / "vq-vae-2-base.1.onnx",
        summary="lossy, 4 levels from about 0.08 to 0.33 bits a pixel: VQ-VAE-2, its top prior with attention",
        licence="Apache-2.0",
        data=PHOTOGRAPHS,
        paper="arXiv 1906.00446",
        aliases=("vq-vae-2", "vq-vae-2-base"),
        stated_family="vq-vae-2",
    ),
)


def list_models() -> list[ModelCard]:
    """All models that ship, by name."""
    return sorted(MODELS, key=lambda card: card.name)


def find_model(name: str | Path) -> ModelCard:
    """The model of that name, alias, or path to an exported ONNX file. Raises `UsageError` for all else."""
    for card in MODELS:
        if name == card.name or name in card.aliases:
            return card
    path = Path(name)
    if path.suffix == ".onnx" or path.is_file():
        return _card_of_file(path)
    known = [n for card in MODELS for n in (card.name, *card.aliases)]
    raise unknown_name("model", str(name), known)


def models_behind(name: str | Path) -> list[ModelCard]:
    """The model of a name and, where that is an alias, those that may take its place. Raises `UsageError`."""
    found = [find_model(name)]
    if name in found[0].aliases:
        for card in found:  # which grows on the way
            names = dict.fromkeys((card.for_codes, card.quick, card.medium, card.large, card.large_slow))
            found += [other for other in map(find_model, filter(None, names)) if other not in found]
    return found


def model_for(wire_id: int, weights_prefix: bytes, extra: ModelCard | None = None) -> ModelCard:
    """The model that a file names; `extra` is one that the user points to. Raises `UnknownModel`."""
    if extra is not None and extra.weights_prefix == weights_prefix:
        return extra
    for card in MODELS:
        if card.wire_id == wire_id:
            if card.weights_prefix != weights_prefix:
                raise UnknownModel(f"the file was coded with other weights of {card.name} than the ones installed")
            return card
    if wire_id == UNREGISTERED:
        raise UnknownModel(
            f"the file was coded by an exported model with weights {weights_prefix.hex()}; "
            "name its ONNX file with --model"
        )
    raise UnknownModel(f"the file needs model number {wire_id}, which this version of gencodec does not have")


def _card_of_file(path: Path) -> ModelCard:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the model file {path} cannot be read: {error.strerror}") from error
    return ModelCard(
        name=str(path),
        wire_id=UNREGISTERED,
        sha256=hashlib.sha256(data).hexdigest(),
        file=path,
        summary="exported model",
        licence="unknown",
        data="unknown",
        paper="",
        stated_family=_family_of(path, data),
    )


def _family_of(path: Path, data: bytes) -> str:
    """The family that an ONNX file states; whether the file is sound shows when it is loaded. Raises `UsageError`."""
    from gencodec.runtime import onnxfile

    try:
        return onnxfile.read(data).metadata["gencodec.family"]
    except (InvalidFile, KeyError) as error:
        raise UsageError(f"{path} is not a model that gencodec exported") from error

"""The model families that can be trained: what each is, its sizes, and how its network is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from gencodec.errors import unknown_name
from gencodec.models.glow import Glow, GlowConfig
from gencodec.models.grow import grown
from gencodec.models.lossy import BetaVAEConfig, Lossy, LossyConfig
from gencodec.models.nice import Nice, NiceConfig
from gencodec.models.nvae import NVAE, NVAEConfig
from gencodec.models.photo import Photo, PhotoConfig
from gencodec.models.pixelcnn import PixelCNN, PixelCNNConfig
from gencodec.models.pixelrnn import PixelRNN, PixelRNNConfig
from gencodec.models.realnvp import Realnvp, RealnvpConfig
from gencodec.models.settings import parsed
from gencodec.models.spritevae import SpriteVAE, SpriteVAEConfig
from gencodec.models.vae import VAE, VAEConfig
from gencodec.models.vqvae import VQVAE, VQVAEConfig
from gencodec.models.vqvae2 import VQVAE2, VQVAE2Config


@dataclass(frozen=True)
class Family:
    """A family of networks that give pixels' code lengths."""

    name: str
    config: type
    """A frozen dataclass of sizes."""
    build: Callable[[Any], nn.Module]
    """Of a config, a network that takes tiles (3, batch, height, width) of gray levels, green, red and blue, and gives
    code lengths whose mean is in bits a subpixel: of the same shape, or one a tile. Lossy ones add what errors cost."""

    grow: Callable[[Any, Any, dict[str, Tensor]], dict[str, Tensor]] | None = None
    """Of two configs and the first one's weights, those of the second that compute the same. Raises `ValueError`."""

    def configured(self, settings: Sequence[str]) -> Any:
        """The default sizes with `NAME=VALUE` settings applied. Raises `UsageError`."""
        return replace(self.config(), **parsed(self.config, settings, self.name))

    def sized(self, sizes: dict[str, Any]) -> Any:
        """The config of sizes that a checkpoint holds; those that it lacks are the default ones."""
        return self.config(**{**asdict(self.config()), **sizes})

    def restored(self, sizes: dict[str, Any]) -> nn.Module:
        """A network of the sizes that a checkpoint holds."""
        return self.build(self.sized(sizes))


FAMILIES = {
    family.name: family
    for family in (
        Family("photo", PhotoConfig, Photo, grown),
        Family("pixelcnn", PixelCNNConfig, PixelCNN),
        Family("pixelrnn", PixelRNNConfig, PixelRNN),
        Family("nice", NiceConfig, Nice),
        Family("realnvp", RealnvpConfig, Realnvp),
        Family("glow", GlowConfig, Glow),
        Family("vae", VAEConfig, VAE),
        Family("nvae", NVAEConfig, NVAE),
        Family("vq-vae", VQVAEConfig, VQVAE),
        Family("vq-vae-2", VQVAE2Config, VQVAE2),
        Family("beta-vae", BetaVAEConfig, Lossy),
        Family("nvae-lossy", LossyConfig, Lossy),
        Family("beta-vae-sprites", SpriteVAEConfig, SpriteVAE),
    )
}


def find_family(name: str) -> Family:
    """The family called `name`. Raises `UsageError`."""
    if name not in FAMILIES:
        raise unknown_name("family", name, FAMILIES)
    return FAMILIES[name]

"""Sizes of NVAE networks (`gencodec.models.nvae`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NVAEConfig:
    """Sizes of the network, by default those of the shipped model."""

    tile: int = 64
    lattice: int = 5
    """Scales whose groups are lattices of pixels: strides 2, 4, ... 2**lattice."""
    groups: tuple[int, ...] = (1,)
    """Free groups at each of the next coarser strides."""
    points: int = 1
    """1: posteriors of lattice groups are points, the picture's own pixels; only free groups draw bits."""
    latents: int = 16
    """Latents of a free group at each position."""
    width: int = 48
    """Features of the free groups' and the coarser lattices' state."""
    cells: int = 1
    """Residual cells before each group that is coded at once."""
    fine_width: int = 64
    fine_cells: tuple[int, int] = (2, 3)
    """Features, and cells before D and before B and C, of the finest lattice."""
    expansion: int = 2
    kernel: int = 3
    narrow: int = 3
    """Largest scale index of lattice groups' posteriors: a tenth of a level."""
    bank: int = 4
    """Linear predictions that a color chooses among."""
    color_hidden: int = 24
    encoder: int = 16
    """Features of the bottom-up network."""
    encoder_cells: int = 1
    ends: int = 0
    """Cells at full resolution, before the bottom-up and after the top-down network, where there is no lattice."""
    warmup: int = 300
    """Steps in which the divergence of free groups gains its full weight (section 3 of the paper)."""

    @property
    def free(self) -> list[int]:
        """Scales (stride 2**scale) of free groups, coarsest first."""
        return list(range(self.lattice + len(self.groups), self.lattice, -1))


PAPER = NVAEConfig(
    tile=32,
    lattice=0,
    groups=(30,),
    latents=20,
    width=256,
    cells=2,
    expansion=6,
    kernel=5,
    encoder=256,
    encoder_cells=2,
    ends=2,
)
"""The paper's CIFAR-10 model (table 6): 30 groups of 20 latents at 16 x 16, 2 cells a group, 128 features at first."""

"""NICE, RealNVP and Glow: their papers' sizes, what they learn, and that they are flows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gencodec.models import glow, nice, realnvp
from gencodec.models.conditioners import Checkered
from gencodec.models.flows import Coupling, Factor, Flow, Mix, values_of
from gencodec.models.glow import Glow, GlowConfig
from gencodec.models.nice import Nice, NiceConfig
from gencodec.models.quantize import set_exact
from gencodec.models.realnvp import Realnvp, RealnvpConfig
from gencodec.models.soap import Soap

TINY = {
    "nice": lambda: Nice(NiceConfig(levels=2, hidden=8)),
    "dense nice": lambda: Nice(NiceConfig(tile=8, dense=1, hidden=8, blocks=1)),
    "realnvp": lambda: Realnvp(RealnvpConfig(scales=2, hidden=6)),
    "paper's realnvp": lambda: Realnvp(RealnvpConfig(scales=2, hidden=6, folded=0)),
    "glow": lambda: Glow(GlowConfig(levels=2, steps=2, hidden=6)),
    "paper's glow": lambda: Glow(GlowConfig(levels=2, steps=2, hidden=6, fitted=0)),
}
every = pytest.mark.parametrize("name", TINY)


def size_of(flow: Flow) -> int:
    return sum(p.numel() for p in flow.parameters())


def conv(sources: int, targets: int, kernel: int = 3) -> int:
    """Parameters of a convolution."""
    return kernel**2 * sources * targets + targets


SHAPES = 8 * 5
"""Parameters of the tail shapes, which all families have."""


def test_the_paper_s_nice() -> None:
    """Section 5.1: four couplings of 3072 components, four hidden layers of 2000; a scale a component and more."""
    with torch.device("meta"):
        flow = Nice(nice.PAPER)
    coupling = 1536 * 2000 + 2000 + 3 * (2000 * 2000 + 2000) + 2000 * 1536 + 1536
    assert coupling == 18_153_536
    assert size_of(flow) == 4 * coupling + 3 * 3072 + SHAPES


def test_the_paper_s_realnvp() -> None:
    """Section 4.1: 8 residual blocks of 64 features, 3 + 3 couplings, one squeeze, 4 couplings on the last scale."""
    with torch.device("meta"):
        flow = Realnvp(realnvp.PAPER)
    blocks = 8 * 2 * conv(64, 64)
    first = 3 * (conv(3, 64) + blocks + conv(64, 2 * 3)) + 3 * (conv(6, 64) + blocks + conv(64, 2 * 6))
    last = 4 * (conv(6, 64) + blocks + conv(64, 2 * 6))
    assert size_of(flow) == first + last + 3 * (6 + 24) + SHAPES
    assert 5.9e6 < size_of(flow) < 6.1e6


def test_the_paper_s_glow() -> None:
    """Table 4: 32 steps on each of 3 levels, 512 features; about 44 million parameters."""
    with torch.device("meta"):
        flow = Glow(glow.PAPER)
    total = SHAPES + 3 * 48
    for features in (12, 24, 48):
        half = features // 2
        step = conv(half, 512) + conv(512, 512, 1) + conv(512, 2 * half) + 2 * features**2 + 3 * features
        total += 32 * step + (conv(half, 3 * half) if features < 48 else 0)
    assert size_of(flow) == total
    assert round(total / 1e6) == 44


def test_shipped_sizes_fit_into_their_files() -> None:
    for build in (Nice, Realnvp, Glow):
        with torch.device("meta"):
            assert size_of(build()) * 2 < 2e6, "two bytes a weight leave room for tables"


def kinds(flow: Flow) -> list[type]:
    return [type(step) for step in flow.steps]


def test_families_are_made_of_their_papers_steps() -> None:
    flows = {name: make() for name, make in TINY.items()}
    for name, flow in flows.items():
        couplings = [step for step in flow.steps if isinstance(step, Coupling)]
        assert all(c.affine != ("nice" in name) for c in couplings)
        assert (Mix in kinds(flow)) == ("glow" in name)
        factors = [step for step in flow.steps if isinstance(step, Factor)]
        conditional = [hasattr(f.given, "reach") for f in factors]
        assert conditional == [("glow" in name)] * (len(factors) - 1) + [False]
    masked = [c for c in flows["paper's realnvp"].steps if isinstance(c, Coupling) and isinstance(c.network, Checkered)]
    assert [c.network.first for c in masked] == [True, False, True, True, False, True, False]
    assert kinds(flows["glow"]).count(Mix) == 2 * 2


def disturbed(flow: Flow) -> Flow:
    """`flow` with all parameters moved a little, so that nothing in it is zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return flow


def tiles_for(name: str, tiles: Tensor) -> Tensor:
    return tiles[:, :, :8, :8] if name == "dense nice" else tiles


@every
def test_flows_can_be_undone(name: str, slopes: Tensor) -> None:
    torch.manual_seed(2)
    flow, y = disturbed(TINY[name]()), values_of(tiles_for(name, slopes))
    flow.fit(y)
    disturbed(flow)
    with torch.no_grad():
        torch.testing.assert_close(flow.inverse(flow.latents(y)), y, atol=1e-3, rtol=0)


@every
def test_latents_are_as_many_as_sub_pixels(name: str, slopes: Tensor) -> None:
    flow, y = TINY[name](), values_of(tiles_for(name, slopes))
    assert sum(z[0].numel() for z in flow.latents(y)) == y[0].numel()


@every
def test_flows_learn(name: str, slopes: Tensor) -> None:
    torch.manual_seed(3)
    flow, tiles = TINY[name](), tiles_for(name, slopes)
    flow.train()
    with torch.no_grad():
        flow(tiles)
        before = flow.bits(values_of(tiles + 0.5)).mean() / tiles[:, 0].numel()
    optimizer = Soap(flow.parameters(), lr=1e-3)
    for _ in range(12):
        optimizer.zero_grad()
        flow(tiles).mean().backward()
        optimizer.step()
    with torch.no_grad():
        after = flow.bits(values_of(tiles + 0.5)).mean() / tiles[:, 0].numel()
        assert after < before - 0.005
        set_exact(flow, True)
        assert flow(tiles).mean() < after * 1.02


@pytest.mark.parametrize("name", ["nice", "realnvp", "glow"])
def test_flows_begin_as_predictors(name: str, slopes: Tensor) -> None:
    """The first code length is far below that of pixels by themselves, and of the paper's beginning."""
    torch.manual_seed(4)
    flow = TINY[name]().train()
    with torch.no_grad():
        begun = float(flow(slopes).mean())
    noise = float(torch.log2(slopes.diff(dim=-1).std() * 4.13))
    assert begun < noise


@pytest.mark.parametrize("name", ["nice", "realnvp", "glow"])
def test_tiles_of_other_sizes_are_taken(name: str) -> None:
    flow = TINY[name]().eval()
    with torch.no_grad():
        assert flow(torch.full((3, 2, 64, 16), 90.0)).shape == (2,)


def test_every_parameter_learns(slopes: Tensor) -> None:
    for name, make in TINY.items():
        flow = disturbed(make())
        flow(tiles_for(name, slopes)).mean().backward()
        dead = [n for n, p in flow.named_parameters() if p.grad is None]
        assert not dead, name


def test_configs_are_changed_by_name() -> None:
    assert replace(NiceConfig(), dense=1) != NiceConfig()
    for config in (NiceConfig(), RealnvpConfig(), GlowConfig()):
        assert config.tile == 32

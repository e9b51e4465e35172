"""NVAE: groups of latents on lattices and free ones, learning, the integer network, and the paper's size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gencodec.models.latents import PIXEL, Account, Residual
from gencodec.models.nvae import NORM_LIMIT, NVAE, Norms
from gencodec.models.nvaeconfig import PAPER, NVAEConfig
from gencodec.models.quantize import ExactConv, set_exact
from gencodec.models.soap import Soap

TINY = NVAEConfig(
    tile=16,
    points=0,
    lattice=2,
    groups=(1, 1),
    latents=3,
    width=8,
    fine_width=8,
    fine_cells=(1, 1),
    bank=2,
    color_hidden=6,
    encoder=8,
)
POINTS = replace(TINY, points=1)
FREE = replace(TINY, lattice=0, groups=(2, 1), ends=2)
both = pytest.mark.parametrize("config", [TINY, POINTS, FREE], ids=["lattice", "points", "free"])


def tiles(slopes: Tensor) -> Tensor:
    return slopes[:, :, :16, :16]


@both
@pytest.mark.parametrize("exact", [False, True])
def test_every_tile_has_a_cost_and_every_parameter_a_gradient(config: NVAEConfig, exact: bool, slopes: Tensor) -> None:
    torch.manual_seed(1)
    nvae = NVAE(config)
    set_exact(nvae, exact)
    bits = nvae(tiles(slopes))
    assert bits.shape == (8,)
    assert float(bits.min()) > 0
    bits.mean().backward()
    for name, parameter in nvae.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@both
def test_a_few_steps_lower_the_bound(config: NVAEConfig, slopes: Tensor) -> None:
    torch.manual_seed(2)
    nvae, x = NVAE(replace(config, warmup=0)), tiles(slopes)
    optimizer, bounds = Soap(nvae.parameters(), lr=1e-2), []
    for _ in range(12):
        bound = nvae(x).mean()
        optimizer.zero_grad()
        bound.backward()
        optimizer.step()
        bounds.append(float(bound.detach()))
    assert bounds[-1] < 0.95 * bounds[0]


def entries(nvae: NVAE, x: Tensor) -> tuple[Account, list[Tensor]]:
    """What a picture is made of, and the symbols that are coded, in their order."""
    with torch.no_grad():
        account = nvae.accounted(x)
    return account, [symbols for symbols, _, weight in account.entries if weight > 0]


def test_latents_of_lattices_begin_as_the_pixels(slopes: Tensor) -> None:
    torch.manual_seed(3)
    x = tiles(slopes)
    coded = entries(NVAE(TINY).eval(), x)[1][2:]  # after the free groups
    pictures = x.transpose(0, 1)
    expected = [pictures[:, c : c + 1, ::4, ::4] for c in range(3)]
    expected += [pictures[:, c : c + 1, 2::4, 2::4] for c in range(3)]
    for found, pixels in zip(coded, expected, strict=False):
        assert float((found != pixels).float().mean()) < 0.05
    assert coded[-1].shape == (8, 6, 8, 8)


def test_every_pixel_is_paid_for(slopes: Tensor) -> None:
    torch.manual_seed(4)
    x = tiles(slopes)
    account, coded = entries(NVAE(TINY).eval(), x)
    latents = sum(s.numel() for s, _, weight in account.entries if weight < 0)
    assert sum(s.numel() for s in coded) == latents + x.numel()
    assert latents - 8 * 3 * (4 + 1) == x.numel() // 2  # lattices, without the free groups' latents


def test_groups_of_points_are_the_pixels_and_draw_nothing(slopes: Tensor) -> None:
    torch.manual_seed(12)
    x = tiles(slopes)
    account, coded = entries(NVAE(POINTS).eval(), x)
    assert sum(weight < 0 for _, _, weight in account.entries) == 2  # the free groups
    assert sum(s.numel() for s in coded[2:]) == x.numel()
    whole = torch.cat([s.flatten() for s in coded[2:]])
    assert torch.equal(whole.sort().values, x.flatten().sort().values)


def test_latents_within_a_scale_see_those_before_them(slopes: Tensor) -> None:
    torch.manual_seed(5)
    nvae, x = NVAE(replace(TINY, narrow=0)).eval(), tiles(slopes)
    for part in nvae.modules():
        if isinstance(part, Residual):  # posteriors that see no more of the picture than their anchors
            torch.nn.init.zeros_(part.conv.weight)
    changed = x.clone()
    changed[2, :, 1::2, ::2] = 255 - changed[2, :, 1::2, ::2]  # blue of C, coded last at the finest scale
    torch.manual_seed(6)
    before = entries(nvae, x)[0]
    torch.manual_seed(6)
    after = entries(nvae, changed)[0]
    same = [torch.equal(a.mean, b.mean) for (_, a, _), (_, b, _) in zip(before.entries, after.entries, strict=True)]
    weights = [weight for _, _, weight in before.entries]
    finest = [s for s, weight in zip(same, weights, strict=True) if weight > 0][-7:]
    assert finest[3:] == [True] * 4  # the means of C's three colors, and of the pixels that have latents


def test_free_groups_gain_their_weight_in_training(slopes: Tensor) -> None:
    nvae = NVAE(replace(TINY, warmup=4))
    assert [nvae.warmed() for _ in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert nvae.eval().warmed() == 1.0
    assert int(nvae.state_dict()["seen"]) == 5
    nvae.train()
    set_exact(nvae, True)
    assert nvae.warmed() == 1.0


def test_norms_are_those_of_the_matrices() -> None:
    torch.manual_seed(7)
    conv = ExactConv([(6, PIXEL)], [(10, PIXEL)])
    with torch.no_grad():
        conv.weight.mul_(10)
    norms = Norms([conv])
    for _ in range(60):
        excess = norms()
    largest = float(torch.linalg.matrix_norm(conv.weight.flatten(1), 2))
    assert largest > NORM_LIMIT
    assert float(excess.detach()) == pytest.approx((largest - NORM_LIMIT) ** 2, rel=1e-3)
    excess.backward()
    assert conv.weight.grad is not None
    with torch.no_grad():
        conv.weight.mul_(0.9 * NORM_LIMIT / largest)
    assert float(norms().detach()) == 0.0


def test_large_norms_are_penalised_in_training_only(slopes: Tensor) -> None:
    torch.manual_seed(8)
    nvae, x = NVAE(replace(TINY, warmup=0)), tiles(slopes)
    with torch.no_grad():
        nvae.fine.enter.cells[0].expand.weight.mul_(100)  # type: ignore[union-attr]
        torch.manual_seed(9)
        training = float(nvae(x).mean())
        torch.manual_seed(9)
        plain = float(nvae.eval()(x).mean())
    assert training > plain + 1


def test_the_integer_network_is_near_the_smooth_one(slopes: Tensor) -> None:
    torch.manual_seed(10)
    nvae, x = NVAE(TINY).eval(), tiles(slopes)
    with torch.no_grad():
        smooth = float(nvae(x).mean())
        set_exact(nvae, True)
        assert float(nvae(x).mean()) == pytest.approx(smooth, rel=0.03)


def test_other_sizes_than_the_tile_can_be_costed(slopes: Tensor) -> None:
    torch.manual_seed(11)
    nvae = NVAE(TINY).eval()
    with torch.no_grad():
        assert nvae(slopes).shape == (8,)
        assert nvae(slopes[:, :2, :, :16]).shape == (2,)


def test_the_papers_size() -> None:
    with torch.device("meta"):
        nvae = NVAE(PAPER)
    groups, width, expansion, latents, image = 30, 256, 6, 20, 128
    squeeze = 2 * width * width // 16
    decoder = 2 * width * expansion * width + 25 * expansion * width + squeeze  # figure 3a
    encoder = 2 * 9 * width * width + squeeze  # figure 3b
    samplers = 9 * width * 2 * latents + width * 2 * latents  # posterior 3x3, prior 1x1
    combiners = width * (width + latents) + width * width
    ends = 9 * 3 * image + 2 * 9 * image * image + 9 * image * width  # before: 3x3 and a cell, 3x3 with stride 2
    expected = groups * (2 * decoder + 2 * encoder + samplers + combiners) + ends
    assert sum(p.numel() for p in nvae.parameters()) == pytest.approx(expected, rel=0.03)
    assert len(nvae.free[0].groups) == groups  # type: ignore[arg-type]

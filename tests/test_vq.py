"""VQ-VAE and VQ-VAE-2: codebooks, causal priors, learning, and the paper's size."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gencodec.models.codebooks import REBORN, RENEWED, Codebooks, nearest
from gencodec.models.codeprior import (
    CodePrior,
    PriorSizes,
    code_bits,
    powers,
    read_exact,
    read_smooth,
    seen,
)
from gencodec.models.quantize import set_exact
from gencodec.models.soap import Soap
from gencodec.models.transforms import BLOCK, Analysis, Synthesis, in_units, marked
from gencodec.models.vqvae import PAPER, VQVAE, VQVAEConfig
from gencodec.models.vqvae2 import PAPER as PAPER_2
from gencodec.models.vqvae2 import VQVAE2, VQVAE2Config, averages

SMALL = {
    "tile": 32,
    "dim": 12,
    "codes": 16,
    "active": 8,
    "width": 8,
    "encoder_blocks": 1,
    "decoder_blocks": 1,
    "filtered": 8,
    "hidden": 4,
    "layers": 2,
    "embed": 4,
    "context": 4,
    "output": 8,
}
ONE = VQVAEConfig(**SMALL, stages=3, prices=(2.0, 1.0, 0.5), errors=(300.0, 200.0, 100.0))
TWO = VQVAE2Config(
    **SMALL,
    top_stages=2,
    bottom_stages=2,
    top_prices=(2.0, 2.0),
    bottom_prices=(1.0, 0.5),
    errors=(300.0, 200.0, 100.0),
    attention=4,
)
both = pytest.mark.parametrize("config", [ONE, TWO], ids=["vq-vae", "vq-vae-2"])
Network = VQVAE | VQVAE2
Config = VQVAEConfig | VQVAE2Config


def built(config: Config, seed: int = 1) -> Network:
    torch.manual_seed(seed)
    return VQVAE(config) if isinstance(config, VQVAEConfig) else VQVAE2(config)


# codebooks


def test_codes_are_the_nearest_unless_they_are_dear() -> None:
    points, rest = torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert nearest(rest, points, torch.zeros(2)).tolist() == [0, 1]
    assert nearest(rest, points, torch.tensor([0.0, 9.0])).tolist() == [0, 0]


def test_codebooks_follow_what_they_quantise() -> None:
    torch.manual_seed(0)
    centers = torch.tensor([[10.0, 0, 0, 0], [0, 10.0, 0, 0], [-10.0, 0, 0, 0], [0, -10.0, 0, 0]])
    books = Codebooks(2, 8, 4, (0.01, 0.01), 4).train()
    errors = []
    for _ in range(120):
        z = centers[torch.randint(4, (64,))] + torch.randn(64, 4)
        quantised = books(z.view(4, 4, 4, 4).permute(0, 3, 1, 2))
        errors.append(float((quantised.sums[-1].permute(0, 2, 3, 1).reshape(64, 4) - z).square().mean()))
    assert sum(errors[-10:]) < 0.8 * sum(errors[:10])
    assert sum(errors[-10:]) / 10 < 0.6  # of 1 about each center
    assert int(books.age) == 120


def test_codes_that_nothing_chooses_start_again() -> None:
    torch.manual_seed(0)
    books = Codebooks(1, 4, 2, (0.0,), 2).train()
    z = torch.randn(1, 2, 8, 8)
    books(z)
    books.vectors[0, 3] = 1000.0
    books.mass[0, 3] = 0.0
    books.age.fill_(RENEWED - 1)
    books(z)
    assert books.vectors[0, 3].abs().max() < 10
    assert float(books.mass[0, 3]) >= 0.9 * REBORN * float(books.mass[0, :3].mean()) * 0.5


def test_codebooks_rest_in_evaluation_and_with_the_integer_network() -> None:
    books = Codebooks(2, 4, 3, (0.0, 0.0), 3).train()
    z = torch.randn(1, 3, 4, 4)
    books(z)
    before = {name: value.clone() for name, value in books.state_dict().items()}
    books.exact = True
    books(z)
    books.exact = False
    books.eval()(z)
    for name, value in books.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_sums_are_those_of_the_codes() -> None:
    torch.manual_seed(0)
    books = Codebooks(3, 8, 6, (0.1, 0.1, 0.1), 4).train()
    z = torch.randn(2, 6, 4, 4)
    books(z)
    quantised = books.eval()(z)
    total = sum(points[codes] for points, codes in zip(books.points(), quantised.codes, strict=True))
    torch.testing.assert_close(quantised.sums[-1], torch.as_tensor(total).permute(0, 3, 1, 2), atol=1e-5, rtol=0)
    assert (books.points() != 0).any(1).sum(1).max() <= 4


# transforms


def test_the_synthesis_begins_as_the_inverse_of_the_analysis() -> None:
    x = in_units(torch.linspace(20, 230, 32).expand(3, 2, 16, 32))
    analysis, synthesis = Analysis(192, 8, 1), Synthesis(192, 2, 8, 1, 8)
    for part in (analysis.features, synthesis.features, synthesis.smoothed):
        for parameter in part.parameters():
            parameter.data.zero_()
    torch.testing.assert_close(synthesis(marked(analysis(x), torch.zeros(2).long(), 2)), x, atol=1e-4, rtol=1e-4)


def test_means_of_blocks_are_orthonormal() -> None:
    weights = averages(16)
    torch.testing.assert_close(weights @ weights.t(), torch.eye(16))


# priors

PRIORS = {
    "alone": PriorSizes(16, 6, hidden=4, layers=3, embed=4, context=4, output=8),
    "known": PriorSizes(16, 6, hidden=4, layers=2, embed=4, context=4, output=8, known=6),
    "lifted": PriorSizes(16, 6, hidden=4, layers=2, embed=4, context=4, output=8, known=6, lifted=6),
    "attention": PriorSizes(16, 6, hidden=4, layers=2, embed=4, context=4, output=8, attention=4),
}


def prior_inputs(sizes: PriorSizes) -> tuple[Tensor, Tensor | None, Tensor | None]:
    own = seen(3 * torch.randn(2, sizes.dim, 6, 8))
    known = seen(3 * torch.randn(2, sizes.dim, 6, 8)) if sizes.known else None
    return own, known, seen(3 * torch.randn(2, sizes.dim, 3, 4)) if sizes.lifted else None


def lively(prior: CodePrior) -> CodePrior:
    """With weights large enough for all inputs to tell."""
    with torch.no_grad():
        prior.head.weight.mul_(10)
        prior.embed.weight.mul_(5)
    return prior


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("exact", [False, True])
def test_priors_see_no_code_that_is_not_yet_coded(name: str, exact: bool) -> None:
    torch.manual_seed(4)
    prior, y, x = lively(CodePrior(PRIORS[name])), 3, 4
    set_exact(prior, exact)
    own, known, lifted = prior_inputs(prior.sizes)
    changed = own.clone()
    changed[:, :, y, x] = seen(30 * torch.randn(2, prior.sizes.dim, 1, 1))[:, :, 0, 0]
    with torch.no_grad():
        before, after = prior(own, known, lifted), prior(changed, known, lifted)
    differs = ((before - after).abs() > (0 if exact else 1e-6)).flatten(0, 1).any(0).flatten()
    place = y * own.shape[3] + x
    assert not differs[: place + 1].any()
    assert differs[place + 1 :].any()


@pytest.mark.parametrize("name", PRIORS)
def test_the_integer_prior_is_near_the_smooth_one(name: str) -> None:
    torch.manual_seed(5)
    prior = lively(CodePrior(PRIORS[name]))
    inputs = prior_inputs(prior.sizes)
    with torch.no_grad():
        smooth = prior(*inputs)
        set_exact(prior, True)
        exact = prior(*inputs)
    assert torch.equal(exact * 128, (exact * 128).round())
    assert float((smooth - exact).abs().max()) < 0.2 * float(smooth.abs().max())


def test_attention_in_whole_numbers_is_near_the_smooth_one() -> None:
    torch.manual_seed(6)
    q, k, v = ((256 * (torch.rand(2, 4, 12) * 2 - 1)).floor() for _ in range(3))
    smooth = read_smooth(q / 256, k / 256, v / 256)
    exact = read_exact(q.double(), k.double(), v.double())
    assert torch.equal(exact, exact.round())
    assert float((smooth - exact / 256).abs().max()) < 0.05
    assert not exact[..., 0].any()


def test_every_code_costs_at_most_16_bits() -> None:
    logits = torch.full((16, 1, 1, 2), -2.0)
    logits[3] = 3.9
    codes = torch.tensor([[[3, 5]]])
    bits = code_bits(logits, codes)
    assert 0 < float(bits[0, 0, 0]) < 0.01
    assert 15.9 < float(bits[0, 0, 1]) <= 16


def test_powers_halve_every_sixteen_entries() -> None:
    table = powers()
    assert int(table[0]) == 1 << 24
    assert int(table[16]) == 1 << 23
    assert (table.diff() <= 0).all()


# networks


@both
@pytest.mark.parametrize("exact", [False, True])
def test_every_tile_has_a_loss_and_parameters_have_gradients(config: Config, exact: bool, slopes: Tensor) -> None:
    network = built(config)
    network(slopes)  # codebooks begin
    set_exact(network, exact)
    missing = {name for name, _ in network.named_parameters()}
    for _ in range(6):  # not every step trains every prior
        network.zero_grad()
        loss = network(slopes)
        assert loss.shape == (8,)
        loss.mean().backward()
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all(), name
                missing.discard(name)
    assert not missing


@both
def test_a_few_steps_lower_the_loss(config: Config, slopes: Tensor) -> None:
    network = built(config, seed=2)
    optimizer, losses = Soap(network.parameters(), lr=5e-3), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = network(slopes).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


@both
def test_a_frozen_network_trains_its_priors_alone(config: Config, slopes: Tensor) -> None:
    learned = built(config)
    learned(slopes)
    network = built(replace(config, frozen=1))
    network.load_state_dict(learned.state_dict())
    network.train()(slopes).mean().backward()
    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert trained <= {"priors", "top_priors", "bottom_priors"}
    for name, value in network.named_buffers():
        assert torch.equal(value, learned.get_buffer(name)), name


@both
def test_higher_levels_are_nearer(config: Config, slopes: Tensor) -> None:
    network = built(config)
    for _ in range(10):
        network(slopes)
    network.eval()
    with torch.no_grad():
        pixels = in_units(slopes)
        latents = network.analysis(pixels)
        if isinstance(network, VQVAE):
            distances = [(latents - part).square().mean() for part in network.codebooks(latents).sums]
        else:
            _, bottom, predicted, _ = network.quantised(latents)
            distances = [(latents - predicted - part).square().mean() for part in (0 * predicted, *bottom.sums)]
    assert all(a > b for a, b in pairwise(distances))


def test_the_papers_sizes_have_their_parameters() -> None:
    with torch.device("meta"):
        one, two = VQVAE(PAPER), VQVAE2(PAPER_2)
    assert one.codebooks.vectors.shape == (1, 512, 64)
    assert one.analysis.linear.in_channels == 3 * BLOCK**2
    counts = [sum(p.numel() for p in part.parameters()) for part in (one.analysis, two.top_priors, two.bottom_priors)]
    assert [round(count / 1e6, 1) for count in counts] == [0.6, 113.2, 125.1]

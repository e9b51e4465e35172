"""SOAP in torch: parameters of every shape, sides that are not turned, and refreshes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gencodec.models import soap
from gencodec.models.soap import Soap, as_matrix


def minimized(shape: tuple[int, ...], steps: int = 250) -> tuple[float, float]:
    """Mean distance to the minimum of a quadratic of correlated elements, before and after."""
    torch.manual_seed(0)
    parameter, aim = nn.Parameter(torch.zeros(shape)), torch.randn(shape)
    count = parameter.numel()
    mixed = torch.randn(count, count) / count**0.5
    curvature = mixed @ mixed.t() + 0.2 * torch.eye(count)
    optimizer = Soap([parameter], lr=0.05)
    before = float(aim.abs().mean())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        away = (parameter - aim).flatten()
        optimizer.zero_grad()
        (0.5 * away @ curvature @ away).backward()
        optimizer.step()
    return before, float((parameter.detach() - aim).abs().mean())


@pytest.mark.parametrize(
    "shape", [(), (5,), (4, 6), (4, 3, 3, 3), (6, 1, 3, 3), (3, 2, 4), (1, 7, 1, 1), (2, 2, 2, 2, 2)]
)
def test_parameters_of_every_shape_find_their_minimum(shape: tuple[int, ...]) -> None:
    before, after = minimized(shape)
    assert after < 0.1 * before


@pytest.mark.parametrize(
    ("shape", "bases"),
    [
        ((), None),
        ((5,), None),
        ((1, 7, 1, 1), None),
        ((4, 1, 1), None),
        ((4, 6), [4, 6]),
        ((4, 3, 3, 3), [4, None]),
        ((30, 2), [None, 2]),
        ((30, 3, 3, 3), [None, None]),
        ((6, 1, 3, 3), [6, 9]),
    ],
)
def test_long_sides_are_not_turned(
    shape: tuple[int, ...], bases: list[int | None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soap, "LONGEST", 20)
    parameter = nn.Parameter(torch.zeros(shape))
    optimizer = Soap([parameter], lr=0.1)
    for _ in range(12):
        parameter.grad = torch.randn(shape)
        optimizer.step()
    state = optimizer.state[parameter]
    found = [None if b is None else len(b) for b in state["bases"]] if "bases" in state else None
    assert found == bases
    assert state["mean"].shape == as_matrix(torch.zeros(shape)).shape


def test_a_matrix_whose_sides_both_stay_moves_as_a_vector_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "LONGEST", 4)
    matrix, vector = nn.Parameter(torch.zeros(5, 6)), nn.Parameter(torch.zeros(30))
    optimizers = [Soap([parameter], lr=0.1) for parameter in (matrix, vector)]
    matrix.grad = torch.randn(5, 6)
    optimizers[0].step()  # which only begins
    for _ in range(15):
        gradient = torch.randn(30)
        vector.grad, matrix.grad = gradient, gradient.view(5, 6).clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(matrix.detach().flatten(), vector.detach())


def test_the_first_gradient_of_a_matrix_only_begins() -> None:
    """In its own eigenbases a gradient is diagonal; what else there is are rounding errors over rounding errors."""
    parameter = nn.Parameter(torch.zeros(6, 8))
    optimizer = Soap([parameter], lr=1.0)
    for scale in (1e4, 1.0, 1e-4):
        parameter.grad = torch.randn(6, 8) * scale
        optimizer.step()
        assert parameter.detach().abs().max() < 4
    first = nn.Parameter(torch.zeros(6, 8))
    optimizer = Soap([first], lr=1.0)
    first.grad = torch.randn(6, 8)
    optimizer.step()
    assert not first.detach().any()


def test_bases_stay_orthonormal_and_turn_with_the_gradients() -> None:
    torch.manual_seed(3)
    mixed = torch.randn(8, 8)
    parameter = nn.Parameter(torch.zeros(8, 5))
    optimizer = Soap([parameter], lr=0.01)
    for _ in range(200):
        parameter.grad = mixed @ torch.randn(8, 5)
        optimizer.step()
    left, right = optimizer.state[parameter]["bases"]
    for basis in (left, right):
        torch.testing.assert_close(basis.t() @ basis, torch.eye(len(basis)), atol=1e-5, rtol=0)
    strongest = torch.linalg.eigh(mixed @ mixed.t())[1][:, -1]
    assert float((strongest @ left[:, 0]).abs()) > 0.95


def test_parameters_without_gradients_stay() -> None:
    used, unused = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    optimizer = Soap([used, unused], lr=0.1)
    for _ in range(3):
        used.grad = torch.randn(3, 3)
        optimizer.step()
    assert torch.equal(unused.detach(), torch.ones(3, 3))
    assert unused not in optimizer.state


def test_zero_gradients_do_no_harm() -> None:
    """Layers behind others whose weights begin at zero get none at first."""
    parameter = nn.Parameter(torch.ones(4, 4))
    optimizer = Soap([parameter], lr=0.1)
    for step in range(25):
        parameter.grad = torch.zeros(4, 4) if step < 12 else torch.randn(4, 4)
        optimizer.step()
        assert torch.isfinite(parameter.detach()).all()
        assert step >= 12 or torch.equal(parameter.detach(), torch.ones(4, 4))
    assert (parameter.detach() != 1).all()

"""SOAP (Vyas et al. 2024, arXiv 2409.11321): Adam in the slowly turning eigenbasis of Shampoo's preconditioner.

Pixels of a neighborhood are strongly correlated, which Adam's diagonal scaling cannot see; for the small
matrices of our networks the eigenbases cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

LONGEST = 320
"""A longer side of a matrix is not turned: its eigenbasis would cost more than it saves (section 4, "one-sided")."""

Basis = Tensor | None
"""Eigenvectors as columns; None for a side that is not turned."""


class Soap(Optimizer):
    """Optimizer for parameters of any shape: (out, ...) is the matrix (out, the rest), and vectors get plain Adam."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        every: int = 10,
    ):
        """`every`: steps between refreshes of the eigenbases."""
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "every": every})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update all parameters that have gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, as_matrix(parameter.grad.float()), group)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        """One parameter's step, by its gradient as a matrix or vector."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            if gradient.dim() == 2:
                state["statistics"] = products(gradient)
                state["bases"] = [None if s is None else eigenbasis(s) for s in state["statistics"]]
                return  # in its own eigenbases a gradient is diagonal, and all else rounding errors
        state["step"] += 1
        rotated = turned(gradient, state)
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].lerp_(rotated.square(), 1 - beta2)
        mean = turned(state["mean"], state) / (1 - beta1 ** state["step"])
        direction = mean / ((state["square"] / (1 - beta2 ** state["step"])).sqrt() + group["eps"])
        parameter.add_(turned_back(direction, state).view_as(parameter), alpha=-group["lr"])
        if gradient.dim() == 2:
            for statistics, product in zip(state["statistics"], products(gradient), strict=True):
                if statistics is not None:
                    statistics.lerp_(product, 1 - beta2)
            if state["step"] % group["every"] == 0:
                refresh(state)


def as_matrix(gradient: Tensor) -> Tensor:
    """`gradient` (out, ...) as (out, the rest); of three dimensions or more, as a vector if one side is 1."""
    matrix = gradient.flatten(1) if gradient.dim() > 2 else gradient
    return matrix.flatten() if gradient.dim() > 2 and 1 in matrix.shape else matrix


def products(gradient: Tensor) -> list[Basis]:
    """The gradient's outer products (Shampoo's L and R), of each side that is turned."""
    left, right = (side <= LONGEST for side in gradient.shape)
    return [gradient @ gradient.t() if left else None, gradient.t() @ gradient if right else None]


def eigenbasis(statistics: Tensor) -> Tensor:
    """Eigenvectors as columns, of the largest eigenvalue first."""
    regular = statistics + 1e-12 * torch.eye(len(statistics), device=statistics.device)
    return torch.linalg.eigh(regular)[1].flip(1).contiguous()


def turned(gradient: Tensor, state: dict) -> Tensor:
    """`gradient` in the eigenbases."""
    left, right = state.get("bases", (None, None))
    gradient = gradient if left is None else left.t() @ gradient
    return gradient if right is None else gradient @ right


def turned_back(direction: Tensor, state: dict) -> Tensor:
    """`direction` out of the eigenbases."""
    left, right = state.get("bases", (None, None))
    direction = direction if left is None else left @ direction
    return direction if right is None else direction @ right.t()


def refresh(state: dict) -> None:
    """One power iteration of the bases towards the statistics' present eigenvectors (the paper's algorithm 4)."""
    bases: list[Basis] = []
    for axis, (statistics, basis) in enumerate(zip(state["statistics"], state["bases"], strict=True)):
        if basis is None:
            bases.append(None)
            continue
        # keep the columns sorted by their estimated eigenvalues, and the second moments with them
        order = torch.argsort((basis * (statistics @ basis)).sum(0), descending=True)
        state["square"] = state["square"].index_select(axis, order)
        bases.append(torch.linalg.qr(statistics @ basis[:, order])[0])
    state["bases"] = bases

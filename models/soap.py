"""SOAP (Vyas et al. 2024, arXiv 2409.11321): Adam in the slowly turning eigenbasis of Shampoo's preconditioner.

Pixels of a neighborhood are strongly correlated, which Adam's diagonal scaling cannot see; for the small
matrices of our networks the eigenbases cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


class Soap(Optimizer):
    """Optimizer for parameters of one or two dimensions; vectors get plain Adam."""

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
                    self.update(parameter, parameter.grad.float(), group)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        """One parameter's step."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            if gradient.dim() == 2:
                state["statistics"] = [gradient @ gradient.t(), gradient.t() @ gradient]
                state["bases"] = [eigenbasis(s) for s in state["statistics"]]
        state["step"] += 1
        rotated = turned(gradient, state)
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].lerp_(rotated.square(), 1 - beta2)
        mean = turned(state["mean"], state) / (1 - beta1 ** state["step"])
        direction = mean / ((state["square"] / (1 - beta2 ** state["step"])).sqrt() + group["eps"])
        parameter.add_(turned_back(direction, state), alpha=-group["lr"])
        if gradient.dim() == 2:
            left, right = state["statistics"]
            left.lerp_(gradient @ gradient.t(), 1 - beta2)
            right.lerp_(gradient.t() @ gradient, 1 - beta2)
            if state["step"] % group["every"] == 0:
                refresh(state)


def eigenbasis(statistics: Tensor) -> Tensor:
    """Eigenvectors as columns, of the largest eigenvalue first."""
    return torch.linalg.eigh(statistics + 1e-12 * torch.eye(len(statistics)))[1].flip(1).contiguous()


def turned(gradient: Tensor, state: dict) -> Tensor:
    """`gradient` in the eigenbases."""
    return state["bases"][0].t() @ gradient @ state["bases"][1] if "bases" in state else gradient


def turned_back(direction: Tensor, state: dict) -> Tensor:
    """`direction` out of the eigenbases."""
    return state["bases"][0] @ direction @ state["bases"][1].t() if "bases" in state else direction


def refresh(state: dict) -> None:
    """One power iteration of the bases towards the statistics' present eigenvectors (the paper's algorithm 4)."""
    bases = []
    for axis, (statistics, basis) in enumerate(zip(state["statistics"], state["bases"], strict=True)):
        # keep the columns sorted by their estimated eigenvalues, and the second moments with them
        order = torch.argsort((basis * (statistics @ basis)).sum(0), descending=True)
        state["square"] = state["square"].index_select(axis, order)
        bases.append(torch.linalg.qr(statistics @ basis[:, order])[0])
    state["bases"] = bases

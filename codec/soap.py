"""SOAP in numpy, for encoders that adapt a network to a picture: Adam in the eigenbases of the gradients' statistics.

Vyas et al. 2024 (arXiv 2409.11321, algorithm 3), without weight decay. `gencodec.models.soap` is the same in torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
FIRST, SECOND = 0.9, 0.85
"""Shares that the running mean and square of gradients keep at a step."""
REFRESHED = 10
"""Steps between updates of the eigenbases."""
TINY = 1e-8
ROUNDING = 1e-6
"""Of a matrix' largest gradient, what float32 leaves of those that are zero in its own eigenbases."""


class Soap:
    """The state of one parameter: a matrix (rows, columns) or a vector."""

    def __init__(self, gradient: Array):
        """`gradient`: the first one, from which the bases are taken."""
        self.steps = 0
        self.mean, self.square = np.zeros_like(gradient), np.zeros_like(gradient)
        self.statistics: list[Array] = []
        self.bases: list[Array] = []
        if gradient.ndim == 2:
            self.statistics = [gradient @ gradient.T, gradient.T @ gradient]
            self.bases = [np.linalg.eigh(s)[1][:, ::-1].astype(np.float32) for s in self.statistics]

    def step(self, gradient: Array) -> Array:
        """The direction to move against, of about unit size in every element; shaped as `gradient`."""
        self.steps += 1
        self.mean += (1 - FIRST) * (gradient - self.mean)
        self.square += (1 - SECOND) * (self._turned(gradient) ** 2 - self.square)
        mean = self._turned(self.mean) / np.float32(1 - FIRST**self.steps)
        size = np.sqrt(self.square / np.float32(1 - SECOND**self.steps))
        direction = mean / (size + np.float32(ROUNDING) * size.max() + np.float32(TINY))
        if self.bases:
            direction = self.bases[0] @ direction @ self.bases[1].T
            for kept, product in zip(self.statistics, (gradient @ gradient.T, gradient.T @ gradient), strict=True):
                kept += (1 - SECOND) * (product - kept)
            if self.steps % REFRESHED == 0:
                self._refresh()
        return direction.astype(np.float32, copy=False)

    def _turned(self, gradient: Array) -> Array:
        if not self.bases:
            return gradient
        left, right = self.bases
        return (left.T @ gradient @ right).astype(np.float32, copy=False)

    def _refresh(self) -> None:
        """One power iteration of the bases, columns sorted by their estimated eigenvalues (algorithm 4)."""
        for axis, (statistics, basis) in enumerate(zip(self.statistics, self.bases, strict=True)):
            moved = statistics @ basis
            order = np.argsort(-(basis * moved).sum(0))
            self.square = np.take(self.square, order, axis)
            self.bases[axis] = np.linalg.qr(moved[:, order])[0].astype(np.float32)

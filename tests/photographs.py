"""Pictures that look a little like photographs, to train on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def photograph(seed: int, height: int = 150, width: int = 170) -> Pixels:
    """Smooth shading, an edge and grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    a, b, c = rng.uniform(-0.5, 0.5, 3)
    plane = 120 + a * x + b * y + 60 * np.sin(x / 30 + c) * (x + c * y > width / 2)
    grain = rng.normal(0, 3, (height, width, 1)) + rng.normal(0, 1, (height, width, 3))
    return np.clip(plane[..., None] + 20 * rng.uniform(-1, 1, 3) + grain, 0, 255).astype(np.uint8)


PHOTOS = [photograph(seed) for seed in range(4)]

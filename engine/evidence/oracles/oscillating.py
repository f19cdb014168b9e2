"""Gradient descent with momentum on a parabola: its recursion step by step, and the eigenvalues of one step."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def distances(curvature: float, beta: float, rate: float, count: int) -> list[float]:
    """How far from the minimum the first points are, from a distance of 1: v ← βv + cx, x ← x − rate · v."""
    x, v, found = 1.0, 0.0, []
    for _ in range(count):
        found.append(abs(x))
        v = beta * v + curvature * x
        x -= rate * v
    return found


def rate_map(rates: Sequence[float], betas: Sequence[float], curvatures: Sequence[float]) -> Floats:
    """The largest |eigenvalue| of a step of (x, v), in the slowest of the directions; shape (beta, rate).

    A step is [x − rate (βv + cx), βv + cx], so its matrix is [[1 − rate · c, −rate · β], [c, β]].
    """
    steps = np.array(
        [[[[[1 - r * c, -r * b], [c, b]] for c in curvatures] for r in rates] for b in betas], np.float64
    )
    largest: Floats = np.abs(np.linalg.eigvals(steps)).max(axis=(-1, -2))
    return largest

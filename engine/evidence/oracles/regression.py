"""The linear regression of a matrix once more, in numpy, and Muon's step with the roundings that torch.optim makes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.evidence.oracles.descent import next_points

Floats = NDArray[np.float64]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic polynomial in Jordan et al. 2024, kellerjordan.github.io/posts/muon."""


class Regression:
    """½ mean‖(W − W*) x‖² of inputs with n directions; the strongest has `condition` times the weakest's variance."""

    def __init__(self, n: int, condition: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(n, n, generator=generator, dtype=torch.float64).numpy() for _ in range(2)]
        directions, _ = np.linalg.qr(drawn[1])
        variances = np.geomspace(1.0, 1.0 / condition, n)
        self.target, self.covariance = drawn[0], (directions * variances) @ directions.T / n

    def loss(self, weights: Floats) -> float:
        """½ Σ (W − W*) C (W − W*)ᵀ of weights (n, n), C being the covariance of the inputs."""
        off = weights - self.target
        return float(np.einsum("ij,jk,ik->", off, self.covariance, off) / 2)

    def gradient(self, weights: Floats) -> Floats:
        """(W − W*) C."""
        slope: Floats = (weights - self.target) @ self.covariance
        return slope

    def next_points(self, name: str, rates: Sequence[float], points: Floats) -> Floats:
        """The start, a matrix of zeros, and where a step of an optimizer leads from each of `points` but the last."""
        start = np.zeros_like(self.target)
        if name == "Muon":
            return muon_points(start, rates, points, self.gradient)
        return next_points(name, start, rates, points, self.gradient)


def muon_points(
    start: Floats, rates: Sequence[float], points: Floats, gradient: Callable[[Floats], Floats]
) -> Floats:
    """The same for Muon and a square matrix: Nesterov momentum 0.95, then a step whose singular values are near 1."""
    momentum, found = np.zeros_like(start), [start]
    for rate, place in zip(rates, points[:-1], strict=True):
        slope = gradient(place)
        momentum = 0.95 * momentum + 0.05 * slope
        found.append(place - rate * orthogonalized_in_bfloat16(0.95 * momentum + 0.05 * slope))
    return np.array(found)


def orthogonalized_in_bfloat16(matrix: Floats) -> Floats:
    """Five steps of the polynomial a·X + (b·G + c·G²)·X with G = X·Xᵀ, in float64, rounded after every product.

    bfloat16 is what the paper's own code and torch.optim.Muon compute in; small singular values feel it.
    """
    a, b, c = COEFFICIENTS
    x = _rounded(matrix)
    x = _rounded(x / max(float(_rounded(np.linalg.norm(x))), 1e-7))
    for _ in range(5):
        gram = _rounded(x @ x.T)
        x = _rounded(a * x + _rounded(b * gram + c * gram @ gram) @ x)
    return x


def _rounded(values: Floats | np.floating) -> Floats:
    return torch.as_tensor(np.asarray(values)).bfloat16().double().numpy()

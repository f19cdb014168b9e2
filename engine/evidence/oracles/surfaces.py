"""The toy surfaces of the optimizers, with derivatives worked out on paper, and the schedules of a learning rate."""

from collections.abc import Callable
from math import cos, pi
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HEIGHTS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "ravine": lambda x, y: 0.5 * x * x + 12.5 * y * y,
    "Rosenbrock": lambda x, y: np.square(1 - x) + 10 * np.square(y - x * x),
    "saddle": lambda x, y: 0.5 * x * x - 0.5 * y * y + np.power(y, 4) / 8,
}

SLOPES: dict[str, Callable[[float, float], list[float]]] = {
    "ravine": lambda x, y: [x, 25 * y],
    "Rosenbrock": lambda x, y: [-2 * (1 - x) - 40 * x * (y - x * x), 20 * (y - x * x)],
    "saddle": lambda x, y: [x, 0.5 * y**3 - y],
}

Heights = Callable[[Any, Any], Any]
Slopes = Callable[[Any, Any], list[Any]]


def turned(name: str, degrees: Any) -> tuple[Heights, Slopes]:
    """The heights and derivatives of a surface that was turned about the origin, counterclockwise."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))

    def heights(x: Any, y: Any) -> Any:
        return HEIGHTS[name](c * x + s * y, c * y - s * x)

    def slopes(x: Any, y: Any) -> list[Any]:
        along, across = SLOPES[name](c * x + s * y, c * y - s * x)
        return [c * along - s * across, s * along + c * across]

    return heights, slopes


def warmed(i: int, n: int) -> float:
    """A tenth of the rate, rising in a straight line for a fifth of the steps, then half a cosine."""
    rise = max(1, n // 5)
    if i < rise:
        return 0.1 + 0.9 * i / rise
    return (1 + cos(pi * (i - rise) / max(1, n - rise))) / 2


SHARES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda i, n: 1.0,
    "linear to zero": lambda i, n: 1 - i / n,
    "cosine": lambda i, n: (1 + cos(pi * i / n)) / 2,
    "halved four times": lambda i, n: 0.5 ** (i // max(1, n // 5)),
    "warm-up, then cosine": warmed,
}
"""Name -> the share of the rate at step i of n."""


def rates(schedule: str, rate: float, steps: int) -> list[float]:
    """The learning rate of each step."""
    return [rate * SHARES[schedule](i, steps) for i in range(steps)]


def noisy_losses(start: tuple[float, float], runs: int, plan: list[float], noise: float, seed: int) -> Floats:
    """Mean height on the ravine of many runs of w ← w - rate · (gradient + noise), before every step and at the end."""
    generator = torch.Generator().manual_seed(seed)
    places = np.tile(np.array(start), (runs, 1))
    found = [float(HEIGHTS["ravine"](*places.T).mean())]
    for rate in plan:
        drawn = torch.randn(places.shape, generator=generator, dtype=torch.float64).numpy()
        places = places - rate * (places * [1, 25] + noise * drawn)
        found.append(float(HEIGHTS["ravine"](*places.T).mean()))
    return np.array(found)

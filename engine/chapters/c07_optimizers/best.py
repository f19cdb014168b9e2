"""The learning rate at which each optimizer ends lowest on a surface: one rate for all would compare unlike things."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from engine.ops.optimizers import ByHand, Floats, Surface, rates_of

TRIED = (0.003, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Learning rates that are tried."""

EQUAL = 1e-6
"""Heights that differ by a smaller part of the lowest are one height; then the smallest rate is taken."""


def best_rates(
    ground: Surface, start: tuple[float, float], names: Sequence[str], steps: int, schedule: str
) -> dict[str, float]:
    """For each optimizer the rate of `TRIED` with which its path ends lowest; where all are lost, the smallest."""
    shares = rates_of(schedule, 1.0, steps)
    return {name: lowest(ends(ground.function, start, name, shares)) for name in names}


def lowest(heights: Floats) -> float:
    """The smallest rate that leads as low as any."""
    known = np.where(np.isfinite(heights), heights, np.inf)
    return TRIED[int((known <= known.min() + EQUAL * abs(known.min())).argmax())]


def ends(
    function: Callable[[torch.Tensor], torch.Tensor], starts: ArrayLike, name: str, shares: Floats
) -> Floats:
    """The height after the last step from starts (…, 2) with each of the rates, all walked at once by the formula.

    The shape is (…, rate).

    shares  the share of the rate at each step
    """
    each = torch.tensor(TRIED, dtype=torch.float64)[:, None]
    rule, places = ByHand(name, 0.0), torch.tensor(starts, dtype=torch.float64)[..., None, :]
    places = places.expand(*places.shape[:-2], len(TRIED), 2).clone()
    for share in shares:
        places.requires_grad_()
        (slope,) = torch.autograd.grad(function(places).sum(), places)
        rule.rate = each * float(share)  # type: ignore[assignment]  # one for each row
        places = rule.step([places.detach()], [slope])[0]
    found: Floats = function(places).numpy()
    return found

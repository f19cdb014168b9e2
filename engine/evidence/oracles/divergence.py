"""How far one next-token distribution is from another, by torch; and how exactly that can be known."""

from math import sqrt

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import kl_div

from engine.evidence.rounding import largest


def divergence(before: torch.Tensor, after: torch.Tensor) -> NDArray[np.float64]:
    """KL in nats from the softmax of some logits to that of others, over the last axis, in float64."""
    p, q = (logits.double().log_softmax(-1) for logits in (before, after))
    found: NDArray[np.float64] = kl_div(q, p, log_target=True, reduction="none").sum(-1).cpu().numpy()
    return found


def divergence_tolerance(nats: ArrayLike, logits_off: float) -> float:
    """What such KLs are off by when logits are off by `logits_off`.

    KL is half the variance of the logits' differences (to second order), so an error adds its covariance with them,
    at most √(2 KL) · error, and its own square.
    """
    return logits_off * sqrt(2 * largest(nats)) + logits_off**2

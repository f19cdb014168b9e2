"""How exactly two ways to the same number have to agree: all tolerances, by precision and by the size of what is shown.

Each is three to five times the largest difference seen on pocket-gpt2, pocket-llama and SmolLM2-135M-Instruct at fp32,
bf16, int8 and nf4, and counted in roundings: how far one rounding moves a number, as a part of it.
"""

from math import sqrt

import numpy as np
import torch
from numpy.typing import ArrayLike

from engine.model.loaded import Loaded
from engine.model.precisions import precision

EXACT = 1e-9
"""Between two ways through float64 that start from the same numbers."""

FLOOR = 1e-4
"""Below it no difference matters to what a figure shows; float32 sums of thousands of products stay under it."""

LOGIT = 16.0
"""The size of a large logit, where those behind a surprisal are not at hand."""

SHALLOW = 6
"""Layers up to which a pass counts as one: each further layer rounds what the ones before have rounded."""

WIDEST = 0.1
"""No share and no probability may be off by more, whatever the roundings: it would hide what figures show."""


def same_pass(*shown: ArrayLike) -> float:
    """Between numbers behind two runs of the same forward pass, which round alike: what float32 sums leave after it."""
    return 1e-5 * max(1.0, _largest(*shown))


def float_tolerance(loaded: Loaded, *shown: ArrayLike, steps: float = 4) -> float:
    """Between two orders of a sum outside the quantized layers: `steps` roundings of the largest value, at least 1e-4.

    Attention's own arithmetic, norms, the residual stream and the unembedding are such sums at every precision.
    """
    return max(FLOOR, steps * float(torch.finfo(loaded.dtype).eps) / 2 * _largest(*shown))


def tolerance(loaded: Loaded, *shown: ArrayLike, steps: float = 4) -> float:
    """The same for what went through one layer's matrices, which bitsandbytes may have multiplied more coarsely."""
    return max(FLOOR, steps * _step(loaded) * _largest(*shown))


def pass_tolerance(loaded: Loaded, *shown: ArrayLike, steps: float = 12) -> float:
    """Between two whole passes that sum in different orders, as with and without a KV cache.

    The roundings of one layer are independent of the next one's, so they grow with the root of the depth. Twelve are
    what the logit that is off most in a whole vocabulary needs; `shown` are logits then.
    """
    depth = sqrt(max(1.0, loaded.spec.n_layer / SHALLOW))
    return depth * tolerance(loaded, *shown, steps=steps)


def logit_tolerance(loaded: Loaded) -> float:
    """How far the logits or surprisals (nats) of chosen tokens may lie apart after two such passes."""
    return pass_tolerance(loaded, LOGIT, steps=3)


def probability_tolerance(loaded: Loaded) -> float:
    """The same for a probability, or another share between 0 and 1."""
    return min(WIDEST, pass_tolerance(loaded, 1.0, steps=8))


def chance_tolerance(loaded: Loaded, *shown: ArrayLike) -> float:
    """The same for probabilities that are all small: p moves by about p·δ when its logit does by δ."""
    return min(probability_tolerance(loaded), min(0.5, logit_tolerance(loaded)) * _largest(*shown))


def rewritten(loaded: Loaded, usual: float, *shown: ArrayLike) -> float:
    """Between numbers of a written text and the same from `passes.written_logits`; `usual` where that is one pass.

    Where it reads the text as it was written, both round alike.
    """
    return same_pass(*shown) if precision(loaded.precision).together else usual


def counted(of: int) -> float:
    """Between two shares of `of` things that are counted or not: less than one of them."""
    return 0.5 / of


def largest(values: ArrayLike) -> float:
    """The largest finite magnitude, 0 if there is none."""
    given = np.asarray(values, np.float64)
    return float(np.abs(given[np.isfinite(given)]).max(initial=0))


def _largest(*shown: ArrayLike) -> float:
    return max((largest(values) for values in shown), default=1.0)


def _step(loaded: Loaded) -> float:
    """One rounding, the coarsest of quantized layers and floats."""
    return max(precision(loaded.precision).step, float(torch.finfo(loaded.dtype).eps) / 2)

"""How exactly two ways to the same number have to agree, by precision."""

import numpy as np
from numpy.typing import ArrayLike

from engine.model.loading import Loaded

STEP = {
    "fp32": 2.0**-23,
    "bf16": 2.0**-8,
    "fp16": 2.0**-11,
    "int8": 2.0**-7,
    "nf4": 2.0**-8,
    "fp4": 2.0**-8,
}
"""Relative size of one rounding step. LLM.int8 rounds the input of every linear layer to 8 bits, sign included;
bitsandbytes' 4-bit kernel for CPUs multiplies in bfloat16."""


SHALLOW = 6
"""Layers up to which roundings are not counted: each further layer rounds what the ones before have rounded."""


def tolerance(loaded: Loaded, *shown: ArrayLike, steps: float = 8) -> float:
    """How far two ways to compute a quantity may differ: `steps` roundings of its largest value, at least 1e-4.

    In proportion more for a model of more than `SHALLOW` layers.
    """
    depth = max(1.0, loaded.spec.n_layer / SHALLOW)
    return depth * max(1e-4, steps * STEP[loaded.precision] * max(largest(values) for values in shown))


def largest(values: ArrayLike) -> float:
    """The largest finite magnitude, 0 if there is none."""
    given = np.asarray(values, np.float64)
    return float(np.abs(given[np.isfinite(given)]).max(initial=0))

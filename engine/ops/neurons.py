"""Neurons as arithmetic on arrays: a weighted sum, a non-linearity, and how activations are spread over a layer."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ACTIVATIONS = ("ReLU", "GELU", "SiLU", "tanh", "sigmoid")
"""What the toy neuron can choose from."""

FORMULAS = {
    "ReLU": "max(0, z)",
    "GELU": "z · Φ(z), Φ the normal distribution function",
    "SiLU": "z · sigmoid(z)",
    "tanh": "(eᶻ − e⁻ᶻ) / (eᶻ + e⁻ᶻ)",
    "sigmoid": "1 / (1 + e⁻ᶻ)",
    "tanh-GELU": "z/2 · (1 + tanh(√(2/π) · (z + 0.044715 z³)))",
}

NAMES = {
    "relu": "ReLU",
    "gelu": "GELU",
    "gelu_python": "GELU",
    "gelu_new": "tanh-GELU",
    "gelu_fast": "tanh-GELU",
    "gelu_pytorch_tanh": "tanh-GELU",
    "gelu_python_tanh": "tanh-GELU",
    "gelu_accurate": "tanh-GELU",
    "silu": "SiLU",
    "swish": "SiLU",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
"""The names of `transformers`' ACT2FN for the functions of this module. Those of tanh-GELU differ in rounding."""


def sigmoid(z: ArrayLike) -> Floats:
    """1 / (1 + e⁻ᶻ), without overflow; same shape."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(z, np.float64)))


def relu(z: ArrayLike) -> Floats:
    """max(0, z); NaN stays NaN."""
    return np.maximum(np.asarray(z, np.float64), 0.0)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(z: ArrayLike) -> Floats:
    """z · Φ(z) (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    x = np.asarray(z, np.float64)
    return np.asarray(x * 0.5 * (1 + _erf(x / math.sqrt(2))))


def gelu_tanh(z: ArrayLike) -> Floats:
    """The tanh form of GELU that GPT-2 uses (the same paper, section 2)."""
    x = np.asarray(z, np.float64)
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def silu(z: ArrayLike) -> Floats:
    """z · sigmoid(z), also called swish (Elfwing et al. 2017, arXiv:1702.03118)."""
    x = np.asarray(z, np.float64)
    return np.asarray(x * sigmoid(x))


def tanh(z: ArrayLike) -> Floats:
    """Hyperbolic tangent; same shape."""
    return np.asarray(np.tanh(np.asarray(z, np.float64)))


FUNCTIONS: dict[str, Callable[[ArrayLike], Floats]] = {
    "ReLU": relu,
    "GELU": gelu,
    "SiLU": silu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "tanh-GELU": gelu_tanh,
}


def weighted_sum(x: ArrayLike, weights: ArrayLike, bias: ArrayLike = 0.0) -> Floats:
    """x·W + b: (…, inputs) and (inputs, neurons) in, (…, neurons) out."""
    return np.asarray(np.asarray(x, np.float64) @ np.asarray(weights, np.float64) + np.asarray(bias))


def largest(parts: ArrayLike, count: int) -> tuple[NDArray[np.int64], float]:
    """Positions of the `count` parts of largest magnitude, largest first, and the sum of all the others."""
    values = np.asarray(parts, np.float64)
    order = np.argsort(-np.abs(values), kind="stable")
    return order[:count], float(values[order[count:]].sum())


def strongest(activations: ArrayLike) -> int:
    """The neuron of largest magnitude, d_ff in; NaN counts as nothing."""
    return int(np.argmax(np.abs(np.nan_to_num(np.asarray(activations, np.float64), posinf=0, neginf=0))))


QUIET = 0.1
"""The part of a neuron's magnitude at a token under which it is near zero at another."""


def selective(activations: ArrayLike, position: int) -> int:
    """The strongest neuron at a token of those that are near zero at half of the other tokens or more; (seq, d_ff) in.

    Without another token, or where no neuron is that quiet, the strongest one.
    """
    size = np.abs(np.nan_to_num(np.asarray(activations, np.float64), posinf=0, neginf=0))
    others = np.delete(size, position, axis=0)
    if not len(others):
        return int(np.argmax(size[position]))
    quiet = 2 * (others < QUIET * size[position]).sum(axis=0) >= len(others)
    return int(np.argmax(np.where(quiet, size[position], 0.0) if quiet.any() else size[position]))


def two_layers(
    x: ArrayLike,
    first: ArrayLike,
    first_bias: ArrayLike,
    second: ArrayLike,
    second_bias: ArrayLike,
    name: str,
) -> tuple[Floats, Floats, Floats]:
    """act(x·W₁ + b₁)·W₂ + b₂ as (sums, hidden activations, outputs); `name` is a key of FUNCTIONS."""
    sums = weighted_sum(x, first, first_bias)
    hidden = FUNCTIONS[name](sums)
    return sums, hidden, weighted_sum(hidden, second, second_bias)


def near_zero(activations: ArrayLike, threshold: float) -> Floats:
    """Share of the neurons whose magnitude is under `threshold` times the largest one; (…, d_ff) in, (…) out."""
    size = np.abs(np.asarray(activations, np.float64))
    return np.asarray((size < threshold * size.max(axis=-1, keepdims=True)).mean(axis=-1))


def carriers(activations: ArrayLike, share: float = 0.9) -> NDArray[np.int64]:
    """How many of the strongest neurons carry `share` of the absolute mass; (…, d_ff) in, (…) out.

    Where a number is missing (NaN) or all are zero, none do: 0.
    """
    size = -np.sort(-np.abs(np.asarray(activations, np.float64)), axis=-1)
    mass = np.cumsum(size, axis=-1)
    total = mass[..., -1:]
    needed = (mass < share * total * (1 - 1e-12)).sum(axis=-1) + 1
    return np.asarray(np.where(np.isfinite(total[..., 0]) & (total[..., 0] > 0), needed, 0), dtype=np.int64)


def sampled(matrix: ArrayLike, rows: int, columns: int) -> Floats:
    """Every nth row and column of a matrix, so that at most `rows` × `columns` entries are left."""
    values = np.asarray(matrix, np.float64)
    return values[:: -(-values.shape[0] // rows), :: -(-values.shape[1] // columns)]

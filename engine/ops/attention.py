"""One attention head as arithmetic on arrays (Vaswani et al. 2017, “Attention Is All You Need”, equation 1).

Every function is written for one head; its arrays carry no layer or head axis unless the docstring says so.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def kv_head(head: int, n_head: int, n_kv_head: int) -> int:
    """The key/value head that a query head reads: under grouped-query attention neighbours share one.

    Ainslie et al. 2023, “GQA”; the order is that of `repeat_kv` in `transformers`.
    """
    return head // (n_head // n_kv_head)


def scale(d_head: int) -> float:
    """1/√d_head: the factor that keeps a score's size independent of the width of the head."""
    return float(d_head**-0.5)


def products(query: ArrayLike, key: ArrayLike) -> Floats:
    """q_i · k_i for each dimension, shape d_head; their sum is the dot product of the two vectors."""
    return np.asarray(query, np.float64) * np.asarray(key, np.float64)


def scores(q: ArrayLike, k: ArrayLike, factor: float | None = None) -> Floats:
    """q·kᵀ · factor, shape (query, key), from q (query, d_head) and k (key, d_head). No mask yet.

    The factor is 1/√d_head, save in the few models that do not scale their scores.
    """
    queries, keys = np.asarray(q, np.float64), np.asarray(k, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        return (queries @ keys.T) * (scale(queries.shape[-1]) if factor is None else factor)


def future(seq: int) -> Bools:
    """True where the key comes after the query, shape (query, key): what a causal mask takes away."""
    return np.triu(np.ones((seq, seq), bool), k=1)


def mask(scores: ArrayLike, hidden: ArrayLike) -> Floats:
    """Scores with −∞ where `hidden` is true."""
    return np.where(np.asarray(hidden, bool), -np.inf, np.asarray(scores, np.float64))


def contributions(weights: ArrayLike, v: ArrayLike) -> Floats:
    """weight · value of each token, shape (key, d_head), from weights (key) and v (key, d_head).

    Their sum over keys is the head's output vector for this query.
    """
    return np.asarray(weights, np.float64)[:, None] * np.asarray(v, np.float64)


def shares(parts: ArrayLike) -> Floats:
    """How much each part of a sum goes in the direction of the sum: (part · sum)/|sum|², shape (part).

    `parts` has shape (part, d); the shares add up to 1. A part that points away has a negative share, and a part
    of a sum that is zero has none (NaN).
    """
    values = np.asarray(parts, np.float64)
    total = values.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share: Floats = (values @ total) / (total @ total)
    return share


def length(vectors: ArrayLike) -> Floats:
    """Euclidean length along the last axis."""
    size: Floats = np.linalg.norm(np.asarray(vectors, np.float64), axis=-1)
    return size


def through_final_norm(
    write: ArrayLike, stream: ArrayLike, weight: ArrayLike, eps: float, centred: bool
) -> Floats:
    """What a write to the residual stream becomes behind the final norm with the norm's scale held, shape d_model.

    A norm divides by a scale that it measures on the whole stream (d_model, before the norm). With that scale held,
    it is linear: the write is centred (LayerNorm; `centred`), divided by the scale and multiplied by `weight`. So
    the writes of all sublayers add up to the logits exactly, apart from the norm's own bias.
    Elhage et al. 2021, “A Mathematical Framework for Transformer Circuits”, section “Layer normalization”.
    """
    part, whole = np.asarray(write, np.float64), np.asarray(stream, np.float64)
    if centred:
        part, whole = part - part.mean(), whole - whole.mean()
    measured = np.sqrt(np.mean(whole**2) + eps)
    result: Floats = part / measured * np.asarray(weight, np.float64)
    return result


def extremes(values: ArrayLike, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the `count` largest values, largest first, and of the `count` smallest, smallest first."""
    order = np.argsort(np.asarray(values), kind="stable")
    count = min(count, len(order) // 2)
    return order[::-1][:count], order[:count]

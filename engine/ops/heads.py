"""What kind of head is it? Scores of attention maps on a sequence that repeats, and what follows from them.

The sequence is: a start token, `length` different random tokens, and the same random tokens again. Its second half
holds the queries; each of them has four keys of interest, all different from each other:

    previous    the token before the query                 (Elhage et al. 2021, previous-token heads)
    duplicate   the query's own token in the first half    (Wang et al. 2022, duplicate-token heads)
    induction   the token that came after it there         (Elhage et al. 2021; Olsson et al. 2022)
    sink        key 0, the start token                     (Xiao et al. 2023, attention sinks)

The score of a head is the mean weight that these queries give to that key: four disjoint shares of one unit of
attention, so their sum is at most 1. Axis words as in `engine.model.trace`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

KINDS = ("previous", "duplicate", "induction", "sink")
UNCLASSIFIED = "unclassified"


def queries(length: int) -> NDArray[np.intp]:
    """Positions of the second half, shape (length,)."""
    return np.arange(length + 1, 2 * length + 1)


def target_keys(kind: str, length: int) -> NDArray[np.intp]:
    """For each query of the second half the key that a head of this kind attends to, shape (length,)."""
    at = queries(length)
    keys = {"previous": at - 1, "duplicate": at - length, "induction": at - length + 1, "sink": at * 0}
    return keys[kind]


def lead_of_induction(length: int) -> NDArray[np.float64]:
    """Factors (query, key) for the queries of the second half: 1 at the induction key, −1/others at the other keys.

    Their sum with a query's scores is the induction key's score minus the mean score of the other keys it may see.
    """
    at, keys = queries(length)[:, None], np.arange(2 * length + 1)
    factors = np.where(keys <= at, -1 / at, 0.0)  # a query at position i sees i other keys
    factors[np.arange(length), target_keys("induction", length)] = 1
    return factors


def scores(attention: Floats, length: int) -> dict[str, Floats]:
    """Mean weight of the second half's queries on each kind's key; (…, query, key) in, (…) out, from 0 to 1."""
    at = queries(length)
    return {kind: attention[..., at, target_keys(kind, length)].mean(-1) for kind in KINDS}


def on_previous(attention: Floats) -> Floats:
    """The mean weight on the token before the query, from the third token on; (…, query, key) in, (…) out.

    The token before the second one is the first, which many heads look at in any case. NaN for fewer than three tokens.
    """
    below = attention.diagonal(-1, axis1=-2, axis2=-1)[..., 1:]
    if not below.shape[-1]:
        return np.full(below.shape[:-1], np.nan)
    mean: Floats = below.mean(-1, dtype=np.float64)
    return mean


def without_sink(attention: Floats) -> Floats:
    """The maps with key 0 taken out and every row scaled to sum to 1 again; shape (…, query, key).

    A row that gives nothing to the other keys becomes zero: it has nothing left to distribute.
    """
    rest = attention.astype(np.float64)
    rest[..., 0] = 0
    total = rest.sum(-1, keepdims=True)
    result: Floats = np.divide(rest, total, out=np.zeros_like(rest), where=total != 0)
    return result


def scores_without_sink(attention: Floats, length: int) -> dict[str, Floats]:
    """`scores` of the maps without the sink; the sink itself has no score there."""
    found = scores(without_sink(attention), length)
    return {kind: found[kind] for kind in KINDS if kind != "sink"}


def uniform_score(length: int) -> float:
    """The score of a head that spreads its attention evenly over all keys up to the query."""
    return float((1 / (queries(length) + 1)).mean())


def classify(scored: Mapping[str, Floats], threshold: float) -> NDArray[np.str_]:
    """The kind with the largest score where that reaches the threshold, else "unclassified". NaN classifies nothing."""
    kinds = np.array([*scored, UNCLASSIFIED])
    stacked = np.nan_to_num(np.stack(list(scored.values())), nan=-1.0)  # kind, …
    best = stacked.argmax(0)
    return kinds[np.where(stacked.max(0) >= threshold, best, len(scored))]


def row_entropy(attention: Floats) -> Floats:
    """Shannon entropy in nats of every row of the maps; the last axis goes."""
    logs = np.log(attention, out=np.zeros_like(attention), where=attention > 0)
    result: Floats = -(attention * logs).sum(-1)
    return result

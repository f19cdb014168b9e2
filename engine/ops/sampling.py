"""From logits to the next token: softmax, the filters that people put before it, and seeded draws.

The filters mirror the classes of `transformers.generation.logits_process` and run in the order in which
`generate` runs them. Everything is computed in float64, so that a threshold is never decided by rounding.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import ReaderError

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Filters:
    """The settings of `generate`; the defaults change nothing.

    repetition_penalty  divides positive and multiplies negative logits of tokens already in the text (Keskar et
                        al. 2019, arXiv:1909.05858, section 4.1, in the signed form of `transformers`)
    temperature         divides every logit
    top_k               keeps the k largest logits (Fan et al. 2018, arXiv:1805.04833)
    top_p               keeps the smallest set of tokens whose mass reaches p (Holtzman et al. 2020, arXiv:1904.09751)
    min_p               keeps tokens of at least min_p times the largest probability (Nguyen et al. 2024,
                        arXiv:2407.01082)

    Raises ReaderError for a value outside its range.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        _positive("temperature", self.temperature)
        _positive("repetition penalty", self.repetition_penalty)
        if self.top_k is not None and self.top_k < 0:
            raise ReaderError("Top-k must be a whole number, 1 or more; 0 leaves it out.")
        for name, value in (("Top-p", self.top_p), ("Min-p", self.min_p)):
            if value is not None and not 0 <= value <= 1:
                raise ReaderError(f"{name} must lie between 0 and 1.")


@dataclass(frozen=True, eq=False)
class Stage:
    """The logits after one filter. `active` is False for a filter whose setting changes nothing."""

    name: str
    logits: Float
    active: bool = True

    @property
    def probabilities(self) -> Float:
        return softmax(self.logits)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which tokens are still possible, shape vocab."""
        kept: NDArray[np.bool_] = np.isfinite(self.logits)
        return kept


def log_softmax(logits: Any) -> Float:
    """Natural logarithms of the softmax over the last axis; same shape. -inf stays -inf, NaN stays NaN."""
    values = np.asarray(logits, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shifted: Float = values - values.max(axis=-1, keepdims=True)
        result: Float = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def softmax(logits: Any) -> Float:
    """exp(logit) / sum of exp(logits) over the last axis; same shape."""
    result: Float = np.exp(log_softmax(logits))
    return result


def kl_divergence(reference: Any, other: Any) -> Float:
    """KL(reference ‖ other) = Σ p·(ln p − ln q) in nats, from logits (…, vocab); the last axis goes.

    A token that the reference rules out adds nothing. NaN where either has logits that are NaN or +inf.
    """
    log_p, log_q = log_softmax(reference), log_softmax(other)
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        terms = np.multiply(p, log_p - log_q, out=np.zeros_like(p), where=p != 0)
    result: Float = np.maximum(terms.sum(axis=-1), 0)  # rounding can leave −1e-17 where the two are equal
    return result


def entropy(probabilities: Float) -> float:
    """Shannon entropy in nats: the mean surprisal of a token drawn from the distribution."""
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum())


def stages(logits: Any, ids: Sequence[int], filters: Filters) -> tuple[Stage, ...]:
    """The logits as the model gave them, then after each of the five filters, in transformers' order.

    logits  vocab: one position's           ids  seq: the tokens already in the text
    """
    values = finite(logits)
    done = [Stage("logits", values)]
    for name, active, run in _steps(ids, filters):
        values = run(values) if active else values
        done.append(Stage(name, values, active))
    return tuple(done)


def _steps(ids: Sequence[int], filters: Filters) -> list[tuple[str, bool, Callable[[Float], Float]]]:
    """(name, whether it changes anything, what it does to logits) of the five filters, in their order."""
    penalty, temperature = filters.repetition_penalty, filters.temperature
    k, p, min_p = filters.top_k or 0, filters.top_p, filters.min_p or 0.0
    cut = 1.0 if p is None else p
    return [
        ("repetition penalty", penalty != 1, lambda logits: penalize(logits, ids, penalty)),
        ("temperature", temperature != 1, lambda logits: logits / temperature),
        ("top-k", k > 0, lambda logits: keep_top_k(logits, k)),
        ("top-p", cut < 1, lambda logits: keep_top_p(logits, cut)),
        ("min-p", min_p > 0, lambda logits: keep_min_p(logits, min_p)),
    ]


def filtered(logits: Any, ids: Sequence[int], filters: Filters) -> Float:
    """Logits after all filters, shape vocab; -inf where a token was removed."""
    return stages(logits, ids, filters)[-1].logits


def penalize(logits: Float, ids: Sequence[int], penalty: float) -> Float:
    """RepetitionPenaltyLogitsProcessor: towards minus infinity, whatever the sign. Shape vocab."""
    seen = np.unique(np.asarray(ids, dtype=np.int64))
    result = logits.copy()
    result[seen] = np.where(result[seen] < 0, result[seen] * penalty, result[seen] / penalty)
    return result


def keep_top_k(logits: Float, k: int) -> Float:
    """TopKLogitsWarper: tokens below the k-th largest logit go; ties with it stay. Shape vocab."""
    k = min(k, logits.size)
    smallest = np.partition(logits, -k)[-k]
    return np.where(logits < smallest, -np.inf, logits)


def keep_top_p(logits: Float, p: float) -> Float:
    """TopPLogitsWarper: from the least probable upwards, tokens go while their mass is at most 1 - p. Shape vocab."""
    order = np.argsort(logits, kind="stable")
    remove = np.cumsum(softmax(logits[order])) <= 1 - p
    remove[-1] = False
    result = logits.copy()
    result[order[remove]] = -np.inf
    return result


def keep_min_p(logits: Float, min_p: float) -> Float:
    """MinPLogitsWarper: tokens less probable than min_p times the most probable one go. Shape vocab."""
    probabilities = softmax(logits)
    return np.where(probabilities < min_p * probabilities.max(), -np.inf, logits)


def top(values: Any, n: int) -> NDArray[np.int64]:
    """Indices of the n largest entries of the last axis, largest first; among equals the smaller index."""
    order: NDArray[np.int64] = np.argsort(-np.asarray(values), axis=-1, kind="stable")[..., :n]
    return order


def surprisal(logits: Any, ids: Sequence[int]) -> Float:
    """-ln p(token) of one token under each row of logits, in nats; shape seq.

    logits  seq, vocab      ids  seq: the token that did come after what the row was computed from
    """
    log_p = log_softmax(logits)
    result: Float = -log_p[np.arange(len(ids)), np.asarray(ids, dtype=np.int64)]
    return result


def inverse_cdf(probabilities: Float, uniform: Float) -> NDArray[np.int64]:
    """The token whose stretch of the cumulative distribution each uniform number falls into; shape of `uniform`."""
    edges = np.cumsum(probabilities)
    drawn = np.searchsorted(edges, uniform * edges[-1], side="right")
    last = np.flatnonzero(probabilities)[-1]
    result: NDArray[np.int64] = np.minimum(drawn, last)
    return result


def finite(logits: Any) -> Float:
    """Logits as float64, same shape. Raises ReaderError when one of them is NaN or infinite."""
    values = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ReaderError(
            "Some logits here are not finite numbers, so there is no distribution to draw from; "
            "another precision may help."
        )
    return values


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ReaderError(f"The {name} must be a number above 0.")


def leading(p: np.ndarray, q: np.ndarray, count: int) -> np.ndarray:
    """Ids of the likeliest tokens before and after, in turn from both lists, at most `count`; ordered by p."""
    before, after = (np.argsort(-values, kind="stable")[:count].tolist() for values in (p, q))
    either = dict.fromkeys(i for pair in zip(before, after, strict=True) for i in pair)
    return np.array(sorted(list(either)[:count], key=lambda i: (-p[i], i)))

"""What counting alone can predict: the uniform guess, token frequencies, and pairs of neighbouring tokens.

The cross-entropies of these three on the held-out text are the marks beside which a loss curve can be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.training.held_out import HeldOut, HeldOutLoss

Floats = NDArray[np.float64]
Codes = NDArray[np.uint32]


@dataclass(frozen=True)
class Counts:
    """Weighted counts of training tokens and of their neighbouring pairs.

    ``single``: (vocab,). ``pairs``: sorted codes a · vocab + b of the pairs that occur, with ``pair_counts``.
    ``before``: (vocab,), how often a token stands first in a pair; ``kinds``: (vocab,), before how many different ones.
    """

    single: Floats
    pairs: Codes
    pair_counts: Floats
    before: Floats
    kinds: Floats


def count(streams: Mapping[str, np.ndarray], shares: Mapping[str, float], vocab: int) -> Counts:
    """Counts over all ``streams`` (tokens,), each weighted so that it makes up its share of the tokens read."""
    total = sum(len(streams[name]) for name in shares)
    single, codes, counts = np.zeros(vocab), [], []
    for name, share in shares.items():
        stream = np.asarray(streams[name])
        weight = share * total / len(stream)
        single += weight * np.bincount(stream, minlength=vocab)
        found, times = np.unique(pair_codes(stream[:-1], stream[1:], vocab), return_counts=True)
        codes.append(found)
        counts.append(weight * times)
    pairs, place = np.unique(np.concatenate(codes), return_inverse=True)
    pair_counts = np.bincount(place, np.concatenate(counts)).astype(np.float64)
    first = pairs // vocab
    return Counts(
        single,
        pairs,
        pair_counts,
        before=np.bincount(first, pair_counts, minlength=vocab).astype(np.float64),
        kinds=np.bincount(first, minlength=vocab).astype(np.float64),
    )


def pair_codes(first: np.ndarray, second: np.ndarray, vocab: int) -> Codes:
    """One number for each pair. Raises ValueError for a vocabulary whose pairs 32 bits cannot number."""
    if vocab > 1 << 16:
        raise ValueError(f"Pairs of a vocabulary of {vocab} do not fit into 32 bits.")
    codes: Codes = first.astype(np.uint32) * np.uint32(vocab) + second.astype(np.uint32)
    return codes


def unigram(counts: Counts, tokens: np.ndarray) -> Floats:
    """P(token) from frequencies, each counted once more than it occurs, so that none is impossible."""
    smoothed = counts.single + 1
    result: Floats = smoothed[tokens] / smoothed.sum()
    return result


def bigram(counts: Counts, before: np.ndarray, tokens: np.ndarray) -> Floats:
    """P(token | the one before), smoothed towards :func:`unigram` as Witten and Bell do.

    (c(a,b) + T(a) P(b)) / (c(a) + T(a)), where T(a) is the number of different tokens seen after a: nothing to tune.
    Source: Chen & Goodman 1998, An Empirical Study of Smoothing Techniques for Language Modeling, section 2.5.
    """
    codes = pair_codes(before, tokens, len(counts.single))
    place = np.minimum(np.searchsorted(counts.pairs, codes), len(counts.pairs) - 1)
    seen = np.where(counts.pairs[place] == codes, counts.pair_counts[place], 0.0)
    kinds, total = counts.kinds[before], counts.before[before]
    backoff = unigram(counts, tokens)
    result: Floats = np.where(
        kinds > 0, (seen + kinds * backoff) / np.maximum(total + kinds, 1e-300), backoff
    )
    return result


def references(
    streams: Mapping[str, np.ndarray], shares: Mapping[str, float], held_out: HeldOut, vocab: int
) -> list[dict[str, str | float]]:
    """Rows ``name``, ``loss`` (nats per predicted token) and ``bits_per_character`` for the three ways to guess."""
    counts = count(streams, shares, vocab)
    windows = [window.numpy() for window in held_out.windows]
    before = np.concatenate([window[:-1] for window in windows])
    tokens = np.concatenate([window[1:] for window in windows])
    nats = {
        "uniform": len(tokens) * math.log(vocab),
        "unigram": float(-np.log(unigram(counts, tokens)).sum()),
        "bigram": float(-np.log(bigram(counts, before, tokens)).sum()),
    }
    losses = {name: HeldOutLoss(value, len(tokens), held_out.characters) for name, value in nats.items()}
    return [
        {"name": name, "loss": loss.loss, "bits_per_character": loss.bits_per_character}
        for name, loss in losses.items()
    ]

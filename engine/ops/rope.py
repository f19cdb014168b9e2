"""Rotary position embedding as arithmetic on pairs of dimensions (Su et al. 2021, “RoFormer”, section 3.2).

`transformers` rotates dimension i together with dimension i + pairs (its `rotate_half`), not with i + 1. Dimensions
from 2·pairs on are left alone: partial rotary, as in GPT-NeoX. Angles are in radians, distances in tokens.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.ops.attention import Floats, scale

TURN = 2 * np.pi
"""One full turn, in radians."""


def wavelengths(inv_freq: ArrayLike) -> Floats:
    """Tokens to a full turn of each pair, from radians per token; shape pair."""
    return TURN / np.asarray(inv_freq, np.float64)


def turns(inv_freq: ArrayLike, tokens: float) -> Floats:
    """Full turns that each pair makes over a stretch of tokens, shape pair."""
    return np.asarray(inv_freq, np.float64) * tokens / TURN


def split(vectors: ArrayLike, pairs: int) -> Floats:
    """The rotated dimensions of q or k (…, d_head) as points in a plane: shape (…, pair, 2)."""
    given = np.asarray(vectors, np.float64)
    return np.stack([given[..., :pairs], given[..., pairs : 2 * pairs]], axis=-1)


def still(vectors: ArrayLike, pairs: int) -> Floats:
    """The dimensions that are not rotated, (…, d_head - 2·pairs)."""
    return np.asarray(vectors, np.float64)[..., 2 * pairs :]


def complex_rotation(vectors: ArrayLike, angles: ArrayLike, factor: float = 1.0) -> Floats:
    """q or k (…, d_head) after its pairs, read as complex numbers, are multiplied by factor · e^(i·angle).

    `angles` has shape (…, pair). RoFormer's equation 12, for every pair; `factor` is the length YaRN multiplies by.
    """
    turned = np.asarray(angles, np.float64)
    pairs = turned.shape[-1]
    points = split(vectors, pairs)
    product = (points[..., 0] + 1j * points[..., 1]) * factor * np.exp(1j * turned)
    return np.concatenate([product.real, product.imag, still(vectors, pairs)], axis=-1)


def by_distance(
    q: ArrayLike, k: ArrayLike, inv_freq: ArrayLike, distances: ArrayLike, factor: float = 1.0
) -> tuple[Floats, float]:
    """What each pair adds to the score of one query and one key, and what the unrotated dimensions add.

    q, k (d_head) are taken before RoPE. Pair i adds factor²·|q_i||k_i|·cos(φ_q − φ_k + distance·ω_i)/√d_head, where
    φ are the directions of its two points and distance is the query's position minus the key's. Shapes: the first
    (distance, pair), the second a number.
    """
    frequencies = np.asarray(inv_freq, np.float64)
    a, b = (split(vector, len(frequencies)) for vector in (q, k))
    phase = np.arctan2(a[:, 1], a[:, 0]) - np.arctan2(b[:, 1], b[:, 0])
    waves = np.cos(phase + np.asarray(distances, np.float64)[:, None] * frequencies)
    to_score = scale(np.asarray(q).shape[-1])
    added = factor**2 * np.hypot(a[:, 0], a[:, 1]) * np.hypot(b[:, 0], b[:, 1]) * waves * to_score
    return added, float(still(q, len(frequencies)) @ still(k, len(frequencies)) * to_score)


def measured_turns(cos: ArrayLike, sin: ArrayLike) -> Floats:
    """Full turns between the first and the last position, read off cosines and sines (seq, pair).

    The angle is followed from position to position, so no step may exceed half a turn.
    """
    followed = np.unwrap(np.arctan2(np.asarray(sin, np.float64), np.asarray(cos, np.float64)), axis=0)
    total: NDArray[np.float64] = (followed[-1] - followed[0]) / TURN
    return total

"""Rotary position embedding as arithmetic on pairs of dimensions (Su et al. 2021, “RoFormer”, section 3.2).

`transformers` rotates dimension i together with dimension i + pairs (its `rotate_half`), not with i + 1. Dimensions
from 2·pairs on are left alone: partial rotary, as in GPT-NeoX. Angles are in radians, distances in tokens.
"""

import numpy as np
from numpy.typing import ArrayLike

from engine.ops.attention import Floats

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

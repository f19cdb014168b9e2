"""How far two ways to the same numbers lie apart."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def max_difference(ours: ArrayLike, theirs: ArrayLike) -> float:
    """max |Δ| of two arrays of one shape, or of an array and one number; NaN when either side holds a NaN.

    Infinite for shapes that differ: nothing is stretched to fit, so an array cut short never passes for the whole.
    """
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape and a.ndim and b.ndim:
        return float("inf")
    return float(np.abs(a - b).max(initial=0.0))


def mismatches(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """How many places differ between two lists of ids; those that only one list has count as well."""
    places = sum(a != b for a, b in zip(ours, theirs, strict=False))
    return float(places + abs(len(ours) - len(theirs)))

"""What separates two results of one card, in words."""

from collections.abc import Iterable

import numpy as np

from engine.evidence.oracle import Shown

MOST = 3
"""Quantities that the sentence names."""


def difference(left: Shown, right: Shown) -> str:
    """A sentence about two sets of shown numbers: the largest difference of each quantity, as plain text."""
    names = [name for name in left if name in right]
    if not names:
        return "The two show different things, so there is no difference to state."
    pairs = {name: (np.asarray(left[name]), np.asarray(right[name])) for name in names}
    like = {name: pair for name, pair in pairs.items() if pair[0].shape == pair[1].shape}
    if not like:
        name = names[0]
        sizes = " and ".join(" × ".join(map(str, array.shape)) for array in pairs[name])
        return f"“{name}” has {sizes} numbers, so there is no difference place by place."
    if all(_equal(*pair) for pair in like.values()) and len(like) == len(names):
        return "Both show the same numbers."
    said = [_said(name, *pair) for name, pair in like.items() if not _equal(*pair)]
    return (
        f"Largest differences: {'; '.join(_first(said))}."
        if said
        else "Where they can be compared, they are equal."
    )


def _first(said: list[str]) -> Iterable[str]:
    return said[:MOST]


def _said(name: str, left: np.ndarray, right: np.ndarray) -> str:
    if (left.dtype.kind in "iub" and right.dtype.kind in "iub") or left.dtype.kind in "US":
        return f"“{name}” differs in {int((left != right).sum())} of {left.size} places"
    far = np.abs(np.asarray(left, float) - np.asarray(right, float))
    return f"“{name}” {np.nanmax(far, initial=0):.3g}"


def _equal(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.array_equal(left, right, equal_nan=left.dtype.kind == right.dtype.kind == "f"))

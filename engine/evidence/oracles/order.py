"""Which of many values stand at which rank, where rounding may decide between two that are nearly equal."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Tensor = torch.Tensor


def at_ranks(
    given: Sequence[int], values: Tensor, allowed: float, ranks: Sequence[int] | None = None
) -> NDArray[np.int64]:
    """Ids of the values at some ranks (from 0; default: the first ones), the largest value first.

    Of values that lie within `allowed` of each other either may come first, so a `given` id is kept where its value is
    that near to the one at its rank. Ids that come twice, or are not there, are never kept.
    """
    wide = values.double()
    order = wide.sort(descending=True, stable=True).indices
    own = order[list(range(min(len(given), len(order))) if ranks is None else list(ranks))].tolist()
    whole = len(set(given)) == len(given) == len(own) and all(0 <= i < len(order) for i in given)
    if not whole:
        return np.array(own, np.int64)
    near = [bool((wide[a] - wide[b]).abs() <= allowed) for a, b in zip(given, own, strict=True)]
    return np.array([a if fits else b for a, b, fits in zip(given, own, near, strict=True)], np.int64)

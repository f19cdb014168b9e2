"""The likeliest tokens of several distributions once more, by torch's own sorting."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.evidence.oracles.order import at_ranks

Tensor = torch.Tensor


def favourites_again(
    p: Tensor, each: int, given: Sequence[int], allowed: float, most: int | None = None
) -> NDArray[np.int64]:
    """Ids of the `each` likeliest tokens of every row of p (row, vocab), the last row's likeliest first.

    `most` of them stay: the rows choose in turn, the last row first. Where values lie within `allowed` of each other,
    so that rounding decides, the `given` ids are preferred.
    """
    wide = p.double()
    known = [i for i in given if 0 <= i < wide.shape[1]]
    preferred = wide.clone()
    preferred[:, known] += allowed
    chosen = preferred.topk(min(each, wide.shape[1])).indices.flip(0).T.flatten().tolist()  # rank, row
    kept = list(dict.fromkeys(chosen))[:most]
    last = torch.full_like(wide[-1], -1.0)
    last[kept] = wide[-1, kept]
    first = at_ranks(list(given), last, allowed) if set(given) == set(kept) else last.argsort(descending=True)
    return np.asarray(first[: len(kept)], np.int64)

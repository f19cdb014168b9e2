"""The embedding matrix once more: rows, cosines, ranks and components, by torch from transformers' weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional as F

from engine.evidence.rounding import EXACT
from engine.model.loaded import Loaded

Tensor = torch.Tensor


def matrix(loaded: Loaded) -> Tensor:
    """The rows (vocab, d_model) of the tokenizer's entries, where they lie; rows of padding behind them left out."""
    weight: Tensor = loaded.model.get_input_embeddings().weight
    return weight.detach()[: len(loaded.tokenizer)]


def rows(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    """Rows (id, d_model) in float64."""
    whole = matrix(loaded)
    return F.embedding(torch.tensor(list(ids), device=whole.device), whole).to("cpu", torch.float64)


def row_by_product(loaded: Loaded, id: int) -> Tensor:
    """A row (d_model) in float64, as the product of a one-hot vector with the whole matrix."""
    whole = matrix(loaded)
    one_hot = F.one_hot(torch.tensor(id, device=whole.device), len(whole)).to(whole.dtype)
    return (one_hot @ whole).to("cpu", torch.float64)


def position_rows(loaded: Loaded, count: int) -> Tensor:
    """The first rows (seq, d_model) of a learned table of positions in float64."""
    module: Any = loaded.part("positions")
    found: Tensor = module.weight.detach()[:count].to("cpu", torch.float64)
    return found


@torch.no_grad()
def entering(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    """What block 0 reads (seq, d_model) in float64: the tokens' rows, plus learned positions' rows where there are."""
    whole = matrix(loaded)
    sums = F.embedding(torch.tensor(list(ids), device=whole.device), whole)
    if loaded.spec.positions == "learned":
        places: Any = loaded.part("positions")
        sums = sums + places.weight[: len(ids)]
    return sums.to("cpu", torch.float64)


def cosines(loaded: Loaded, vectors: ArrayLike | Tensor) -> Tensor:
    """Cosines (vector, vocab) of vectors with every row: torch normalizes both, then multiplies."""
    given = F.normalize(torch.as_tensor(vectors, dtype=torch.float64).reshape(-1, matrix(loaded).shape[1]))
    return torch.cat([F.linear(given, unit) for unit in _units(loaded)], dim=-1)


def place(scores: Tensor, id: int, shown: float, without: Sequence[int] = ()) -> float:
    """The place of an id among scores (vocab), the largest being 1, once the ids in `without` are taken out.

    Scores nearer than 1e-9 may be in either order, so among the places which that leaves the `shown` one is kept.
    """
    rivals = torch.ones(len(scores), dtype=torch.bool)
    rivals[[*without, id]] = False
    others = scores[rivals]
    first = 1 + int((others > scores[id] + EXACT).sum())
    last = 1 + int((others >= scores[id] - EXACT).sum())
    return shown if first <= shown <= last else first


def _parts(loaded: Loaded) -> Iterator[Tensor]:
    return (part.to("cpu", torch.float64) for part in matrix(loaded).split(1000))


def _units(loaded: Loaded) -> Iterator[Tensor]:
    return (F.normalize(part, dim=-1) for part in _parts(loaded))


@dataclass(frozen=True, eq=False)
class ComponentsAgain:
    """Points on the eigenvectors of their covariance matrix, (point, component), and each one's share of variance."""

    scores: NDArray[np.float64]
    shares: NDArray[np.float64]


def components(points: Tensor, like: ArrayLike) -> ComponentsAgain:
    """The first principal components by the covariance matrix; `like`, (point, component), gives the signs alone."""
    given = np.asarray(like, np.float64)
    values, vectors = torch.linalg.eigh(torch.cov(points.double().T, correction=0))
    values, vectors = values.flip(0), vectors.flip(1)[:, : given.shape[1]]
    scores = ((points - points.mean(0)) @ vectors).numpy()
    shares = (values / values.sum().clamp_min(1e-300))[: given.shape[1]].numpy()
    return ComponentsAgain(scores * np.where((scores * given).sum(0) < 0, -1, 1), shares)


def nearest_kept(points: Tensor, mapped: ArrayLike, count: int) -> float:
    """Share of the first points whose nearest other point on a map is the nearest in truth, by torch's cdist."""
    nearest = []
    for places in (points.double(), torch.as_tensor(np.asarray(mapped, np.float64))):
        apart = torch.cdist(places[:count], places, compute_mode="donot_use_mm_for_euclid_dist")
        apart[range(count), range(count)] = torch.inf
        nearest.append(apart.argmin(-1))
    return float((nearest[0] == nearest[1]).double().mean())

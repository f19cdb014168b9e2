"""Geometry of embedding vectors: cosine, ranks, principal components, similarity by distance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]


def norms(vectors: ArrayLike) -> Float:
    """Euclidean lengths along the last axis, in float64."""
    result: Float = np.sqrt(np.square(np.asarray(vectors, np.float64)).sum(-1))
    return result


def unit(vectors: ArrayLike) -> Float:
    """Vectors (…, d_model) divided by their lengths; a vector of zeros stays zeros."""
    given = np.asarray(vectors, np.float64)
    lengths = norms(given)[..., None]
    return np.divide(given, lengths, out=np.zeros_like(given), where=lengths != 0)


def cosine(a: ArrayLike, b: ArrayLike) -> Float:
    """Cosines (…) of vectors (…, d_model) with vectors (…, d_model), broadcast."""
    result: Float = (unit(a) * unit(b)).sum(-1)
    return result


def nearest(scores: Float, count: int, without: Sequence[int] = ()) -> Int:
    """Ids of the `count` largest scores (vocab), the smaller id first among equals, leaving out `without`."""
    order = np.argsort(-scores, kind="stable")
    return order[~np.isin(order, list(without))][:count].astype(np.int64)


def nearest_one(scores: Float, without: Sequence[int] = ()) -> int:
    """The first of `nearest`, without sorting the rest."""
    left = scores.copy()
    left[list(without)] = -np.inf
    return int(left.argmax())


def rank(scores: Float, id: int, without: Sequence[int] = ()) -> int:
    """Place of `id` among scores (vocab), 1 being the largest; ids in `without` are not counted."""
    larger = scores > scores[id]
    larger[list(without)] = False
    return int(larger.sum()) + 1


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of points: scores (point, component), directions (component, d_model), shares of the
    variance (component), the largest first."""

    scores: Float
    directions: Float
    shares: Float


def pca(points: ArrayLike, count: int) -> Components:
    """The first `count` principal components by singular value decomposition of the centred points.

    The sign of a direction is free; here the sum of the cubes of its entries is positive. Where there are fewer
    than `count` components the rest are zeros. Pearson 1901; Jolliffe, Principal Component Analysis, section 3.5.
    """
    given = np.asarray(points, np.float64)
    centred = given - given.mean(axis=0)
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions * np.where((directions**3).sum(-1) < 0, -1.0, 1.0)[:, None]
    variance = spread**2
    shares = variance / variance.sum() if variance.sum() else variance
    missing = max(0, count - len(spread))
    directions = np.pad(directions[:count], ((0, missing), (0, 0)))
    return Components(centred @ directions.T, directions, np.pad(shares, (0, missing))[:count])


def nearest_kept(points: ArrayLike, mapped: ArrayLike, chosen: Sequence[int]) -> float:
    """Share of the `chosen` points whose nearest other point on the map is also the nearest one in full."""
    full, flat = (_distances(np.asarray(places, np.float64), chosen) for places in (points, mapped))
    return float((full.argmin(1) == flat.argmin(1)).mean())


def _distances(points: Float, chosen: Sequence[int]) -> Float:
    """Squared distances (chosen, point), infinite from a point to itself."""
    squares = (points**2).sum(-1)
    result: Float = squares[list(chosen), None] + squares - 2 * points[list(chosen)] @ points.T
    result[np.arange(len(chosen)), list(chosen)] = np.inf
    return result


def by_distance(vectors: ArrayLike, most: int) -> Float:
    """Cosine by distance 0…most between positions: rows (distance), columns mean, 10 % and 90 % quantile."""
    directions = unit(vectors)
    similar = directions @ directions.T
    pairs = [np.diagonal(similar, distance) for distance in range(most + 1)]
    return np.array([[values.mean(), *np.quantile(values, (0.1, 0.9))] for values in pairs])

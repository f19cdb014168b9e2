"""Principal components of the prompt's tokens and their neighbours, in two or three dimensions."""

from collections.abc import Sequence

import numpy as np
import torch
from plotly.graph_objects import Figure

from engine.cards.attention.evidence import gap
from engine.cards.embeddings.matrix import CLOSE, code, name, table
from engine.evidence.card import Badge, Card, Proof
from engine.figures import scatter2d, scatter3d
from engine.figures.embeddings import spread_labels, stand_back
from engine.model.loading import Loaded
from engine.model.trace import Token
from engine.ops.embeddings import Components, Float, nearest, nearest_kept, pca

MOST_TOKENS = 24
"""Distinct tokens of the prompt on the map; a label needs room."""

_LABELLED = 40
"""Up to so many points each has its text printed; beyond that, and in 3-D, the neighbours have it on hover only."""

PROMPT, NEIGHBOUR = "token of the prompt", "neighbour"


def points(loaded: Loaded, tokens: Sequence[Token], focus: int, near: int) -> tuple[list[int], int]:
    """Ids on the map, and how many of them are of the prompt: the distinct tokens closest to the focus, in the
    prompt's order, then the `near` nearest rows of each that are not there yet."""
    by_distance = sorted(range(len(tokens)), key=lambda i: abs(i - focus))
    distinct = dict.fromkeys(tokens[i].id for i in by_distance)
    closest = set(list(distinct)[:MOST_TOKENS])
    own = [id for id in dict.fromkeys(token.id for token in tokens) if id in closest]
    rows = table(loaded)
    for id, scores in zip(list(own), rows.cosines(rows.rows(own)), strict=True):
        own += [int(i) for i in nearest(scores, near, without=[id])]
    return list(dict.fromkeys(own)), len(closest)


def token_map(loaded: Loaded, tokens: Sequence[Token], focus: int, near: int, dimensions: int) -> Card:
    """The map: rows projected on their first principal components."""
    ids, prompt = points(loaded, tokens, focus, near)
    rows = table(loaded).rows(ids)
    found = pca(rows, 3)
    shown, shares = found.scores[:, :dimensions], found.shares
    names = [name(loaded, i) for i in ids]
    groups = [PROMPT if i < prompt else NEIGHBOUR for i in range(len(ids))]
    return Card(
        key="map",
        title=f"{share_shown(rows, shares, dimensions)} of the variance between {len(ids)} rows",
        alt=f"A map of {prompt} tokens of the prompt and {len(ids) - prompt} neighbours, in {dimensions} dimensions.",
        badge=Badge.LIVE,
        figure=_figure(shown, names, groups, shares),
        table={
            "token": names,
            "id": ids,
            "group": groups,
            **{f"PC {i + 1}": found.scores[:, i].tolist() for i in range(3)},
        },
        prove=lambda: prove_components(found, rows, "these rows"),
        code=code(loaded, f"ids = torch.tensor({ids})\n" + components_code("W[ids]")),
        numbers={"scores": found.scores.tolist(), "shares": shares.tolist()},
        note=_note(rows, shown, shares, prompt, len({t.id for t in tokens})),
    )


def _note(rows: Float, shown: Float, shares: Float, prompt: int, distinct: int) -> str:
    kept = nearest_kept(rows, shown, range(prompt))
    cut = f" The {prompt} tokens around the chosen one are shown." if prompt < distinct else ""
    return (
        f"Explained variance: {printed(shares)}. For {kept:.0%} of the prompt’s tokens the nearest point on the map is "
        f"the nearest row in truth.{cut} Texts that would cover others show on hover."
    )


def printed(shares: Float) -> str:
    """The explained variance of each component, in words."""
    return ", ".join(f"PC {i + 1} {share:.1%}" for i, share in enumerate(shares))


def share_shown(rows: Float, shares: Float, dimensions: int) -> str:
    """How many of the components that there are a figure shows, and their share, as the beginning of a sentence."""
    there = min(len(rows) - 1, rows.shape[1])
    shown = min(dimensions, there)
    nouns, verb = "component" if there == 1 else "components", "shows" if shown == 1 else "show"
    return f"{shown} of {there} {nouns} {verb} {shares[:shown].sum():.0%}"


def axis_names(shares: Float) -> tuple[str, str, str]:
    first, second, third = (f"PC {i + 1} ({share:.1%})" for i, share in enumerate(shares))
    return first, second, third


def _figure(shown: Float, names: list[str], groups: list[str], shares: Float) -> Figure:
    colors = {PROMPT: "token", NEIGHBOUR: "embedding"}
    axes = axis_names(shares)
    if shown.shape[1] == 3:
        figure = scatter3d(shown, names, groups=groups, colors=colors, names=axes, height=460)
    else:
        figure = scatter2d(
            shown, names, groups=groups, colors=colors, x_name=axes[0], y_name=axes[1], height=430
        )
    if len(names) > _LABELLED or shown.shape[1] == 3:
        figure.update_traces(mode="markers", selector={"name": NEIGHBOUR})
    return spread_labels(figure) if shown.shape[1] == 2 else stand_back(figure)


def prove_components(found: Components, rows: Float, what: str) -> Proof:
    """Scores and shares against the eigenvectors of the covariance matrix, each turned to the shown direction."""
    given = torch.tensor(rows)
    values, vectors = torch.linalg.eigh(torch.cov(given.T, correction=0))
    values, vectors = values.flip(0), vectors.flip(1)[:, : found.scores.shape[1]]
    theirs = ((given - given.mean(0)) @ vectors).numpy()
    signs = np.where((theirs * found.scores).sum(0) < 0, -1, 1)
    shares = (values / values.sum().clamp_min(1e-300))[: len(found.shares)].numpy()
    size = max(1.0, float(np.abs(found.scores).max(initial=0)))
    return Proof(
        f"Coordinates and explained variance against the eigenvectors and eigenvalues of the covariance matrix of "
        f"{what}; signs, which are free, made equal.",
        max(gap(found.scores, theirs * signs), gap(found.shares, shares)),
        10 * CLOSE * size,
    )


def components_code(points: str) -> str:
    """Lines of a script that leave `result` with the scores and shares of an expression's points."""
    return f"""\
points = {points}
centred = points - points.mean(0)
_, spread, directions = torch.linalg.svd(centred, full_matrices=False)
directions = directions[:3] * torch.where((directions[:3] ** 3).sum(-1, keepdim=True) < 0, -1.0, 1.0)
scores, shares = centred @ directions.T, spread[:3] ** 2 / (spread**2).sum().clamp_min(1e-300)
missing = 3 - len(shares)  # two points have one component
pad = torch.nn.functional.pad
result = {{"scores": pad(scores, (0, missing)), "shares": pad(shares, (0, missing))}}
"""

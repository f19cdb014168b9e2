"""Principal components of the prompt's tokens and their neighbours, in two or three dimensions."""

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from plotly.graph_objects import Figure

from engine.chapters.c02_embeddings.matrix import code, name, table
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import embedding as again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.rounding import EXACT, counted, largest
from engine.figures import scatter2d, scatter3d
from engine.figures.embeddings import spread_labels, stand_back
from engine.model.loaded import Loaded
from engine.ops.embeddings import Float, nearest, nearest_kept, pca
from engine.tokens.token import Token

MOST_TOKENS = 24
"""Distinct tokens of the prompt on the map; a label needs room."""

SPREAD = 1e-7
"""Tolerance between coordinates by singular values and by the covariance matrix, which squares what rounding leaves."""

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
    kept = nearest_kept(rows, shown, range(prompt))
    asked = [token.id for token in tokens]
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
        shown={"ids": ids, "scores": found.scores, "shares": shares, "kept": kept},
        oracle=Oracle(
            "The neighbours by torch’s cosines; coordinates and explained variance by the eigenvectors and eigenvalues "
            "of the covariance matrix of these rows, signs, which are free, made equal; nearest points by torch.cdist.",
            lambda: _again(loaded, asked, focus, near, dimensions, ids, found.scores),
            {
                "ids": 0.0,
                "scores": SPREAD * max(1.0, largest(found.scores)),
                "shares": SPREAD,
                "kept": counted(prompt),
            },
        ),
        code=code(
            loaded,
            f"ids = torch.tensor({ids})\n" + components_code("W[ids]") + _kept_code(prompt, dimensions),
        ),
        note=_note(kept, shares, prompt, len(set(asked))),
    )


def _again(
    loaded: Loaded,
    asked: Sequence[int],
    focus: int,
    near: int,
    dimensions: int,
    ids: Sequence[int],
    scores: Float,
) -> dict[str, ArrayLike]:
    """`ids` are kept where two rows are equally near, and `scores` tell the signs."""
    around: list[int] = []
    for i in sorted(range(len(asked)), key=lambda i: abs(i - focus)):
        around += [asked[i]] * (asked[i] not in around)
    own = [id for id in dict.fromkeys(asked) if id in around[:MOST_TOKENS]]
    known = set(ids)
    found = list(own)
    for id, row in zip(own, again.cosines(loaded, again.rows(loaded, own)), strict=True):
        row[id] = -torch.inf
        order = row.sort(descending=True, stable=True).indices.tolist()
        like = [other for other in order[: near + 8] if other in known][:near]
        found += at_ranks(like if len(like) == near else order[:near], row, EXACT).tolist()
    found = list(dict.fromkeys(found))
    points = again.rows(loaded, found)
    placed = again.components(points, scores)
    return {
        "ids": found,
        "scores": placed.scores,
        "shares": placed.shares,
        "kept": again.nearest_kept(points, placed.scores[:, :dimensions], len(own)),
    }


def _note(kept: float, shares: Float, prompt: int, distinct: int) -> str:
    cut = f" The {prompt} tokens around the chosen one are shown." if prompt < distinct else ""
    return (
        f"Explained variance: {printed(shares)}. For {kept:.0%} of the prompt’s tokens the nearest point on the map is "
        f"the row that is nearest in truth, by straight-line distance.{cut} Texts that would cover others "
        "show on hover."
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
            shown, names, groups=groups, colors=colors, x_name=axes[0], y_name=axes[1], height=430, equal=True
        )
    if len(names) > _LABELLED or shown.shape[1] == 3:
        figure.update_traces(mode="markers", selector={"name": NEIGHBOUR})
    return spread_labels(figure) if shown.shape[1] == 2 else stand_back(figure)


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


def _kept_code(prompt: int, dimensions: int) -> str:
    """Lines that add the ids, and how many of the first points have the same nearest one on the map and in truth."""
    return f"""\
nearest = []
for where in (points, result["scores"][:, :{dimensions}]):
    apart = torch.cdist(where, where).fill_diagonal_(torch.inf)
    nearest.append(apart[:{prompt}].argmin(-1))
result |= {{"ids": ids, "kept": (nearest[0] == nearest[1]).double().mean()}}
"""

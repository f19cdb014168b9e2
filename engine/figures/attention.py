"""Figures of one attention head: matrix products laid out as they are multiplied, and rows of scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures import attention_panels as panels
from engine.figures.axes import across, down, floats, short
from engine.figures.heat import scale
from engine.figures.theme import NEGATIVE, NEUTRAL, POSITIVE, color, rgba
from engine.tokens.text import label, shorten


def matrix_product(
    x: ArrayLike,
    weight: ArrayLike,
    result: ArrayLike,
    *,
    names: tuple[str, str, str],
    sizes: tuple[str, str],
    concepts: tuple[str, str],
    column: int | None = None,
) -> go.Figure:
    """x·W laid out as it is multiplied: x (inputs) stands left of W (inputs, outputs), the result lies below it.

    names     of x, W and the result           sizes  axis names of the inputs and the outputs
    concepts  colours of the names of x and of the result         column  output to frame
    Every panel has its own colour scale, symmetric about zero; its end is printed beside the name.
    """
    left, matrix, below = floats(x)[:, None], floats(weight), floats(result)[None, :]
    sketch = panels.Sketch(430)
    heads = [label(name) for name in names]
    panels.image(sketch, "", left, (0.0, 0.07), (0.26, 0.94), f"{heads[0]}<br>dimension %{{y}}")
    panels.image(sketch, "2", matrix, (0.14, 1.0), (0.26, 0.94), f"{heads[1]}<br>row %{{y}}, column %{{x}}")
    panels.image(sketch, "3", below, (0.14, 1.0), (0.0, 0.1), f"{heads[2]}<br>dimension %{{x}}")
    for place in ("", "2", "3"):
        sketch.axes(place, {"showticklabels": place == "3"}, {"showticklabels": place == ""})
    sketch.set(
        yaxis={"title": {"text": label(sizes[0])}, "nticks": 5},
        xaxis3={"title": {"text": label(sizes[1])}, "nticks": 9},
    )
    parts = (("2", heads[1], matrix, NEUTRAL), ("3", heads[2], below, concepts[1]))
    for place, head, values, paint in parts:
        panels.name_above(sketch, place, f"<b>{head}</b> {_ends(values)}", paint)
    panels.name_above(sketch, "", f"<b>{heads[0]}</b> {_ends(left)}", concepts[0])
    sketch.names[-1]["yshift"] = 18  # a line of its own: the panel is narrower than its name
    if column is not None:
        panels.frame(sketch, "2", column - 0.5, column + 0.5, -0.5, len(matrix) - 0.5)
        panels.frame(sketch, "3", column - 0.5, column + 0.5, -0.5, 0.5)
    return sketch.figure()


def _ends(values: ArrayLike) -> str:
    return f"±{short(scale(values, 'diverging')[1])}"


def token_vectors(
    vectors: Mapping[str, ArrayLike], tokens: Sequence[str], *, row: int | None = None
) -> go.Figure:
    """The query, key and value of every token side by side: three matrices (seq, d_head), each on its own scale."""
    sketch = panels.Sketch(120 + min(max(24 * len(tokens), 72), 520))
    for i, (concept, values) in enumerate(vectors.items()):
        place, shown = "" if i == 0 else str(i + 1), floats(values)
        start = i * 0.345
        panels.image(
            sketch,
            place,
            shown,
            (start, start + 0.31),
            (0, 0.97),
            f"{concept} of token %{{y}}<br>dimension %{{x}}",
        )
        below = {"title": {"text": "dimension"}, "nticks": 4}
        sketch.axes(place, below, down(tokens) | {"showticklabels": i == 0})
        panels.name_above(sketch, place, f"<b>{label(concept)}</b> {_ends(shown)}", concept)
        if row is not None:
            panels.frame(sketch, place, -0.5, shown.shape[1] - 0.5, row - 0.5, row + 0.5)
    return sketch.figure()


def dot_product(
    query: ArrayLike, key: ArrayLike, products: ArrayLike, *, names: tuple[str, str]
) -> go.Figure:
    """Three panels over d_head: q_i and k_i side by side, their products, and the running sum of the products."""
    q, k, parts = floats(query), floats(key), floats(products)
    dims, sums = np.arange(len(q)), np.cumsum(parts)
    sketch = panels.Sketch(440)
    panels.stacked(
        sketch, ["q<sub>i</sub> and k<sub>i</sub>", "products q<sub>i</sub> · k<sub>i</sub>", "running sum"]
    )
    for values, concept, name in ((q, "query", names[0]), (k, "key", names[1])):
        sketch.trace(
            "bar",
            x=dims,
            y=values,
            name=label(name),
            marker={"color": color(concept)},
            offsetgroup=concept,
            hovertemplate="dimension %{x}<br><b>%{y:.6g}</b>",
        )
    panels.columns(sketch, "2", parts, "dimension %{x}<br>product <b>%{y:.6g}</b><extra></extra>")
    sketch.trace(
        "scatter",
        "3",
        x=dims,
        y=sums,
        mode="lines",
        line={"color": color("attention"), "width": 2, "shape": "hv"},
        showlegend=False,
        hovertemplate="after dimension %{x}<br>sum <b>%{y:.6g}</b><extra></extra>",
    )
    panels.end_mark(sketch, "3", len(parts) - 1, float(parts.sum()), "attention")
    sketch.set(
        yaxis={"range": panels.signed_range(np.concatenate([q, k]))},
        yaxis2={"range": panels.signed_range(parts)},
        yaxis3={"range": panels.signed_range(sums, 1.45)},
        xaxis={"range": [-0.8, len(q) - 0.2]},
        xaxis3={"title": {"text": "dimension of the head"}},
        barmode="group",
        bargap=0.15,
        showlegend=True,
    )
    return sketch.figure()


def score_row(
    scores: ArrayLike,
    weights: ArrayLike,
    tokens: Sequence[str],
    *,
    hidden: ArrayLike,
    query: int,
    names: tuple[str, str],
) -> go.Figure:
    """Two panels over the keys: scores and their softmax on a fixed 0–1 scale. What the mask hides is hatched.

    A dotted line marks the query's own position. names  of the two panels
    """
    before, after, gone = floats(scores), floats(weights), np.asarray(hidden, bool)
    keys = [f"{i} {label(shorten(token))}" for i, token in enumerate(tokens)]
    sketch = panels.Sketch(430)
    panels.stacked(sketch, [label(name) for name in names])
    signs = [NEGATIVE if s < 0 else POSITIVE for s in before]
    paint = [rgba(sign, 0.4) if h else sign for h, sign in zip(gone, signs, strict=True)]
    hover = "key %{customdata}<br><b>%{y:.6g}</b><extra></extra>"
    panels.columns(sketch, "", before, hover, paint=paint, names=keys)
    panels.columns(
        sketch,
        "2",
        np.where(gone, 0, after),
        hover,
        paint=[color("attention")] * len(after),
        names=keys,
        texts=panels.numbers_on_largest(np.where(gone, 0, after)),
    )
    sketch.set(
        xaxis={"range": [-0.5, len(tokens) - 0.5]},
        xaxis2=across(tokens) | {"title": {"text": "key"}},
        yaxis={"range": panels.signed_range(before)},
        yaxis2={"range": [0, 1.14], "tickvals": [0, 0.5, 1]},
    )
    for place in ("", "2"):
        panels.dotted(sketch, place, query, "query")
        if gone.any():
            first = float(np.flatnonzero(gone)[0])
            panels.hatch(sketch, place, first - 0.5, len(gone) - 0.5, legend=place == "")
            sketch.set(showlegend=True)
    return sketch.figure()


def weighted_values(
    weights: ArrayLike, parts: ArrayLike, total: ArrayLike, shares: ArrayLike, tokens: Sequence[str]
) -> go.Figure:
    """From left to right: weights (key), weight·value (key, d_head) above their sum (d_head), and shares (key)."""
    rows, summed, share = floats(parts), floats(total)[None, :], floats(shares)
    tall = min(max(24 * len(tokens), 72), 480)
    sketch = panels.Sketch(tall + 190)
    split = 72 / (tall + 96)
    upper, lower, middle = (split, 0.97), (0.0, split * 0.4), (0.24, 0.76)
    panels.sideways(sketch, "", weights, (0.0, 0.2), upper, "attention", "key %{y}<br>weight <b>%{x:.6g}</b>")
    panels.image(sketch, "2", rows, middle, upper, "weight · value of key %{y}<br>dimension %{x}")
    panels.image(sketch, "3", summed, middle, lower, "sum<br>dimension %{x}")
    panels.sideways(sketch, "4", share, (0.8, 1.0), upper, "value", "key %{y}<br>share <b>%{x:.2%}</b>")
    for place in ("", "2", "4"):
        sketch.axes(place, y=down(tokens) | {"showticklabels": place == ""})
    sketch.set(
        xaxis={"range": [0, 1], "tickvals": [0, 0.5, 1], "showgrid": True, "gridcolor": rgba(NEUTRAL, 0.22)},
        yaxis={"title": {"text": "key"}},
        xaxis2={"showticklabels": False},
        xaxis3={"title": {"text": "dimension of the head"}, "nticks": 5},
        yaxis3={"showticklabels": False},
        xaxis4=_share_axis(share),
    )
    panels.name_above(sketch, "", "<b>weight</b>", "attention")
    panels.name_above(sketch, "2", f"<b>weight · value</b> {_ends(rows)}", "value")
    panels.name_above(sketch, "3", f"<b>sum: output</b> {_ends(summed)}", "value")
    panels.name_above(sketch, "4", "<b>share</b>", "value")
    return sketch.figure()


def _share_axis(shares: ArrayLike) -> dict[str, object]:
    given = floats(shares)
    finite = given[np.isfinite(given)]
    low, high = min(0.0, float(finite.min(initial=0))), max(1.0, float(finite.max(initial=1)))
    room = 0.05 * (high - low)
    line = {"zeroline": True, "zerolinecolor": NEUTRAL, "showgrid": True, "gridcolor": rgba(NEUTRAL, 0.22)}
    return line | {
        "range": [low - (room if low else 0), high + room],
        "nticks": 3,
        "tickangle": 0,
        "tickformat": ".0%",
    }


@dataclass(frozen=True)
class Strip:
    """One strip of `steps`: a concept of "attention" has a 0–1 scale; `tokens` are labels of its cells."""

    name: str
    values: ArrayLike
    concept: str
    tokens: Sequence[str] | None = None


_STRIP, _NAME, _LABELS = 20, 23, 72  # pixels


def steps(strips: Sequence[Strip], shown: int) -> go.Figure:
    """One strip under the other, each on its own scale; only the first `shown` are filled in, −∞ is hatched."""
    labelled = max((i for i, strip in enumerate(strips) if strip.tokens is not None), default=-1)
    rooms = [_STRIP + _NAME + (_LABELS if i == labelled else 0) for i in range(len(strips))]
    inner = sum(rooms)
    sketch = panels.Sketch(inner + 56)
    used = 0.0
    for i, (strip, room) in enumerate(zip(strips, rooms, strict=True)):
        place, row = "" if i == 0 else str(i + 1), floats(strip.values)[None, :]
        top = 1 - (used + _NAME) / inner
        used += room
        here = row if i < shown else np.full_like(row, -np.inf)
        hover = f"{label(strip.name)}<br>%{{x}}"
        panels.image(sketch, place, here, (0.0, 1.0), (top - _STRIP / inner, top), hover, strip.concept)
        if i < shown and np.isneginf(row).any():
            panels.hatch(
                sketch, place, float(np.flatnonzero(np.isneginf(row[0]))[0]) - 0.5, row.shape[1] - 0.5
            )
        sketch.axes(place, {"showticklabels": False}, {"showticklabels": False})
        if i == labelled and strip.tokens is not None:
            sketch.axes(place, across(strip.tokens) | {"showticklabels": True})
        ends = "0 to 1" if strip.concept == "attention" else _ends(row)
        panels.name_above(
            sketch,
            place,
            f"{i + 1} <b>{label(strip.name)}</b> {ends if i < shown else ''}",
            strip.concept if i < shown else NEUTRAL,
        )
    return sketch.figure()

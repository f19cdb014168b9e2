"""Figures of neurons: the non-linearity with points on it, and tokens in their contexts, one occurrence a line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import down, exact, floats, short
from engine.figures.boxes import Box, add_boxes
from engine.figures.theme import NEUTRAL, canvas, color, rgba
from engine.tokens.text import label, shorten

_DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")


def bend(
    x: ArrayLike,
    curves: Mapping[str, ArrayLike],
    chosen: str,
    point: tuple[float, float],
    *,
    cloud: tuple[ArrayLike, ArrayLike, Sequence[str]] | None = None,
    x_name: str = "",
    y_name: str = "",
    height: int = 360,
) -> go.Figure:
    """Non-linearities as curves, the chosen one strong, with one marked point and dotted lines to its axes.

    cloud  further points (x, y, name of each), drawn small
    """
    places = floats(x)
    figure = canvas(height, x_name, y_name)
    faint = [name for name in curves if name != chosen]
    for name in [*faint, chosen]:
        strong = name == chosen
        figure.add_scatter(
            x=places,
            y=floats(curves[name]),
            name=label(name),
            mode="lines",
            line={
                "color": color("mlp") if strong else rgba(NEUTRAL, 0.75),
                "width": 3 if strong else 1.3,
                "dash": "solid" if strong else _DASHES[faint.index(name) % len(_DASHES)],
            },
            hovertemplate="%{x:.6g}: <b>%{y:.6g}</b>",
        )
    if cloud is not None:
        _cloud(figure, *cloud)
    _point(figure, *point)
    figure.update_layout(showlegend=len(curves) > 1)
    figure.update_xaxes(
        nticks=8, zeroline=True, zerolinecolor=rgba(NEUTRAL, 0.6), range=[places[0], places[-1]]
    )
    figure.update_yaxes(nticks=7, zeroline=True, zerolinecolor=rgba(NEUTRAL, 0.6))
    return figure


def _cloud(figure: go.Figure, x: ArrayLike, y: ArrayLike, names: Sequence[str]) -> None:
    figure.add_scatter(
        x=floats(x),
        y=floats(y),
        mode="markers",
        marker={"color": rgba(color("token"), 0.75), "size": 7},
        customdata=[label(name) for name in names],
        hovertemplate="%{customdata}<br>%{x:.6g}: <b>%{y:.6g}</b><extra></extra>",
        showlegend=False,
    )


def _point(figure: go.Figure, x: float, y: float) -> None:
    dotted = {"color": rgba(color("key"), 0.8), "width": 1.5, "dash": "dot"}
    if np.isfinite([x, y]).all():
        figure.add_shape(type="line", x0=x, x1=x, y0=0, y1=y, line=dotted)
        figure.add_shape(type="line", x0=0, x1=x, y0=y, y1=y, line=dotted)
    figure.add_scatter(
        x=[x],
        y=[y],
        mode="markers+text",
        text=[f"<b>{short(y)}</b>"],
        textposition="top center",
        cliponaxis=False,
        marker={"color": color("key"), "size": 13},
        hovertemplate="%{x:.6g}: <b>%{y:.6g}</b><extra></extra>",
        showlegend=False,
    )


@dataclass(frozen=True)
class Occurrence:
    """A token in its context: texts and values of a few tokens, and which of them it is. NaN: no value."""

    tokens: Sequence[str]
    values: Sequence[float]
    at: int


def concordance(rows: Sequence[Occurrence], *, before: int = 26, after: int = 14) -> go.Figure:
    """One occurrence a line, its token aligned with the others'; every token is tinted by its value.

    `before` and `after` are the characters shown on either side; the value at the token stands left of its line.
    """
    figure = canvas(30 + 34 * max(len(rows), 1))
    finite = [abs(v) for row in rows for v in row.values if np.isfinite(v)]
    top = max(finite, default=0.0) or 1.0
    boxes, words = [], []
    for y, row in enumerate(rows):
        for left, width, i in _laid_out(row, before, after):
            value = row.values[i]
            strength = 0.0 if not np.isfinite(value) else round(6 * abs(value) / top) / 6
            paint = color("mlp") if value >= 0 else color("query")
            edge = paint if i == row.at else NEUTRAL
            if i == row.at or strength > 0:
                boxes.append(Box(left, left + width, y - 0.36, y + 0.36, edge, 0.0))
                boxes.append(Box(left, left + width, y - 0.36, y + 0.36, paint, 0.06 + 0.5 * strength))
            words.append(
                (left + width / 2, y, _word(row.tokens[i], i == row.at), f"{row.tokens[i]}: {exact(value)}")
            )
    add_boxes(figure, boxes)
    figure.add_scatter(
        x=[x for x, _, _, _ in words],
        y=[y for _, y, _, _ in words],
        mode="text",
        text=[text for _, _, text, _ in words],
        textfont={"family": "monospace", "size": 11},
        customdata=[label(hover) for _, _, _, hover in words],
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.update_xaxes(visible=False, range=[-before, after])
    figure.update_yaxes(**down([short(row.values[row.at]) for row in rows]))
    return figure


WIDEST = 12


def _laid_out(row: Occurrence, before: int, after: int) -> list[tuple[float, float, int]]:
    """(left edge, width, index) of every token that fits, in characters; the aligned one begins at 0."""
    widths = [len(shorten(text, WIDEST)) + 0.6 for text in row.tokens]
    placed, edge = [], 0.0
    for i in range(row.at, len(widths)):
        if edge + widths[i] > after and i > row.at:
            break
        placed.append((edge, widths[i], i))
        edge += widths[i]
    edge = 0.0
    for i in range(row.at - 1, -1, -1):
        edge -= widths[i]
        if edge < -before:
            break
        placed.append((edge, widths[i], i))
    return placed


def _word(text: str, strong: bool) -> str:
    shown = label(shorten(text, WIDEST))
    return f"<b>{shown}</b>" if strong else shown

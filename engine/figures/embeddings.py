"""Figures of the chapter on embeddings: ranks on a log scale, and a curve whose points come in order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import floats
from engine.figures.theme import NEUTRAL, canvas, color, rgba
from engine.tokens.text import label


def ranked(
    labels: Sequence[str], below: Sequence[str], ranks: ArrayLike, *, worst: int, concept: str = "embedding"
) -> go.Figure:
    """One row for each label with a line of text below it; a point at the rank, 1 on the left, on a log scale.

    worst  the largest rank there could be: the end of the axis
    """
    places = floats(ranks)
    first = places == 1
    figure = canvas(70 + 44 * len(labels), "rank of the expected word", "")
    for row, place in enumerate(places):
        figure.add_scatter(
            x=[1, place], y=[row, row], mode="lines", line={"color": NEUTRAL, "width": 1.5}, hoverinfo="skip"
        )
    figure.add_scatter(
        x=places,
        y=np.arange(len(places)),
        mode="markers+text",
        text=[f"{place:,.0f}" for place in places],
        textposition=["middle right" if place**1.25 < worst else "middle left" for place in places],
        cliponaxis=False,
        marker={
            "color": [color("value") if hit else color(concept) for hit in first],
            "symbol": ["circle" if hit else "diamond" for hit in first],
            "size": 11,
        },
        customdata=[[label(text), label(more)] for text, more in zip(labels, below, strict=True)],
        hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>rank <b>%{x:,}</b><extra></extra>",
    )
    texts = [f"{label(text)}<br><i>{label(more)}</i>" for text, more in zip(labels, below, strict=True)]
    figure.update_xaxes(type="log", range=[-0.08, float(np.log10(max(worst, 10)))], dtick=1)
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(texts))),
        ticktext=texts,
        range=[len(texts) - 0.5, -0.5],
        showgrid=False,
    )
    return figure


def spread_labels(figure: go.Figure, width: int = 300) -> go.Figure:
    """Move the texts of a 2-D scatter around their points, and drop those that would still cover another.

    The first points come first. `width` is that of the plotted area in pixels on a phone; hover texts stay.
    """
    traces = [trace for trace in figure.data if trace.type == "scatter" and "text" in (trace.mode or "")]
    places = np.concatenate([np.column_stack([trace.x, trace.y]) for trace in figure.data]).astype(float)
    low, high = places.min(0), places.max(0)
    room = np.where(high > low, high - low, 1.0) * (0.2, 0.1)
    low, high = low - room, high + room
    size = np.array([width, figure.layout.height - 90])
    taken = [np.array([*point - 5, *point + 5]) for point in (places - low) / (high - low) * size]
    for trace in traces:
        points = (np.column_stack([trace.x, trace.y]) - low) / (high - low) * size
        found = [_free(point, text, taken) for point, text in zip(points, trace.text, strict=True)]
        trace.text = [text if place else "" for text, place in zip(trace.text, found, strict=True)]
        trace.textposition = [place or "top center" for place in found]
    figure.update_xaxes(range=[low[0], high[0]])
    figure.update_yaxes(range=[low[1], high[1]])
    return figure


_AROUND = {
    "top center": (0, 13),
    "bottom center": (0, -13),
    "middle right": (0.5, 0),
    "middle left": (-0.5, 0),
}


def _free(point: np.ndarray, text: str, taken: list[np.ndarray]) -> str:
    """Where a text of 7 pixels a character finds room beside its point; noted in `taken`. Empty if nowhere."""
    half = np.array([3.5 * len(text), 7])
    for place, (across, up) in _AROUND.items():
        centre = point + np.array([across * (2 * half[0] + 14), up])
        box = np.array([*centre - half, *centre + half])
        if not any((box[:2] < other[2:]).all() and (other[:2] < box[2:]).all() for other in taken):
            taken.append(box)
            return place
    return ""


def ordered_curve(
    points: ArrayLike,
    *,
    every: int,
    chosen: int | None = None,
    names: tuple[str, ...],
    concept: str = "embedding",
    height: int = 420,
    first: int = 0,
) -> go.Figure:
    """Points (point, 2 or 3) in their order, pale at the start and full at the end; every nth has its number.

    `first` is the number of the first one.
    """
    places = floats(points)
    count = len(places)
    numbers = range(first, first + count)
    marks = [str(i) if i % every == 0 or i in (numbers[-1], chosen) else "" for i in numbers]
    paint = color(concept)
    solid = places.shape[1] == 3  # a 3-D scene draws transparent colours as white
    options: dict[str, Any] = {
        "mode": "lines+markers+text",
        "text": marks,
        "line": {"color": NEUTRAL if solid else rgba(paint, 0.35), "width": 2},
        "marker": {
            "color": np.arange(count),
            "colorscale": [[0.0, NEUTRAL if solid else rgba(paint, 0.25)], [1.0, paint]],
            "size": [9 if text else 4 for text in marks],
            "line": {"width": 0},
        },
        "customdata": list(numbers),
        "hovertemplate": "position %{customdata}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
    }
    figure = canvas(height, *names[:2])
    if places.shape[1] == 2:
        figure.add_scatter(
            x=places[:, 0], y=places[:, 1], textposition="top center", cliponaxis=False, **options
        )
        figure.update_xaxes(nticks=6)
        figure.update_yaxes(nticks=6)
        return figure
    figure.add_scatter3d(x=places[:, 0], y=places[:, 1], z=places[:, 2], **options)
    plain = {"showbackground": False, "gridcolor": NEUTRAL, "zeroline": False, "nticks": 4}
    axes = zip(("xaxis", "yaxis", "zaxis"), names, strict=True)
    figure.update_layout(
        dragmode="turntable",
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
        scene={axis: plain | {"title": {"text": name}} for axis, name in axes},
    )
    return stand_back(figure)


def stand_back(figure: go.Figure) -> go.Figure:
    """A 3-D scene as a cube, seen from so far that its axes' names are inside the figure."""
    figure.update_layout(
        scene={
            "aspectmode": "cube",
            "camera": {"eye": {"x": 1.5, "y": 1.5, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.15}},
        }
    )
    return figure

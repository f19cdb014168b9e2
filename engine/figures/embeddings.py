"""Figures of the chapter on embeddings: ranks on a log scale, and a curve whose points come in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from itertools import product
from typing import Any
from unicodedata import east_asian_width

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


AREAS = ((280, 340), (360, 340), (440, 340), (520, 340), (700, 340), (700, 250))
"""Plotted areas in pixels (width, height), from a phone's to a wide window's; on a wall type leaves less height."""

FRAME = 90
"""Pixels of a figure's height outside its plotted area."""


def spread_labels(figure: go.Figure) -> go.Figure:
    """Move the texts of a 2-D scatter around their points, and drop those that would cover another or leave the figure.

    A text keeps its size when a figure grows, and points move apart: so it needs a place that is free in all `AREAS`.
    Where none is at the point itself, one a little away is taken, and a line leads to it. The axes must be equal, as
    `scatter2d` makes them; the first points come first; hover texts stay.
    """
    traces = [trace for trace in figure.data if trace.type == "scatter" and "text" in (trace.mode or "")]
    places = np.concatenate([np.column_stack([trace.x, trace.y]) for trace in figure.data]).astype(float)
    low, high = places.min(0), places.max(0)
    room = np.where(high > low, high - low, 1.0) * (0.06, 0.1)
    low, high = low - room, high + room
    areas = [(width, min(height, figure.layout.height - FRAME)) for width, height in AREAS]
    scales = np.array([min(area / (high - low)) for area in areas])
    pixels = _Pixels((low + high) / 2, scales, np.array(areas) / 2, [])
    pixels.taken.extend(pixels.box(point, (5, 5), (0, 0)) for point in places)
    for trace in traces:
        points = np.column_stack([trace.x, trace.y])
        found = [pixels.free(point, text) for point, text in zip(points, trace.text, strict=True)]
        for point, text, (place, shift) in zip(points, trace.text, found, strict=True):
            if shift and not place:
                _lead(figure, point, text, shift)
        trace.text = [text if place else "" for text, (place, _) in zip(trace.text, found, strict=True)]
        trace.textposition = [place or "top center" for place, _ in found]
    figure.update_xaxes(range=[low[0], high[0]])
    figure.update_yaxes(range=[low[1], high[1]])
    return figure


_AROUND = {
    "top center": (0, 1),
    "bottom center": (0, -1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top right": (1, 1),
    "top left": (-1, 1),
    "bottom right": (1, -1),
    "bottom left": (-1, -1),
}
_AWAY = (24.0, 36.0)
"""Pixels from a point to a text to which a line leads."""


@dataclass(frozen=True)
class _Pixels:
    """A figure in several areas at once: its centre in units, pixels for a unit, half sizes, boxes that are taken."""

    centre: np.ndarray
    scales: np.ndarray
    halves: np.ndarray
    taken: list[np.ndarray]

    def box(self, point: np.ndarray, half: ArrayLike, shift: ArrayLike) -> np.ndarray:
        """(area, 4): left, low, right and high end of a box of a size in pixels beside a point."""
        middle = (point - self.centre) * self.scales[:, None] + np.asarray(shift)
        return np.hstack([middle - np.asarray(half), middle + np.asarray(half)])

    def free(self, point: np.ndarray, text: str) -> tuple[str, tuple[float, float] | None]:
        """Where a text finds room, noted as taken: in plotly's word, or how far away in pixels. None if nowhere."""
        half = np.array([text_width(unescape(text)) / 2, 7])
        for place, (across, up) in _AROUND.items():
            if self._take(point, half, (across * (half[0] + 8), up * 13)):
                return place, None
        for away, (across, up) in product(_AWAY, _AROUND.values()):
            shift = (across * (half[0] + away), up * away)
            if self._take(point, half, shift):
                return "", shift
        return "", None

    def _take(self, point: np.ndarray, half: np.ndarray, shift: tuple[float, float]) -> bool:
        box = self.box(point, half, shift)
        inside = (box[:, :2] >= -self.halves).all() and (box[:, 2:] <= self.halves).all()
        free = bool(inside) and not any(_cover(box, other) for other in self.taken)
        self.taken.extend([box] * free)
        return free


def _lead(figure: go.Figure, point: np.ndarray, text: str, shift: tuple[float, float]) -> None:
    """A text so many pixels to the right of its point and above it, and a line that leads to it."""
    figure.add_annotation(
        x=point[0], y=point[1], text=text, ax=shift[0], ay=-shift[1], standoff=5, borderpad=0,
        showarrow=True, arrowhead=0, arrowwidth=1, arrowcolor=NEUTRAL, font={"size": 12},
    )  # fmt: skip


def _cover(box: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes (area, 4) cover each other in any area."""
    return bool(((box[:, :2] < other[:, 2:]) & (other[:, :2] < box[:, 2:])).all(1).any())


def text_width(text: str) -> float:
    """About how wide a text of a figure is, in pixels; wide characters are those of East Asia, and emoji."""
    return sum(13.0 if east_asian_width(char) in "FW" else 7.0 for char in text)


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

"""Figures of learning: a graph of computed values with gradients, and paths down a surface."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import floats
from engine.figures.theme import NEUTRAL, canvas, color, cycle, rgba
from engine.tokens.text import label


@dataclass(frozen=True)
class GraphNode:
    """A value at a place; NaN for what is not known yet. `strong` outlines it."""

    name: str
    place: tuple[float, float]
    value: float
    gradient: float
    hover: str
    strong: bool = False


@dataclass(frozen=True)
class GraphEdge:
    """An arrow between two nodes with a local derivative beside it; `strong` when a gradient passes it now."""

    start: str
    end: str
    local: float
    strong: bool = False


def computation_graph(
    nodes: Sequence[GraphNode], edges: Sequence[GraphEdge], *, height: int = 400
) -> go.Figure:
    """Circles with the value and, tinted, the gradient below each; arrows with their local derivatives."""
    figure = canvas(height)
    places = {node.name: node.place for node in nodes}
    for edge in edges:
        _arrow(figure, places[edge.start], places[edge.end], edge)
    x, y = (np.array([node.place[i] for node in nodes]) for i in (0, 1))
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers+text",
        text=[f"<b>{label(node.name)}</b>" for node in nodes],
        marker={
            "size": 32,
            "color": [rgba(color("residual"), 0.55 if node.strong else 0.2) for node in nodes],
            "line": {"color": color("residual"), "width": [3 if node.strong else 1.5 for node in nodes]},
        },
        customdata=[label(node.hover) for node in nodes],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
        cliponaxis=False,
    )
    _below(figure, "", x, y, [node.value for node in nodes], 24, None)
    _below(figure, "gradient ∂L/∂node", x, y, [node.gradient for node in nodes], 40, "gradient")
    middles = [np.mean([places[e.start], places[e.end]], axis=0) for e in edges]
    known = [(m, e.local) for m, e in zip(middles, edges, strict=True) if np.isfinite(e.local)]
    _below(figure, "local derivative", [m[0] for m, _ in known], [m[1] for m, _ in known],
           [value for _, value in known], -9, "key")  # fmt: skip
    figure.update_xaxes(visible=False, range=[min(x) - 0.35, max(x) + 0.4])
    figure.update_yaxes(visible=False, range=[min(y) - 0.75, max(y) + 0.45])
    figure.update_layout(showlegend=True)
    return figure


def _arrow(figure: go.Figure, start: tuple[float, float], end: tuple[float, float], edge: GraphEdge) -> None:
    """Forwards in grey; towards the inputs in the gradient's colour while a gradient is handed on."""
    (x0, y0), (x1, y1) = (end, start) if edge.strong else (start, end)
    figure.add_annotation(
        x=x1, y=y1, ax=x0, ay=y0, xref="x", yref="y", axref="x", ayref="y", text="", showarrow=True,
        arrowhead=2, arrowwidth=3 if edge.strong else 1.4, standoff=19, startstandoff=17,
        arrowcolor=color("gradient") if edge.strong else NEUTRAL,
    )  # fmt: skip


def _below(
    figure: go.Figure,
    name: str,
    x: ArrayLike,
    y: ArrayLike,
    values: Sequence[float],
    pixels: int,
    concept: str | None,
) -> None:
    """Numbers some pixels below their places, on a tint that the legend names. (Text has the page's own colour.)"""
    tint = rgba(color(concept), 0.3) if concept else "rgba(0,0,0,0)"
    for px, py, value in zip(floats(x), floats(y), values, strict=True):
        if np.isfinite(value):
            figure.add_annotation(
                x=px, y=py, yshift=-pixels, text=brief(value), showarrow=False, font={"size": 12}, bgcolor=tint,
                borderpad=0, height=15,
            )  # fmt: skip
    if concept:
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=label(name),
            marker={"color": tint, "symbol": "square", "size": 12},
        )  # fmt: skip


def brief(value: float) -> str:
    """A number for a crowded place, with a real minus sign."""
    return f"{value:.2f}".replace("-", "−") if abs(value) < 100 else f"{value:.3g}".replace("-", "−")


def tangent(
    x: ArrayLike,
    y: ArrayLike,
    slope: float,
    point: tuple[float, float],
    chord: tuple[ArrayLike, ArrayLike],
    *,
    x_name: str,
    y_name: str,
    height: int = 360,
) -> go.Figure:
    """A curve, the straight line of a slope through one of its points, and the points of a central difference."""
    places = floats(x)
    straight = point[1] + slope * (places - point[0])
    figure = canvas(height, x_name, y_name)
    for name, line, concept, dash in (
        ("loss", floats(y), "logits", "solid"),
        ("slope from autograd", straight, "gradient", "dash"),
    ):
        figure.add_scatter(
            x=places, y=line, name=name, mode="lines",
            line={"color": color(concept), "width": 2.4, "dash": dash},
            hovertemplate="%{x:.6g}: <b>%{y:.8g}</b>",
        )  # fmt: skip
    for name, (px, py), concept, symbol in (
        ("central difference", chord, "value", "diamond"),
        ("as trained", ([point[0]], [point[1]]), "key", "circle"),
    ):
        figure.add_scatter(
            x=floats(px), y=floats(py), name=name, mode="markers",
            marker={"color": color(concept), "size": 10, "symbol": symbol},
            hovertemplate="%{x:.6g}: <b>%{y:.8g}</b>",
        )  # fmt: skip
    figure.update_xaxes(nticks=6)
    figure.update_yaxes(nticks=6)
    figure.update_layout(showlegend=True)
    return figure


def contours(
    x: ArrayLike,
    y: ArrayLike,
    heights: ArrayLike,
    paths: Mapping[str, ArrayLike],
    *,
    lowest: tuple[float, float] | None = None,
    lowest_name: str = "minimum",
    log: bool = True,
    x_name: str = "x",
    y_name: str = "y",
    value_name: str = "loss",
    height: int = 430,
) -> go.Figure:
    """Contour lines of heights (y, x), and paths (step, 2) over them, each from the open circle.

    log  neighbouring lines differ by a ratio (of the height above the lowest one) instead of a difference
    """
    places, levels, tops = floats(x), floats(y), floats(heights)
    figure = canvas(height, x_name, y_name)
    base = float(np.nanmin(tops))
    spread = float(np.nanmax(tops)) - base or 1.0
    figure.add_contour(
        x=places, y=levels, z=np.log10(tops - base + spread * 1e-3) if log else tops, ncontours=18, showscale=False,
        line={"width": 1, "color": rgba(NEUTRAL, 0.55)},
        colorscale=[[0.0, rgba(color("logits"), 0.0)], [1.0, rgba(color("logits"), 0.3)]],
        contours={"coloring": "heatmap"}, customdata=tops, showlegend=False,
        hovertemplate=f"{label(value_name)} <b>%{{customdata:.4g}}</b> at %{{x:.3g}}, %{{y:.3g}}<extra></extra>",
    )  # fmt: skip
    if lowest is not None:
        figure.add_scatter(
            x=[lowest[0]], y=[lowest[1]], mode="markers", name=label(lowest_name), hoverinfo="skip",
            marker={"symbol": "star", "size": 14, "color": color("value")},
        )  # fmt: skip
    paint = cycle(list(paths))
    for i, (name, path) in enumerate(paths.items()):
        points = floats(path)
        figure.add_scatter(
            x=points[:, 0], y=points[:, 1], name=label(name), mode="lines+markers",
            line={"color": paint[name], "width": 2}, customdata=np.arange(len(points)),
            marker={"size": 5, "symbol": _SYMBOLS[i % len(_SYMBOLS)]},
            hovertemplate="step %{customdata}: %{x:.4g}, %{y:.4g}",
        )  # fmt: skip
    start = next((floats(path)[0] for path in paths.values()), None)
    if start is not None:
        figure.add_scatter(
            x=[start[0]], y=[start[1]], mode="markers", hoverinfo="skip", showlegend=False,
            marker={"symbol": "circle-open", "size": 14, "color": NEUTRAL, "line": {"width": 3}},
        )  # fmt: skip
    figure.update_xaxes(range=[places[0], places[-1]], nticks=7)
    figure.update_yaxes(range=[levels[0], levels[-1]], nticks=7)
    figure.update_layout(showlegend=True, legend={"x": 0, "xanchor": "left", "font": {"size": 11}})
    return figure


_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")

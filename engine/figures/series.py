"""Quantities along an axis of numbers: layers, steps, temperatures."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from engine.figures.axes import floats
from engine.figures.theme import NEUTRAL, canvas, color, cycle, rgba
from engine.tokens.text import label

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")


def lines(
    x: ArrayLike,
    series: Mapping[str, ArrayLike],
    *,
    colors: Mapping[str, str] | None = None,
    x_name: str = "",
    y_name: str = "",
    log_x: bool = False,
    log_y: bool = False,
    markers: bool | None = None,
    mark_x: float | None = None,
    zero: bool = False,
    height: int = 340,
) -> go.Figure:
    """One line for each series, told apart by colour, dash and marker; NaN leaves a gap.

    colors   a concept for each series; without it colours are dealt in order
    markers  points on the lines (default: up to 40 of them)
    mark_x   a vertical line at this place
    zero     the y axis includes zero
    """
    places = floats(x)
    dots = len(places) <= 40 if markers is None else markers
    paint = cycle(list(series)) | {name: color(concept) for name, concept in (colors or {}).items()}
    figure = canvas(height, x_name, y_name)
    for i, (name, values) in enumerate(series.items()):
        figure.add_scatter(
            x=places,
            y=floats(values),
            name=label(name),
            mode="lines+markers" if dots else "lines",
            line={"color": paint[name], "width": 2.2, "dash": _DASHES[i % len(_DASHES)]},
            marker={"symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 7},
            hovertemplate="%{x:.6g}: <b>%{y:.6g}</b>",
        )
    figure.update_layout(showlegend=len(series) > 1)
    figure.update_xaxes(type="log" if log_x else "linear", nticks=8)
    figure.update_yaxes(type="log" if log_y else "linear", nticks=7, rangemode="tozero" if zero else "normal")
    if log_x:
        figure.update_xaxes(**decades([places]))
    if log_y:
        figure.update_yaxes(**decades([floats(values) for values in series.values()]))
    if mark_x is not None:
        figure.add_vline(x=mark_x, line={"color": NEUTRAL, "width": 1.5, "dash": "dot"})
    return figure


def decades(values: Sequence[NDArray[np.float64]]) -> dict[str, object]:
    """Ticks of a logarithmic axis: powers of ten alone where there are several of them."""
    every = np.concatenate([np.ravel(one) for one in values]) if values else np.zeros(0)
    drawn = np.log10(every[np.isfinite(every) & (every > 0)])
    span = float(np.ptp(drawn)) if drawn.size else 0.0
    whole = {"dtick": max(1, round(span / 6))} if span >= 2 else {}
    return {"exponentformat": "power", **whole}


def curve_with_points(
    x: ArrayLike,
    y: ArrayLike,
    points_x: ArrayLike,
    points_y: ArrayLike,
    labels: Sequence[str] | None = None,
    *,
    concept: str = "mlp",
    point_concept: str = "key",
    x_name: str = "",
    y_name: str = "",
    height: int = 320,
) -> go.Figure:
    """A function as a curve and some of its values as points, each with an optional label."""
    figure = canvas(height, x_name, y_name)
    figure.add_scatter(
        x=floats(x),
        y=floats(y),
        mode="lines",
        line={"color": color(concept), "width": 2.4},
        hovertemplate="%{x:.6g}: <b>%{y:.6g}</b><extra></extra>",
    )
    figure.add_scatter(
        x=floats(points_x),
        y=floats(points_y),
        mode="markers+text",
        text=[label(text) for text in labels] if labels is not None else None,
        textposition="top center",
        cliponaxis=False,
        marker={"color": color(point_concept), "size": 11},
        hovertemplate="%{text} %{x:.6g}: <b>%{y:.6g}</b><extra></extra>",
    )
    figure.update_xaxes(nticks=8, zeroline=True, zerolinecolor=rgba(NEUTRAL, 0.6))
    figure.update_yaxes(nticks=7, zeroline=True, zerolinecolor=rgba(NEUTRAL, 0.6))
    return figure


def histogram(
    series: Mapping[str, ArrayLike],
    *,
    bins: int = 60,
    span: tuple[float, float] | None = None,
    colors: Mapping[str, str] | None = None,
    x_name: str = "",
    y_name: str = "count",
    log_y: bool = False,
    share: bool = False,
    marks: Mapping[str, float] | None = None,
    height: int = 320,
) -> go.Figure:
    """Counts of values in equal bins, one outline for each series; NaN and infinities are left out.

    span   the ends of the first and the last bin (default: the range of all values)
    share  the fraction of all finite values instead of the count
    marks  name -> place of labelled vertical lines, as for a threshold
    """
    kept = {name: (flat := floats(values).ravel())[np.isfinite(flat)] for name, values in series.items()}
    everything = np.concatenate(list(kept.values()))
    low, high = span or (float(everything.min(initial=0)), float(everything.max(initial=0)))
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
    paint = cycle(list(series)) | {name: color(concept) for name, concept in (colors or {}).items()}
    figure = canvas(height, x_name, y_name)
    for i, (name, values) in enumerate(kept.items()):
        counts = np.histogram(values, edges)[0] / (max(values.size, 1) if share else 1)
        figure.add_bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=counts,
            width=np.diff(edges),
            name=label(name),
            marker={"color": rgba(paint[name], 0.55), "pattern": {"shape": "/" if i % 2 else ""}},
            hovertemplate="around %{x:.4g}: <b>%{y:.6g}</b>",
        )
    figure.update_layout(showlegend=len(series) > 1, bargap=0)
    figure.update_xaxes(nticks=8)
    figure.update_yaxes(nticks=6, type="log" if log_y else "linear")
    for name, place in (marks or {}).items():
        figure.add_vline(x=place, line={"color": NEUTRAL, "dash": "dot"}, annotation_text=label(name))
    return figure

"""Pairs of dimensions as points in a plane, turning with the position."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import floats
from engine.figures.series import lines
from engine.figures.theme import NEUTRAL, canvas, color, rgba
from engine.tokens.text import label

_ROUND = np.linspace(0, 2 * np.pi, 97)


def turning(
    start: ArrayLike,
    end: ArrayLike,
    track: ArrayLike,
    angle: float,
    *,
    names: tuple[str, str, str],
    concept: str,
) -> go.Figure:
    """One pair before and after its rotation, on the circle that it stays on.

    start, end  (2): the pair at position 0 and where it is now
    track       (position, 2): where it is at each position in between
    angle       radians from start to end, drawn as a spiral that goes round as often as the pair does
    names       the legend entries of start, track and end
    """
    before, after, between = floats(start), floats(end), floats(track)
    radius, paint = float(np.hypot(*after)), color(concept)
    figure = canvas(430)
    figure.add_scatter(
        x=radius * np.cos(_ROUND),
        y=radius * np.sin(_ROUND),
        mode="lines",
        line={"color": rgba(NEUTRAL, 0.6), "width": 1.2},
        hoverinfo="skip",
        showlegend=False,
    )
    _spiral(figure, float(np.arctan2(before[1], before[0])), angle, radius)
    _arrow(figure, before, names[0], NEUTRAL, "dot")
    figure.add_scatter(
        x=between[:, 0],
        y=between[:, 1],
        mode="markers",
        name=label(names[1]),
        marker={"color": rgba(paint, 0.55), "size": 6},
        customdata=np.arange(1, len(between) + 1),
        hovertemplate="position %{customdata}: (%{x:.4g}, %{y:.4g})<extra></extra>",
    )
    _arrow(figure, after, names[2], paint, "solid")
    reach = 1.18 * float(np.nan_to_num([radius, np.hypot(*before)]).max()) or 1.0
    figure.update_layout(showlegend=True, legend={"x": 0.5, "xanchor": "center"})
    figure.update_xaxes(range=[-reach, reach], title="first number of the pair", nticks=6, constrain="domain")
    figure.update_yaxes(range=[-reach, reach], title="second number of the pair", nticks=6, scaleanchor="x")
    return figure


def _arrow(figure: go.Figure, tip: ArrayLike, name: str, paint: str, dash: str) -> None:
    x, y = floats(tip)
    figure.add_scatter(
        x=[0, x],
        y=[0, y],
        mode="lines+markers",
        name=label(name),
        line={"color": paint, "width": 3, "dash": dash},
        marker={"size": [0.1, 11], "color": paint, "symbol": "circle"},
        hovertemplate="(%{x:.4g}, %{y:.4g})",
    )


def _spiral(figure: go.Figure, start: float, angle: float, radius: float) -> None:
    """The angle as a line that widens slowly, so that every full turn can be counted."""
    steps = max(2, int(abs(angle) * 12))
    along = np.linspace(0, 1, steps)
    distance, direction = radius * (0.15 + 0.55 * along), start + angle * along
    figure.add_scatter(
        x=distance * np.cos(direction),
        y=distance * np.sin(direction),
        mode="lines",
        line={"color": rgba(NEUTRAL, 0.85), "width": 1.4},
        hoverinfo="skip",
        showlegend=False,
    )


def clocks(
    before: ArrayLike, after: ArrayLike, details: Sequence[str], *, names: tuple[str, str], concept: str
) -> go.Figure:
    """One clock for each pair: the hand before the rotation, dotted, and after it.

    before, after  (pair, 2). Each clock has its own scale: its circle is the pair's length before the rotation.
    details        hover text of each clock
    """
    old, new = floats(before), floats(after)
    count = len(old)
    columns = 4 if count <= 16 else 8 if count <= 32 else 12
    rows = -(-count // columns)
    centre = np.stack([np.arange(count) % columns, -(np.arange(count) // columns) * 1.25], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = 0.42 / np.hypot(old[:, 0], old[:, 1])[:, None]
    figure = canvas(min(430, 70 + 105 * rows))
    figure.add_scatter(
        **_joined(centre[:, None] + 0.42 * _circle()),
        line={"color": rgba(NEUTRAL, 0.55), "width": 1},
        showlegend=False,
    )
    _hands(figure, centre, centre + old * unit, names[0], NEUTRAL, "dot")
    _hands(figure, centre, centre + new * unit, names[1], color(concept), "solid")
    figure.add_scatter(
        x=centre[:, 0],
        y=centre[:, 1] - 0.46,
        mode="text",
        text=[str(i) for i in range(count)],
        textposition="bottom center",
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )
    figure.add_scatter(
        x=centre[:, 0],
        y=centre[:, 1],
        mode="markers",
        marker={"size": 24, "color": rgba(NEUTRAL, 0.0)},
        text=[label(text) for text in details],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    figure.update_layout(showlegend=True, legend={"x": 0.5, "xanchor": "center"})
    hidden = {"showgrid": False, "showticklabels": False}
    figure.update_xaxes(range=[-0.6, columns - 0.4], constrain="domain", **hidden)
    figure.update_yaxes(range=[-1.25 * (rows - 1) - 0.8, 0.55], scaleanchor="x", constrain="domain", **hidden)
    return figure


def _circle() -> np.ndarray:
    round_trip = _ROUND[::4]
    return np.stack([np.cos(round_trip), np.sin(round_trip)], axis=1)


def _joined(paths: ArrayLike) -> dict[str, Any]:
    """Many lines (line, point, 2) as one trace with gaps."""
    drawn = floats(paths)
    gap = np.full((len(drawn), 1, 2), np.nan)
    flat = np.concatenate([drawn, gap], axis=1).reshape(-1, 2)
    return {"x": flat[:, 0], "y": flat[:, 1], "mode": "lines", "hoverinfo": "skip"}


def _hands(figure: go.Figure, start: ArrayLike, tip: ArrayLike, name: str, paint: str, dash: str) -> None:
    drawn = np.stack([floats(start), floats(tip)], axis=1)
    figure.add_scatter(**_joined(drawn), name=label(name), line={"color": paint, "width": 2.6, "dash": dash})


def ladder(series: Mapping[str, ArrayLike], context: int, *, colors: Mapping[str, str]) -> go.Figure:
    """Wavelength of each pair in tokens, on a logarithmic axis, and the context as a horizontal line."""
    count = len(floats(next(iter(series.values()))))
    figure = lines(
        np.arange(count),
        series,
        colors=colors,
        x_name="pair of dimensions",
        y_name="tokens to a full turn",
        log_y=True,
        markers=True,
        height=360,
    )
    figure.add_hline(y=context, line={"color": NEUTRAL, "width": 1.5, "dash": "dot"})
    figure.add_annotation(
        x=0,
        xref="paper",
        y=np.log10(context),  # a logarithmic axis takes the place of an annotation as an exponent
        text=label(f"context: {context:,} tokens"),
        showarrow=False,
        xanchor="left",
        yanchor="bottom",
    )
    figure.update_yaxes(exponentformat="none", separatethousands=True, dtick=1)
    return figure


def shifts(
    x: ArrayLike,
    series: Mapping[str, ArrayLike],
    *,
    colors: Mapping[str, str],
    mark: float,
    y_name: str = "score q·k / √d_head",
) -> go.Figure:
    """Scores of several keys while the positions of query and key move together.

    The score axis spans at least two units, so that a constant looks constant and not like its rounding errors.
    """
    everything = np.concatenate([floats(values) for values in series.values()])
    known = everything[np.isfinite(everything)]
    low, high = (float(known.min()), float(known.max())) if known.size else (-1.0, 1.0)
    margin = max(0.08 * (high - low), (2.0 - (high - low)) / 2, 0.05)
    figure = lines(
        x,
        series,
        colors=colors,
        x_name="positions added to both tokens",
        y_name=y_name,
        markers=len(floats(x)) == 1,
        mark_x=mark,
    )
    figure.update_yaxes(range=[low - margin, high + margin])
    return figure


def waves(
    distances: ArrayLike,
    series: Mapping[str, ArrayLike],
    *,
    colors: Mapping[str, str],
    mark: float | None,
    y_name: str,
) -> go.Figure:
    """Scores against the distance between query and key, with zero in sight."""
    figure = lines(
        distances,
        series,
        colors=colors,
        x_name="distance: query position − key position, in tokens",
        y_name=y_name,
        markers=False,
        mark_x=mark,
    )
    figure.add_hline(y=0, line={"color": rgba(NEUTRAL, 0.6), "width": 1})
    return figure


def bars_within(
    values: ArrayLike, most: ArrayLike, *, name: str, x_name: str, y_name: str, height: int = 300
) -> go.Figure:
    """A bar for each number, on a grey one that reaches from minus to plus the largest magnitude it can have."""
    given, limits = floats(values), floats(most)
    places = np.arange(len(given))
    figure = canvas(height, x_name, y_name)
    figure.add_bar(
        x=places,
        y=2 * limits,
        base=-limits,
        name="the most it could be",
        marker={"color": rgba(NEUTRAL, 0.25)},
        customdata=limits,
        hovertemplate="%{x}: at most ±%{customdata:.4g}<extra></extra>",
    )
    figure.add_bar(
        x=places,
        y=given,
        name=label(name),
        marker={"color": color("query")},
        hovertemplate="%{x}: <b>%{y:.4g}</b><extra></extra>",
    )
    figure.update_layout(barmode="overlay", showlegend=True, legend_traceorder="normal")
    return figure

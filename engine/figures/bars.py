"""Horizontal bars with a token at each: distributions, signed contributions, and sums that build up."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import down, exact, floats, percent, short
from engine.figures.theme import NEGATIVE, NEUTRAL, POSITIVE, canvas, color, cycle, rgba
from engine.tokens.text import label

LABEL_WIDTH = 15


def bars(
    labels: Sequence[str],
    values: ArrayLike,
    *,
    concept: str = "logits",
    signed: bool = False,
    probability: bool = False,
    highlight: Sequence[int] = (),
    value_name: str = "",
    label_name: str = "",
    limit: float | None = None,
    colors: Sequence[str] | None = None,
) -> go.Figure:
    """One horizontal bar for each label, the first on top.

    signed       the axis is symmetric about zero and the sign has its own colour
    probability  values are printed as percentages
    highlight    positions drawn at full strength while the others step back
    limit        the end of the value axis, to keep two figures comparable
    colors       a concept for each bar
    """
    shown = floats(values)
    texts = [(percent if probability else short)(value) for value in shown]
    figure = canvas(_height(len(shown)), value_name, label_name)
    figure.add_bar(
        x=shown,
        y=np.arange(len(shown)),
        orientation="h",
        marker={"color": _colors(shown, concept, signed, highlight, colors)},
        text=texts,
        textposition="outside",
        cliponaxis=False,
        customdata=[[label(text), exact(value)] for text, value in zip(labels, shown, strict=True)],
        hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b><extra></extra>",
    )
    _bar_axes(figure, labels, reach(shown, limit), signed, probability)
    return figure


def grouped_bars(
    labels: Sequence[str],
    series: Mapping[str, ArrayLike],
    *,
    colors: Mapping[str, str] | None = None,
    probability: bool = False,
    value_name: str = "",
    label_name: str = "",
) -> go.Figure:
    """Several horizontal bars for each label, one for each series, to compare them."""
    paint = cycle(list(series)) | {name: color(concept) for name, concept in (colors or {}).items()}
    shown = {name: floats(values) for name, values in series.items()}
    figure = canvas(60 + len(labels) * (14 + 13 * len(series)), value_name, label_name)
    for name, values in shown.items():
        figure.add_bar(
            x=values,
            y=np.arange(len(labels)),
            orientation="h",
            name=label(name),
            marker={"color": paint[name]},
            text=[(percent if probability else short)(value) for value in values],
            textposition="outside",
            cliponaxis=False,
            customdata=[[label(text), exact(value)] for text, value in zip(labels, values, strict=True)],
            hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b>",
        )
    everything = np.concatenate(list(shown.values())) if shown else np.zeros(0)
    _bar_axes(figure, labels, reach(everything, None), bool((everything < 0).any()), probability)
    figure.update_layout(barmode="group", showlegend=True, legend_traceorder="normal")
    return figure


def waterfall(
    labels: Sequence[str],
    values: ArrayLike,
    *,
    colors: Sequence[str] | None = None,
    total_name: str = "sum",
    value_name: str = "",
    start: float = 0.0,
) -> go.Figure:
    """Signed parts from top to bottom, each beginning where the last one ended, and their sum.

    colors: a concept for each part; without it the sign decides.
    """
    parts = floats(values)
    ends = start + np.cumsum(parts)
    begins = np.concatenate([[start], ends])[: len(parts)]
    total = float(ends[-1]) if len(parts) else start
    names = [*labels, total_name]
    paint = [*_colors(parts, "logits", True, (), colors), NEUTRAL]
    figure = canvas(_height(len(names)), value_name)
    figure.add_bar(
        base=[*begins, 0.0],
        x=[*parts, total],
        y=np.arange(len(names)),
        orientation="h",
        marker={"color": paint},
        customdata=[[label(n), exact(v)] for n, v in zip(names, [*parts, total], strict=True)],
        hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b><extra></extra>",
    )
    low, high = min(0.0, start, *ends), max(0.0, start, *ends)
    room = (high - low or 1.0) * 0.16
    _beside(figure, np.maximum([*begins, 0.0], [*ends, total]), [f"{v:+.3g}" for v in [*parts, total]])
    figure.update_xaxes(range=[low - room / 4, high + room], zeroline=True, zerolinecolor=NEUTRAL)
    figure.update_yaxes(**down(names, 40, LABEL_WIDTH))
    return figure


def reach(values: ArrayLike, limit: float | None) -> float:
    """The largest magnitude that the value axis has to hold."""
    finite = np.abs(floats(values))
    return limit or float(finite[np.isfinite(finite)].max(initial=0)) or 1.0


def _height(count: int) -> int:
    return 78 + 25 * count


def _colors(
    values: ArrayLike, concept: str, signed: bool, highlight: Sequence[int], colors: Sequence[str] | None
) -> list[str]:
    shown = floats(values)
    base = [color(concept)] * len(shown)
    if colors is not None:
        base = [color(name) for name in colors]
    elif signed:
        base = [NEGATIVE if value < 0 else POSITIVE for value in shown]
    if not len(highlight):
        return base
    return [paint if i in highlight else rgba(paint, 0.4) for i, paint in enumerate(base)]


def _bar_axes(figure: go.Figure, labels: Sequence[str], end: float, signed: bool, probability: bool) -> None:
    figure.update_xaxes(
        range=[-1.25 * end, 1.25 * end] if signed else [0, 1.18 * end],
        nticks=5,
        tickformat=".0%" if probability and end > 0.04 else None,
        zeroline=True,
        zerolinecolor=NEUTRAL,
    )
    figure.update_yaxes(**down(labels, 40, LABEL_WIDTH))
    figure.update_layout(bargap=0.28)


def _beside(figure: go.Figure, places: ArrayLike, texts: Sequence[str]) -> None:
    """Text to the right of bars that do not begin at zero."""
    figure.add_scatter(
        x=floats(places),
        y=np.arange(len(texts)),
        mode="text",
        text=[f" {text}" for text in texts],
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )

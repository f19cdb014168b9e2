"""One curve through several recorded runs: each over the tokens it read, with gaps where nothing was recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from engine.figures.theme import NEUTRAL, canvas, color, rgba
from engine.tokens.text import label

GAP = 0.09
"""The width of a gap, as a part of all tokens that are drawn."""

_TICKS = (3.5, 3.75, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)


@dataclass(frozen=True)
class Leg:
    """A recorded run: what it is called above the curve, and which of the colours it has.

    tokens, losses  in order, the tokens counted from where the run began
    kept            of these, tokens and losses of the models that are kept as snapshots
    """

    name: str
    series: str
    tokens: NDArray[np.float64]
    losses: NDArray[np.float64]
    kept: tuple[NDArray[np.float64], NDArray[np.float64]]


def chained(
    legs: Sequence[Leg | None], *, colors: Mapping[str, str], kept_name: str, y_name: str, height: int = 360
) -> go.Figure:
    """Runs one after the other, None being a gap; a leg's name stands above it."""
    width = GAP * sum(leg.tokens[-1] for leg in legs if leg)
    figure = canvas(height, "tokens read since the stage began", y_name)
    begin, ticks, texts, told = 0.0, [], [], set[str]()
    for leg in legs:
        if leg is None:
            _gap(figure, begin, begin + width)
            begin += width
            continue
        first = leg.series not in told
        told.add(leg.series)
        _leg(figure, leg, begin, color(colors[leg.series]), first)
        for count in _round(float(leg.tokens[-1])):
            ticks.append(begin + count)
            texts.append(f"{count / 1e6:g} M" if count else "0")
        begin += float(leg.tokens[-1])
    _kept(figure, legs, width, kept_name)
    figure.update_xaxes(range=[-0.01 * begin, 1.02 * begin], tickvals=ticks, ticktext=texts, tickangle=0)
    low, high = (np.log10(end([end(leg.losses) for leg in legs if leg])) for end in (min, max))
    room = high - low  # above the curves, for the names of the legs
    figure.update_yaxes(range=[low - 0.05 * room, high + 0.15 * room])
    figure.update_yaxes(type="log", tickvals=_TICKS, ticktext=[f"{tick:g}" for tick in _TICKS])
    figure.update_layout(showlegend=True)
    return figure


def _round(last: float) -> list[float]:
    """0 and whole steps, of 2, 5, 10 or 100 million tokens; none so near to `last` that its name would hit the next."""
    step = next((step for step in (2e6, 5e6, 1e7) if last < 3 * step), 1e8 if last > 1e8 else 1e7)
    return [step * i for i in range(int(0.93 * last // step) + 1)]


def _leg(figure: go.Figure, leg: Leg, begin: float, paint: str, first: bool) -> None:
    figure.add_scatter(
        x=begin + leg.tokens, y=leg.losses, mode="lines", name=label(leg.series), legendgroup=leg.series,
        showlegend=first, line={"color": paint, "width": 2.4},
        customdata=leg.tokens,
        hovertemplate="%{customdata:,.0f} tokens into the stage: <b>%{y:.3f}</b>",
    )  # fmt: skip
    figure.add_annotation(
        x=begin + float(leg.tokens[-1]) / 2, xref="x", y=1, yref="paper", yanchor="top", showarrow=False,
        text=label(leg.name), font={"color": paint, "size": 14},
    )  # fmt: skip


def _gap(figure: go.Figure, begin: float, end: float) -> None:
    figure.add_vrect(x0=begin, x1=end, fillcolor=rgba(NEUTRAL, 0.18), line_width=0)
    figure.add_annotation(
        x=(begin + end) / 2, xref="x", y=0.5, yref="paper", textangle=-90, showarrow=False,
        text="no record", font={"size": 13},
    )  # fmt: skip


def _kept(figure: go.Figure, legs: Sequence[Leg | None], width: float, name: str) -> None:
    begin, x, y = 0.0, list[float](), list[float]()
    for leg in legs:
        if leg is not None:
            tokens, losses = leg.kept
            x += (begin + tokens).tolist()
            y += losses.tolist()
        begin += width if leg is None else float(leg.tokens[-1])
    if x:
        figure.add_scatter(
            x=x, y=y, mode="markers", name=label(name),
            marker={"symbol": "circle-open", "size": 11, "color": NEUTRAL, "line": {"width": 2}},
            hovertemplate="%{y:.3f}",
        )  # fmt: skip

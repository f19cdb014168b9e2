"""Figures of a training run: curves over updates, two quantities in step, and what is expected next."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from engine.figures.axes import floats
from engine.figures.heat import heatmap
from engine.figures.theme import NEUTRAL, canvas, color, rgba
from engine.tokens.text import label, shorten

Curve = tuple[ArrayLike, ArrayLike]
"""Updates and values, of one length."""

BEFORE = 0.5
"""Where update 0 stands on a logarithmic axis."""
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up")


def curves(
    series: Mapping[str, Curve],
    *,
    colors: Mapping[str, str],
    levels: Mapping[str, float] | None = None,
    at: float | None = None,
    log: bool = True,
    y_name: str = "",
    height: int = 330,
) -> go.Figure:
    """Quantities over updates; `levels` are named horizontal lines, `at` a vertical one. Update 0 is shown."""
    figure = canvas(height, "updates", y_name)
    _add(figure, series, colors, log, "y")
    highest = max((levels or {"": 0.0}).values())
    for name, value in (levels or {}).items():
        right = value == highest  # a falling curve leaves room on the right above it, on the left below it
        figure.add_hline(y=value, line={"color": NEUTRAL, "width": 1.2, "dash": "dot"})
        figure.add_annotation(
            text=label(name), x=float(right), xref="paper", xanchor="right" if right else "left", y=value,
            yanchor="bottom", showarrow=False, font={"size": 12},
        )  # fmt: skip
    _updates(figure, series, log)
    _mark(figure, at, log)
    figure.update_yaxes(nticks=7)
    figure.update_layout(showlegend=len(series) > 1)
    return figure


def two_panels(
    above: Mapping[str, Curve],
    below: Mapping[str, Curve],
    *,
    colors: Mapping[str, str],
    names: tuple[str, str],
    ranges: tuple[tuple[float, float], tuple[float, float]],
    at: float | None = None,
    end: float | None = None,
    log: bool = False,
    height: int = 430,
) -> go.Figure:
    """Two sets of curves over the same updates, one panel under the other.

    ranges  the ends of both vertical axes, so that they stay where they are while curves grow
    end     the last update that the axis has room for (default: the last one shown)
    """
    figure = canvas(height, "updates", names[0])
    _add(figure, above, colors, log, "y")
    style = figure.layout.yaxis.to_plotly_json() | {"title": {"text": label(names[1]), "standoff": 14}}
    figure.update_layout(
        yaxis={"domain": [0.56, 1.0], "range": list(ranges[0]), "nticks": 6},
        yaxis2=style | {"domain": [0.0, 0.46], "anchor": "x", "range": list(ranges[1]), "nticks": 6},
        xaxis={"anchor": "y2"},
        showlegend=True,
    )
    _add(figure, below, colors, log, "y2")
    everything = {**above, **below}
    _updates(figure, everything | ({} if end is None else {"": ([0, end], [0, 0])}), log)
    _mark(figure, at, log)
    return figure


def expected_tokens(
    tokens: Sequence[Sequence[str]], probabilities: ArrayLike, prompts: Sequence[str], *, height: int = 320
) -> go.Figure:
    """The likeliest next tokens (prompt, rank) after each prompt, as text on cells as dark as they are probable."""
    values = floats(probabilities)
    ranks = [str(rank + 1) for rank in range(values.shape[1])]
    figure = heatmap(
        values, [_ending(text) for text in prompts], ranks, concept="logits", zero_one=True, height=height,
        row_name="prompt", column_name="rank", value_name="probability of the next token",
    )  # fmt: skip
    cells = list(np.ndindex(values.shape))
    figure.add_scatter(
        x=[x for _, x in cells], y=[y for y, _ in cells], mode="text", hoverinfo="skip", showlegend=False,
        text=[label(shorten(tokens[y][x], 9)) for y, x in cells],
    )  # fmt: skip
    return figure


def _ending(text: str, width: int = 12) -> str:
    return text if len(text) <= width else "…" + text[1 - width :]


def _add(
    figure: go.Figure, series: Mapping[str, Curve], colors: Mapping[str, str], log: bool, axis: str
) -> None:
    for i, (name, (updates, values)) in enumerate(series.items()):
        dots = len(floats(updates)) <= 60
        figure.add_scatter(
            x=_places(updates, log), y=floats(values), name=label(name), yaxis=axis, connectgaps=True,
            mode="lines+markers" if dots else "lines",
            line={"color": color(colors[name]), "width": 2.2, "dash": _DASHES[i % len(_DASHES)]},
            marker={"symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 6},
            customdata=floats(updates),
            hovertemplate="update %{customdata:,.0f}: <b>%{y:.5g}</b>",
        )  # fmt: skip


def _places(updates: ArrayLike, log: bool) -> NDArray[np.float64]:
    return np.maximum(floats(updates), BEFORE) if log else floats(updates)


def _updates(figure: go.Figure, series: Mapping[str, Curve], log: bool) -> None:
    """The horizontal axis: 0, 1, 10, 100 … where it is logarithmic."""
    last = max((float(floats(updates).max(initial=1)) for updates, _ in series.values()), default=1.0)
    if not log:
        figure.update_xaxes(range=[-0.01 * last, 1.02 * last], nticks=8)
        return
    tens = [10.0**i for i in range(12) if 10.0**i <= last]
    figure.update_xaxes(
        type="log", range=[np.log10(BEFORE) - 0.05, np.log10(last) + 0.05], tickvals=[BEFORE, *tens],
        ticktext=["0", *(f"{ten:,.0f}" for ten in tens)],
    )  # fmt: skip


def _mark(figure: go.Figure, at: float | None, log: bool) -> None:
    """A vertical line through all panels. (add_vline takes the logarithm's place on some axes and not on others.)"""
    if at is None:
        return
    figure.add_shape(
        type="line", xref="x", yref="paper", x0=max(at, BEFORE) if log else at, x1=max(at, BEFORE) if log else at,
        y0=0, y1=1, line={"color": rgba(color("key"), 0.8), "width": 2},
    )  # fmt: skip

"""Figures of one distribution over the vocabulary, and of texts drawn from many."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import across, down, exact, floats, percent, short
from engine.figures.series import curve_with_points
from engine.figures.theme import NEUTRAL, canvas, color, rgba
from engine.tokens.text import label, shorten

Segment = tuple[str, float]


def ranks(
    places: ArrayLike,
    logits: ArrayLike,
    marked: Mapping[int, str],
    found: tuple[int, str] | None = None,
) -> go.Figure:
    """Logits by rank, rank on a log axis; `marked` names some ranks, `found` one more that the reader asked for."""
    x, y = floats(places), floats(logits)
    at = {rank: float(y[np.flatnonzero(x == rank)[0]]) for rank in (*marked, *([found[0]] if found else ()))}
    texts = [shorten(text, 10) for text in marked.values()]
    names = {"x_name": "rank in the vocabulary (log scale)", "y_name": "logit"}
    figure = curve_with_points(
        x, y, list(marked), [at[r] for r in marked], texts,
        concept="logits", point_concept="logits", height=360, **names,
    )  # fmt: skip
    figure.data[1].textposition = ["top center"] * (len(marked) - 1) + ["middle right"]
    if found is not None:
        rank, text = found
        figure.add_scatter(
            x=[rank],
            y=[at[rank]],
            mode="markers+text",
            text=[f"<b>{label(shorten(text, 14))}</b>"],
            textposition="bottom left",
            cliponaxis=False,
            marker={"color": color("key"), "size": 13, "symbol": "diamond"},
            hovertemplate="rank %{x}: <b>%{y:.6g}</b><extra></extra>",
        )
    span = float(y.max() - y.min()) or 1.0
    figure.update_yaxes(range=[float(y.min()) - 0.1 * span, float(y.max()) + 0.14 * span], zeroline=False)
    figure.update_xaxes(
        type="log", range=[-0.25, np.log10(x.max()) + 0.5], dtick=1, zeroline=False, tickformat=",d"
    )
    return figure


def softmax_columns(
    labels: Sequence[str], logits: ArrayLike, powers: ArrayLike, probabilities: ArrayLike, temperature: float
) -> go.Figure:
    """Softmax step by step: logits, e to the power of logit over temperature, and probabilities, side by side.

    One row for each label; the last is that of all other tokens, which have no logit of their own.
    """
    z, e, p = floats(logits), floats(powers), floats(probabilities)
    columns = (
        ("logit z", np.append(z, np.nan), [*map(short, z), ""]),
        (f"e^(z/T), T = {temperature:g}", e, [*map(short, e)]),
        ("probability p", p, [*map(percent, p)]),
    )
    figure = canvas(96 + 25 * len(labels))
    places = np.arange(len(labels))
    paint = [color("logits")] * (len(labels) - 1) + [NEUTRAL]
    for number, ((name, values, texts), ends) in enumerate(zip(columns, _THIRDS, strict=True), 1):
        axis = "" if number == 1 else str(number)
        figure.add_bar(
            x=values,
            y=places,
            xaxis=f"x{axis}",
            orientation="h",
            marker={"color": paint},
            text=texts,
            textposition="outside",
            cliponaxis=False,
            customdata=[[label(text), exact(value)] for text, value in zip(labels, values, strict=True)],
            hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b><extra></extra>",
        )
        low, high = min(0.0, float(np.nanmin(values))), max(0.0, float(np.nanmax(values)))
        room = 0.5 * (high - low or 1.0)
        settings = {
            "domain": ends,
            "range": [low - (room if low < 0 else 0), high + (room if high > 0 else 0)],
            "showticklabels": False,
            "showgrid": False,
            "zeroline": True,
            "zerolinecolor": NEUTRAL,
            "title": {"text": label(name), "standoff": 4},
            "side": "top",
            "anchor": "y",
        }
        figure.update_layout({f"xaxis{axis}": settings})
    figure.update_yaxes(**down(labels, 40, 15))
    figure.update_layout(bargap=0.28, barmode="overlay")
    return figure


_THIRDS = ([0.0, 0.29], [0.36, 0.64], [0.71, 1.0])
"""Where the columns of `softmax_columns` begin and end."""


def flow(rows: Sequence[tuple[str, Sequence[Segment], float, float]]) -> go.Figure:
    """Where the probability mass goes from filter to filter: a bar of length 1 for each row, the first on top.

    A row is (name, named tokens with their mass, mass of the other tokens that stay, mass of those that are removed).
    """
    figure = canvas(92 + 42 * len(rows), "probability mass")
    for i in range(max(len(tokens) for _, tokens, _, _ in rows)):
        parts = [tokens[i] if i < len(tokens) else ("", 0.0) for _, tokens, _, _ in rows]
        _segment(figure, parts, _OPAQUE[i % 2], named=True)
    _segment(figure, [("other tokens", rest) for _, _, rest, _ in rows], rgba(color("logits"), 0.22))
    _segment(figure, [("removed", gone) for _, _, _, gone in rows], rgba(NEUTRAL, 0.1), hatched=True)
    figure.update_layout(barmode="stack", bargap=0.3, showlegend=True)
    figure.update_xaxes(range=[0, 1], tickformat=".0%", nticks=6)
    names = [name for name, *_ in rows]
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=names, range=[len(rows) - 0.5, -0.5], showgrid=False
    )
    return figure


_OPAQUE = (color("logits"), "#B06A60")
"""Neighbouring segments. White text has a contrast of over 4:1 with both, whatever paper is behind them."""


def _segment(
    figure: go.Figure, parts: Sequence[Segment], paint: str, *, named: bool = False, hatched: bool = False
) -> None:
    """One part of every row's bar; its name is printed where it fits on a phone, or else stands in the legend."""
    pattern = {"shape": "/", "fgcolor": NEUTRAL, "size": 7, "solidity": 0.3} if hatched else None
    shortened = [(shorten(text, 9), mass) for text, mass in parts]
    figure.add_bar(
        x=[mass for _, mass in parts],
        orientation="h",
        name=label(parts[0][0]),
        showlegend=not named,
        marker={"color": paint, "line": {"color": rgba(NEUTRAL, 0.6), "width": 0.5}, "pattern": pattern},
        text=[label(t) if named and mass > 0.03 * len(t) + 0.02 else "" for t, mass in shortened],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="none",
        insidetextfont={"color": "#FFFFFF"},
        customdata=[[label(text), exact(mass)] for text, mass in parts],
        hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b><extra></extra>",
    )


def counts(labels: Sequence[str], expected: ArrayLike, spread: ArrayLike, observed: ArrayLike) -> go.Figure:
    """Observed counts as points over expected counts as bars, with two standard deviations to either side."""
    mean, sd, seen = floats(expected), floats(spread), floats(observed)
    places = np.arange(len(mean))
    figure = canvas(104 + 27 * len(mean), "number of draws", "")
    figure.add_bar(
        x=mean,
        y=places,
        orientation="h",
        name="expected ± 2 σ",
        marker={"color": rgba(color("logits"), 0.4)},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": 2 * sd,
            "arrayminus": np.minimum(2 * sd, mean),
            "color": NEUTRAL,
            "thickness": 1.6,
            "width": 5,
        },
        customdata=[[label(t), exact(m), exact(2 * s)] for t, m, s in zip(labels, mean, sd, strict=True)],
        hovertemplate="%{customdata[0]}<br>expected <b>%{customdata[1]}</b> ± %{customdata[2]}<extra></extra>",
    )
    figure.add_scatter(
        x=seen,
        y=places,
        mode="markers",
        name="observed",
        marker={"color": color("query"), "size": 10, "symbol": "diamond"},
        customdata=[label(text) for text in labels],
        hovertemplate="%{customdata}<br>observed <b>%{x}</b><extra></extra>",
    )
    figure.update_xaxes(range=[0, 1.06 * float(max((mean + 2 * sd).max(), seen.max(), 1))], nticks=7)
    figure.update_yaxes(**down(labels))
    figure.update_layout(showlegend=True)
    return figure


def texts(rows: Sequence[tuple[str, Sequence[Segment]]], columns: int = 8) -> go.Figure:
    """Several texts under each other, token by token, a bar under each for its probability. A row is (name, tokens)."""
    figure = canvas(100)
    line = 0.0
    for name, tokens in rows:
        figure.add_annotation(
            x=-0.48, y=line, text=f"<b>{label(name)}</b>", showarrow=False, xanchor="left", yanchor="middle"
        )
        where = np.arange(len(tokens))
        cells(figure, where % columns, line + 0.85 + where // columns, tokens)
        line += 0.85 + -(-len(tokens) // columns) + 0.15
    figure.update_layout(margin={"l": 2, "r": 2, "t": 4, "b": 4}, height=12 + int(42 * line))
    figure.update_xaxes(visible=False, range=[-0.5, columns - 0.5])
    figure.update_yaxes(visible=False, range=[line - 0.45, -0.5])
    return figure


def cells(figure: go.Figure, xs: ArrayLike, ys: ArrayLike, tokens: Sequence[Segment], width: int = 8) -> None:
    """A token in each cell, its probability under it, and a bar that fills the cell's width at probability 1.

    Cells are one unit wide and high. A probability that is not a number is printed as NaN and has no bar.
    """
    x, y = floats(xs), floats(ys)
    p = np.array([probability for _, probability in tokens])
    for share, paint in ((np.ones(len(p)), rgba(NEUTRAL, 0.25)), (np.nan_to_num(p), color("logits"))):
        figure.add_scatter(
            x=_joined(x - 0.44, x - 0.44 + 0.88 * share),
            y=_joined(y + 0.4, y + 0.4),
            mode="lines",
            line={"width": 4, "color": paint},
            hoverinfo="skip",
            showlegend=False,
        )
    for size, shift, texts in (
        (13, -0.28, [label(shorten(text, width)) for text, _ in tokens]),
        (10, 0.15, [percent(value) if np.isfinite(value) else "NaN" for value in p]),
    ):
        figure.add_scatter(
            x=x,
            y=y + shift,
            mode="text",
            text=texts,
            textfont={"size": size},
            customdata=[[label(text), exact(value)] for text, value in tokens],
            hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b><extra></extra>",
            showlegend=False,
        )


def _joined(starts: ArrayLike, ends: ArrayLike) -> list[float | None]:
    """Coordinates of separate strokes in one trace."""
    return [
        value
        for a, b in zip(floats(starts), floats(ends), strict=True)
        for value in (float(a), float(b), None)
    ]


def lens(
    probabilities: ArrayLike, guesses: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str]
) -> go.Figure:
    """The favourite token of every (row, column) with a bar for its probability; the embedding on top."""
    shown = floats(probabilities)
    figure = canvas(90 + len(rows) * min(42, max(31, 400 // len(rows))), "token read", "stream")
    places = np.argwhere(np.ones(shown.shape, bool))
    tokens = [(guesses[y][x], float(shown[y, x])) for y, x in places]
    cells(figure, places[:, 1], places[:, 0], tokens)
    figure.update_xaxes(**across(columns))
    figure.update_yaxes(**down(rows, 100))
    return figure


def surprisals(
    tokens: Sequence[str], values: ArrayLike, *, unit: str, mean: float, uniform: float
) -> go.Figure:
    """Surprisal of each token given those before it; the first has none. Lines: the mean, and a uniform guess."""
    shown = floats(values)
    figure = canvas(360, "token", f"surprisal ({unit})")
    figure.add_bar(
        x=np.arange(1, len(tokens)),
        y=shown,
        marker={"color": color("logits")},
        customdata=[[label(t), exact(v)] for t, v in zip(tokens[1:], shown, strict=True)],
        hovertemplate=f"%{{customdata[0]}}<br><b>%{{customdata[1]}}</b> {unit}<extra></extra>",
        showlegend=False,
    )
    for height, name, dash, paint in (
        (mean, "mean", "solid", color("query")),
        (uniform, "uniform guess", "dot", NEUTRAL),
    ):
        figure.add_scatter(
            x=[-0.5, len(tokens) - 0.5],
            y=[height, height],
            mode="lines",
            name=f"{name} {height:.3g}",
            line={"color": paint, "dash": dash, "width": 1.8},
            hoverinfo="skip",
        )
    figure.add_annotation(
        x=0, y=0, text="no context", textangle=-90, yanchor="bottom", showarrow=False, font={"size": 11}
    )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(**across(tokens))
    figure.update_yaxes(range=[0, 1.06 * max(float(shown.max(initial=0)), uniform)], nticks=6)
    return figure

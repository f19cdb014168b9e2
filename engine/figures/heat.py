"""Matrices as heat maps: masked cells are hatched, cells without a number are crossed, zero is the paper."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from engine.figures.axes import across, down, floats, numbers, plain
from engine.figures.theme import NEUTRAL, canvas, diverging, rgba, sequential
from engine.tokens.text import label, shorten

Kind = Literal["sequential", "diverging"]
Bools = NDArray[np.bool_]
_TOP = 76  # pixels above the matrix: the name of the values, the colour bar, its ticks


def heatmap(
    values: ArrayLike,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    kind: Kind = "sequential",
    concept: str = "residual",
    zero_one: bool = False,
    limit: float | None = None,
    masked: ArrayLike | None = None,
    masked_name: str = "masked",
    row_name: str = "",
    column_name: str = "",
    value_name: str = "",
    print_values: str = "",
    outline_row: int | None = None,
    outline_column: int | None = None,
    height: int | None = None,
) -> go.Figure:
    """A matrix, row 0 on top.

    zero_one      the scale runs from 0 to 1 whatever the values are
    limit         diverging: the scale runs from -limit to limit (default: the largest magnitude shown);
                  sequential: from 0, or the smallest value if that is negative, to limit
    masked        booleans of the same shape: cells that were not computed, drawn hatched
    masked_name   what the legend calls them
    print_values  a format such as ".2f" to print the numbers into the cells of a small matrix
    Cells that hold NaN or an infinity and are not masked are drawn crossed.
    """
    shown = floats(values)
    hidden = np.zeros(shown.shape, bool) if masked is None else np.array(masked, bool)
    broken = ~np.isfinite(shown) & ~hidden
    shown[hidden | broken] = np.nan
    row_labels = numbers(shown.shape[0]) if rows is None else list(rows)

    figure = canvas(height or _height(shown.shape[0], columns or ()), column_name, row_name)
    figure.update_layout(margin_t=_TOP)
    _note(figure, label(value_name), left=True, up=_TOP - 20)
    low, high = scale(shown, kind, zero_one=zero_one, limit=limit)
    names = f"{label(row_name) or 'row'} %{{y}}<br>{label(column_name) or 'column'} %{{x}}"
    figure.add_heatmap(
        z=shown.astype(np.float32),
        zmin=low,
        zmax=high,
        colorscale=diverging() if kind == "diverging" else sequential(concept),
        colorbar=_colorbar(figure.layout.height),
        hoverongaps=False,
        hovertemplate=f"{names}<br>{label(value_name) or 'value'} <b>%{{z:.6g}}</b><extra></extra>",
    )
    _overlay(figure, hidden, "/")
    _overlay(figure, broken, "x")
    keys = [text for cells, text in ((hidden, f"▨ {masked_name}"), (broken, "▩ NaN or ∞")) if cells.any()]
    _note(figure, " &nbsp; ".join(keys), left=False, up=0)
    if print_values:
        _print(figure, shown, print_values)
    _outline(figure, outline_row, outline_column, shown.shape)
    figure.update_xaxes(**(plain(shown.shape[1]) if columns is None else across(columns)))
    figure.update_yaxes(**down(row_labels))
    return figure


def attention_map(
    weights: ArrayLike,
    tokens: Sequence[str],
    *,
    causal: bool = True,
    query: int | None = None,
    **options: Any,
) -> go.Figure:
    """Softmax weights (query, key) on a fixed 0–1 scale; with `causal`, keys after the query are masked."""
    shown = floats(weights)
    future = np.triu(np.ones(shown.shape, bool), 1) if causal else None
    defaults: dict[str, Any] = {
        "concept": "attention",
        "zero_one": True,
        "masked": future,
        "row_name": "query",
        "column_name": "key",
        "value_name": "attention weight",
        "outline_row": query,
    }
    return heatmap(shown, tokens, tokens, **(defaults | options))


def scale(
    values: ArrayLike, kind: Kind, *, zero_one: bool = False, limit: float | None = None
) -> tuple[float, float]:
    """The ends of the colour scale; a symmetric one for signed quantities. Ignores NaN."""
    if zero_one:
        return 0.0, 1.0
    finite = floats(values)
    finite = finite[np.isfinite(finite)]
    if kind == "diverging":
        reach = limit or float(np.abs(finite).max(initial=0)) or 1.0
        return -reach, reach
    low = min(0.0, float(finite.min(initial=0)))
    return low, limit or float(finite.max(initial=low)) or 1.0


def _height(rows: int, columns: Sequence[str]) -> int:
    longest = max((len(shorten(text, 12)) for text in columns), default=0)
    return 118 + 6 * longest + min(max(rows * 24, 60), 460)


def _note(figure: go.Figure, text: str, *, left: bool, up: int) -> None:
    """Text `up` pixels above a corner of the matrix. (A legend or a title of the colour bar would move the matrix.)"""
    place = {"x": 0, "xanchor": "left"} if left else {"x": 1, "xanchor": "right"}
    figure.add_annotation(
        text=text, showarrow=False, xref="paper", yref="paper", y=1, yanchor="bottom", yshift=up, **place
    )


def _colorbar(height: int) -> dict[str, Any]:
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "yref": "container",
        "y": 1 - 20 / height,
        "yanchor": "top",
        "len": 0.5,
        "thickness": 9,
        "nticks": 5,
        "ticks": "outside",
        "ticklen": 3,
        "ypad": 0,
        "xpad": 0,
        "outlinewidth": 1,
        "outlinecolor": rgba(NEUTRAL, 0.5),
    }


def _overlay(figure: go.Figure, cells: Bools, pattern: str) -> None:
    """Hatch cells: one trace, one rectangle for each run of cells."""
    if not cells.any():
        return
    xs: list[float | None] = []
    ys: list[float | None] = []
    for row, start, stop in _runs(cells):
        xs += [start - 0.5, stop - 0.5, stop - 0.5, start - 0.5, start - 0.5, None]
        ys += [row - 0.5, row - 0.5, row + 0.5, row + 0.5, row - 0.5, None]
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=rgba(NEUTRAL, 0.14),
        fillpattern={
            "shape": pattern,
            "fgcolor": NEUTRAL,
            "bgcolor": rgba(NEUTRAL, 0.14),
            "size": 7,
            "solidity": 0.22,
            "fillmode": "overlay",
        },
        hoverinfo="skip",
        showlegend=False,
    )


def _runs(cells: Bools) -> list[tuple[int, int, int]]:
    """(row, first column, column after the last) of every horizontal run of true cells."""
    padded = np.pad(cells.astype(np.int8), ((0, 0), (1, 1)))
    edges = np.diff(padded, axis=1)
    starts, stops = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return [(int(row), int(a), int(b)) for (row, a), (_, b) in zip(starts, stops, strict=True)]


def _print(figure: go.Figure, values: NDArray[np.float64], form: str) -> None:
    """Numbers into the cells, in the page's own text colour: it has contrast with every cell of both maps."""
    places = [(x, y) for y, x in np.argwhere(np.isfinite(values))]
    figure.add_scatter(
        x=[x for x, _ in places],
        y=[y for _, y in places],
        mode="text",
        text=[format(values[y, x], form) for x, y in places],
        hoverinfo="skip",
        showlegend=False,
    )


def _outline(figure: go.Figure, row: int | None, column: int | None, shape: tuple[int, ...]) -> None:
    frame = {"line": {"color": NEUTRAL, "width": 2}, "fillcolor": "rgba(0,0,0,0)"}
    if row is not None:
        figure.add_shape(type="rect", x0=-0.5, x1=shape[1] - 0.5, y0=row - 0.5, y1=row + 0.5, **frame)
    if column is not None:
        figure.add_shape(type="rect", x0=column - 0.5, x1=column + 0.5, y0=-0.5, y1=shape[0] - 0.5, **frame)

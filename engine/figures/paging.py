"""A cache in pages of equally many slots, those that several texts share in one colour."""

from collections.abc import Sequence
from enum import IntEnum

import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import floats
from engine.figures.boxes import Box, add_boxes
from engine.figures.theme import NEUTRAL, canvas, color, rgba
from engine.tokens.text import label, shorten

_GAP = 0.5
"""Between two pages, in slots."""


class Slot(IntEnum):
    """What a place for one token's keys and values holds; NONE is no place."""

    NONE = 0
    EMPTY = 1
    OWN = 2
    SHARED = 3


_STYLES = {
    Slot.SHARED: ("shared by all", color("key"), 0.6),
    Slot.OWN: ("a request's own", color("query"), 0.35),
    Slot.EMPTY: ("reserved, empty", NEUTRAL, 0.0),
}


def pages(slots: ArrayLike, size: int, names: Sequence[str], tokens: Sequence[Sequence[str]]) -> go.Figure:
    """A row for each request, its slots (request, position; values of `Slot`) in pages of `size`.

    tokens  the text of each filled slot of a request, for hovering
    """
    grid = floats(slots)
    figure = canvas(
        96 + 52 * len(grid), "position of the token; a gap begins a page", "request, its first token"
    )
    for kind, (said, paint, fill) in _STYLES.items():
        places = [(row, at) for row, at in zip(*(grid == kind).nonzero(), strict=True)]
        add_boxes(figure, [_slot(int(row), int(at), size, paint, fill) for row, at in places])
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker={
                "symbol": "square",
                "size": 12,
                "color": rgba(paint, fill),
                "line": {"color": paint, "width": 1},
            },
            name=said,
            showlegend=True,
        )
    filled = [(row, at) for row, texts in enumerate(tokens) for at in range(len(texts))]
    figure.add_scatter(
        x=[_left(at, size) + 0.5 for _, at in filled],
        y=[row for row, _ in filled],
        mode="markers",
        marker={"size": 14, "opacity": 0},
        customdata=[[label(tokens[row][at]), at] for row, at in filled],
        hovertemplate="%{customdata[1]}: <b>%{customdata[0]}</b><extra></extra>",
        showlegend=False,
    )
    starts = range(0, grid.shape[1], size)
    figure.update_layout(showlegend=True)
    figure.update_xaxes(
        tickmode="array",
        tickvals=[_left(at, size) + 0.5 for at in starts],
        ticktext=[str(at) for at in starts],
        showgrid=False,
        range=[-0.4, _left(grid.shape[1] - 1, size) + 1.4],
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(grid))),
        ticktext=[label(shorten(name, 22)) for name in names],
        showgrid=False,
        range=[len(grid) - 0.5, -0.5],
    )
    return figure


def _left(position: int, size: int) -> float:
    """Where the slot of a position begins across the figure."""
    return position + _GAP * (position // size)


def _slot(row: int, position: int, size: int, paint: str, fill: float) -> Box:
    left = _left(position, size)
    return Box(left, left + 1, row - 0.32, row + 0.32, paint, fill)

"""Marks that cannot be seen, so that a click on a place of a figure can choose what is there; and the frame of what
is chosen."""

from collections.abc import Sequence

import plotly.graph_objects as go

from engine.figures.theme import NEUTRAL


def targets(
    figure: go.Figure,
    x: Sequence[float],
    y: Sequence[float],
    chosen: Sequence[Sequence[int]],
    text: Sequence[str],
) -> None:
    """Add one mark at each (x, y), with `chosen` as its customdata and `text`, already escaped, shown on hovering.

    A click anywhere in the figure goes to the nearest mark. The axes are fixed, so that dragging still does nothing.
    """
    figure.add_scatter(
        x=list(x),
        y=list(y),
        mode="markers",
        marker={"symbol": "square", "size": 8, "color": "rgba(128,128,128,0.001)"},
        unselected={"marker": {"opacity": 1}},
        customdata=[list(values) for values in chosen],
        text=list(text),
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    figure.update_layout(hovermode="closest", hoverdistance=-1, clickmode="event+select")
    figure.update_xaxes(fixedrange=True)
    figure.update_yaxes(fixedrange=True)


def frame(figure: go.Figure, x: float, y: float, width: int = 2) -> None:
    """Frame the cell of side 1 around (x, y)."""
    box = {"x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
    figure.add_shape(type="rect", line={"color": NEUTRAL, "width": width}, **box)

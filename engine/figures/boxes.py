"""Many rectangles in one figure. A shape each would cost plotly a millisecond each; here each style is one trace."""

from collections.abc import Iterable
from dataclasses import dataclass

import plotly.graph_objects as go

from engine.figures.theme import rgba


@dataclass(frozen=True)
class Box:
    """A rectangle in axis units, with a colour for its edge and the strength of that colour inside."""

    x0: float
    x1: float
    y0: float
    y1: float
    color: str
    fill: float


def add_boxes(figure: go.Figure, boxes: Iterable[Box]) -> None:
    """Draw boxes, those of one colour and strength together; they take part in no hovering."""
    styles: dict[tuple[str, float], list[Box]] = {}
    for box in boxes:
        styles.setdefault((box.color, box.fill), []).append(box)
    for (paint, fill), same in styles.items():
        figure.add_scatter(
            x=[x for b in same for x in (b.x0, b.x1, b.x1, b.x0, b.x0, None)],
            y=[y for b in same for y in (b.y0, b.y0, b.y1, b.y1, b.y0, None)],
            mode="lines",
            line={"color": rgba(paint, 0.9), "width": 1},
            fill="toself",
            fillcolor=rgba(paint, fill),
            hoverinfo="skip",
            showlegend=False,
        )

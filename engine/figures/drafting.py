"""Drafts and what becomes of them: a row of tokens for each pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from engine.figures.axes import down
from engine.figures.boxes import Box, add_boxes
from engine.figures.theme import NEUTRAL, canvas, color, rgba
from engine.tokens.text import label, shorten


@dataclass(frozen=True)
class Row:
    """One pass: the drafted tokens, how many of them were accepted, and the token that the pass added ("" for none)."""

    drafted: Sequence[str]
    accepted: int
    own: str


_STYLES = {
    "accepted": (color("value"), 0.45),
    "rejected": (NEUTRAL, 0.0),
    "the model's own": (color("logits"), 0.3),
}


_ROOM = 60
"""Characters that fit beside each other."""


def passes(rows: Sequence[Row], width: int) -> go.Figure:
    """A row for each pass, up to `width` drafted tokens and, behind them, the model's own; the first pass on top."""
    figure = canvas(max(200, 84 + 24 * len(rows)), "place in the draft")
    cells: list[tuple[int, int, str, str]] = []
    for y, row in enumerate(rows):
        kinds = ["accepted"] * row.accepted + ["rejected"] * (len(row.drafted) - row.accepted)
        cells += [(x, y, text, kind) for x, (text, kind) in enumerate(zip(row.drafted, kinds, strict=True))]
        cells += [(width, y, row.own, "the model's own")] if row.own else []
    for kind, (paint, fill) in _STYLES.items():
        same = [cell for cell in cells if cell[3] == kind]
        add_boxes(figure, [Box(x - 0.47, x + 0.47, y - 0.42, y + 0.42, paint, fill) for x, y, *_ in same])
        mark = {
            "symbol": "square",
            "size": 12,
            "color": rgba(paint, fill),
            "line": {"color": paint, "width": 1},
        }
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=mark, name=kind)
        figure.add_scatter(
            x=[x for x, *_ in same],
            y=[y for _, y, *_ in same],
            mode="text",
            text=[label(shorten(text, _ROOM // (width + 1))) for *_, text, _ in same],
            customdata=[[label(text), kind] for *_, text, _ in same],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
            showlegend=False,
        )
    figure.update_layout(showlegend=True)
    names = [*(str(i + 1) for i in range(width)), "own"]
    figure.update_xaxes(
        tickmode="array",
        tickvals=list(range(width + 1)),
        ticktext=names,
        range=[-0.5, width + 0.5],
        showgrid=False,
    )
    figure.update_yaxes(**down([f"pass {i + 1}" for i in range(len(rows))]))
    return figure

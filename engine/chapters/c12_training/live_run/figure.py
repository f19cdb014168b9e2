"""Figures of a small training: its losses between two reference lines, and what it wrote on the way."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import floats
from engine.figures.theme import NEUTRAL, canvas, color
from engine.tokens.text import display, label

WIDE = 34
"""Characters in a line of a sample, as many as a phone shows, or half of a wall."""


def losses(
    batches: ArrayLike, marks: Sequence[int], held_out: ArrayLike, levels: Sequence[tuple[str, float]]
) -> go.Figure:
    """Losses of the batches (step) as a line, of the unseen part at some steps as points, and named levels."""
    values, points = floats(batches), floats(held_out)
    figure = canvas(350, "steps taken", "loss (nats per character)")
    figure.add_scatter(
        x=np.arange(len(values)), y=values, name="batch it learns from", mode="lines",
        line={"color": color("residual"), "width": 1.6}, hovertemplate="%{x}: <b>%{y:.4f}</b>",
    )  # fmt: skip
    figure.add_scatter(
        x=list(marks), y=points, name="part it never sees", mode="lines+markers",
        line={"color": color("key"), "width": 2}, marker={"size": 6, "symbol": "diamond"},
        hovertemplate="%{x}: <b>%{y:.4f}</b>",
    )  # fmt: skip
    end = max(len(values), 50)
    for (name, level), dash in zip(levels, ("dash", "dot"), strict=True):
        figure.add_scatter(
            x=[0, end], y=[level, level], name=label(name), mode="lines", hovertemplate="<b>%{y:.4f}</b>",
            line={"color": NEUTRAL, "width": 1.6, "dash": dash},
        )  # fmt: skip
    figure.update_xaxes(range=[-0.01 * end, end], nticks=7)
    figure.update_yaxes(rangemode="tozero", nticks=7)
    figure.update_layout(showlegend=True)
    return figure


def texts(names: Sequence[str], written: Sequence[str]) -> go.Figure:
    """Texts one below another in lines of WIDE characters, each beside its name."""
    lines = [wrapped(text) for text in written]
    places = np.cumsum([0, *(len(rows) + 0.8 for rows in lines[:-1])])
    figure = canvas(16 + int(17 * (places[-1] + len(lines[-1]))))
    figure.add_scatter(
        x=np.zeros(len(lines)), y=places, mode="text", textposition="bottom right", hoverinfo="skip",
        text=["<br>".join(rows) for rows in lines], textfont={"family": "monospace"}, cliponaxis=False,
    )  # fmt: skip
    figure.update_xaxes(visible=False, range=[0, 1])
    figure.update_yaxes(
        tickvals=places + 0.45, ticktext=[label(name) for name in names], showgrid=False, zeroline=False,
        range=[places[-1] + len(lines[-1]) + 0.2, -0.2],
    )  # fmt: skip
    figure.update_layout(showlegend=False, margin={"t": 8, "b": 8})
    return figure


def wrapped(text: str) -> list[str]:
    """Plotly text for each WIDE characters: a visible sign for a line break, real blanks, nothing that is markup."""
    shown = "".join(char if char == " " else display(char) for char in text)
    rows = [shown[i : i + WIDE] for i in range(0, len(shown), WIDE)] or [""]
    return [label(row).replace(" ", "\u00a0") for row in rows]

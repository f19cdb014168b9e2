"""Figures laid over the text itself: chips, attention arcs, and the roads that generation did not take."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import across, exact, floats, percent
from engine.figures.boxes import Box, add_boxes
from engine.figures.theme import NEUTRAL, canvas, color, rgba
from engine.tokens.text import label, shorten


def chips(
    labels: Sequence[str],
    below: Sequence[str],
    *,
    details: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    columns: int = 6,
) -> go.Figure:
    """Tokens as a grid of chips in reading order, `below` under each; tints alternate so that edges are seen.

    details  hover text of each chip        colors  a concept for each chip
    """
    count = len(labels)
    paint = [color(name) for name in colors] if colors is not None else [color("token")] * count
    figure = canvas(max(90, 20 + 48 * -(-count // columns)))
    boxes = []
    for i in range(count):
        x, y = i % columns, i // columns
        boxes.append(Box(x - 0.47, x + 0.47, y - 0.42, y + 0.42, paint[i], 0.3 if i % 2 else 0.16))
    add_boxes(figure, boxes)
    where = np.arange(count)
    hover = [label(text) for text in (details or labels)]
    figure.add_scatter(
        x=where % columns,
        y=where // columns,
        mode="text",
        text=[
            f"<b>{label(shorten(text, 9))}</b><br>{small(label(shorten(under, 12)))}"
            for text, under in zip(labels, below, strict=True)
        ],
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.update_layout(margin={"l": 2, "r": 2, "t": 6, "b": 6})
    figure.update_xaxes(visible=False, range=[-0.5, columns - 0.5])
    figure.update_yaxes(visible=False, range=[max(0, (count - 1) // columns) + 0.5, -0.5])
    return figure


def arcs(
    weights: ArrayLike,
    tokens: Sequence[str],
    *,
    query: int | None = None,
    least: float = 0.05,
    most: int = 80,
) -> go.Figure:
    """Attention (query, key) as arcs over the text, width by weight; a weight on the token itself is a ring.

    query  only this query's arcs        least, most  weights under `least` and beyond the `most` largest are left out
    """
    shown = np.nan_to_num(floats(weights))
    pairs = [
        (float(shown[i, j]), int(i), int(j)) for i, j in np.argwhere(shown >= least) if query in (None, i)
    ]
    pairs = sorted(pairs, reverse=True)[:most]
    count = len(tokens)
    figure = canvas(330, "position in the text")
    paint = color("attention")
    bend = np.linspace(0, np.pi, 24)
    for weight, i, j in pairs:
        middle, radius = (i + j) / 2, abs(i - j) / 2
        figure.add_scatter(
            x=middle + (radius or 0.22) * np.cos(bend),
            y=(radius or 0.22) * np.sin(bend),
            mode="lines",
            line={"width": 1 + 6 * weight, "color": rgba(paint, 0.25 + 0.75 * weight)},
            hovertemplate=f"{label(tokens[i])} → {label(tokens[j])}<br><b>{exact(weight)}</b><extra></extra>",
        )
    if not pairs:
        figure.add_scatter(
            x=[(count - 1) / 2], y=[0.5], mode="text", text=[f"no weight of {least:g} or more"]
        )
    if query is not None:
        figure.add_vline(x=query, line={"color": NEUTRAL, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(**across(tokens))
    figure.update_yaxes(
        visible=False, range=[0, max(1.0, max((abs(i - j) for _, i, j in pairs), default=1)) * 0.54]
    )
    return figure


def tree(steps: Sequence[Sequence[tuple[str, float]]], chosen: Sequence[int]) -> go.Figure:
    """Generation and the roads not taken: a row for each step, its candidates (text, probability) beside each other.

    chosen[i] is the candidate that step i took; lines leave it for every candidate of the next step.
    """
    width = max((len(step) for step in steps), default=1)
    figure = canvas(20 + 66 * max(len(steps), 1))
    for i, step in list(enumerate(steps))[1:]:
        for j, (_, probability) in enumerate(step):
            taken = j == chosen[i]
            figure.add_shape(
                type="line",
                x0=chosen[i - 1],
                x1=j,
                y0=i - 0.7,
                y1=i - 0.3,
                line={
                    "color": color("logits") if taken else rgba(NEUTRAL, 0.6),
                    "width": 1 + 6 * probability,
                    "dash": "solid" if taken else "dot",
                },
                layer="below",
            )
    cells = [(i, j, text, p) for i, step in enumerate(steps) for j, (text, p) in enumerate(step)]
    figure.add_scatter(
        x=[j for _, j, _, _ in cells],
        y=[i for i, _, _, _ in cells],
        mode="text",
        text=[_candidate(text, p, j == chosen[i]) for i, j, text, p in cells],
        customdata=[f"step {i + 1}: {label(text)}<br><b>{exact(p)}</b>" for i, _, text, p in cells],
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.update_layout(margin={"l": 2, "r": 2, "t": 6, "b": 6})
    figure.update_xaxes(visible=False, range=[-0.5, width - 0.5])
    figure.update_yaxes(visible=False, range=[max(len(steps), 1) - 0.5, -0.6])
    return figure


def small(text: str) -> str:
    """Escaped text as a second, smaller line."""
    return f'<span style="font-size:0.83em">{text}</span>'


def _candidate(text: str, probability: float, taken: bool) -> str:
    name = label(shorten(text, 10))
    return f"{f'<b>{name}</b>' if taken else name}<br>{small(percent(probability))}"

"""A small network as circles, lines and matrices, and a real MLP as the matrices that it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures import attention_panels as panels
from engine.figures.axes import floats, short
from engine.figures.heat import scale
from engine.figures.theme import NEGATIVE, NEUTRAL, POSITIVE, color, rgba
from engine.tokens.text import label

Edge = tuple[int, int, int]
"""(layer of weights, from which unit, to which unit)."""

_WIDE, _HIGH = 12.0, 4.6  # the room of the circles, in cells
_RADIUS = 0.6  # of a circle, in cells: about right from a phone to a projector
_CONCEPTS = ("embedding", "mlp", "logits")


def network(
    layers: Sequence[ArrayLike],
    weights: Sequence[ArrayLike],
    biases: Sequence[ArrayLike],
    names: Sequence[str],
    chosen: Edge,
) -> go.Figure:
    """Units as circles with their values, weights as lines, and the same again as row vector · matrix + bias.

    One edge is strong, its cell in the matrix is framed, and so are the two units that it joins.
    """
    values = [floats(layer) for layer in layers]
    matrices = [floats(weight) for weight in weights]
    figure = panels.Sketch(440)
    figure.set(margin={"l": 2, "r": 2, "t": 4, "b": 2})
    figure.axes(
        "", {"visible": False, "range": [-0.3, _WIDE + 0.3]}, {"visible": False, "range": [12.9, -0.2]}
    )
    places = [_column(len(layer), x) for layer, x in zip(values, (1.0, _WIDE / 2, _WIDE - 1.0), strict=True)]
    for part, matrix in enumerate(matrices):
        _edges(figure, part, matrix, places[part], places[part + 1], chosen)
    for depth, (layer, spots) in enumerate(zip(values, places, strict=True)):
        framed = {chosen[0]: chosen[1], chosen[0] + 1: chosen[2]}.get(depth)
        _units(figure, layer, spots, names[depth], _CONCEPTS[depth], framed)
    top = 5.6
    for part, matrix in enumerate(matrices):
        row = _Row(part, values, matrices, [floats(bias) for bias in biases], names, chosen)
        _equation(figure, row, top)
        top += len(matrix) + 1.7
    return figure.figure()


def _column(count: int, x: float) -> list[tuple[float, float]]:
    step = _HIGH / count
    return [(x, 0.2 + step * (i + 0.5)) for i in range(count)]


def _shape(figure: panels.Sketch, **settings: Any) -> None:
    figure.shapes.append({"xref": "x", "yref": "y", "layer": "below"} | settings)


def _text(figure: panels.Sketch, **settings: Any) -> None:
    figure.names.append({"xref": "x", "yref": "y", "showarrow": False} | settings)


def _edges(
    figure: panels.Sketch,
    part: int,
    matrix: np.ndarray,
    left: list[tuple[float, float]],
    right: list[tuple[float, float]],
    chosen: Edge,
) -> None:
    for i, j in np.ndindex(*matrix.shape):
        strong = (part, i, j) == chosen
        paint = POSITIVE if matrix[i, j] >= 0 else NEGATIVE
        width = (4 if strong else 1) + 2.5 * abs(matrix[i, j])
        _shape(figure,
            type="line",
            x0=left[i][0] + _RADIUS, y0=left[i][1], x1=right[j][0] - _RADIUS, y1=right[j][1],
            line={"color": rgba(paint, 1.0 if strong else 0.35), "width": width},
        )  # fmt: skip
        if strong:
            x, y = (left[i][0] * 2 + right[j][0]) / 3, (left[i][1] * 2 + right[j][1]) / 3
            _text(figure, x=x, y=y, text=f"<b>{matrix[i, j]:+.2f}</b>", yshift=13)


def _units(
    figure: panels.Sketch,
    values: np.ndarray,
    spots: list[tuple[float, float]],
    name: str,
    concept: str,
    framed: int | None,
) -> None:
    figure.trace(
        "scatter",
        x=[x for x, _ in spots],
        y=[y for _, y in spots],
        mode="markers+text",
        marker={
            "size": 38,
            "color": rgba(color(concept), 0.25),
            "line": {
                "color": color(concept),
                "width": [4 if i == framed else 1.5 for i in range(len(spots))],
            },
        },
        text=[f"<b>{value:.2f}</b>" for value in values],
        textfont={"size": 12},
        customdata=[f"{label(name)}{i + 1}" for i in range(len(spots))],
        hovertemplate="%{customdata}: <b>%{text}</b><extra></extra>",
    )


@dataclass(frozen=True)
class _Row:
    """One line of cells: input · matrix + bias → output."""

    part: int
    values: list[np.ndarray]
    matrices: list[np.ndarray]
    biases: list[np.ndarray]
    names: Sequence[str]
    chosen: Edge


def _equation(figure: panels.Sketch, row: _Row, top: float) -> None:
    part, matrix = row.part, row.matrices[row.part]
    here = row.chosen[0] == part
    _, i, j = row.chosen
    number = "₁₂"[part]
    blocks = (
        (row.values[part][None], row.names[part], _CONCEPTS[part], (0, i)),
        (matrix, f"W{number}", "residual", (i, j)),
        (row.biases[part][None], f"b{number}", "residual", (0, j)),
        (row.values[part + 1][None], row.names[part + 1], _CONCEPTS[part + 1], (0, j)),
    )
    signs = ("·", "+", "→", "")
    wide = sum(block.shape[1] for block, *_ in blocks) + 0.55 * 3
    left = (_WIDE - wide) / 2
    for (block, name, concept, at), sign in zip(blocks, signs, strict=True):
        frame = at if here and not name.startswith("b") else None
        _cells(figure, block, left, top, name, concept, frame)
        left += block.shape[1]
        _text(figure, x=left + 0.27, y=top + 0.5, text=sign, font={"size": 15})
        left += 0.55


def _cells(
    figure: panels.Sketch,
    block: np.ndarray,
    left: float,
    top: float,
    name: str,
    concept: str,
    frame: tuple[int, int] | None,
) -> None:
    for y, x in np.ndindex(*block.shape):
        strong = (y, x) == frame
        _shape(figure,
            type="rect",
            x0=left + x + 0.03, x1=left + x + 0.97, y0=top + y + 0.04, y1=top + y + 0.96,
            line={"color": NEUTRAL if strong else color(concept), "width": 3 if strong else 1},
            fillcolor=rgba(color(concept), 0.45 if strong else 0.12),
        )  # fmt: skip
    places = list(np.ndindex(*block.shape))
    figure.trace(
        "scatter",
        x=[left + x + 0.5 for _, x in places],
        y=[top + y + 0.5 for y, _ in places],
        mode="text",
        text=[f"{block[y, x]:.2f}" for y, x in places],
        textfont={"size": 11},
        hoverinfo="skip",
    )
    _text(figure, x=left + block.shape[1] / 2, y=top, text=f"<b>{label(name)}</b>", yanchor="bottom")


@dataclass(frozen=True)
class Panel:
    """A matrix of the pass: what is printed above it, its values, its share of the width, and what hovering says."""

    name: str
    values: ArrayLike
    across: tuple[float, float]
    concept: str
    hover: str


STRIP, MATRIX, HEAD = 14, 92, 26
"""Pixels: the height of a vector, of a matrix, and of the line above each."""


def stages(rows: Sequence[Sequence[Panel]]) -> go.Figure:
    """Vectors and matrices one under the other, in the order in which they are multiplied; rows hold 1 or 2 of them."""
    heights = [MATRIX if floats(row[0].values).shape[0] > 1 else STRIP for row in rows]
    total = sum(heights) + HEAD * len(rows)
    sketch = panels.Sketch(total + 8)
    sketch.set(margin={"l": 2, "r": 2, "t": 2, "b": 6})
    top, number = total, 0
    for row, height in zip(rows, heights, strict=True):
        top -= HEAD
        for panel in row:
            number += 1
            place = "" if number == 1 else str(number)
            up = ((top - height) / total, top / total)
            panels.image(sketch, place, panel.values, panel.across, up, label(panel.hover))
            sketch.axes(place, {"showticklabels": False}, {"showticklabels": False})
            end = short(scale(panel.values, "diverging")[1])
            panels.name_above(sketch, place, f"<b>{label(panel.name)}</b> ±{end}", panel.concept)
        top -= height
    return sketch.figure()

"""Figures about kinds of heads: where they look on a text that repeats, their scores, and their names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import exact, floats
from engine.figures.heat import attention_map
from engine.figures.targets import frame, targets
from engine.figures.theme import COLORS, NEUTRAL, canvas, rgba, sequential
from engine.ops.heads import KINDS, UNCLASSIFIED, queries, target_keys
from engine.tokens.text import label

KIND_COLORS = dict(
    zip(KINDS, (COLORS["query"], COLORS["value"], COLORS["key"], COLORS["token"]), strict=True)
)
SHALLOW, WIDEST = 12, 64
"""Layers up to which two maps on top of each other fit into a window, and columns that fit side by side."""
LETTERS = {"previous": "P", "duplicate": "D", "induction": "I", "sink": "S", UNCLASSIFIED: "·"}


def repeated_map(weights: ArrayLike, tokens: Sequence[str], length: int) -> go.Figure:
    """An attention map over a start token and `length` tokens read twice; a kind looks between its dotted lines."""
    figure = attention_map(weights, tokens, height=480)
    at = queries(length)
    places = (
        ("previous", -1, 0.85),
        ("duplicate", -1, 0.5),
        ("induction", 1, 0.4),
    )
    for kind, side, share in places:
        named = int(share * length)
        keys = target_keys(kind, length)
        figure.add_scatter(
            x=[*(keys - 0.5), None, *(keys + 0.5)],  # on both sides of the cells, not over them
            y=[*at, None, *at],
            mode="lines",
            line={"color": KIND_COLORS[kind], "width": 1.6, "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_annotation(
            text=f"<b>{kind}</b>",
            x=int(keys[named]),
            y=int(at[named]),
            xshift=12 * side,
            xanchor="left" if side > 0 else "right",
            font={"color": KIND_COLORS[kind], "size": 13},
            showarrow=False,
        )
    figure.add_annotation(  # beside the first column, which the sink is
        text="<b>sink</b>",
        x=0,
        y=int(at[int(0.85 * length)]),
        xshift=12,
        xanchor="left",
        font={"color": KIND_COLORS["sink"], "size": 13},
        showarrow=False,
    )
    figure.add_hline(y=length + 0.5, line={"color": NEUTRAL, "width": 1})
    return figure


def score_panels(scores: Mapping[str, ArrayLike], marked: tuple[int, int] | None = None) -> go.Figure:
    """One small layer × head heat map for each name, all on one 0–1 scale.

    Two are beside each other; of a deep model with few heads all are, since two on top of each other would be taller
    than a window.

    marked  (layer, head) to be framed in each
    Points carry `customdata` [layer, head], so that a click on a cell can choose it.

    They are drawn as one heat map with empty rows and columns between the panels: one pair of axes is enough.
    """
    grids = {name: floats(values) for name, values in scores.items()}
    layers, heads = next(iter(grids.values())).shape
    beside = len(grids) if layers > SHALLOW and len(grids) * heads <= WIDEST else 2
    rows = -(-len(grids) // beside)
    cell = min(22, max(12, (420 if rows == 1 else 320) // layers))  # pixels
    down, across = layers + -(-40 // cell), heads + max(1, heads // 8)  # from panel to panel
    sheet = np.full((rows * down - (down - layers), beside * across - (across - heads)), np.nan)
    cells: dict[tuple[int, int], tuple[int, int]] = {}  # row and column on the sheet -> layer and head
    hover = []
    figure = canvas(110 + cell * (len(sheet) + 2), "head", "layer")
    for i, (name, values) in enumerate(grids.items()):
        top, left = (i // beside) * down, (i % beside) * across
        sheet[top : top + layers, left : left + heads] = values
        for layer, head in np.ndindex(layers, heads):
            cells[top + layer, left + head] = layer, head
            value = float(values[layer, head])
            shown = exact(value) if np.isfinite(value) else "not a number"
            hover.append(f"layer {layer}, head {head}<br>{label(name)} <b>{shown}</b>")
        if marked is not None:
            frame(figure, left + marked[1], top + marked[0])
        figure.add_shape(
            type="rect",
            x0=left - 0.5,
            x1=left + heads - 0.5,
            y0=top - 0.5,
            y1=top + layers - 0.5,
            line={"color": NEUTRAL, "width": 1},
        )
        figure.add_annotation(
            text=f"<b>{label(name)}</b>",
            x=left - 0.5,
            y=top - 0.5,
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
        )
    figure.add_heatmap(
        z=sheet.astype(np.float32),
        zmin=0,
        zmax=1,
        colorscale=sequential("attention"),
        colorbar=_score_bar(),
        hoverinfo="skip",
    )
    broken = [place for place in cells if not np.isfinite(sheet[place])]
    figure.add_scatter(
        x=[column for _, column in broken],
        y=[row for row, _ in broken],
        mode="text",
        text=["×"] * len(broken),
        hoverinfo="skip",
        showlegend=False,
    )
    targets(figure, [column for _, column in cells], [row for row, _ in cells], list(cells.values()), hover)
    every = max(1, -(-heads // 6)), max(1, -(-layers // 12))
    figure.update_xaxes(
        **_repeated_ticks(heads, across, beside, every[0]), range=[-0.5, sheet.shape[1] - 0.5]
    )
    figure.update_yaxes(**_repeated_ticks(layers, down, rows, every[1]), range=[len(sheet) - 0.5, -1.9])
    return figure


def _repeated_ticks(count: int, step: int, times: int, every: int) -> dict[str, Any]:
    """Ticks that count from 0 in each of `times` panels."""
    numbers = range(0, count, every)
    return {
        "tickmode": "array",
        "tickvals": [panel * step + i for panel in range(times) for i in numbers],
        "ticktext": [str(i) for _ in range(times) for i in numbers],
        "showgrid": False,
    }


def _score_bar() -> dict[str, Any]:
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "len": 0.55,
        "thickness": 9,
        "nticks": 5,
        "ypad": 4,
        "xpad": 0,
        "outlinewidth": 1,
        "outlinecolor": rgba(NEUTRAL, 0.5),
        "title": {"text": "mean attention weight", "side": "top"},
    }


def kind_map(kinds: ArrayLike, best: ArrayLike, marked: tuple[int, int] | None = None) -> go.Figure:
    """Layer × head cells, each with the letter and the colour of its kind; hover text has the largest score.

    marked  (layer, head) to be framed
    Points carry `customdata` [layer, head], so that a click on a cell can choose it.
    """
    names, values = np.asarray(kinds), floats(best)
    layers, heads = names.shape
    order = (*KINDS, UNCLASSIFIED)
    paint = [rgba(KIND_COLORS.get(kind, NEUTRAL), 0.07 if kind == UNCLASSIFIED else 0.36) for kind in order]
    figure = canvas(100 + min(34, max(14, 400 // layers)) * layers, "head", "layer")
    figure.add_heatmap(
        z=[[order.index(kind) for kind in row] for row in names.tolist()],
        zmin=-0.5,
        zmax=len(order) - 0.5,
        colorscale=[[(i + edge) / len(order), paint[i]] for i in range(len(order)) for edge in (0, 1)],
        showscale=False,
        xgap=2,
        ygap=2,
        text=[[f"<b>{LETTERS[kind]}</b>" for kind in row] for row in names.tolist()],
        texttemplate="%{text}" if heads <= 16 else None,
        textfont={"size": 13},
        hoverinfo="skip",
    )
    places = list(np.ndindex(layers, heads))
    targets(
        figure,
        [head for _, head in places],
        [layer for layer, _ in places],
        places,
        [
            f"layer {layer}, head {head}: {names[layer, head]}<br>"
            f"largest score <b>{exact(float(values[layer, head]))}</b>"
            for layer, head in places
        ],
    )
    if marked is not None:
        frame(figure, marked[1], marked[0])
    for kind, shade in zip(order, paint, strict=True):
        if count := int((names == kind).sum()):
            figure.add_scatter(
                x=[None],
                y=[None],
                mode="markers",
                marker={
                    "symbol": "square",
                    "size": 11,
                    "color": shade,
                    "line": {"color": NEUTRAL, "width": 1},
                },
                name=f"{LETTERS[kind]} {kind} ({count})",
                showlegend=True,
            )
    figure.update_layout(showlegend=True, legend_itemclick=False, legend_itemdoubleclick=False)
    figure.update_xaxes(range=[-0.5, heads - 0.5], dtick=1 if heads <= 16 else 2, showgrid=False)
    figure.update_yaxes(range=[layers - 0.5, -0.5], dtick=1 if layers <= 16 else 2, showgrid=False)
    return figure

"""A block of the loaded architecture, drawn: the residual stream on the left, the sublayers beside it."""

from collections.abc import Sequence
from itertools import pairwise

import plotly.graph_objects as go

from engine.figures.theme import NEUTRAL, canvas, color, rgba
from engine.tokens.text import label

_CONCEPTS = {
    "embedding": "embedding",
    "positions": "token",
    "attn_norm": "residual",
    "attention": "attention",
    "mlp_norm": "residual",
    "mlp": "mlp",
    "final_norm": "residual",
    "unembedding": "logits",
}


def diagram(
    boxes: Sequence[tuple[str, str, str]],
    chosen: str,
    blocks: int,
    parallel: bool,
    readers: Sequence[str] = ("attn_norm", "mlp_norm"),
) -> go.Figure:
    """Boxes (name, title, what is inside) from the embedding at the bottom to the unembedding on top.

    The part `chosen` is filled. `readers` are the parts of a block that read the stream; the others write to it. In a
    parallel block both sublayers read the same stream.
    """
    height = 66 * (len(boxes) + 1)
    figure = canvas(height)
    figure.update_xaxes(visible=False, range=[0, 10.4], fixedrange=True)
    figure.update_yaxes(visible=False, range=[-0.7, len(boxes) - 0.3], fixedrange=True)
    figure.update_layout(margin={"l": 4, "r": 4, "t": 4, "b": 4})
    _stream(figure, len(boxes))
    for place, (name, title, inside) in enumerate(boxes):
        _box(figure, place, name, title, inside, name == chosen, readers)
    _hand_over(figure, [name for name, _, _ in boxes], readers)
    _block_frame(figure, [name for name, _, _ in boxes], blocks, parallel)
    figure.add_scatter(
        x=[6.0] * len(boxes),
        y=list(range(len(boxes))),
        mode="markers",
        marker={"size": 30, "opacity": 0},
        customdata=[[label(title), label(inside)] for _, title, inside in boxes],
        hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
    )
    return figure


def _stream(figure: go.Figure, count: int) -> None:
    figure.add_annotation(
        x=1.2, y=count - 2.34, ax=1.2, ay=-0.55, xref="x", yref="y", axref="x", ayref="y",
        showarrow=True, arrowhead=2, arrowwidth=5, arrowcolor=color("residual"), text="",
    )  # fmt: skip


def _box(
    figure: go.Figure, place: int, name: str, title: str, inside: str, chosen: bool, readers: Sequence[str]
) -> None:
    paint = color(_CONCEPTS[name])
    outside_block = name in ("embedding", "positions", "final_norm", "unembedding")
    left = 0.3 if name in ("final_norm", "unembedding") else 2.9
    figure.add_shape(
        type="rect", x0=left, x1=9.3, y0=place - 0.34, y1=place + 0.34,
        line={"color": paint, "width": 3 if chosen else 1.5}, fillcolor=rgba(paint, 0.28 if chosen else 0.08),
    )  # fmt: skip
    text = f"<b>{label(title)}</b><br>{label(inside)}"
    figure.add_annotation(x=(left + 9.3) / 2, y=place, text=text, showarrow=False, font={"size": 13})
    if not outside_block:
        _arrow(figure, (1.2, 2.9) if name in readers else (2.9, 1.2), place)
    elif name in ("embedding", "positions"):
        _arrow(figure, (2.9, 1.2), place)


def _hand_over(figure: go.Figure, names: Sequence[str], readers: Sequence[str]) -> None:
    """Arrows from each box that reads the stream to the one that works on what it read."""
    for place, (lower, upper) in enumerate(pairwise(names)):
        if lower == "final_norm" or (lower in readers and upper not in readers):
            _up(figure, 6.1, place + 0.34, place + 0.66)
    if (
        "attn_norm" in names and "mlp_norm" not in names
    ):  # one norm for both: the MLP is behind attention here
        low, high = names.index("attn_norm"), names.index("mlp")
        line = {"color": NEUTRAL, "width": 2}
        path = f"M 9.3 {low} L 9.53 {low} L 9.53 {high}"
        figure.add_shape(type="path", path=path, line=line)
        figure.add_annotation(
            x=9.3, y=high, ax=9.53, ay=high, xref="x", yref="y", axref="x", ayref="y",
            showarrow=True, arrowhead=2, arrowwidth=2, arrowcolor=NEUTRAL, text="",
        )  # fmt: skip


def _up(figure: go.Figure, x: float, start: float, end: float) -> None:
    figure.add_annotation(
        x=x, y=end, ax=x, ay=start, xref="x", yref="y", axref="x", ayref="y",
        showarrow=True, arrowhead=2, arrowwidth=2, arrowcolor=NEUTRAL, text="",
    )  # fmt: skip


def _arrow(figure: go.Figure, ends: tuple[float, float], place: int) -> None:
    figure.add_annotation(
        x=ends[1], y=place, ax=ends[0], ay=place, xref="x", yref="y", axref="x", ayref="y",
        showarrow=True, arrowhead=2, arrowwidth=2, arrowcolor=NEUTRAL, text="",
    )  # fmt: skip


def _block_frame(figure: go.Figure, names: Sequence[str], blocks: int, parallel: bool) -> None:
    inner = [names.index(name) for name in ("attn_norm", "attention", "mlp_norm", "mlp") if name in names]
    first, last = min(inner), max(inner)
    figure.add_shape(
        type="rect", x0=2.35, x1=9.75, y0=first - 0.47, y1=last + 0.47, line={"color": NEUTRAL, "dash": "dot"}
    )
    kind = "parallel block" if parallel else "block"
    text = f"× {blocks} {kind}s" if blocks > 1 else kind
    figure.add_annotation(
        x=9.78,
        y=(first + last) / 2,
        text=text,
        showarrow=False,
        textangle=90,
        xanchor="left",
        font={"size": 12},
    )

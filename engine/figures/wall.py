"""All heads at once: one small map for each layer and head, stitched into one image so that it draws fast."""

import base64
import struct
import zlib

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from engine.figures.axes import exact, floats
from engine.figures.targets import frame, targets
from engine.figures.theme import NEUTRAL, canvas, color, rgba
from engine.tokens.text import label

_GAP = 0.06  # of a panel


def wall(
    weights: ArrayLike,
    *,
    causal: bool = True,
    notes: list[list[str]] | None = None,
    marked: tuple[int, int] | None = None,
    concept: str = "attention",
) -> go.Figure:
    """Maps (layer, head, query, key) on one 0–1 scale, layer 0 on top; masked cells are grey.

    The wall of a deep model lies on its side, with its layers from left to right: see `lies`.

    notes   [layer][head]: a short hover text, as the head's kind
    marked  (layer, head) to be framed
    Points carry `customdata` [layer, head], so that a click on a panel can choose it.
    """
    shown = floats(weights)
    layers, heads = shown.shape[:2]
    upright = not lies(layers, heads)
    across, down = (heads, layers) if upright else (layers, heads)
    sides = ("head", "layer") if upright else ("layer", "head")
    figure = canvas(70 + min(120, max(46 if upright else 28, 640 // across)) * down, *sides)
    figure.add_layout_image(
        source=_png(_stitch(shown if upright else shown.swapaxes(0, 1), causal, color(concept))),
        xref="x",
        yref="y",
        x=-0.5,
        y=-0.5,
        sizex=across,
        sizey=down,
        sizing="stretch",
        layer="below",
    )
    places = [(layer, head) for layer in range(layers) for head in range(heads)]
    largest = np.nanmax(np.where(np.isfinite(shown), shown, -1), axis=(2, 3), initial=-1)
    targets(
        figure,
        [place[upright] for place in places],
        [place[not upright] for place in places],
        places,
        [
            f"layer {layer}, head {head}<br>largest weight <b>{exact(float(largest[layer, head]))}</b>"
            + (f"<br>{label(notes[layer][head])}" if notes else "")
            for layer, head in places
        ],
    )
    if marked is not None:
        frame(figure, marked[upright], marked[not upright], width=3)
    _scale_key(figure, concept)
    figure.update_xaxes(range=[-0.5, across - 0.5], dtick=1 + across // 24, showgrid=False)
    figure.update_yaxes(range=[down - 0.5, -0.5], dtick=1 + down // 24, showgrid=False)
    return figure


def lies(layers: int, heads: int) -> bool:
    """Whether a wall lies on its side, so that no window is too low for it."""
    return layers > 2 * heads


def _scale_key(figure: go.Figure, concept: str) -> None:
    """Legend entries that say what the colours mean; the image itself has no colour bar."""
    for name, paint in (("weight 0", 0.0), ("0.5", 0.5), ("1", 1.0)):
        line = {"color": NEUTRAL, "width": 1}
        marker = {"symbol": "square", "size": 11, "color": rgba(color(concept), paint), "line": line}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=marker, showlegend=True)
    masked = {"symbol": "square", "size": 11, "color": rgba(NEUTRAL, 56 / 255)}
    figure.add_scatter(x=[None], y=[None], mode="markers", name="masked", marker=masked, showlegend=True)
    figure.update_layout(showlegend=True, legend_itemclick=False, legend_itemdoubleclick=False)


def _stitch(weights: NDArray[np.float64], causal: bool, paint: str) -> NDArray[np.uint8]:
    """(layer, head, query, key) -> one RGBA image; opacity is the weight, masked cells are a fixed grey.

    A cell without a number is solid grey. Long texts are pooled, see `_pool`.
    """
    weights = _pool(weights)
    layers, heads, seq = weights.shape[:3]
    zoom = max(1, -(-96 // seq))  # small maps keep sharp cells when the browser scales the image
    size = seq * zoom
    edge = max(1, round(size * _GAP / 2))
    grey = [int(NEUTRAL[i : i + 2], 16) for i in (1, 3, 5)]
    cells = np.empty((layers, heads, seq, seq, 4), np.uint8)
    cells[..., :3] = [int(paint[i : i + 2], 16) for i in (1, 3, 5)]
    cells[..., 3] = np.round(255 * np.clip(np.nan_to_num(weights), 0, 1))
    cells[~np.isfinite(weights)] = [*grey, 255]
    if causal:
        cells[:, :, np.triu(np.ones((seq, seq), bool), 1)] = [*grey, 56]
    panels = cells.repeat(zoom, axis=2).repeat(zoom, axis=3)
    framed = np.zeros((layers, heads, size + 2 * edge, size + 2 * edge, 4), np.uint8)
    framed[:, :, edge:-edge, edge:-edge] = panels
    return framed.transpose(0, 2, 1, 3, 4).reshape(layers * framed.shape[2], heads * framed.shape[2], 4)


def _pool(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maps of over 64 tokens as blocks that show their largest weight: a mean would fade a thin diagonal away."""
    block = -(-weights.shape[-1] // 64)
    if block == 1:
        return weights
    spare = -weights.shape[-1] % block
    padded = np.pad(weights, ((0, 0), (0, 0), (0, spare), (0, spare)), constant_values=-np.inf)
    count = padded.shape[-1] // block
    blocks = padded.reshape(*padded.shape[:2], count, block, count, block)
    pooled: NDArray[np.float64] = blocks.max(axis=(3, 5))
    return pooled


def _png(pixels: NDArray[np.uint8]) -> str:
    """An RGBA image as a data address (PNG, filter 0 on every line; W3C PNG specification, sections 5 and 9)."""
    height, width = pixels.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 6)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()

"""Panels that the figures of one attention head are put together from. A `place` is plotly's axis number as text:
"" for the first pair of axes, "2" for the second, and so on."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import floats, short
from engine.figures.heat import scale
from engine.figures.theme import NEGATIVE, NEUTRAL, POSITIVE, canvas, color, diverging, rgba, sequential

Span = tuple[float, float]


class Sketch:
    """A figure under construction: traces and layout as plain data, checked by plotly once, when it is finished.

    plotly's own `update_layout` checks the whole layout on every call, which costs a figure of many panels most of
    its time.
    """

    def __init__(self, height: int) -> None:
        self.traces: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = canvas(height).to_plotly_json()["layout"]
        self.layout["margin"]["pad"] = 0  # else the page's theme draws each frame away from its cells
        self.shapes: list[dict[str, Any]] = []
        self.names: list[dict[str, Any]] = []

    def set(self, **settings: Any) -> None:
        """Layout settings; dictionaries are merged into what is there."""
        _merge(self.layout, settings)

    def axes(self, place: str, x: dict[str, Any] | None = None, y: dict[str, Any] | None = None) -> None:
        """Settings of one pair of axes."""
        _merge(self.layout, {f"xaxis{place}": x or {}, f"yaxis{place}": y or {}})

    def trace(self, kind: str, place: str = "", **settings: Any) -> None:
        self.traces.append({"type": kind, "xaxis": f"x{place}", "yaxis": f"y{place}"} | settings)

    def figure(self) -> go.Figure:
        return go.Figure(
            data=self.traces, layout=self.layout | {"shapes": self.shapes, "annotations": self.names}
        )


def _merge(into: dict[str, Any], settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = deepcopy(value)


def pair(sketch: Sketch, place: str, across: Span, up: Span) -> None:
    """A pair of axes that fills a rectangle of the figure, in shares of its width and height."""
    quiet = {"showgrid": False, "zeroline": False, "automargin": True, "title": {"standoff": 8}}
    sketch.axes(
        place,
        quiet | {"domain": _share(across), "anchor": f"y{place}"},
        quiet | {"domain": _share(up), "anchor": f"x{place}"},
    )


def _share(span: Span) -> list[float]:
    return [min(max(end, 0.0), 1.0) for end in span]


def image(
    sketch: Sketch, place: str, values: ArrayLike, across: Span, up: Span, hover: str, concept: str = ""
) -> None:
    """A matrix on its own colour scale: from 0 to 1 for attention, else symmetric about zero. Row 0 on top."""
    shown = floats(values)
    low, high = scale(shown, "diverging", zero_one=concept == "attention")
    pair(sketch, place, across, up)
    sketch.trace(
        "heatmap",
        place,
        z=np.where(np.isfinite(shown), shown, np.nan).astype(np.float32),
        zmin=low,
        zmax=high,
        colorscale=sequential("attention") if concept == "attention" else diverging(),
        showscale=False,
        hoverongaps=False,
        hovertemplate=hover + "<br><b>%{z:.6g}</b><extra></extra>",
    )
    edge = {"showline": True, "linecolor": rgba(NEUTRAL, 0.6), "mirror": True, "ticks": ""}
    sketch.axes(
        place, edge | {"range": [-0.5, shown.shape[1] - 0.5]}, edge | {"range": [shown.shape[0] - 0.5, -0.5]}
    )
    broken = np.argwhere(np.isnan(shown) | np.isposinf(shown))
    if len(broken):
        crosses(sketch, place, [int(x) for _, x in broken], [int(y) for y, _ in broken])


def crosses(sketch: Sketch, place: str, x: Sequence[float], y: Sequence[float]) -> None:
    """Mark cells that hold no number."""
    sketch.trace(
        "scatter",
        place,
        x=list(x),
        y=list(y),
        mode="markers",
        marker={"symbol": "x-thin", "size": 7, "line": {"color": NEUTRAL, "width": 1}},
        name="NaN or ∞",
        hoverinfo="skip",
        showlegend=False,
    )


def columns(
    sketch: Sketch,
    place: str,
    values: ArrayLike,
    hover: str,
    *,
    paint: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
) -> None:
    """Upright bars at 0, 1, …; without `paint` the sign has its own colour. `names` are escaped hover names.

    A cross stands where there is no number.
    """
    shown = floats(values)
    sketch.trace(
        "bar",
        place,
        x=np.arange(len(shown)),
        y=shown,
        marker={"color": list(paint or [NEGATIVE if v < 0 else POSITIVE for v in shown])},
        customdata=list(names) if names else None,
        text=list(texts) if texts else None,
        textposition="outside" if texts else None,
        textangle=0,
        cliponaxis=False,
        showlegend=False,
        hovertemplate=hover,
    )
    broken = np.flatnonzero(~np.isfinite(shown)).tolist()
    if broken:
        crosses(sketch, place, broken, [0.0] * len(broken))


def sideways(
    sketch: Sketch, place: str, values: ArrayLike, across: Span, up: Span, concept: str, hover: str
) -> None:
    """Horizontal bars at 0, 1, …, the first on top."""
    shown = floats(values)
    pair(sketch, place, across, up)
    sketch.trace(
        "bar",
        place,
        x=shown,
        y=np.arange(len(shown)),
        orientation="h",
        marker={"color": color(concept)},
        showlegend=False,
        hovertemplate=hover + "<extra></extra>",
    )


def stacked(sketch: Sketch, names: Sequence[str], gap: float = 0.12) -> None:
    """Pairs of axes one under the other, each with an (escaped) name above it; only the last shows its ticks."""
    count, above = len(names), 0.05
    height = (1 - above - gap * (count - 1)) / count
    for i, name in enumerate(names):
        place = "" if i == 0 else str(i + 1)
        top = 1 - above - i * (height + gap)
        pair(sketch, place, (0, 1), (top - height, top))
        grid = {
            "showgrid": True,
            "gridcolor": rgba(NEUTRAL, 0.22),
            "zeroline": True,
            "zerolinecolor": NEUTRAL,
        }
        below = {"showticklabels": i == count - 1} | ({"matches": "x"} if i else {})
        sketch.axes(place, below, grid | {"nticks": 5})
        name_above(sketch, place, f"<b>{name}</b>", NEUTRAL)


def name_above(sketch: Sketch, place: str, text: str, paint: str) -> None:
    """A panel's (escaped) name above its left edge. The colour is a mark before it, so that the text stays legible."""
    sketch.names.append(
        {
            "text": f'<span style="color:{color(paint)}">■</span> {text}',
            "xref": f"x{place} domain",
            "yref": f"y{place} domain",
            "x": 0,
            "y": 1,
            "xanchor": "left",
            "yanchor": "bottom",
            "showarrow": False,
        }
    )


def frame(sketch: Sketch, place: str, left: float, right: float, low: float, high: float) -> None:
    """A rectangle around cells."""
    sketch.shapes.append(
        {
            "type": "rect",
            "xref": f"x{place}",
            "yref": f"y{place}",
            "x0": left,
            "x1": right,
            "y0": low,
            "y1": high,
            "line": {"color": NEUTRAL, "width": 2},
            "fillcolor": "rgba(0,0,0,0)",
        }
    )


def hatch(sketch: Sketch, place: str, left: float, right: float, *, legend: bool = False) -> None:
    """Masked cells, over the whole height of a panel whose vertical axis is given in cells or in values."""
    low, high = sketch.layout[f"yaxis{place}"]["range"]
    sketch.trace(
        "scatter",
        place,
        x=[left, right, right, left, left],
        y=[low, low, high, high, low],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=rgba(NEUTRAL, 0.1),
        fillpattern={"shape": "/", "fgcolor": NEUTRAL, "size": 7, "solidity": 0.22, "fillmode": "overlay"},
        hoverinfo="skip",
        name="masked (−∞)",
        showlegend=legend,
    )


def dotted(sketch: Sketch, place: str, x: float, concept: str) -> None:
    """A vertical line across a panel."""
    sketch.shapes.append(
        {
            "type": "line",
            "xref": f"x{place}",
            "yref": f"y{place} domain",
            "x0": x,
            "x1": x,
            "y0": 0,
            "y1": 1,
            "line": {"color": color(concept), "width": 1.5, "dash": "dot"},
            "layer": "below",
        }
    )


def end_mark(sketch: Sketch, place: str, x: float, y: float, paint: str) -> None:
    """The last point of a curve with its value beside it."""
    sketch.trace(
        "scatter",
        place,
        x=[x],
        y=[y],
        mode="markers+text",
        marker={"color": color(paint), "size": 9},
        text=[f"<b>{short(y)}</b>"],
        textposition="top left",
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )


def signed_range(values: ArrayLike, room: float = 1.15) -> list[float]:
    """An axis that is symmetric about zero and holds all finite values."""
    end = scale(values, "diverging")[1] * room
    return [-end, end]


def numbers_on_largest(values: ArrayLike, most: int = 5, least: float = 0.03) -> list[str]:
    """The values as texts for the few largest, empty for the others: they would touch."""
    shown: Any = np.nan_to_num(floats(values), nan=0.0)
    chosen = set(np.argsort(-shown, kind="stable")[:most].tolist())
    return [f"{v:.2f}" if i in chosen and v >= least else "" for i, v in enumerate(shown)]

"""A figure drawn larger: everything in it that is measured in pixels grows by one factor."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

TYPE = 12.0
"""Plotly's own size of type, where a figure sets none."""

_LENGTHS = {
    *("xshift", "yshift", "ax", "ay", "standoff", "startstandoff", "arrowwidth"),
    *("thickness", "ticklen", "borderpad"),
}
_ROWS = 0.8
"""The part of a figure's height that its rows have."""

_LINE = 1.25
"""The height of a line of type, in sizes of it."""

_SIDES = ("l", "r", "t", "b")


def scaled(figure: go.Figure, factor: float, height: float | None = None) -> go.Figure:
    """A copy with type, margins, marks and lines `factor` times as large, and of a height in pixels if one is given.

    The data are untouched.
    """
    plain = figure.to_plotly_json()
    layout: dict[str, Any] = {**plain.get("layout", {})}
    template = layout.pop("template", None)
    larger = go.Figure(
        {"data": [_grown(trace, factor) for trace in plain.get("data", [])], "layout": _grown(layout, factor)}
    )
    if template is not None:
        larger.update_layout(template=template)
    margin = figure.layout.margin
    given = {side: getattr(margin, side) for side in _SIDES if getattr(margin, side) is not None}
    usual = figure.layout.height or 450
    larger.update_layout(
        margin={side: value * factor for side, value in given.items()},
        height=height or usual * factor,
        font_size=(figure.layout.font.size or TYPE) * factor,
    )
    for axis in (*larger.select_xaxes(), *larger.select_yaxes()):
        axis.tickfont.size = axis.tickfont.size or TYPE * factor
        axis.title.font.size = axis.title.font.size or (TYPE + 1) * factor
    for trace, plain_trace in zip(larger.data, figure.data, strict=True):
        sizes = plain_trace.marker.size if "marker" in trace and "size" in trace.marker else None
        if sizes is not None and not isinstance(sizes, int | float):
            trace.marker.size = np.asarray(sizes, dtype=float) * factor
    for axis, plain_axis in zip(larger.select_yaxes(), figure.select_yaxes(), strict=True):
        if plain_axis.tickvals is not None and plain_axis.ticktext is not None:
            _thinned(axis, list(plain_axis.tickvals), list(plain_axis.ticktext), larger.layout.height)
    return larger


def _thinned(axis: Any, places: list[Any], names: list[Any], height: float) -> None:
    """Leave out names of rows where all of them would lie on one another."""
    share = axis.domain[1] - axis.domain[0] if axis.domain else 1.0
    room = max(1.0, _ROWS * share * height / (_LINE * axis.tickfont.size))
    every = max(1, math.ceil(len(places) / room))
    axis.tickvals, axis.ticktext = places[::every], names[::every]


def _grown(value: Any, factor: float, name: str = "") -> Any:
    if isinstance(value, Mapping):
        points = {
            side for side in ("ax", "ay") if value.get(f"{side}ref", "pixel") != "pixel"
        }  # on axes, not lengths
        return {key: item if key in points else _one(key, item, factor, name) for key, item in value.items()}
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return [_grown(item, factor, name) for item in value]
    return value


def _one(key: str, value: Any, factor: float, within: str) -> Any:
    length = (
        (key == "size" and (within.endswith("font") or within == "marker"))
        or (key == "width" and within == "line")
        or key in _LENGTHS
    )
    if length and isinstance(value, int | float) and not isinstance(value, bool):
        return value * factor
    return value if key == "margin" else _grown(value, factor, key)

"""Two figures of a kind on one scale, so that equal lengths and colours mean equal numbers."""

from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

_ROOM = 0.04
"""Free space beyond the outermost point, as a part of the whole."""

Span = tuple[float, float]


def on_one_scale(left: go.Figure, right: go.Figure) -> tuple[go.Figure, go.Figure]:
    """Copies of two figures whose numeric axes and colours span the same numbers.

    Figures of different kinds, and axes that name things, stay as they are.
    """
    left, right = go.Figure(left), go.Figure(right)
    if {trace.type for trace in left.data} == {trace.type for trace in right.data}:
        for name in sorted(_axes(left) & _axes(right)):
            _join_axes(left, right, name)
        _join_colours(left, right)
    return left, right


def _join_axes(left: go.Figure, right: go.Figure, name: str) -> None:
    spans = _span(left, name), _span(right, name)
    if None in spans:
        return
    both = _union(spans)
    for figure in (left, right):
        axis = _axis(figure, name)
        falling = axis.autorange == "reversed" or (axis.range is not None and axis.range[0] > axis.range[1])
        axis.range = both[::-1] if falling else both


def _join_colours(left: go.Figure, right: go.Figure) -> None:
    """One scale for the heat maps that stand in the same place of both figures."""
    for one, two in zip_longest(left.data, right.data):
        if one is None or two is None or not one.type == two.type == "heatmap":
            continue
        spans = [span for span in (_cells(one), _cells(two)) if span is not None]
        if spans:
            low, high = _union(spans)
            one.update(zmin=low, zmax=high)
            two.update(zmin=low, zmax=high)


def _axes(figure: go.Figure) -> set[str]:
    """The axes that traces use: "x", "y", "x2" …"""
    return {
        trace[f"{letter}axis"] or letter
        for trace in figure.data
        for letter in ("x", "y")
        if f"{letter}axis" in trace
    }


def _axis(figure: go.Figure, name: str) -> Any:
    return figure.layout[f"{name[0]}axis{name[1:]}"]


def _span(figure: go.Figure, name: str) -> Span | None:
    """From where to where an axis goes, in powers of ten where it is logarithmic; None where it names things."""
    axis = _axis(figure, name)
    if axis.range is not None and all(isinstance(end, int | float) for end in axis.range):
        return min(axis.range), max(axis.range)
    numbers = _numbers(figure, name)
    if numbers is None or axis.type == "category":
        return None
    if axis.type == "log":
        numbers = np.log10(numbers[numbers > 0])
    if not numbers.size:
        return None
    low, high = float(numbers.min()), float(numbers.max())
    room = _ROOM * (high - low)
    return low - room * (low != 0), high + room * (high != 0)


def _numbers(figure: go.Figure, name: str) -> NDArray[np.float64] | None:
    """All finite numbers along an axis, with zero where bars begin there; None where something else stands there."""
    letter, found = name[0], [np.zeros(0)]
    for trace in figure.data:
        if f"{letter}axis" not in trace or (trace[f"{letter}axis"] or letter) != name:
            continue
        values = _floats(trace[letter])
        long = trace.type == "bar" and (trace.orientation == "h") == (letter == "x")
        if values is None or (long and figure.layout.barmode in ("stack", "relative")):
            return None
        found += [values[np.isfinite(values)], np.zeros(int(long))]
    return np.concatenate(found)


def _floats(values: Any) -> NDArray[np.float64] | None:
    try:
        numbers = np.asarray(list(values))
        return None if numbers.dtype.kind in "US" else np.asarray(numbers, float).ravel()
    except (TypeError, ValueError):
        return None


def _cells(trace: Any) -> Span | None:
    """The ends of a heat map's colours."""
    if trace.zmin is not None and trace.zmax is not None:
        return trace.zmin, trace.zmax
    cells = _floats(np.ravel(trace.z)) if trace.z is not None else None
    cells = cells[np.isfinite(cells)] if cells is not None else np.zeros(0)
    return (float(cells.min()), float(cells.max())) if cells.size else None


def _union(spans: Iterable[Span | None]) -> Span:
    known = [span for span in spans if span is not None]
    return min(low for low, _ in known), max(high for _, high in known)

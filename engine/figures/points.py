"""Tokens as points in two or three dimensions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from engine.figures.axes import floats
from engine.figures.theme import NEUTRAL, canvas, color, cycle
from engine.tokens.text import label, shorten

_SYMBOLS = ("circle", "diamond", "square", "cross", "x")  # the ones that 2-D and 3-D figures share


def scatter2d(
    points: ArrayLike,
    labels: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    colors: Mapping[str, str] | None = None,
    path: bool = False,
    print_labels: bool = True,
    equal: bool = False,
    x_name: str = "",
    y_name: str = "",
    height: int = 460,
) -> go.Figure:
    """Points (point, 2) with a label each.

    groups  the legend entry of each point; told apart by colour and symbol
    colors  a concept for each group
    path    join the points of a group in their order, as for one token through the layers
    equal   one unit is equally long on both axes
    """
    figure = canvas(height, x_name, y_name)
    for xyz, options in _groups(points, labels, groups, colors, path, print_labels):
        options["text"] = [label(text) for text in options["text"]]
        figure.add_scatter(x=xyz[:, 0], y=xyz[:, 1], textposition="top center", cliponaxis=False, **options)
    figure.update_layout(showlegend=groups is not None)
    figure.update_xaxes(nticks=6)
    figure.update_yaxes(nticks=6)
    if equal:
        figure.update_yaxes(scaleanchor="x", scaleratio=1)
    return figure


def scatter3d(
    points: ArrayLike,
    labels: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    colors: Mapping[str, str] | None = None,
    path: bool = False,
    print_labels: bool = True,
    names: tuple[str, str, str] = ("", "", ""),
    height: int = 520,
) -> go.Figure:
    """Points (point, 3) with a label each, to be turned with the mouse; arguments as in `scatter2d`."""
    figure = canvas(height)
    for xyz, options in _groups(points, labels, groups, colors, path, print_labels):
        options["text"] = [_unmarked(text) for text in options["text"]]
        options["marker"]["size"] = 5
        figure.add_scatter3d(x=xyz[:, 0], y=xyz[:, 1], z=xyz[:, 2], **options)
    plain: dict[str, Any] = {
        "showbackground": False,
        "gridcolor": NEUTRAL,  # WebGL draws a transparent grey as white
        "zeroline": False,
        "nticks": 5,
    }
    axes = zip(("xaxis", "yaxis", "zaxis"), names, strict=True)
    figure.update_layout(
        showlegend=groups is not None,
        dragmode="turntable",
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
        scene={axis: plain | {"title": {"text": _unmarked(name)}} for axis, name in axes},
    )
    return figure


def _unmarked(text: str) -> str:
    """Text inside a 3-D scene, where plotly reads tags but not the entities that would escape them."""
    return text.replace("<", "‹").replace(">", "›")


def _groups(
    points: ArrayLike,
    labels: Sequence[str],
    groups: Sequence[str] | None,
    colors: Mapping[str, str] | None,
    path: bool,
    print_labels: bool,
) -> list[tuple[NDArray[np.float64], dict[str, Any]]]:
    """For each group its points and the trace options that scatter and scatter3d share."""
    places = floats(points)
    member = list(groups) if groups is not None else [""] * len(places)
    order = list(dict.fromkeys(member))
    paint = cycle(order) | {name: color(concept) for name, concept in (colors or {}).items()}
    if groups is None and not colors:
        paint = {"": color("embedding")}
    found = []
    for i, name in enumerate(order):
        chosen = [j for j, other in enumerate(member) if other == name]
        mode = "markers" + ("+lines" if path else "") + ("+text" if print_labels else "")
        options = {
            "name": label(name),
            "mode": mode,
            "text": [shorten(labels[j], 14) for j in chosen],
            "customdata": [label(labels[j]) for j in chosen],
            "marker": {"color": paint[name], "size": 9, "symbol": _SYMBOLS[i % len(_SYMBOLS)]},
            "line": {"color": paint[name], "width": 2},
            "hovertemplate": "%{customdata}<br>%{x:.4g}, %{y:.4g}",
        }
        found.append((places[chosen], options))
    return found

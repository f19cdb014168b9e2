"""Figures of the chapter on quantization that the kit lacks."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from engine.figures.axes import across, down, exact, floats, short
from engine.figures.boxes import Box, add_boxes
from engine.figures.series import decades
from engine.figures.theme import NEUTRAL, canvas, color, cycle, diverging, rgba
from engine.tokens.text import label


def columns(
    labels: Sequence[str],
    values: ArrayLike,
    *,
    flagged: Sequence[int] = (),
    flag_name: str = "",
    details: Sequence[str] | None = None,
    concept: str = "quantization_error",
    x_name: str = "token",
    y_name: str = "",
    height: int = 360,
) -> go.Figure:
    """One upright bar for each token of a text, up to 128 of them; flagged ones carry a diamond on top.

    Positions whose value is not finite are crossed at the foot of the axis.
    """
    shown = floats(values)
    broken = ~np.isfinite(shown)
    top = float(shown[~broken].max(initial=0)) or 1.0
    hover = [
        f"{label(text)}<br>{label(extra)}" if extra else label(text)
        for text, extra in zip(labels, details or [""] * len(labels), strict=True)
    ]
    figure = canvas(height, x_name, y_name)
    figure.add_bar(
        x=np.arange(len(shown)),
        y=np.where(broken, 0, shown),
        marker={"color": rgba(color(concept), 0.75)},
        name=label(y_name),
        showlegend=False,
        customdata=[[text, exact(value)] for text, value in zip(hover, shown, strict=True)],
        hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b><extra></extra>",
    )
    _marks(figure, list(flagged), np.where(broken, 0, shown), flag_name, "diamond", color("key"), top)
    _marks(figure, list(np.flatnonzero(broken)), np.zeros(len(shown)), "NaN or ∞", "x", NEUTRAL, top)
    figure.update_layout(bargap=0.25)
    figure.update_xaxes(**across(labels))
    figure.update_yaxes(range=[0, 1.18 * top], nticks=6)
    return figure


def _marks(
    figure: go.Figure, places: list[int], heights: ArrayLike, name: str, symbol: str, paint: str, top: float
) -> None:
    if not places:
        return
    figure.add_scatter(
        x=places,
        y=floats(heights)[places] + 0.05 * top,
        mode="markers",
        marker={"symbol": symbol, "size": 9, "color": paint},
        name=label(name),
        hoverinfo="skip",
        showlegend=True,
    )
    figure.update_layout(showlegend=True)


def stacked(
    rows: Sequence[str], parts: Mapping[str, ArrayLike], *, colors: Mapping[str, str], x_name: str = ""
) -> go.Figure:
    """Horizontal bars made of parts laid end to end, their sum written behind the last one."""
    figure = canvas(120 + 44 * len(rows), x_name)
    total = np.zeros(len(rows))
    for i, (name, values) in enumerate(parts.items()):
        lengths = floats(values)
        figure.add_bar(
            x=lengths,
            y=np.arange(len(rows)),
            base=total.copy(),
            orientation="h",
            name=label(name),
            marker={"color": color(colors[name]), "pattern": {"shape": ("", "/", "x", ".", "\\")[i % 5]}},
            customdata=[[label(row), exact(value)] for row, value in zip(rows, lengths, strict=True)],
            hovertemplate="%{customdata[0]}: <b>%{customdata[1]}</b>",
        )
        total += lengths
    figure.add_scatter(
        x=total,
        y=np.arange(len(rows)),
        mode="text",
        text=[f" {short(value)}" for value in total],
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_layout(showlegend=True, legend_traceorder="normal", bargap=0.35, margin_t=64)
    figure.update_xaxes(range=[0, 1.2 * float(total.max(initial=0) or 1)], nticks=6)
    figure.update_yaxes(**down(list(rows)))
    return figure


def repeats(series: Mapping[str, ArrayLike], *, x_name: str = "", y_name: str = "") -> go.Figure:
    """Every repeat of a measurement as a dot on a logarithmic axis, and the median of each series as a stroke."""
    figure = canvas(150 + 46 * len(series), x_name, y_name)
    names = list(series)
    paint = cycle(names)
    for i, (name, values) in enumerate(series.items()):
        runs = floats(values)
        median = float(np.median(runs))
        figure.add_scatter(
            x=runs,
            y=i + 0.26 * np.linspace(-1, 1, len(runs)),
            mode="markers",
            marker={"color": rgba(paint[name], 0.7), "size": 8},
            hovertemplate="<b>%{x:.4g}</b><extra></extra>",
        )
        figure.add_scatter(
            x=[median],
            y=[i],
            mode="markers+text",
            marker={"symbol": "line-ns", "size": 30, "line": {"color": paint[name], "width": 3}},
            text=[short(median)],
            textposition="top center",
            hovertemplate=f"{label(name)} median <b>{exact(median)}</b><extra></extra>",
        )
    everything = np.concatenate([floats(values) for values in series.values()])
    low, high = np.log10(everything.min()), np.log10(everything.max())
    figure.update_xaxes(type="log", range=[low - 0.12, high + 0.25])
    figure.update_yaxes(**down(names))
    return figure


def tiles(
    panels: Mapping[str, ArrayLike], *, first_row: int, first_column: int, x_name: str, y_name: str
) -> go.Figure:
    """Equally shaped matrices one under the other, each on a scale of its own that is symmetric about zero.

    first_row, first_column  the numbers of the first row and column, for the axes
    """
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.1,
        subplot_titles=[label(name) for name in panels],
    )
    frame = canvas(100 + len(panels) * 112, "", "")
    figure.update_layout(frame.layout.to_plotly_json() | {"margin": {"l": 8, "r": 12, "t": 30, "b": 8}})
    for i, (name, values) in enumerate(panels.items(), start=1):
        shown = floats(values)
        reach = float(np.abs(shown[np.isfinite(shown)]).max(initial=0)) or 1.0
        middle = 1 - (i - 0.5) / len(panels)
        figure.add_heatmap(
            z=shown.astype(np.float32),
            x0=first_column,
            y0=first_row,
            zmin=-reach,
            zmax=reach,
            colorscale=diverging(),
            colorbar={
                "len": 0.8 / len(panels),
                "y": middle,
                "thickness": 9,
                "nticks": 5,
                "tickformat": ".2~g",
            },
            hovertemplate=f"{label(name)}<br>row %{{y}}, input %{{x}}: <b>%{{z:.6g}}</b><extra></extra>",
            row=i,
            col=1,
        )
    grid = {"showgrid": False, "zeroline": False, "automargin": True}
    figure.update_xaxes(**grid, nticks=9)
    figure.update_xaxes(title={"text": x_name, "standoff": 8}, row=len(panels), col=1)
    figure.update_yaxes(**grid, title={"text": y_name, "standoff": 4}, autorange="reversed")
    figure.update_yaxes(nticks=5, tickformat="d")
    figure.update_annotations(font={"size": 12})
    return figure


def staircase(
    weights: ArrayLike,
    series: Mapping[str, ArrayLike],
    *,
    colors: Mapping[str, str],
    x_name: str,
    y_name: str,
) -> go.Figure:
    """Values before and after rounding as points, each series beside the line that leaves them as they were."""
    before = floats(weights)
    figure = canvas(380, x_name, y_name)
    reach = float(np.abs(before).max(initial=0)) or 1.0
    figure.add_scatter(
        x=[-reach, reach],
        y=[-reach, reach],
        mode="lines",
        line={"color": NEUTRAL, "width": 1, "dash": "dot"},
        name="unchanged",
        hoverinfo="skip",
    )
    for (name, after), symbol in zip(series.items(), ("circle", "x"), strict=False):
        figure.add_scatter(
            x=before,
            y=floats(after),
            mode="markers",
            name=label(name),
            marker={"color": color(colors[name]), "size": 6, "symbol": symbol},
            hovertemplate="%{x:.5g} → <b>%{y:.5g}</b>",
        )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(range=[-1.06 * reach, 1.06 * reach], nticks=7)
    figure.update_yaxes(nticks=7)
    return figure


def sizes(rows: Sequence[str], series: Mapping[str, ArrayLike], *, x_name: str) -> go.Figure:
    """Dots on a logarithmic axis, a row for each label and a colour for each of up to three series, with their numbers.

    In each row the least number stands on the left of its dot, the largest on the right, one between them above; equal
    ones are printed once.
    """
    figure = canvas(110 + 46 * len(rows), x_name)
    paint = cycle(list(series))
    powers = np.log10([floats(values) for values in series.values()])
    room = max(0.35, _NUMBER * float(np.ptp(powers)))
    for (name, values), symbol, places in zip(
        series.items(), ("circle", "square", "diamond"), _beside_dots(powers), strict=False
    ):
        shown = floats(values)
        figure.add_scatter(
            x=shown,
            y=np.arange(len(rows)),
            mode="markers+text",
            name=label(name),
            marker={"color": paint[name], "size": 11, "symbol": symbol},
            text=[short(value) if place else "" for value, place in zip(shown, places, strict=True)],
            textposition=[place or "top center" for place in places],
            cliponaxis=False,
            hovertemplate="<b>%{x:.5g}</b>",
        )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(
        type="log", range=[powers.min() - room, powers.max() + room], dtick=1, exponentformat="power"
    )
    figure.update_yaxes(**down(list(rows)) | {"range": [len(rows) - 0.5, -0.8]})
    return figure


_NUMBER = 0.16
"""Room for a number on either side, as a part of what the dots span."""


def _beside_dots(values: ArrayLike) -> list[list[str]]:
    """Where the number of each dot (series, row) stands, in plotly's words; "" for one that is there already."""
    dots = floats(values)
    places = [[""] * dots.shape[1] for _ in dots]
    for row, along in enumerate(dots.T):
        order = [i for i in np.argsort(along, kind="stable") if along[i] not in along[:i]]
        for i in order:
            places[i][row] = "top center"
        places[order[0]][row] = "middle left"
        places[order[-1]][row] = "middle right"
    return places


_FIELDS = {
    "sign": "gradient",
    "exponent": "query",
    "fraction": "key",
    "whole number": "value",
    "index": "attention",
}
"""What a bit belongs to -> its colour."""


def bit_rows(rows: Mapping[str, tuple[Sequence[int], Sequence[str]]], below: Sequence[str]) -> go.Figure:
    """A row of bits for each format, coloured by what each bit belongs to, and a text under each row.

    rows  name -> (bits from the highest to the lowest, the field of each: sign, exponent, fraction, …)
    """
    longest = max(len(bits) for bits, _ in rows.values())
    figure = canvas(90 + 62 * len(rows))
    for field, concept in _FIELDS.items():
        cells = [
            (place, i, bit)
            for i, (bits, fields) in enumerate(rows.values())
            for place, (bit, own) in enumerate(zip(bits, fields, strict=True))
            if own == field
        ]
        if not cells:
            continue
        figure.add_scatter(
            x=[x for x, _, _ in cells],
            y=[y for _, y, _ in cells],
            mode="markers+text",
            name=field,
            text=[str(bit) for _, _, bit in cells],
            marker={
                "symbol": "square",
                "size": 15,
                "color": [rgba(color(concept), 0.5 if bit else 0.16) for _, _, bit in cells],
                "line": {"color": color(concept), "width": 1},
            },
            textfont={"size": 11},
            hovertemplate=f"{field}: <b>%{{text}}</b><extra></extra>",
        )
    for i, text in enumerate(below):
        figure.add_annotation(
            x=-0.5, y=i + 0.45, text=label(text), showarrow=False, xanchor="left", font={"size": 12}
        )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(visible=False, range=[-0.8, longest - 0.2])
    figure.update_yaxes(**down(list(rows)) | {"range": [len(rows) - 0.3, -0.6], "showgrid": False})
    return figure


def priced(bits: Sequence[float], values: ArrayLike, names: Sequence[str], *, y_name: str) -> go.Figure:
    """Points with a name each: bits a weight across, a loss on a logarithmic axis upwards."""
    figure = canvas(380, "bits a weight, scales included", y_name)
    figure.add_scatter(
        x=list(bits),
        y=floats(values),
        mode="markers+text",
        text=[label(name) for name in names],
        textposition=[
            "middle left" if place == min(bits) and list(bits).count(place) == 1 else side
            for place, side in zip(bits, _beside(bits), strict=True)
        ],
        cliponaxis=False,
        marker={"color": color("quantization_error"), "size": 11},
        hovertemplate="%{text}: %{x:g} bits, <b>%{y:.4g}</b><extra></extra>",
    )
    figure.update_xaxes(range=[min(bits) - 0.7, max(bits) + 0.9], nticks=8)
    figure.update_yaxes(type="log", nticks=6)
    return figure


def _beside(places: Sequence[float]) -> list[str]:
    """Where the name of each point stands: on the right, on the left where the last point at its place has that."""
    sides: dict[float, str] = {}
    found = []
    for place in places:
        at = round(place, 2)
        sides[at] = "middle left" if sides.get(at) == "middle right" else "middle right"
        found.append(sides[at])
    return found


def weighed(
    megabytes: Sequence[float], values: ArrayLike, errors: ArrayLike, names: Sequence[str]
) -> go.Figure:
    """Points with a name and an error bar each: megabytes across, perplexity upwards."""
    shown = floats(values)
    figure = canvas(380, "megabytes (10⁶ bytes) in memory", "perplexity of the passage")
    figure.add_scatter(
        x=list(megabytes),
        y=shown,
        mode="markers+text",
        text=[label(name) for name in names],
        textposition=_beside(megabytes),
        cliponaxis=False,
        marker={"color": color("quantization_error"), "size": 10},
        error_y={"array": floats(errors), "thickness": 1.6, "width": 5, "color": NEUTRAL},
        hovertemplate="%{text}: %{x:.4g} MB, <b>%{y:.4g}</b><extra></extra>",
    )
    figure.update_xaxes(range=[0, 1.18 * max(megabytes)], nticks=7)
    figure.update_yaxes(nticks=7)
    return figure


def outlying(values: ArrayLike, limit: float, names: Sequence[str]) -> go.Figure:
    """A point with a name for each of many magnitudes on a logarithmic axis; those at a limit or above stand out."""
    shown = floats(values)
    figure = canvas(340, "input", "largest magnitude (log scale)")
    for kept, title, concept, size in (
        (shown < limit, "below", "token", 4),
        (shown >= limit, f"{limit:g} or more", "gradient", 8),
    ):
        places = np.flatnonzero(kept)
        figure.add_scatter(
            x=places,
            y=shown[places],
            mode="markers",
            name=title,
            marker={"color": color(concept), "size": size},
            customdata=[[label(names[int(i)]), exact(shown[i])] for i in places],
            hovertemplate="input %{x} at %{customdata[0]}<br><b>%{customdata[1]}</b>",
        )
    figure.add_hline(y=limit, line={"color": NEUTRAL, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(type="log", **decades([shown]))
    figure.update_layout(showlegend=True)
    return figure


Cells = tuple[str, str, Sequence[tuple[str, str]]]
"""A row of cells: its name, its concept, and for each cell the text in it and what hovering says."""


def stored_block(
    rows: Sequence[Sequence[Cells]],
    weights: ArrayLike,
    paints: Sequence[str],
    *,
    levels: ArrayLike = (),
    before: ArrayLike | None = None,
) -> go.Figure:
    """What a block of weights is on disk: lines of cells, at most 16 in each, and below them a bar for each weight.

    rows    lines of cells from above; one line may hold several runs, each with its name and concept
    paints  the concept of each weight's bar, that of the cell which the weight comes from
    levels  values that a weight of this block can take, drawn as faint lines; before: the weights that were rounded
    """
    values = floats(weights)
    figure = canvas(170 + 44 * len(rows))
    _cell_lines(figure, rows)
    for concept in dict.fromkeys(paints):
        own = [place for place, paint in enumerate(paints) if paint == concept]
        figure.add_bar(
            x=own,
            y=values[own],
            xaxis="x2",
            yaxis="y2",
            marker={"color": rgba(color(concept), 0.75)},
            showlegend=False,
            hovertemplate="weight %{x}: <b>%{y:.6g}</b><extra></extra>",
        )
    if before is not None:
        figure.add_scatter(
            x=np.arange(len(values)),
            y=floats(before),
            xaxis="x2",
            yaxis="y2",
            mode="markers",
            name="before rounding",
            showlegend=True,
            marker={"symbol": "line-ew", "size": 11, "line": {"color": NEUTRAL, "width": 2}},
            hovertemplate="before: <b>%{y:.6g}</b><extra></extra>",
        )
    lines = [{"type": "line", "xref": "x2 domain", "yref": "y2", "x0": 0, "x1": 1, "y0": level, "y1": level,
              "line": {"color": rgba(NEUTRAL, 0.35), "width": 1, "dash": "dot"}, "layer": "below"}
             for level in floats(levels)]  # fmt: skip
    share = 44 * len(rows) / (110 + 44 * len(rows))  # of the height, for the cells
    plain = {"automargin": True, "zeroline": False, "showgrid": False}
    figure.update_layout(
        shapes=lines,
        showlegend=before is not None,
        xaxis={"visible": False, "range": [-0.6, 15.6]},
        yaxis={
            **down([line[0][0] for line in rows], width=24),
            "domain": [1 - share, 1],
            "range": [len(rows) - 0.4, -0.6],
        },
        xaxis2={
            **plain,
            "anchor": "y2",
            "range": [-0.7, len(values) - 0.3],
            "nticks": 9,
            "title": {"text": "weight of the block", "standoff": 6},
        },
        yaxis2={
            **plain,
            "anchor": "x2",
            "domain": [0, 0.94 - share],
            "nticks": 4,
            "title": {"text": "value", "standoff": 6},
        },
    )
    return figure


def _cell_lines(figure: go.Figure, rows: Sequence[Sequence[Cells]]) -> None:
    """Cells with a text in each, one line under the other."""
    found = [
        (x, y, concept, text, hover)
        for y, line in enumerate(rows)
        for x, (concept, text, hover) in enumerate(
            (concept, text, hover) for _, concept, cells in line for text, hover in cells
        )
    ]
    add_boxes(figure, [Box(x - 0.46, x + 0.46, y - 0.4, y + 0.4, color(c), 0.2) for x, y, c, _, _ in found])
    figure.add_scatter(
        x=[x for x, *_ in found],
        y=[y for _, y, *_ in found],
        mode="text",
        text=[label(text) for *_, text, _ in found],
        textfont={"size": 11},
        customdata=[label(hover) for *_, hover in found],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )

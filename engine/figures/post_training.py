"""Figures of the chapter on post-training that the kit lacks."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from engine.figures.axes import across, down, exact, floats
from engine.figures.series import curve_with_points
from engine.figures.theme import NEUTRAL, canvas, color, rgba, sequential
from engine.tokens.text import label

Written = tuple[str, Sequence[tuple[str, float]]]


def strips(rows: Sequence[Written]) -> go.Figure:
    """Written texts as rows of cells, one for each token: the fuller the colour, the more probable the token was.

    A row is (name, its tokens with their probability).
    """
    longest = max(len(tokens) for _, tokens in rows)
    shares = np.full((len(rows), longest), np.nan)
    hover = np.full((len(rows), longest), "", dtype=object)
    for i, (_, tokens) in enumerate(rows):
        shares[i, : len(tokens)] = [share for _, share in tokens]
        hover[i, : len(tokens)] = [f"{label(text)}<br><b>{exact(share)}</b>" for text, share in tokens]
    figure = canvas(96 + 40 * len(rows), "token written, in order")
    figure.add_heatmap(
        z=shares,
        x=np.arange(1, longest + 1),
        y=np.arange(len(rows)),
        zmin=0,
        zmax=1,
        colorscale=sequential("logits"),
        colorbar={"title": {"text": "probability", "side": "right"}, "thickness": 10, "tickformat": ".0%"},
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=6,
    )
    figure.update_xaxes(range=[0.5, longest + 0.5], nticks=8, showgrid=False)
    figure.update_yaxes(**down([name for name, _ in rows]))
    return figure


def loss_mask(tokens: Sequence[str], nats: ArrayLike, counted: Sequence[bool], mean: float) -> go.Figure:
    """Surprisal of each token after the first: full bars carry loss, hatched ones do not; a line at the mean.

    nats  seq - 1: from the second token on        counted  seq
    """
    shown = floats(nats)
    chosen = np.asarray(counted, dtype=bool)[1:]
    places = np.arange(1, len(tokens))
    figure = canvas(380, "token", "surprisal (nats)")
    for name, which, paint, shape in (
        ("no loss", ~chosen, rgba(NEUTRAL, 0.35), "/"),
        ("carries loss", chosen, color("gradient"), ""),
    ):
        figure.add_bar(
            x=places[which],
            y=shown[which],
            name=name,
            marker={"color": paint, "pattern": {"shape": shape, "fgcolor": NEUTRAL, "size": 6}},
            customdata=[[label(tokens[i]), exact(shown[i - 1])] for i in places[which]],
            hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b> nats<extra></extra>",
        )
    if chosen.any():
        ends = places[chosen]
        figure.add_scatter(
            x=[ends[0] - 0.5, ends[-1] + 0.5],
            y=[mean, mean],
            mode="lines",
            name=f"their mean, the loss: {mean:.3f}",
            line={"color": color("query"), "width": 2},
            hoverinfo="skip",
        )
    figure.update_layout(showlegend=True, bargap=0.2)
    figure.update_xaxes(**across(tokens))
    figure.update_yaxes(range=[0, 1.06 * max(float(shown.max(initial=0)), mean, 0.1)], nticks=6)
    return figure


def columns(
    tokens: Sequence[str],
    series: Mapping[str, ArrayLike],
    *,
    colors: Mapping[str, str],
    y_name: str,
    focus: int | None = None,
    height: int = 340,
) -> go.Figure:
    """Upright bars side by side for each token, one for each series; NaN leaves a place empty, `focus` is marked."""
    figure = canvas(height, "token", y_name)
    for name, values in series.items():
        shown = floats(values)
        figure.add_bar(
            x=np.arange(len(tokens)),
            y=shown,
            name=label(name),
            marker={"color": color(colors[name])},
            customdata=[[label(text), exact(value)] for text, value in zip(tokens, shown, strict=True)],
            hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b>",
        )
    if focus is not None:
        figure.add_vrect(
            x0=focus - 0.5, x1=focus + 0.5, fillcolor=rgba(NEUTRAL, 0.22), line_width=0, layer="below"
        )
    figure.update_layout(barmode="group", bargap=0.2, showlegend=True)
    figure.update_xaxes(**across(tokens))
    figure.update_yaxes(nticks=6, zeroline=True, zerolinecolor=NEUTRAL)
    return figure


def preference_loss(margin: float, loss: float, slope: float, end: float) -> go.Figure:
    """-log σ(margin) from -end to end, the pair's point on it, and an arrow along the tangent, downhill.

    slope  the derivative of the loss with respect to the margin, below 0
    """
    grid = np.linspace(-end, end, 161)
    figure = curve_with_points(
        grid, np.logaddexp(0.0, -grid), [margin], [loss], ["this pair"],
        concept="mlp", point_concept="key", x_name="margin = reward(chosen) − reward(rejected), nats",
        y_name="loss = −log σ(margin), nats", height=330,
    )  # fmt: skip
    step = 0.22 * end
    figure.add_annotation(
        x=margin + step, y=loss + slope * step, ax=margin, ay=loss, xref="x", yref="y", axref="x", ayref="y",
        showarrow=True, arrowhead=2, arrowsize=1.2, arrowwidth=2.4, arrowcolor=color("gradient"), text="",
    )  # fmt: skip
    figure.update_xaxes(range=[-1.02 * end, 1.3 * end])
    figure.update_yaxes(range=[-0.06 * end, 1.22 * float(np.logaddexp(0.0, end))])
    return figure

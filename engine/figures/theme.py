"""One colour per concept, the maps made from them, and the two papers they are printed on.

A figure does not know on which paper it will be seen: a reader may switch the theme without the server hearing
of it. So every concept has ONE colour with a contrast of at least 3:1 on both papers (WCAG 2.2, 1.4.11), and
every map starts from full transparency: zero is the paper itself, light or dark.
"""

import plotly.graph_objects as go

from engine.tokens.text import label

LIGHT_PAPER = "#FBF8F1"
DARK_PAPER = "#17181C"

# Okabe & Ito's palette where it clears 3:1 on both papers, the same hue at another lightness where it does not
# (attention, mlp, residual); the others chosen to stay apart under protanopia and deuteranopia.
COLORS = {
    "query": "#0072B2",
    "key": "#D55E00",
    "value": "#009E73",
    "attention": "#CD5D9E",
    "mlp": "#8C5D24",
    "residual": "#2E97CE",
    "token": "#54707B",
    "embedding": "#8F80EB",
    "logits": "#9B5046",
    "gradient": "#E66470",
    "quantization_error": "#539F44",
}

NEGATIVE, POSITIVE = "#5176BE", "#B05F37"
"""Ends of the diverging map: of equal lightness, a blue and an orange that stay apart for colour-blind readers."""

NEUTRAL = "#808080"
"""Grids, frames and hatches: visible on both papers."""

CYCLE = ("query", "key", "value", "attention", "mlp", "embedding", "gradient", "token", "quantization_error")
"""The order in which concept colours are dealt to series without a concept; also Streamlit's category colours."""

Scale = list[list[float | str]]


def rgba(color: str, alpha: float) -> str:
    """A hexadecimal colour with an opacity from 0 to 1."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:.3f})"


def color(concept: str) -> str:
    """The colour of a concept; a hexadecimal colour is returned as it is. Raises KeyError for an unknown concept."""
    return concept if concept.startswith("#") else COLORS[concept]


def sequential(concept: str = "residual") -> Scale:
    """A plotly colour scale from the paper to the concept's colour."""
    return [[0.0, rgba(color(concept), 0.0)], [1.0, rgba(color(concept), 1.0)]]


def diverging() -> Scale:
    """A plotly colour scale: negative, the paper at zero, positive."""
    return [
        [0.0, rgba(NEGATIVE, 1.0)],
        [0.5, rgba(NEGATIVE, 0.0)],
        [0.5, rgba(POSITIVE, 0.0)],
        [1.0, rgba(POSITIVE, 1.0)],
    ]


def cycle(names: list[str]) -> dict[str, str]:
    """Colours for series that stand for no concept of their own, in a fixed order."""
    return {name: COLORS[CYCLE[i % len(CYCLE)]] for i, name in enumerate(names)}


def canvas(height: int, x: str = "", y: str = "") -> go.Figure:
    """An empty figure `height` pixels high with named axes, a transparent background and a legend on top.

    There is no title: the page prints it. Dragging does nothing, so that a finger can scroll past the figure.
    """
    grid = {"automargin": True, "zeroline": False, "showline": False, "gridcolor": rgba(NEUTRAL, 0.22)}
    # All at once: updating a figure that exists takes plotly ten times as long, in every figure of every page.
    return go.Figure(
        layout={
            "height": height,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 12, "t": 10, "b": 8},
            "minreducedheight": 20,
            "dragmode": False,
            "hoverlabel": {"namelength": -1},
            "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"},
            "showlegend": False,
            "barmode": "overlay",
            "xaxis": {**grid, "title": {"text": label(x), "standoff": 8}},
            "yaxis": {**grid, "title": {"text": label(y), "standoff": 14}},
        }
    )

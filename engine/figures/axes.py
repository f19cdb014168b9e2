"""Axes whose ticks are tokens. Tokens repeat, so a tick is a position and the token is only its text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.tokens.text import label, shorten

MOST_ACROSS, MOST_DOWN = 24, 32
TICK_WIDTH = 12


def ticks(labels: Sequence[str], most: int, width: int = TICK_WIDTH) -> dict[str, Any]:
    """Plotly axis settings that put a label at each position, at every nth when there are over `most`."""
    step = max(1, -(-len(labels) // most))
    places = list(range(0, len(labels), step))
    texts = [label(shorten(labels[place], width)) for place in places]
    return {"tickmode": "array", "tickvals": places, "ticktext": texts, "showgrid": False}


def across(labels: Sequence[str], most: int = MOST_ACROSS) -> dict[str, Any]:
    """A horizontal axis of positions; labels stand upright once they would touch on a phone."""
    room = 48 // max(1, min(len(labels), most))  # characters for each label in 300 pixels
    upright = any(len(shorten(text, TICK_WIDTH)) > room for text in labels)
    return ticks(labels, most) | {"range": [-0.5, len(labels) - 0.5], "tickangle": -90 if upright else 0}


def down(labels: Sequence[str], most: int = MOST_DOWN, width: int = TICK_WIDTH) -> dict[str, Any]:
    """A vertical axis of positions, the first on top."""
    return ticks(labels, most, width) | {"range": [len(labels) - 0.5, -0.5]}


def plain(count: int) -> dict[str, Any]:
    """A horizontal axis of numbered places, as for dimensions."""
    return {"range": [-0.5, count - 0.5], "nticks": 8, "showgrid": False}


def numbers(count: int) -> list[str]:
    """Labels "0", "1", … for an axis without tokens, as for dimensions."""
    return [str(i) for i in range(count)]


def floats(values: ArrayLike) -> NDArray[np.float64]:
    """Values as a float64 array that the figure may change."""
    return np.array(values, dtype=np.float64)


def exact(value: float) -> str:
    """A number as hover text: six significant digits."""
    return f"{value:.6g}"


def short(value: float) -> str:
    """A number as printed beside a mark: three significant digits, a true minus, no exponent where it can be helped."""
    if value < 0:
        return f"−{short(-value)}"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.0e}" if abs(value) < 1e-3 else f"{value:.2e}"


def percent(value: float) -> str:
    """A probability as printed beside a mark."""
    return f"{value:.1%}" if value >= 0.001 or value == 0 else "<0.1%"

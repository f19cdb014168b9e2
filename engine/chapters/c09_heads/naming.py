"""How heads are called and listed."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Heads = tuple[tuple[int, int], ...]
"""(layer, head) pairs."""


PICKS = ("layer", "head")
"""What a click on a map of heads chooses."""


def name(layer: int, head: int) -> str:
    """How a head is called on this page: both numbers count from 0."""
    return f"L{layer} H{head}"


def names(heads: Iterable[tuple[int, int]]) -> str:
    return ", ".join(name(layer, head) for layer, head in heads)


def flat(heads: Iterable[tuple[int, int]]) -> list[int]:
    """layer, head, layer, head, …"""
    return [number for pair in heads for number in pair]


def table(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns of a card's table from sequences and arrays of any shape, flattened."""
    return {title: np.asarray(values).ravel().tolist() for title, values in columns.items()}

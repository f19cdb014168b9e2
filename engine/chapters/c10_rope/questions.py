"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

import math

import numpy as np

from engine.evidence.card import Card
from engine.evidence.question import Ask, how_much, percent, plain


def _most_moved(card: Card) -> float:
    """The largest change of a score."""
    return float(np.abs(np.subtract(card.shown["moved"], card.shown["as_it_is"])).max())


ASKED: dict[str, Ask] = {
    "pair": how_much(
        "By how many degrees has this pair turned at the focus token, whole turns left out?",
        lambda card: math.degrees(card.shown["angle (rad)"][-1]) % 360,
        (90, 180, 270),
        lambda angle: f"{angle:g}°",
    ),
    "ladder": how_much(
        "How many of the pairs complete a full turn within the context?",
        lambda card: (np.asarray(card.shown["turns"]) >= 1).mean(),
        (0.3, 0.6, 0.9),
        percent,
    ),
    "learned": how_much(
        "Learned positions: by how much does a score change at most when the whole text moves along?",
        _most_moved,
        (0.001, 0.1, 3),
        plain,
    ),
    "shift": how_much(
        "RoPE: by how much does a score change at most when the whole text moves along?",
        _most_moved,
        (0.001, 0.1, 3),
        plain,
    ),
}

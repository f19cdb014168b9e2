"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

import numpy as np

from engine.chapters.c09_heads.circuit import WITHOUT
from engine.evidence.card import Card
from engine.evidence.question import Ask, how_much, largest, percent


def _left(card: Card) -> float:
    """The part of the induction scores that is left; NaN where there was no head to take out."""
    after = card.shown.get(WITHOUT, float("nan"))
    return float(np.asarray(after, float).mean() / np.asarray(card.shown["as it is"], float).mean())


ASKED: dict[str, Ask] = {
    "wall": how_much(
        "How many of the heads give the first token more than half of their attention?",
        lambda card: card.shown["sinks"] / len(card.shown["first"]),
        (0.1, 0.3, 0.6),
        percent,
    ),
    "scores": largest(
        "Which head has the highest induction score?", "induction", "layer {layer}, head {head}"
    ),
    "second": how_much(
        "Random tokens, read a second time: what part of the first reading's surprisal is left?",
        lambda card: card.shown["means"][1] / card.shown["means"][0],
        (0.1, 0.3, 0.6),
        percent,
    ),
    "circuit": how_much(
        "The previous-token heads are taken out: what part of the induction scores is left?",
        _left,
        (0.25, 0.5, 0.75),
        percent,
    ),
    "looks": largest(
        "Which part of the model raises this head's score of the right key most?",
        "difference of scores",
        "{part}",
    ),
}

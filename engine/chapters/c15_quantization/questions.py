"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

import numpy as np

from engine.chapters.c15_quantization.columns import APART, TOGETHER
from engine.evidence.question import Ask, how_much, percent, plain

ASKED: dict[str, Ask] = {
    "next": how_much(
        "How much of the probability moves to other tokens?",
        lambda card: card.shown["moved"],
        (0.02, 0.05, 0.15),
        percent,
    ),
    "kl": how_much(
        "At how many positions does the favourite change?",
        lambda card: np.mean(card.shown["flips"]),
        (0.05, 0.15, 0.3),
        percent,
    ),
    "bytes": how_much(
        "How large is the model at the second precision, against the first?",
        lambda card: np.sum(card.shown["other"]) / np.sum(card.shown["reference"]),
        (0.3, 0.5, 0.7),
        percent,
    ),
    "columns": how_much(
        "With nothing taken apart, how many times the error does the output have?",
        lambda card: np.mean(card.shown[TOGETHER]) / np.mean(card.shown[APART]),
        (1.2, 2.0, 4.0),
        plain,
        card="decomposed",
    ),
    "outlier": how_much(
        "Blocks of 32 weights: how many bits does a weight take, its share of the scale included?",
        lambda card: card.shown["bits"][0],
        (4.25, 4.75, 5.25),
        plain,
        card="blocks",
    ),
}

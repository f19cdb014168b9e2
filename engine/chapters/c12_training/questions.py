"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

import numpy as np

from engine.evidence.card import Card
from engine.evidence.question import Ask, how_much, largest, percent, which


def _seeds(card: Card) -> dict[str, float]:
    """The last value of each run."""
    return {name: float(values[-1]) for name, values in card.table.items() if name.startswith("seed")}


ASKED: dict[str, Ask] = {
    "through": largest("Which head scores highest at the end?", -1, "{head}"),
    "prompt": largest(
        "Which token does the last of these models expect next?", -1, "“{token}”", by_name=True
    ),
    "twice": how_much(
        "The last of these models: what part of the first reading's surprisal is left at the second?",
        lambda card: np.mean(card.shown["second reading"][-1]) / np.mean(card.shown["first reading"][-1]),
        (0.1, 0.3, 0.6),
        percent,
    ),
    "grokking": which(
        "Which run has learned the most of the sums that it was not trained on?", _seeds, card="spread"
    ),
}

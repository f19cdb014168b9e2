"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

import numpy as np

from engine.evidence.question import Ask, how_much, largest, percent

ASKED: dict[str, Ask] = {
    "mask": how_much(
        "How many of these tokens carry loss?",
        lambda card: (np.asarray(card.shown["label"]) >= 0).mean(),
        (0.25, 0.5, 0.75),
        percent,
    ),
    "kl": largest("After which token has fine-tuning changed the prediction most?", 1, "“{token}”"),
    "measured": largest(
        "Which version repeats itself most, so that the fewest answers are free of repetition?",
        "no repetition",
        "{version}",
        least=True,
    ),
}

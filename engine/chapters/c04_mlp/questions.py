"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

import numpy as np

from engine.evidence.question import Ask, how_much, largest, percent

ASKED: dict[str, Ask] = {
    "sparsity": how_much(
        "How many of the neurons carry half of the activity at this token?",
        lambda card: card.shown["half"] / card.shown["k"][-1],
        (0.02, 0.05, 0.15),
        percent,
        card="mass",
    ),
    "keep": largest(
        "Which token comes first when only the strongest neurons are kept?", 3, "“{token}”", by_name=True
    ),
    "designs": how_much(
        "What part of this layer's activations is below zero, in the first of the two models?",
        lambda card: np.asarray(card.shown["negative"])[0],
        (0.25, 0.5, 0.75),
        percent,
    ),
}

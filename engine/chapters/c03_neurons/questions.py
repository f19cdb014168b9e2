"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

import numpy as np

from engine.evidence.question import Ask, how_much, largest, percent, plain

ASKED: dict[str, Ask] = {
    "activation": how_much(
        "At how many of the prompt's tokens is this neuron within 0.1 of zero?",
        lambda card: (np.abs(card.shown["activation"]) < 0.1).mean(),
        (0.25, 0.5, 0.75),
        percent,
    ),
    "contexts": largest(
        "At which token of your prompt is this neuron the most active?",
        "activation",
        "“{token}” at position {position}",
    ),
    "direction": largest(
        "Which of these tokens does the neuron promote most?",
        "per unit of activation",
        "“{token}”",
        by_name=True,
    ),
    "clamp": how_much(
        "The neuron held at that value: how far does the distribution after the prompt move (KL, nats)?",
        lambda card: card.shown["KL"],
        (0.001, 0.01, 0.1),
        plain,
    ),
}

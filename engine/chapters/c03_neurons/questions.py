"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

import numpy as np

from engine.evidence.card import Card
from engine.evidence.question import Ask, how_much, largest, percent, plain, which


def _strongest(card: Card) -> dict[str, float]:
    """The activation of each token; nothing where the largest number and the largest magnitude are two."""
    values = np.asarray(card.shown["activations"], float)
    if values.argmax() != np.abs(values).argmax():
        return {}
    places = zip(card.table["token"], card.table["position"], values, strict=True)
    return {f"“{token}” at position {position}": float(value) for token, position, value in places}


ASKED: dict[str, Ask] = {
    "activation": how_much(
        "At how many of the prompt's tokens is this neuron within 0.1 of zero?",
        lambda card: (np.abs(card.shown["activation"]) < 0.1).mean(),
        (0.25, 0.5, 0.75),
        percent,
    ),
    "contexts": which(
        "At which token of your prompt is this neuron the most active?", _strongest, card="over-prompt"
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

"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

import numpy as np

from engine.evidence.card import Card
from engine.evidence.question import Ask, how_much, percent, plain, which

_READINGS = {
    "kept": "everything is kept",
    "window": "only the window",
    "sink": "the window and the first tokens",
}


def _after(card: Card) -> dict[str, float]:
    """The mean surprisal of each reading where they differ."""
    lines = {said: np.asarray(card.shown[name], float) for name, said in _READINGS.items()}
    differ = lines["everything is kept"] != lines["only the window"]
    first = int(differ.argmax())
    return {said: float(values[first:].mean()) for said, values in lines.items()}


def _kept(card: Card) -> float:
    """The share of drafted tokens that was accepted; no number where nothing was drafted."""
    drafted = int((np.asarray(card.shown["drafted"]) >= 0).sum())
    return int(np.sum(card.shown["accepted"])) / drafted if drafted else float("nan")


ASKED: dict[str, Ask] = {
    "bytes": how_much(
        "How many bytes does one more token of context take in this model's cache?",
        lambda card: card.shown["bytes in the tensors"][0],
        (1_000, 10_000, 100_000),
        plain,
    ),
    "speculative": how_much(
        "How many of the drafted tokens does the model accept?", _kept, (0.25, 0.5, 0.75), percent
    ),
    "forgotten": how_much(
        "Everything read against the last few tokens: how many times as probable does that make the next one?",
        lambda card: card.shown["probability"][-1] / card.shown["probability"][0],
        (2, 10, 100),
        plain,
        " times",
    ),
    "sinks": which("Which reading costs the most nats a token after the window is full?", _after),
}

"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

from engine.evidence.question import Ask, how_much, largest, percent

ASKED: dict[str, Ask] = {
    "loss": how_much(
        "How probable does the model find the target?",
        lambda card: 1 + card.shown["gradient"][0],
        (0.1, 0.3, 0.6),
        percent,
    ),
    "norms": largest(
        "Which part of the model gets the longest gradient?", "length of the gradient", "{part}"
    ),
    "blame": largest(
        "Without which token of the prompt does the loss rise most?",
        "measured without it (nats)",
        "“{token}” at position {position}",
    ),
}

"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

from engine.evidence.question import Ask, how_much, largest, percent

ASKED: dict[str, Ask] = {
    "logits": largest("Which token does the model expect next?", "probability", "“{token}”", by_name=True),
    "softmax": how_much(
        "How much of the probability does the favourite get at this temperature?",
        lambda card: card.shown["probability"][0],
        (0.1, 0.3, 0.6),
        percent,
    ),
    "surprisal": largest(
        "Which token of your prompt surprises the model most?", "surprisal (nats)", "“{token}”"
    ),
}

"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

from engine.evidence.question import Ask, how_much, largest, plain

ASKED: dict[str, Ask] = {
    "neighbours": largest(
        "Which row lies nearest to that of the chosen token?",
        "cosine",
        "“{token}”",
        card="neighbours",
        by_name=True,
    ),
    "analogy": largest(
        "Which row is nearest to the sum, the input words included?",
        "cosine",
        "“{token}”",
        card="analogy",
        by_name=True,
    ),
    "drift": how_much(
        "One word in two senses: how alike are its vectors after the last block (cosine)?",
        lambda card: card.shown["the other sense"][-1],
        (0.25, 0.5, 0.75),
        plain,
    ),
}

"""What a reader may be asked before a figure of the landing page is seen, by the key of its station."""

from engine.evidence.question import Ask, how_much, percent

ASKED: dict[str, Ask] = {
    "next": how_much(
        "How much of the probability do all tokens but the ten likeliest have together?",
        lambda card: card.shown["all others"],
        (0.1, 0.25, 0.5),
        percent,
    ),
}

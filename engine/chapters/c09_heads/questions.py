"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

from engine.evidence.question import Ask, how_much, largest, percent

ASKED: dict[str, Ask] = {
    "wall": how_much(
        "How many of the heads give the first token more than half of their attention?",
        lambda card: card.shown["sinks"] / len(card.shown["first"]),
        (0.1, 0.3, 0.6),
        percent,
    ),
    "head": largest(
        "Which token does this head look at most from the focus token?",
        "weight",
        "“{key}” at position {position}",
    ),
    "scores": largest(
        "Which head has the highest induction score?", "induction", "layer {layer}, head {head}"
    ),
    "second": how_much(
        "Random tokens, read a second time: what part of the first reading's surprisal is left?",
        lambda card: card.shown["means"][1] / card.shown["means"][0],
        (0.1, 0.3, 0.6),
        percent,
    ),
}

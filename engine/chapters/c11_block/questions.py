"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

from engine.evidence.question import Ask, how_much, largest, plain

ASKED: dict[str, Ask] = {
    "parameters": largest("Which part holds the most trained numbers?", "trained numbers", "{part}"),
    "ledger": largest("Which part pushes this logit up most?", "logit", "{part}", rows=slice(-1)),
    "norms": how_much(
        "By what factor does the length of the stream grow from the first block to the end?",
        lambda card: card.shown["residual stream"][-1] / card.shown["residual stream"][0],
        (3, 10, 30),
        plain,
        " times",
    ),
}

"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

from collections.abc import Sequence

import numpy as np

from engine.evidence.card import Card
from engine.evidence.question import Ask, Question, how_much, largest, percent


def _tokens(cards: Sequence[Card]) -> Question | None:
    """How many tokens a text becomes: among half as many, twice as many, and one for each byte."""
    number, size = (np.size(cards[0].shown[name]) for name in ("ids", "bytes"))
    offered = sorted({max(1, number // 2), number, 2 * number, size})
    if len(offered) < 3 or offered[offered.index(number) + 1 :][:1] == [number + 1]:
        return None
    text = f"How many tokens do the {size} bytes of your text become?"
    return Question(text, tuple(map(str, offered)), offered.index(number))


ASKED: dict[str, Ask] = {
    "chips": _tokens,
    "price": largest("Which of these texts costs your model the most tokens?", 3, "{text}"),
    "space": how_much(
        "A text that does not end in a space: how probable is it that the next token begins with one?",
        lambda card: card.shown["begin with a space"][0],
        (0.25, 0.5, 0.75),
        percent,
    ),
}

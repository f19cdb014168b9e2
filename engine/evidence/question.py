"""A question about a beat, asked before its figures are seen: computed from them, so its answer is what they show."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.evidence.card import Card

CHOICES = 4
"""A question offers at most so many answers."""

TIE = 0.02
"""Where the best leads the next by no more than this part of the range of all, nobody is asked."""

NEAR = 0.1
"""A wrong answer that is offered is farther than this part of the range from the right one."""

CLOSE = 0.03
"""A number this near to the border between two answers, as a part of the border, is not asked about."""


@dataclass(frozen=True)
class Question:
    """A sentence, a few answers as plain text, and the number of the right one. Raises ValueError for no question."""

    text: str
    choices: tuple[str, ...]
    right: int

    def __post_init__(self) -> None:
        if not (
            2 < len(set(self.choices)) == len(self.choices) <= CHOICES and 0 <= self.right < len(self.choices)
        ):
            raise ValueError(f"{self.text!r} needs three or four answers that differ, and one of them right")

    @property
    def answer(self) -> str:
        return self.choices[self.right]


Ask = Callable[[Sequence[Card]], Question | None]
"""What makes the question of a beat from its cards; None where the answer is a near tie."""


class Measure(Protocol):
    """Reads numbers from a card."""

    def __call__(self, card: Card, /) -> Any: ...


def largest(
    text: str,
    of: str | int,
    called: str,
    *,
    card: str = "",
    least: bool = False,
    by_name: bool = False,
    rows: slice = slice(None),
) -> Ask:
    """Asks in which row of a card's table a number is the largest, or the smallest.

    of       the column with the number, by its name or its place
    called   what a row is called, with columns in braces: "layer {layer}"
    card     the key of the card, where it is not the beat's first or not always there
    by_name  the answers stand in alphabetical order: for a table that is sorted by the number itself
    rows     those that count
    """

    def ask(cards: Sequence[Card]) -> Question | None:
        one = _chosen(cards, card)
        if one is None:
            return None
        table = one.table
        values = list(table.values())[of] if isinstance(of, int) else table[of]
        lines = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)][rows]
        return leading(text, [called.format(**line) for line in lines], values[rows], least, by_name)

    return ask


def which(text: str, read: Measure, *, card: str = "", least: bool = False) -> Ask:
    """Asks which of a few names has the largest number, or the smallest; `read` gives them as a mapping."""

    def ask(cards: Sequence[Card]) -> Question | None:
        one = _chosen(cards, card)
        found = dict(read(one)) if one is not None else {}
        return leading(text, list(found), list(found.values()), least)

    return ask


def how_much(
    text: str,
    read: Measure,
    borders: Sequence[float],
    said: Callable[[float], str],
    unit: str = "",
    *,
    card: str = "",
) -> Ask:
    """Asks between which two of some borders a number lies; `said` puts a border into words, `unit` stands behind."""

    def ask(cards: Sequence[Card]) -> Question | None:
        one = _chosen(cards, card)
        return between(text, float(read(one)), borders, said, unit) if one is not None else None

    return ask


def leading(
    text: str, names: Sequence[str], values: Sequence[Any], least: bool = False, by_name: bool = False
) -> Question | None:
    """Which name has the largest value. Rows of one name count by their best; what is no finite number is left out."""
    best: dict[str, float] = {}
    for name, value in zip(names, values, strict=True):
        if _is_number(value):
            signed = -float(value) if least else float(value)
            best[name] = max(best.get(name, -math.inf), signed)
    ranked = sorted(best, key=lambda name: -best[name])
    if len(ranked) < 3:
        return None
    top, whole = ranked[0], best[ranked[0]] - best[ranked[-1]]
    wrong = [name for name in ranked if best[top] - best[name] > NEAR * whole][: CHOICES - 1]
    if best[top] - best[ranked[1]] <= TIE * whole or len(wrong) < 2:
        return None
    offered = [name for name in best if name in (top, *wrong)]
    choices = sorted(offered, key=str.casefold) if by_name else offered
    return Question(text, tuple(choices), choices.index(top))


def between(
    text: str, value: float, borders: Sequence[float], said: Callable[[float], str], unit: str = ""
) -> Question | None:
    """Between which borders a value lies."""
    if not math.isfinite(value) or any(abs(value - border) <= CLOSE * abs(border) for border in borders):
        return None
    middle = (f"{said(low)} to {said(high)}{unit}" for low, high in itertools.pairwise(borders))
    choices = (f"less than {said(borders[0])}{unit}", *middle, f"more than {said(borders[-1])}{unit}")
    return Question(text, choices, sum(value > border for border in borders))


def percent(share: float) -> str:
    """A share in words: 0.25 is 25%."""
    return f"{share:.0%}"


def plain(number: float) -> str:
    """A number in words: 1,000."""
    return f"{number:,g}"


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value)) and not isinstance(value, str)
    except (TypeError, ValueError):
        return False


def _chosen(cards: Sequence[Card], key: str) -> Card | None:
    """The card that a question is about; None where the beat shows something else now."""
    return next((one for one in cards if not key or one.key == key), None)

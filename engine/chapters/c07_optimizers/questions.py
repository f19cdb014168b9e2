"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

import numpy as np

from engine.evidence.card import Card
from engine.evidence.oracle import Shown
from engine.evidence.question import Ask, which

_SMALLEST = 1e-12
"""Heights below it have no order any more."""


def _ends(card: Card) -> dict[str, float]:
    """Where each optimizer is after its last step."""
    end = ", heights"
    return _apart({n.removesuffix(end): v for n, v in card.shown.items() if n.endswith(end)})


def _last(card: Card) -> dict[str, float]:
    """The last value of each line."""
    return _apart({name: values for name, values in card.shown.items() if np.ndim(values) == 1})


def _apart(lines: Shown) -> dict[str, float]:
    """The last values, as logarithms where all are heights above zero: there one is so many times another."""
    ends = {name: float(np.asarray(values, float)[-1]) for name, values in lines.items()}
    if any(end < -_SMALLEST for end in ends.values()):
        return ends
    return {name: float(np.log10(max(end, _SMALLEST))) for name, end in ends.items()}


ASKED: dict[str, Ask] = {
    "surface": which("Which optimizer is lowest after the last step?", _ends, least=True),
    "schedules": which(
        "Which plan for the learning rate ends highest on the noisy gradients?",
        _last,
        card="noisy",
    ),
    "muon": which("Which optimizer is lowest after the last step?", _last, card="muon-loss", least=True),
}

"""What a reader may be asked before the figures of this chapter are seen, by the key of the beat."""

import numpy as np

from engine.evidence.card import Card
from engine.evidence.oracle import Shown
from engine.evidence.question import Ask, which

_SMALLEST = 1e-12


def _ends(card: Card) -> dict[str, float]:
    """Where each optimizer is after its last step, as a logarithm."""
    end = ", heights"
    return _logarithms({n.removesuffix(end): v for n, v in card.shown.items() if n.endswith(end)})


def _last(card: Card) -> dict[str, float]:
    """The last value of each line, as a logarithm."""
    return _logarithms({name: values for name, values in card.shown.items() if np.ndim(values) == 1})


def _logarithms(lines: Shown) -> dict[str, float]:
    return {
        name: float(np.log10(np.asarray(values, float)[-1] + _SMALLEST)) for name, values in lines.items()
    }


ASKED: dict[str, Ask] = {
    "surface": which("Which optimizer is lowest after the last step?", _ends, least=True),
    "schedules": which(
        "Which plan for the learning rate ends highest on the noisy gradients?",
        _last,
        card="noisy",
    ),
    "muon": which("Which optimizer is lowest after the last step?", _last, card="muon-loss", least=True),
}

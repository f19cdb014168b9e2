"""What recomputes a figure's numbers: another way to everything that is shown, and the verdict on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from engine.evidence.comparing import max_difference

Shown = Mapping[str, ArrayLike]
"""Name -> array: exactly what a figure draws."""


@dataclass(frozen=True)
class Proof:
    """The outcome of recomputing a shown quantity by an independent path.

    `claim` says in one sentence what was compared with what; the differences are in the unit of the quantity.
    """

    claim: str
    max_abs_diff: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.max_abs_diff <= self.tolerance  # False for NaN, as it should be


@dataclass(frozen=True)
class Oracle:
    """Recomputes all that a card shows, by a path that shares no arithmetic with the one that made it.

    claim      what is compared with what, in one sentence
    compute    returns an array for every name of the card's `shown`; called when a reader asks for the proof
    tolerance  how far a number may lie from its twin: one for all, or one for each name; in the number's unit
    """

    claim: str
    compute: Callable[[], Mapping[str, Any]]
    tolerance: float | Mapping[str, float] = 0.0

    def __post_init__(self) -> None:
        given = self.tolerance.values() if isinstance(self.tolerance, Mapping) else [self.tolerance]
        if any(value < 0 for value in given):
            raise ValueError(f"a tolerance is no negative number: {self.tolerance}")

    def judge(self, shown: Shown) -> Proof:
        """Compare what is shown with what is computed; the proof tells of the array that fits worst.

        A name that only one side has, and an array of another shape, are infinitely far away.
        """
        theirs = self.compute()
        if set(theirs) != set(shown):
            return Proof(self.claim, float("inf"), 0.0)
        found = [(max_difference(shown[name], theirs[name]), self.allowed(name)) for name in shown]
        worst = max(found, key=lambda pair: _excess(*pair), default=(float("inf"), 0.0))
        return Proof(self.claim, *worst)

    def allowed(self, name: str) -> float:
        """The tolerance of one of the arrays."""
        return self.tolerance[name] if isinstance(self.tolerance, Mapping) else self.tolerance

    @property
    def widest(self) -> float:
        """The largest tolerance of any array."""
        return max(self.tolerance.values()) if isinstance(self.tolerance, Mapping) else self.tolerance


def _excess(difference: float, tolerance: float) -> float:
    """How many tolerances a difference is; what is no number is worst of all."""
    if difference != difference or tolerance != tolerance:
        return float("inf")
    return difference / tolerance if tolerance else float("inf") * difference if difference else 0.0

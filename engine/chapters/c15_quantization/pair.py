"""One checkpoint at two precisions, run on the same tokens."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from engine.evidence import script
from engine.model.cache import traced
from engine.model.capturing import token
from engine.model.loaded import Loaded
from engine.model.trace import Trace

COLORS = ("residual", "quantization_error")
"""The reference, and the precision compared with it, in every figure."""


Get = Callable[[], Loaded]
"""Gives a checkpoint at a precision, loaded where it has left the memory: a card that is kept holds no model."""


@dataclass(frozen=True)
class OfModel:
    """Something of a checkpoint at one precision, with the way to it."""

    get: Get

    @property
    def loaded(self) -> Loaded:
        """The checkpoint, for as long as the caller needs it."""
        return self.get()


@dataclass(frozen=True)
class Pair:
    """The ways to one checkpoint at two precisions; `ids` (seq) are the tokens that both read."""

    first: Get
    second: Get
    ids: tuple[int, ...]

    @property
    def reference(self) -> Loaded:
        """What is compared with."""
        return self.first()

    @property
    def other(self) -> Loaded:
        """What is compared with it."""
        return self.second()

    @property
    def names(self) -> tuple[str, str]:
        """Names of the two sides, different even where the precision is the same."""
        a, b = self.reference.precision, self.other.precision
        return (a, b) if a != b else (a, f"{b} again")

    @property
    def sides(self) -> tuple[Loaded, Loaded]:
        """The reference and the other."""
        return self.reference, self.other

    @property
    def traces(self) -> tuple[Trace, Trace]:
        """What both passes left behind, from the cache of the process."""
        return traced(self.reference, self.ids), traced(self.other, self.ids)

    @property
    def labels(self) -> list[str]:
        """The tokens as text safe to display."""
        return [token(self.reference, i).display for i in self.ids]

    def named(self, id: int) -> str:
        return token(self.reference, id).display


def fraction(shown: ArrayLike) -> float:
    """The tolerance of a comparison: a twentieth of the largest effect shown, so that it can never hide the effect.

    Two passes of one model over the same tokens take the same roundings, so what is left is float64's; the
    millionth covers effects that are 0.
    """
    return 0.05 * float(np.abs(np.asarray(shown, np.float64)).max(initial=0)) + 1e-6


def head(pair: Pair, ids: Sequence[int] | None = None) -> str:
    """The start of a script that has `reference`, `other` and `ids`."""
    given = pair.ids if ids is None else ids
    lines = script.preamble(pair.reference, given) + "reference = model\n"
    return lines + "\n".join(script.model_lines(pair.other, pair.other.precision, "other")) + "\n"


def code(start: str, body: str, **values: object) -> str:
    """A whole script: its start, then `body` without the indentation it has in the source, filled in."""
    lines = inspect.cleandoc(body) + "\n"
    return start + "\n" + (lines.format(**values) if values else lines)


def repacked(loaded: Loaded) -> bool:
    """Whether bitsandbytes has laid out 4-bit weights anew for this CPU's bfloat16 instructions."""
    states = (getattr(getattr(m, "weight", None), "quant_state", None) for m in loaded.model.modules())
    return any(getattr(state, "packing_format_for_cpu", False) for state in states if state is not None)

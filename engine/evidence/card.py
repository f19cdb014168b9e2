"""The value that a page shows: a figure together with everything that lets it prove itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from engine.evidence.oracle import Oracle, Proof, Shown

if TYPE_CHECKING:  # plotly takes a second to import; Home shows its text first
    from plotly.graph_objects import Figure


__all__ = ["Badge", "Card", "Oracle", "Proof", "Recorded"]


class Badge(StrEnum):
    """Where a figure's numbers come from."""

    LIVE = "LIVE"
    RECORDED = "RECORDED"
    TOY = "TOY"


@dataclass(frozen=True)
class Recorded:
    """The run behind a RECORDED figure."""

    script: str
    date: str
    hardware: str


@dataclass(frozen=True)
class Card:
    """One figure and its evidence.

    key      unique within its chapter; stable, used for widget keys and file names
    title    states what to see; plain text (the frame escapes it)
    alt      what a reader who cannot see the figure should know; plain text
    figure   a plotly figure, or None where the table itself is the figure
    table    column name -> values, all of one length: the numbers behind the figure
    shown    name -> array: exactly what the figure draws
    oracle   LIVE, and TOY where arithmetic is shown: recomputes all of `shown` by an independent path; the proof and,
             unless they are given, `numbers` and `atol` derive from the two
    code     LIVE: a script that needs only torch and transformers and leaves a dict `result` with the keys of
             `numbers`
    numbers  LIVE: what `result` must equal, within `atol`
    source   RECORDED: the run that wrote the file
    note     a caption below the figure; plain text
    picks    fields of the reader's state that a click on the figure chooses, in the order of a point's `customdata`

    Raises ValueError when a badge lacks its evidence.
    """

    key: str
    title: str
    alt: str
    badge: Badge
    figure: "Figure | None"
    table: Mapping[str, Sequence[Any]]
    shown: Shown = field(default_factory=dict)
    oracle: Oracle | None = None
    code: str | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    atol: float = 1e-4
    source: Recorded | None = None
    note: str = ""
    picks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.oracle is not None:
            self._derive(self.oracle)
        if not self.title or not self.alt:
            raise ValueError(f"card {self.key!r} needs a title and an alt text")
        if self.badge is Badge.LIVE and not (self.oracle and self.code and self.numbers):
            raise ValueError(f"LIVE card {self.key!r} needs an oracle, code and numbers")
        if self.badge is Badge.RECORDED and self.source is None:
            raise ValueError(f"RECORDED card {self.key!r} needs its source")
        lengths = {name: len(column) for name, column in self.table.items()}
        if not lengths or len(set(lengths.values())) != 1:
            raise ValueError(f"card {self.key!r} needs a table with columns of one length, got {lengths}")

    def prove(self) -> Proof:
        """Recompute all that is shown by the oracle's path. Raises ValueError where there is none."""
        if self.oracle is None:
            raise ValueError(f"card {self.key!r} has no oracle")
        return self.oracle.judge(self.shown)

    def _derive(self, oracle: Oracle) -> None:
        """Set what follows from `shown` and its oracle; a frozen value is set so while it is being made."""
        if not self.shown:
            raise ValueError(f"card {self.key!r} has an oracle and shows nothing for it")
        if not self.numbers:
            object.__setattr__(self, "numbers", self.shown)
            object.__setattr__(self, "atol", max(self.atol, oracle.widest))

"""What a session's page shows: which beats, which of them are near the window, which are out of date or not yet made.

One for each session. A run of the page or of a beat changes it, and so do callbacks; never two at once.
"""

import time
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import streamlit as st
from streamlit.runtime import exists, get_instance
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages._shared import state, work
from pages._shared.work import LONG, QUICK, Job, Lane, Pending, Work

PATIENCE = 0.15
"""Seconds that one run waits for work before it shows a placeholder instead."""

SHORT = 0.8
"""Seconds after which a reader is told what takes so long, and may stop it."""

CHOICES = "anatomy.choices"
"""Where choices are that hold for all beats of a chapter, by a name that is no field of the state."""

_SHEET = "anatomy.sheet"

browserless = False
"""Whether nothing tells which beats are in sight, as in a test without a browser: then all of them are, at once."""


_PART = "/"


def part(fragment: str, name: str) -> str:
    """A part of a fragment that waits for work of its own, while the rest of it does not."""
    return f"{fragment}{_PART}{name}"


def fragment_of(waiter: str) -> str:
    """The fragment that is run when the work of a waiter, itself or a part of it, has got further."""
    return waiter.partition(_PART)[0]


class Stop(Exception):
    """Raised in a beat whose work the reader has stopped."""

    def __init__(self, key: Hashable, job: Job) -> None:
        super().__init__(job.label)
        self.key, self.job = key, job


class _Session:
    """The reader behind a session."""

    def __init__(self) -> None:
        context = get_script_run_ctx(suppress_warning=True)
        self._id = context.session_id if context else ""

    @property
    def there(self) -> bool:
        return browserless or (exists() and get_instance().is_active_session(self._id))


class Sheet:
    """`beats` are names of fragments, in the order of the page."""

    def __init__(self) -> None:
        self.reader = _Session()
        self.page = ""
        self.beats: list[str] = []
        self.inside: frozenset[str] = frozenset()
        self.near: frozenset[str] = frozenset()
        self.first_in_sight = ""
        self.whole = False
        self.window = (1280, 720)
        self.goto = ("", 0)
        self._explains: dict[str, int] = {}
        self.stopped: dict[Hashable, Job] = {}
        self.asked: set[Hashable] = set()
        self._shows: dict[str, tuple[frozenset[str], Hashable]] = {}
        self._waiting: dict[str, tuple[Hashable, Job, Hashable]] = {}
        self._left: dict[Hashable, Job] = {}
        self._deadline = 0.0

    # A run

    def begin(self, page: str, beats: Sequence[str], first: str) -> None:
        """A run of the whole page begins; `first` is the beat in sight before anything has told."""
        if page != self.page or not self.inside & set(beats):
            self.inside = self.near = frozenset({first})
            self.first_in_sight = ""
            self.stopped.clear()
            self.asked.clear()
        self.page, self.beats = page, list(beats)
        self._shows.clear()
        self._explains.clear()
        self._left = {key: job for key, job, _ in self._waiting.values()}
        self._waiting.clear()

    def end(self) -> None:
        """The run is over: what the run before waited for and this one does not is left alone."""
        kept = {key for key, _, _ in self._waiting.values()}
        for key, job in self._left.items():
            if key not in kept:
                job.leave(self.reader)
        self._left = {}

    def patience(self) -> None:
        """A run begins, of the page or of some beats: from now on it may wait a little."""
        self._deadline = time.monotonic() + PATIENCE

    def explains(self, fragment: str, term: str) -> bool:
        """Whether a beat is to say what a term means: no beat further up does."""
        place = self.beats.index(fragment) if fragment in self.beats else 0
        if self._explains.get(term, place) < place:
            return False
        self._explains[term] = place
        return True

    # Work

    def work(
        self, waiter: str, key: Hashable, label: str, do: Work, *, lane: Lane = QUICK, weigh: int
    ) -> Any:
        """The result of `do`, for a fragment or a part of one.

        Raises Pending until there is one, Stop when the reader has stopped it.
        """
        if key in self.stopped:
            raise Stop(key, self.stopped[key])
        job = self.start(waiter, key, label, do, lane=lane, weigh=weigh)
        if not job.done.is_set():
            raise Pending(job)
        if job.error is not None:
            raise job.error
        return job.result

    def start(
        self, waiter: str, key: Hashable, label: str, do: Work, *, lane: Lane = QUICK, weigh: int
    ) -> Job:
        """The job under a key, after the little time that this run may wait for it."""
        if browserless:
            return work.at_once(key, label, do, self.reader, weigh=weigh)
        job = work.ask(key, label, do, self.reader, lane=lane, weigh=weigh)
        job.done.wait(max(0.0, self._deadline - time.monotonic()))
        self.wait(waiter, key, job)
        return job

    def wait(self, waiter: str, key: Hashable, job: Job) -> None:
        """A waiter waits for a job, or no longer for the one that it waited for."""
        before = self._waiting.pop(waiter, None)
        if before is not None and before[1] is not job:
            self._left[before[0]] = before[1]  # till the end of the run: a later step of the beat may want it
        if not job.done.is_set():
            self._waiting[waiter] = (key, job, _news(job))

    def is_waiting(self, fragment: str) -> bool:
        """Whether a fragment shows a placeholder in place of all that it shows."""
        return fragment in self._waiting

    def stop(self, waiter: str) -> None:
        """In a callback: the reader wants none of what a waiter waits for."""
        if waiter in self._waiting:
            key, job, _ = self._waiting.pop(waiter)
            self.stopped[key] = job
            self.asked.discard(key)
            job.leave(self.reader)

    def go_on(self, key: Hashable) -> None:
        """In a callback: the reader wants it after all."""
        self.stopped.pop(key, None)

    def stop_long(self) -> None:
        """In a callback: one long piece of work a session; a new one ends the one before."""
        for waiter, (_, job, _) in list(self._waiting.items()):
            if job.lane is LONG:
                self.stop(waiter)

    # Beats

    def wanted(self, beat: str) -> bool:
        """Whether a beat is to be drawn now."""
        return browserless or self.whole or beat in self.inside or beat in self.near

    def drew(self, beat: str, used: Iterable[str]) -> None:
        """A beat shows what the present choices make of it; `used` are those it depends on."""
        self._shows[beat] = (frozenset(used), _values(used))

    def draws(self, beat: str) -> None:
        """A beat is about to be drawn anew: it waits for nothing, until it asks again."""
        self._shows.pop(beat, None)
        for waiter in [waiter for waiter in self._waiting if fragment_of(waiter) == beat]:
            key, job, _ = self._waiting.pop(waiter)
            self._left[key] = job

    def seen(self, inside: Sequence[str], near: Iterable[str], window: tuple[int, int]) -> None:
        """What the window shows has changed; the beat in its middle comes first. `window`: width and height, pixels."""
        known = frozenset(self.beats)
        self.inside, self.near = known.intersection(inside), known.intersection(near)
        self.first_in_sight = next((beat for beat in inside if beat in known), "")
        self.window = window

    def bring(self, beat: str) -> None:
        """Let the browser scroll to a beat, once."""
        self.goto = (beat, self.goto[1] + 1)

    def due(self) -> list[str]:
        """The fragments to run now: those whose work has got further, the stale ones in sight, else one near it."""
        news = (fragment_of(name) for name, (_, job, shown) in self._waiting.items() if _news(job) != shown)
        moved = list(dict.fromkeys(news))
        stale = [beat for beat in self.beats if beat in self.inside and self._stale(beat)]
        if not moved and not stale:
            stale = [beat for beat in self.beats if self.wanted(beat) and self._stale(beat)][:1]
        return [*moved, *(beat for beat in stale if beat not in moved)]

    def stale_in_sight(self, first: str = "") -> list[str]:
        """After a choice: the beats in sight that no longer show it, and the one that the reader used."""
        if browserless:
            return list(self.beats)
        return [b for b in self.beats if b == first or (b in self.inside and self._outdated(b))]

    @property
    def busy(self) -> bool:
        """Whether something near the window is still to come."""
        return bool(self._waiting) or any(self._stale(beat) for beat in self.beats if self.wanted(beat))

    @property
    def news(self) -> int:
        """Grows while what the page waits for gets further."""
        return sum(job.version for _, job, _ in self._waiting.values())

    def _stale(self, beat: str) -> bool:
        return beat not in self._waiting and self._outdated(beat)

    def _outdated(self, beat: str) -> bool:
        if beat not in self._shows:
            return True
        used, shown = self._shows[beat]
        return shown != _values(used)


def _news(job: Job) -> Hashable:
    """What a page shows of a job that is not done; from some moment on it says what takes so long."""
    return job.version, job.done.is_set(), job.ahead, job.seconds > SHORT


def current() -> Sheet:
    """This session's sheet."""
    if _SHEET not in st.session_state:
        st.session_state[_SHEET] = Sheet()
    sheet: Sheet = st.session_state[_SHEET]
    return sheet


def _values(used: Iterable[str]) -> Hashable:
    chosen = state.current()
    named, choices = sorted(used), st.session_state.get(CHOICES, {})
    return (
        chosen.prompt,
        chosen.checkpoint,
        chosen.precision,
        current().window if state.presenting() else None,
        *(getattr(chosen, name) if hasattr(chosen, name) else choices.get(name) for name in named),
    )

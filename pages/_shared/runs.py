"""Work that a reader starts, stops and continues, while it is shown: one such run at a time for the whole server.

Unlike other work it belongs to one session, and its state stays when it is stopped.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import streamlit as st

from engine.evidence.card import Card
from engine.tokens.text import markdown
from pages._shared import sheet, work
from pages._shared.view import View
from pages._shared.work import Job, Lane, Progress, Stopped

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

SECONDS = 60.0
"""How long one start or continuation may run while others wait."""

_PUBLISHED_EVERY = 1.5
_SESSION = "anatomy.runs"


class Steps(Protocol):
    """Work in small steps."""

    def advance(self, publish: bool) -> bool:
        """Take a step, and make what was reached visible to other threads if asked to; whether there is another."""


class Run:
    """Some work in steps, and the job that takes them; a stopped run can be continued by another job."""

    def __init__(self, steps: Steps, lane: Lane = work.LONG, seconds: float = SECONDS) -> None:
        self.steps, self.lane, self.seconds = steps, lane, seconds
        self.begun = self.over = False
        self.job: Job | None = None
        self._last = False

    @property
    def busy(self) -> bool:
        """Whether it is waiting or running."""
        return self.job is not None and not self.job.done.is_set()

    @property
    def error(self) -> BaseException | None:
        return self.job.error if self.job is not None and not isinstance(self.job.error, Stopped) else None

    def start(self, reader: work.Reader) -> None:
        """Go on with the work when its turn comes. Does nothing while that is under way."""
        if self.busy or self.over or self.error is not None:
            return
        self.begun, self._last = True, False
        self.job = Job("Waiting", self._go, self.lane, lambda job: None)
        self.job.join(reader)
        self.lane.put(self.job)

    def stop(self) -> None:
        """Stop after the current step, which is still published."""
        self._last = True

    def _go(self, progress: Progress) -> None:
        """Steps until the end of the work or the minute, or until nobody wants more; the last one is published."""
        start = published = time.monotonic()
        while not self.over:
            now = time.monotonic()
            share = (now - start) / self.seconds
            last = self._last or share >= 1
            publish = last or now - published > _PUBLISHED_EVERY
            self.over = not self.steps.advance(publish)
            if publish:
                published = now
                progress(share, f"It pauses by itself in {max(0.0, self.seconds * (1 - share)):.0f} seconds.")
            if last:
                return


def run(
    view: View,
    key: Hashable,
    make: Callable[[], Steps],
    draw: Callable[[Any], Sequence[Card]],
    where: "DeltaGenerator | None" = None,
) -> Sequence[Card]:
    """The cards that `draw` makes of some work, with buttons to start, stop and continue it.

    `key` names everything that `make` depends on: another key starts anew. While the work goes on, the beat is drawn
    again and again. The buttons go into `where`, or to the end of the controls. An error of the work is raised here.
    """
    view.live()
    mine = _mine(view, key, make)
    with where or view.controls:
        _buttons(view, mine)
    if mine.error is not None:
        raise mine.error
    if mine.job is not None and mine.busy:
        sheet.current().wait(view.fragment, ("run", id(mine)), mine.job)
        with view.stage:
            _status(mine.job)
    return draw(mine.steps)


def _mine(view: View, key: Hashable, make: Callable[[], Steps]) -> Run:
    """This session's run in a beat. Another key stops the old one and makes a new one."""
    kept: dict[str, tuple[Hashable, Run]] = st.session_state.setdefault(_SESSION, {})
    old_key, old = kept.get(view.fragment, (None, None))
    if old is not None and old_key == key:
        return old
    if old is not None:
        old.stop()
    new = Run(make())
    kept[view.fragment] = (key, new)
    return new


def _again(fragment: str) -> None:
    """In a callback: the run leaves the session, so that the next look makes a new one."""
    _, old = st.session_state.get(_SESSION, {}).pop(fragment, (None, None))
    if old is not None:
        old.stop()


def _start(mine: Run) -> None:
    here = sheet.current()
    here.stop_long()
    mine.start(here.reader)


def _buttons(view: View, mine: Run) -> None:
    with st.container(horizontal=True, gap="small"):
        if mine.busy:
            st.button("Stop", on_click=mine.stop, key=view.key("stop"))
            return
        if not mine.over and mine.error is None:
            name = "Continue" if mine.begun else "Start"
            st.button(name, on_click=_start, args=(mine,), key=view.key("start"), type="primary")
        if mine.begun:
            st.button("Start over", on_click=_again, args=(view.fragment,), key=view.key("again"))


def _status(job: Job) -> None:
    """How far the run is, or who is before it."""
    if job.ahead or job.share is None:
        st.info(markdown(place(job.ahead)), icon=":material/schedule:")
    else:
        st.progress(job.share, text=job.what)


def place(ahead: int) -> str:
    """A waiting reader's place in the queue, in a sentence."""
    return (
        f"Waiting for your turn, {ahead} ahead of you in the queue: this server does one of these at a time."
    )

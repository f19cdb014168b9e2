"""Work that a reader starts, stops and continues, while it is shown: one at a time for the whole server.

Unlike `slow`, it belongs to one session, its state stays when it is stopped, and it always queues, on a private
computer too. It goes on only while its reader looks on: a closed tab gives the place back.
"""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import streamlit as st

from engine.evidence.card import Card
from engine.tokens.text import markdown
from pages._shared import card as cards
from pages._shared.jobs import Queue, queue
from pages._shared.view import View

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

SECONDS = 60.0
"""How long one start or continuation may run while others wait."""

ABANDONED = 20.0
"""Seconds without a look at the work after which it stops by itself: the tab is closed, or on another page."""

READY, WAITING, RUNNING = "ready", "waiting", "running"

_PUBLISHED_EVERY = 0.5
_POLL_SECONDS, _DRAW_SECONDS = 1.0, 2.0
_SESSION = "anatomy.runs"


class Work(Protocol):
    """Work in small steps."""

    def advance(self, publish: bool) -> bool:
        """Take a step, and make what was reached visible to other threads if asked to; whether there is another."""


class Run:
    """Some work, and a thread that takes its steps when its turn has come."""

    def __init__(self, work: Work, line: Queue = queue, seconds: float = SECONDS) -> None:
        self.work, self.line, self.seconds = work, line, seconds
        self.phase, self.ahead, self.share = READY, 0, 0.0
        self.begun, self.over = False, False
        self.rest = 0.0
        self.error: Exception | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.look()

    def look(self) -> None:
        """The reader is there."""
        self._seen = time.monotonic()

    def start(self) -> None:
        """Enter the queue, and go on with the work when its turn comes. Does nothing while that is under way."""
        if self.busy or self.over:
            return
        self._stop.clear()
        self.look()
        self.phase, self.share = WAITING, 0.0
        ticket = self.line.enter()
        self._thread = threading.Thread(target=self._go, args=(ticket,), name="run", daemon=True)
        self._thread.start()

    def stop(self, wait: float = 5.0) -> None:
        """Stop after the current step, and wait for that."""
        self._stop.set()
        if self._thread:
            self._thread.join(wait)

    @property
    def busy(self) -> bool:
        """Whether it is waiting or running."""
        return self.phase != READY

    def _wanted(self) -> bool:
        return not self._stop.is_set() and time.monotonic() - self._seen < ABANDONED

    def _go(self, ticket: int) -> None:
        try:
            if self._turn(ticket):
                self._steps()
        except Exception as error:  # shown by the page, in the reader's session
            self.error, self.over = error, True
        finally:
            self.line.leave(ticket)
            self.phase = READY

    def _turn(self, ticket: int) -> bool:
        """Wait for the turn; whether it came before the reader went."""
        while self._wanted():
            self.ahead = self.line.ahead(ticket)
            if self.line.wait(ticket, 0.2):
                return True
        return False

    def _steps(self) -> None:
        """Steps until the end of the work or the minute, or until nobody wants more; the last one is published."""
        self.phase, self.begun = RUNNING, True
        start = published = time.monotonic()
        last = False
        while not (last or self.over):
            now = time.monotonic()
            self.share = (now - start) / self.seconds
            last = self.share >= 1 or not self._wanted()
            publish = last or now - published > _PUBLISHED_EVERY
            published = now if publish else published
            self.over = not self.work.advance(publish)


def run(
    view: View,
    key: Hashable,
    make: Callable[[], Work],
    draw: Callable[[Any], Sequence[Card]],
    where: "DeltaGenerator | None" = None,
) -> None:
    """Show work with buttons to start, stop and continue it, and the cards that `draw` makes of it.

    `key` names everything that `make` depends on: another key starts anew. While the work goes on, the cards are
    drawn again and again. The buttons go into `where`, or to the end of the controls. An error of the work is
    raised here.
    """
    mine = _mine(view, key, make)
    with where or view.controls:
        _buttons(view, mine)
    if mine.error is not None:
        raise mine.error
    phase = mine.phase
    st.fragment(_status, run_every=None if phase == READY else _POLL_SECONDS)(mine, phase)
    st.fragment(_cards, run_every=_DRAW_SECONDS if phase == RUNNING else None)(mine, draw, view.page)


def _mine(view: View, key: Hashable, make: Callable[[], Work]) -> Run:
    """This session's run in a beat. Another key stops the old one and makes a new one."""
    kept: dict[str, tuple[Hashable, Run]] = st.session_state.setdefault(_SESSION, {})
    old_key, old = kept.get(view.fragment, (None, None))
    if old is not None and old_key == key:
        return old
    if old is not None:
        old.stop(wait=0)
    new = Run(make())
    kept[view.fragment] = (key, new)
    return new


def _again(view_fragment: str) -> None:
    """In a callback: the run leaves the session, so that the next look makes a new one."""
    _, old = st.session_state.get(_SESSION, {}).pop(view_fragment, (None, None))
    if old is not None:
        old.stop(wait=0)


def _buttons(view: View, mine: Run) -> None:
    with st.container(horizontal=True, gap="small"):
        if mine.busy:
            st.button("Stop", on_click=mine.stop, key=view.key("stop"))
            return
        if not mine.over:
            name = "Continue" if mine.begun else "Start"
            st.button(name, on_click=mine.start, key=view.key("start"), type="primary")
        if mine.begun:
            st.button("Start over", on_click=_again, args=(view.fragment,), key=view.key("again"))


def _status(mine: Run, phase: str) -> None:
    """How far the run is. When its turn comes, and when it is over, the page runs again."""
    mine.look()
    if phase != mine.phase:
        st.rerun()  # only a callback may rerun another fragment
    with st.container():  # there when it is empty too, so that the cards keep their places
        if phase == WAITING:
            st.info(markdown(place(mine.ahead)), icon=":material/schedule:")
        elif phase == RUNNING:
            left = max(0.0, mine.seconds * (1 - mine.share))
            st.progress(min(mine.share, 1.0), text=f"It pauses by itself in {left:.0f} seconds.")


def _cards(mine: Run, draw: Callable[[Any], Sequence[Card]], page: str) -> None:
    """The cards. Drawing holds the interpreter's lock, so the work gets as much time before it to itself."""
    if mine.phase == RUNNING:
        time.sleep(mine.rest)
    start = time.monotonic()
    for card in draw(mine.work):
        cards.draw(card, page)
    mine.rest = min(time.monotonic() - start, _DRAW_SECONDS)


def place(ahead: int) -> str:
    """A waiting reader's place in the queue, in a sentence."""
    return (
        f"Waiting for your turn, {ahead} ahead of you in the queue: this server does one of these at a time."
    )

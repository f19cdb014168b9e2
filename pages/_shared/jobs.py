"""Heavy jobs: on a public deployment one at a time, in the order they were asked for."""

import itertools
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import streamlit as st

from engine.checkpoints.catalogue import public
from engine.tokens.text import markdown

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

_POLL_SECONDS = 0.25


class Queue:
    """A first-come queue with one place at the counter. A ticket that is given back never blocks the others."""

    def __init__(self) -> None:
        self._tickets: deque[int] = deque()
        self._numbers = itertools.count()
        self._moved = threading.Condition()

    def enter(self) -> int:
        with self._moved:
            ticket = next(self._numbers)
            self._tickets.append(ticket)
            return ticket

    def leave(self, ticket: int) -> None:
        with self._moved:
            self._tickets.remove(ticket)
            self._moved.notify_all()

    def ahead(self, ticket: int) -> int:
        """How many tickets are served before this one."""
        with self._moved:
            return self._tickets.index(ticket)

    def wait(self, ticket: int, seconds: float) -> bool:
        """Wait for the ticket's turn, at most `seconds`; whether the turn has come."""
        with self._moved:
            return self._moved.wait_for(lambda: self._tickets[0] == ticket, timeout=seconds)


queue = Queue()
_mine = threading.local()


@contextmanager
def job(label: str, where: "DeltaGenerator | None" = None) -> Iterator[None]:
    """Run the body as one heavy job, showing the place in the queue while it waits.

    A session that goes away is stopped by streamlit at the next thing it draws, which is at most one poll later;
    leaving the queue is in a `finally`, so it holds nobody up. A job inside a job runs at once.
    """
    if not public() or getattr(_mine, "busy", False):
        yield
        return
    ticket = queue.enter()
    try:
        _wait(ticket, label, where)
        _mine.busy = True
        yield
    finally:
        _mine.busy = False
        queue.leave(ticket)


def _wait(ticket: int, label: str, where: "DeltaGenerator | None") -> None:
    if queue.wait(ticket, 0):
        return
    place = (where or st).empty()
    while not queue.wait(ticket, _POLL_SECONDS):
        ahead = queue.ahead(ticket)
        sentence = f"{markdown(label)} is waiting: {ahead} ahead of you in the queue."
        place.info(sentence, icon=":material/schedule:")
    place.empty()

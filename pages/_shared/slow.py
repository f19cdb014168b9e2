"""Slow work: started by a button, shown as it goes, stopped on request, kept for the whole process.

The work runs in a thread of its own and only ever touches its `Job`. A small fragment asks the job how far it is, so
*Stop* is answered at once: streamlit would not interrupt a fragment that is busy.
"""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st
from cachetools import LRUCache

from engine.checkpoints.catalogue import public
from engine.tokens.text import markdown
from pages._shared.jobs import queue
from pages._shared.view import View

Progress = Callable[[float, str], None]
"""Told (share done between 0 and 1, what is being done)."""

KEPT = 64
"""Results kept, for all sessions together; the least recently used leave first."""

_POLL_SECONDS = 0.5


class Stopped(Exception):
    """Raised inside the work at its next report of progress."""


class Job:
    """One piece of slow work under way, and in the end its result or its error."""

    def __init__(self, label: str, work: Callable[[Progress], Any]) -> None:
        self.share, self.what = 0.0, label
        self.done, self.stop = threading.Event(), threading.Event()
        self.result: Any = None
        self.error: Exception | None = None
        threading.Thread(target=self._run, args=(work,), name=f"slow: {label}", daemon=True).start()

    def report(self, share: float, what: str) -> None:
        """Note the progress. Raises Stopped when the reader asked to stop."""
        if self.stop.is_set():
            raise Stopped
        self.share, self.what = min(max(float(share), 0.0), 1.0), what

    def _run(self, work: Callable[[Progress], Any]) -> None:
        try:
            with _turn(self.report):
                self.result = work(self.report)
        except Exception as error:  # shown by the page, in the reader's session
            self.error = error
        finally:
            self.done.set()


@contextmanager
def _turn(report: Progress) -> Iterator[None]:
    """On a public deployment: wait for this job's turn, saying how many are ahead."""
    if not public():
        yield
        return
    ticket = queue.enter()
    try:
        while not queue.wait(ticket, _POLL_SECONDS):
            report(0.0, f"Waiting: {queue.ahead(ticket)} ahead in the queue")
        yield
    finally:
        queue.leave(ticket)


class _Jobs(LRUCache[Hashable, Job]):
    """The least recently used job is told to stop when it leaves."""

    def popitem(self) -> tuple[Hashable, Job]:
        key, job = super().popitem()
        job.stop.set()
        return key, job


_jobs = _Jobs(KEPT)
_lock = threading.Lock()


def slow(view: View, label: str, key: Hashable, work: Callable[[Progress], Any]) -> Any:
    """The result of `work` under `key`, or None until the reader has asked for it with the button `label`.

    `key` names everything the result depends on: two readers with the same key share one run and its result. `work`
    runs in a thread of its own, so it must not call streamlit; it is given a function to report progress with, often
    enough that *Stop* answers within a second or so. What was not finished is dropped. The button goes into the
    controls of the beat, the progress bar above its figures. An error of the work is raised here.
    """
    full = (view.page, view.beat, label, key)
    job = _current(full)
    if job is None:
        with view.controls:
            asked = st.button(label, key=view.key(f"slow-{label}"), type="primary")
        if not asked:
            return None
        job = _start(full, label, work)
        job.done.wait(_POLL_SECONDS)  # short work needs no bar
    if job.done.is_set():
        return _finished(full, job)
    with view.stage:
        st.fragment(_watch, run_every=_POLL_SECONDS)(job, view.key(f"stop-{label}"))
    return None


def forget() -> None:
    """Drop every kept result."""
    with _lock:
        _jobs.clear()


def _current(full: Hashable) -> Job | None:
    with _lock:
        return _jobs.get(full)


def _start(full: Hashable, label: str, work: Callable[[Progress], Any]) -> Job:
    with _lock:
        if full not in _jobs:
            _jobs[full] = Job(label, work)
        return _jobs[full]


def _finished(full: Hashable, job: Job) -> Any:
    if job.error is None:
        return job.result
    with _lock:
        _jobs.pop(full, None)
    if isinstance(job.error, Stopped):
        return None
    raise job.error


def _watch(job: Job, key: str) -> None:
    """Shows how far the job is; when it is over, the page runs again and finds the result."""
    if job.done.is_set():
        st.rerun()  # only a callback may rerun another fragment
    st.progress(job.share, text=markdown(job.what))
    if st.button("Stop", key=key):
        job.stop.set()

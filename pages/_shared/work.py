"""Work that takes longer than a blink: done in threads of its own, once for all readers who ask the same.

A page never waits for it. It asks for a `Job`, shows how far that is, and is drawn again when it has got further
(`pages._shared.pulse`). A job ends when nobody looks at it any more: the reader went to another page, pressed *Stop*,
or closed the tab.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from cachetools import LRUCache

from engine.checkpoints.catalogue import public
from engine.model.stopping import stoppable

KEPT_BYTES = 192_000_000
"""What results may hold in all, by their own account of it; the least recently used leave first."""

PLAIN_BYTES = 100_000
"""What a result is taken to hold when it does not say."""


class Stopped(BaseException):
    """Raised inside the work, at its next report or forward pass, when nobody wants it any more.

    No `Exception`: it must pass what turns every error of a stranger's model into a sentence.
    """


class Pending(Exception):
    """Raised in a page that needs what a job has not yet made."""

    def __init__(self, job: "Job") -> None:
        super().__init__(job.label)
        self.job = job


class Reader(Protocol):
    """Who waits for a job."""

    @property
    def there(self) -> bool:
        """Whether the reader is still connected."""


class Progress:
    """What work is given to tell how far it is. Each call raises `Stopped` when nobody wants the work any more."""

    def __init__(self, job: "Job") -> None:
        self._job = job

    def __call__(self, share: float, what: str) -> None:
        """The share done, between 0 and 1, and what is being done, in plain words."""
        self._job.check()
        self._job.share, self._job.what = min(max(float(share), 0.0), 1.0), what
        self._job.version += 1

    def show(self, *columns: str) -> None:
        """Text that grows, as markdown, one for each column."""
        self._job.check()
        self._job.columns = columns
        self._job.version += 1

    def keep(self, so_far: Any) -> None:
        """What the work has made so far, for a reader who stops it."""
        self._job.so_far = so_far

    def changed(self) -> None:
        """Something that the page reads by itself has changed."""
        self._job.check()
        self._job.version += 1


Work = Callable[[Progress], Any]


class Job:
    """One piece of work: waiting, under way or done.

    version  grows with every change that a page could show
    share    of the work that is done, None while that is not known
    columns  text written so far, as markdown
    """

    def __init__(self, label: str, do: Work, lane: "Lane", keep: "Callable[[Job], None]") -> None:
        self.label, self.lane, self._do, self._keep = label, lane, do, keep
        self.version, self.what = 0, label
        self.share: float | None = None
        self.columns: tuple[str, ...] = ()
        self.done = threading.Event()
        self.result: Any = None
        self.so_far: Any = None
        self.error: BaseException | None = None
        self.begun = self.ended = time.monotonic()
        self.readers: frozenset[Reader] = frozenset()  # replaced, never changed

    @property
    def ahead(self) -> int:
        """How many others are served before this one."""
        return self.lane.ahead(self)

    @property
    def seconds(self) -> float:
        """Since it was asked for."""
        return time.monotonic() - self.begun

    @property
    def wanted(self) -> bool:
        return any(reader.there for reader in self.readers)

    def join(self, reader: Reader) -> None:
        self.readers |= {reader}

    def leave(self, reader: Reader) -> None:
        """One reader wants it no more; without readers it stops."""
        self.readers -= {reader}

    def check(self) -> None:
        if not self.wanted:
            raise Stopped

    def run(self) -> None:
        """In a worker's thread."""
        try:
            self.check()
            with stoppable(self.check):
                self.result = self._do(Progress(self))
        except (Exception, Stopped) as error:  # shown by the page, in the reader's session
            self.error = error.with_traceback(None) if isinstance(error, Stopped) else error
        finally:
            del self._do  # and what it holds
            self.ended = time.monotonic()
            self._keep(self)
            self.version += 1
            self.done.set()


class Lane:
    """A queue, and threads that take from it; they end when there is nothing left to do.

    A job that has taken longer than `patience` no longer counts: it would hold up all the short ones behind it. At most
    `most` threads work at once.
    """

    def __init__(
        self, name: str, threads: Callable[[], int], patience: float = float("inf"), most: int = 8
    ) -> None:
        self.name, self._threads, self._patience, self._most = name, threads, patience, most
        self._waiting: deque[Job] = deque()
        self._begun: dict[object, float] = {}
        self._lock = threading.Lock()

    def put(self, job: Job) -> None:
        with self._lock:
            self._waiting.append(job)
        self.relieve()

    def relieve(self) -> None:
        """Start a thread if something waits and there is room for one more."""
        with self._lock:
            now = time.monotonic()
            counted = sum(now - begun < self._patience for begun in self._begun.values())
            if not self._waiting or counted >= self._threads() or len(self._begun) >= self._most:
                return
            place = object()
            self._begun[place] = now
        threading.Thread(target=self._work, args=(place,), name=f"work: {self.name}", daemon=True).start()

    def ahead(self, job: Job) -> int:
        with self._lock:
            return self._waiting.index(job) if job in self._waiting else 0

    def _work(self, place: object) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    del self._begun[place]
                    return
                job = self._waiting.popleft()
                self._begun[place] = time.monotonic()
            job.run()


QUICK = Lane("figures", lambda: 2, patience=2.0)
"""Figures and short texts: what a page shows by itself."""

LONG = Lane("long work", lambda: 1 if public() else max(1, (os.cpu_count() or 2) // 2))
"""Trainings, sweeps and passages: what a reader asks for, one after another on a public copy."""


_RETRY_SECONDS = 30.0

_jobs: dict[Hashable, Job] = {}  # waiting or under way
_results: LRUCache[Hashable, tuple[Job, int]] = LRUCache(KEPT_BYTES, getsizeof=lambda pair: pair[1])
_lock = threading.Lock()


def ask(
    key: Hashable, label: str, do: Work, reader: Reader, *, lane: Lane = QUICK, weigh: int = PLAIN_BYTES
) -> Job:
    """The job under `key`, begun when nobody has begun it. `key` names all that the result depends on.

    An error is kept for a while too, so that a page can show it; then the next who asks tries again.
    """
    with _lock:
        job = _finished(key)
        if job is not None:
            return job
        job = _jobs.get(key)
        if job is not None and job.wanted:
            job.join(reader)
            job.lane.relieve()
            return job
        job = _jobs[key] = Job(label, do, lane, lambda made: _keep(key, made, weigh))
        job.join(reader)
    lane.put(job)
    return job


def at_once(key: Hashable, label: str, do: Work, reader: Reader, *, weigh: int = PLAIN_BYTES) -> Job:
    """As `ask`, but done in this thread before it returns: for a page that no browser looks at."""
    with _lock:
        job = _finished(key)
    if job is None:
        job = Job(label, do, QUICK, lambda made: _keep(key, made, weigh))
        job.join(reader)
        job.run()
    return job


def found(key: Hashable) -> Job | None:
    """The finished job under `key`, if its result is kept."""
    with _lock:
        return _finished(key)


def forget() -> None:
    """Drop every kept result."""
    with _lock:
        _results.clear()


def _finished(key: Hashable) -> Job | None:
    job, _ = _results.get(key, (None, 0))
    if job is not None and job.error is not None and time.monotonic() - job.ended > _RETRY_SECONDS:
        del _results[key]
        return None
    return job


def _keep(key: Hashable, job: Job, weigh: int) -> None:
    """In the worker: a finished job moves to the results, unless it was stopped."""
    with _lock:
        if _jobs.get(key) is job:
            del _jobs[key]
        if not isinstance(job.error, Stopped):
            _results[key] = (job, min(weigh, KEPT_BYTES // 2))

"""Work that somebody else may end: it asks, wherever ending it is safe, whether it is still wanted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_asked: ContextVar[Callable[[], None] | None] = ContextVar("stopping", default=None)


def stop_here() -> None:
    """A place where work may end: raises what `stoppable` was given to raise, and does nothing outside of it."""
    check = _asked.get()
    if check is not None:
        check()


@contextmanager
def stoppable(check: Callable[[], None]) -> Iterator[None]:
    """While the body runs in this thread, `check` is called before each forward pass; it raises to end the work."""
    before = _asked.set(check)
    try:
        yield
    finally:
        _asked.reset(before)

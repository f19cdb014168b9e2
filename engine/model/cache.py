"""Traces kept for the whole process, bounded by bytes."""

import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from cachetools import LRUCache

if TYPE_CHECKING:
    from engine.model.interventions import Intervention
    from engine.model.loaded import Loaded
    from engine.model.trace import Trace


class Sized(Protocol):
    """Anything that knows how many bytes it holds."""

    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


class ByteLRU(Generic[Value]):
    """The least recently used values leave when the total of `nbytes` would pass `limit`. Safe for threads."""

    def __init__(self, limit: int) -> None:
        self._values: LRUCache[Hashable, Value] = LRUCache(limit, getsizeof=lambda value: value.nbytes)
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    @property
    def limit(self) -> int:
        return int(self._values.maxsize)

    @property
    def nbytes(self) -> int:
        """Bytes held now; never above `limit`."""
        return int(self._values.currsize)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value under `key`, made by `make` when missing, once for all who ask meanwhile.

        Other keys are not held up. Too large a value is not kept.
        """
        with self._lock:
            if key in self._values:
                return self._values[key]
            mine = self._making.setdefault(key, threading.Lock())
        with mine:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            try:
                value = make()
                with self._lock, suppress(ValueError):  # larger than the whole cache
                    self._values[key] = value
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return value

    def clear(self) -> None:
        with self._lock:
            self._values.clear()


traces: "ByteLRU[Trace]" = ByteLRU(limit=192 * 1024 * 1024)
"""The one cache of traces of this process."""


def traced(
    loaded: "Loaded", text: "str | Sequence[int]", interventions: "Sequence[Intervention]" = ()
) -> "Trace":
    """`capture`, remembered by (checkpoint, revision, precision, token ids, interventions)."""
    from engine.model.capturing import capture, tokenize

    ids = tuple(t.id for t in tokenize(loaded, text)) if isinstance(text, str) else tuple(text)
    key = (loaded.name, loaded.revision, loaded.precision, loaded.device, ids, tuple(interventions))
    return traces.get(key, lambda: capture(loaded, ids, interventions))

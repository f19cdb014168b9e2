"""Loaded checkpoints, shared by all sessions: what a page is using stays, the rest makes room for what comes."""

import gc
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar

IDLE_SECONDS = 120.0
"""How long a page that nobody touches keeps its models from making room for another reader's."""


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


class Key(NamedTuple):
    """A checkpoint, by the name it was asked for, at a precision."""

    name: str
    precision: str


Model = TypeVar("Model", bound=Sized)


class Page:
    """What the page that a session looks at is using. It lives as long as the session."""

    def __init__(self) -> None:
        self.of: Hashable = None
        self.now: frozenset[Key] = frozenset()  # replaced, never changed: other sessions read it meanwhile
        self.before: frozenset[Key] = frozenset()
        self.touched = time.monotonic()

    def begin(self, of: Hashable) -> None:
        """A run of all beats begins, of the page and checkpoint `of`; what the last run of the same used is kept."""
        self.before = self.now if of == self.of else frozenset()
        self.now, self.of = frozenset(), of
        self.touched = time.monotonic()

    def touch(self) -> None:
        """The reader is there."""
        self.touched = time.monotonic()

    def use(self, key: Key) -> None:
        self.now |= {key}
        self.touched = time.monotonic()

    @property
    def used(self) -> frozenset[Key]:
        """What must not leave for the sake of other sessions."""
        idle = time.monotonic() - self.touched > IDLE_SECONDS
        return frozenset() if idle else self.now | self.before


class Room(NamedTuple):
    """Bytes: held by all models, free on the device (None: not known), and held by models that could leave now."""

    held: int
    free: int | None
    leaving: int


class ModelCache(Generic[Model]):
    """Models by key, the least recently used first.

    needed  bytes that loading a key takes
    free    bytes free on the device now; None where nothing tells
    limit   bytes that models may hold in all, given a `Room`: above it, those leave that no page is using
    refuse  raises when a key cannot have the bytes it needs, before anything has left for it
    """

    def __init__(
        self,
        needed: Callable[[Key], int],
        free: Callable[[], int | None],
        limit: Callable[[Room], int],
        refuse: Callable[[Key, int, Room], None],
    ) -> None:
        self._needed, self._free, self._limit, self._refuse = needed, free, limit, refuse
        self._models: OrderedDict[Key, tuple[Model, int]] = OrderedDict()
        self._pages: weakref.WeakSet[Page] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()

    def __contains__(self, key: Key) -> bool:
        return key in self._models

    def page(self) -> Page:
        """A page for a new session."""
        page = Page()
        with self._lock:
            self._pages.add(page)
        return page

    def get(self, key: Key, load: Callable[[], Model], page: Page | None = None) -> Model:
        """The model under a key, loaded once for all; `page` is using it from now on."""
        model = self._recent(key)
        if model is None:
            with self._one_at_a_time:
                model = self._recent(key)
                if model is None:
                    model = self._new(key, load, page)
        if page is not None:
            page.use(key)
        return model

    def _recent(self, key: Key) -> Model | None:
        with self._lock:
            if key not in self._models:
                return None
            self._models.move_to_end(key)
            return self._models[key][0]

    def _new(self, key: Key, load: Callable[[], Model], page: Page | None) -> Model:
        self._make_room(key, page)
        model = load()
        with self._lock:
            self._models[key] = (model, model.nbytes)
        return model

    def _make_room(self, key: Key, page: Page | None) -> None:
        """Let as many models leave as the new one needs, the least recently used first; none when that is no use."""
        needs, free = self._needed(key), self._free()
        with self._lock:
            leavers = self._leavers(page)
            held = sum(size for _, size in self._models.values())
            room = Room(held, free, sum(self._models[one][1] for one in leavers))
            self._refuse(key, needs, room)
            limit, gone = self._limit(room), 0
            for one in leavers:
                if held - gone + needs <= limit and (free is None or needs <= free + gone):
                    break
                gone += self._models.pop(one)[1]
        if gone:
            gc.unfreeze()  # it may have been there when libraries were set aside
            gc.collect()  # a model and its hooks refer to one another
            gc.freeze()

    def _leavers(self, page: Page | None) -> list[Key]:
        """What may leave: what no page is using, then what this page used only before its present run."""
        nothing: frozenset[Key] = frozenset()
        used = nothing.union(*(other.used for other in self._pages if other is not page))
        now, before = (page.now, page.before) if page is not None else (nothing, nothing)
        return sorted((one for one in self._models if one not in used | now), key=before.__contains__)

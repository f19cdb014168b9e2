"""What the process keeps for all sessions: loaded checkpoints, and traces through `engine.model.cache`."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from engine.checkpoints import memory
from engine.checkpoints.catalogue import BUNDLED, TUNED, public
from engine.checkpoints.naming import short
from engine.model.precisions import precision as record_of
from pages._shared import state
from pages._shared.model_cache import Key, ModelCache, Page, Room

if TYPE_CHECKING:
    from engine import Loaded, Token, Trace

TOKENS_SHOWN = 128
"""The pages look at the first tokens of a prompt, at most so many."""

KEPT_BYTES = 1_400_000_000
"""Weights in memory: all that a public copy holds, and what any other may keep however small the machine is. The
135 million numbers of SmolLM2 at three precisions are below it, with what loading the third takes for a moment."""

Report = Callable[[float, str], None]
"""Told (share done between 0 and 1, what is being done)."""

_report: ContextVar[Report | None] = ContextVar("report", default=None)
_behalf: ContextVar[Page | None] = ContextVar("behalf", default=None)
_PAGE = "anatomy.models"
_aside: set[str] = set()
_putting_aside = threading.Lock()
_SMALL = frozenset(checkpoint.name for checkpoint in (*BUNDLED, *TUNED))


def in_memory(name: str, precision: str) -> bool:
    """Whether this checkpoint at this precision can be had without loading it."""
    return Key(name, precision) in _models


def loaded(name: str, precision: str) -> "Loaded":
    """A checkpoint at a precision, loaded once for the process. Raises ReaderError when it cannot be loaded.

    Checkpoints that no page is using make room for it, and it stays for as long as this page is using it.
    """
    return _models.get(Key(name, precision), lambda: _load(name, precision), page_in_use())


@contextmanager
def telling(report: Report) -> Iterator[None]:
    """While the body loads checkpoints, tell how far the preparation of a GGUF file is, which happens once."""
    before = _report.set(report)
    try:
        yield
    finally:
        _report.reset(before)


@contextmanager
def on_behalf(page: Page | None, report: Report) -> Iterator[None]:
    """In a worker's thread: what the body loads is in use by that page, and it tells how far loading is."""
    before = _behalf.set(page)
    try:
        with telling(report):
            yield
    finally:
        _behalf.reset(before)


def begin_run() -> None:
    """All beats of the page are about to be drawn: what they use from now on is what the page is using."""
    page, chosen = page_in_use(), state.current()
    if page is not None:
        page.begin((state.page(), chosen.checkpoint, chosen.precision))


def begin_some() -> None:
    """Some beats of the page are about to be drawn: what the others use stays in use."""
    page = page_in_use()
    if page is not None:
        page.touch()


def page_in_use() -> Page | None:
    """What this session's page is using; None outside of a session, in a thread that works for all."""
    behalf = _behalf.get()
    if behalf is not None:
        return behalf
    if get_script_run_ctx(suppress_warning=True) is None:
        return None
    if _PAGE not in st.session_state:
        st.session_state[_PAGE] = _models.page()
    page: Page = st.session_state[_PAGE]
    return page


def _load(name: str, precision: str) -> "Loaded":
    from engine import load

    if record_of(precision).quantized:
        set_aside("bitsandbytes")
    return load(name, precision, report=_report.get())


def _needed(key: Key) -> int:
    at = record_of(key.precision)
    return memory.needed(memory.files(key.name), at.peak, at.storage.other)


def _free() -> int | None:
    return memory.free(memory.device())


def _limit(room: Room) -> int:
    """Half of what the machine could give to models, but on a public copy a number that does not change."""
    if public() or room.free is None:
        return KEPT_BYTES
    return max(KEPT_BYTES, (room.held + room.free) // 2)


def _refuse(key: Key, needs: int, room: Room) -> None:
    """Say that a checkpoint does not fit, even when all leave that no page is using."""
    name, in_use = short(key.name), room.held - room.leaving
    if room.free is not None and needs > room.free + room.leaving:
        raise memory.no_room(name, needs, room.free + room.leaving, key.precision, memory.device())
    if public() and in_use and in_use + needs > KEPT_BYTES and key.name not in _SMALL:
        raise memory.NoRoom(
            f"“{name}” at {key.precision} does not fit into the memory of this public copy beside what its readers "
            "are using now; choose another precision or checkpoint, or try again later."
        )


_models: "ModelCache[Loaded]" = ModelCache(_needed, _free, _limit, _refuse)


def set_aside(library: str) -> None:
    """Once for each library that imports much: tell the garbage collector that all there is now stays.

    Streamlit collects after every run, before its last messages leave. Walking torch and transformers each time would
    add a quarter of a second between a control and its figure, and bitsandbytes with torch's compiler a tenth. Models
    are told apart again when they leave.
    """
    if library in _aside:
        return
    import_module(library)
    with _putting_aside:  # thirty readers who wait for the same import need one collection
        if library not in _aside:
            gc.collect()
            gc.freeze()
            _aside.add(library)


def prompt_tokens(model: "Loaded", text: str) -> "tuple[tuple[Token, ...], int]":
    """The tokens of a prompt that the pages look at, and how many it has in all."""
    from engine import tokenize

    tokens = tokenize(model, text)
    return tokens[: min(TOKENS_SHOWN, model.spec.longest)], len(tokens)


def prompt_trace(model: "Loaded", text: str, interventions: tuple[Any, ...] = ()) -> "Trace":
    """The trace of the tokens that the pages look at."""
    from engine.model.cache import traced

    tokens, _ = prompt_tokens(model, text)
    return traced(model, tuple(token.id for token in tokens), interventions)


def working() -> bool:
    """Whether this thread is a worker's."""
    return _behalf.get() is not None


def weight(model: "Loaded", tokens: int) -> int:
    """Bytes that a card about a prompt of so many tokens may keep alive: its figure, and a share of its trace."""
    spec = model.spec
    per_token = 3 * spec.d_model + (spec.n_head + 2 * spec.n_kv_head) * spec.d_head * 2 + spec.d_ff
    numbers = tokens * (spec.n_layer * (per_token + spec.n_head * tokens) + spec.vocab)
    return 100_000 + numbers  # four bytes each, and about four cards share a trace

"""From a checkpoint's name to weights in memory, without ever losing the checkpoint that worked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import streamlit as st

from engine import ReaderError, warm
from engine.checkpoints.catalogue import BUNDLED, check_name, public
from engine.checkpoints.hub import is_cached
from engine.checkpoints.memory import NoRoom
from engine.checkpoints.naming import short
from engine.model.precisions import REFERENCE
from engine.tokens.text import markdown, shorten
from pages._shared import publicity, resources, state
from pages._shared.state import State

_GOOD, _WANTED, _FAILED = "anatomy.good", "anatomy.wanted", "anatomy.failed"


def ready() -> None:
    """Load what the state names. When that fails, say why, go back to what worked, and run again."""
    publicity.look()
    warm()
    chosen = state.current()
    resources.begin_run()
    try:
        if public():  # it may have become so since the checkpoint was chosen
            check_name(chosen.checkpoint)
        _load(chosen.checkpoint, chosen.precision)
    except ReaderError as error:
        _fall_back(chosen, error)
    st.session_state.pop(_FAILED, None)
    st.session_state[_GOOD] = (chosen.checkpoint, chosen.precision)


def choose(name: str) -> None:
    """The reader wants a checkpoint: take it if it is on this machine, else offer to download it."""
    try:
        state.checked("checkpoint", name)
    except ReaderError as error:
        forget_wanted()
        state.notify(str(error))
        return
    if is_cached(name):
        forget_wanted()
        state.change(checkpoint=name)
    else:
        st.session_state[_WANTED] = name


def wanted() -> str | None:
    """The checkpoint that was asked for and is not on this machine."""
    name: str | None = st.session_state.get(_WANTED)
    return name


def forget_wanted() -> None:
    st.session_state.pop(_WANTED, None)


def good() -> tuple[str, str]:
    """The last checkpoint and precision that loaded."""
    pair: tuple[str, str] = st.session_state.get(_GOOD, (BUNDLED[0].name, REFERENCE))
    return pair


@contextmanager
def loading(name: str, precision: str) -> Iterator[None]:
    """Say what the body loads, and how far the preparation of a GGUF file is."""
    bar = st.empty()

    def report(share: float, what: str) -> None:
        bar.progress(min(max(share, 0.0), 1.0), text=markdown(what))

    with st.spinner(f"Loading {markdown(shorten(short(name), 60))} at {precision} …"):
        try:
            with resources.telling(report):
                yield
        finally:
            bar.empty()


def _load(name: str, precision: str) -> None:
    if resources.in_memory(name, precision):
        resources.loaded(name, precision)
        return
    with loading(name, precision):
        resources.loaded(name, precision)


def _fall_back(chosen: State, error: ReaderError) -> None:
    """Say why, and run again with something that loads: see `_instead`."""
    if not public() and not is_cached(chosen.checkpoint):
        st.session_state[_WANTED] = chosen.checkpoint
    instead = _instead(chosen, error)
    if instead is None:
        st.session_state.pop(_FAILED, None)  # the reader's next step is a new try
        st.error(markdown(str(error)), icon=":material/info:")
        st.stop()
    state.notify(str(error))
    name, precision = instead
    state.adopt(replace(state.moved(chosen, name), precision=precision))
    st.rerun()


def _instead(chosen: State, error: ReaderError) -> tuple[str, str] | None:
    """What to load instead: the same at full precision, the last that loaded, a bundled one; None when all fail.

    What has failed since something loaded is not tried again, or two that fail would send the page to and fro.
    """
    failed = st.session_state.get(_FAILED, frozenset()) | {(chosen.checkpoint, chosen.precision)}
    st.session_state[_FAILED] = failed
    if st.session_state.get(_GOOD) in failed:
        del st.session_state[_GOOD]
    last = good()
    choices = [last, *((bundled.name, REFERENCE) for bundled in BUNDLED)]
    if is_cached(chosen.checkpoint) and chosen.precision != REFERENCE and not isinstance(error, NoRoom):
        same = last[1] if last[0] == chosen.checkpoint else REFERENCE
        choices.insert(0, (chosen.checkpoint, same))
    return next((choice for choice in choices if choice not in failed), None)

"""From a checkpoint's name to weights in memory, without ever losing the checkpoint that worked."""

from dataclasses import replace

import streamlit as st

from engine import ReaderError
from engine.checkpoints.catalogue import BUNDLED
from engine.checkpoints.hub import is_cached
from engine.tokens.text import shorten
from pages._shared import resources, state
from pages._shared.state import State

_GOOD, _WANTED = "anatomy.good", "anatomy.wanted"


def ready() -> None:
    """Load what the state names. When that fails, say why, go back to what worked, and run again."""
    chosen = state.current()
    try:
        _load(chosen.checkpoint, chosen.precision)
    except ReaderError as error:
        _fall_back(chosen, error)
    st.session_state[_GOOD] = (chosen.checkpoint, chosen.precision)


def choose(name: str) -> None:
    """The reader wants a checkpoint: take it if it is on this machine, else offer to download it."""
    state.touch()
    try:
        state.checked("checkpoint", name)
    except ReaderError as error:
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
    pair: tuple[str, str] = st.session_state.get(_GOOD, (BUNDLED[0].name, "fp32"))
    return pair


def _load(name: str, precision: str) -> None:
    if resources.in_memory(name, precision):
        resources.loaded(name, precision)
        return
    with st.spinner(f"Loading {shorten(name, 60)} at {precision} …"):
        resources.loaded(name, precision)


def _fall_back(chosen: State, error: ReaderError) -> None:
    """Say why, and run again with the last pair that loaded: first the wanted checkpoint at full precision."""
    name, precision = good()
    if is_cached(chosen.checkpoint) and chosen.precision != "fp32":
        name, precision = chosen.checkpoint, precision if name == chosen.checkpoint else "fp32"
    if (chosen.checkpoint, chosen.precision) == (name, precision):
        raise error
    if not is_cached(chosen.checkpoint):
        st.session_state[_WANTED] = chosen.checkpoint
    state.notify(str(error))
    state.adopt(replace(chosen, checkpoint=name, precision=precision))
    st.rerun()

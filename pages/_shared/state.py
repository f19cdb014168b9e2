"""What the reader has chosen: one value in the session, seeded from the address bar and written back to it.

Widgets never share a key between pages. Each has its own, mirrored into the state by its `on_change`.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from engine import ReaderError
from engine.checkpoints.catalogue import BUNDLED, check_name
from engine.checkpoints.hub import default_checkpoint
from engine.checkpoints.prompts import is_offered, prompts_for
from engine.model.precisions import RECORDS, REFERENCE
from engine.tokens.text import clean_prompt

LAST = -1
"""A focus of -1 follows the last token, whatever the prompt."""

BOUNDS = {"focus": (LAST, 127), "layer": (0, 999), "head": (0, 999), "seed": (0, 2**31 - 1)}
_STATE, _SENT, _PAGE, _NOTICES, _MIRRORED, _GIVEN, _RENEWED = (
    f"anatomy.{name}" for name in ("state", "sent", "page", "notices", "mirrored", "given", "renewed")
)
_ECHO_SECONDS = 2.0


@dataclass(frozen=True)
class State:
    """The canonical choices. `focus` counts tokens, `layer` and `head` count from 0."""

    prompt: str = prompts_for(BUNDLED[0].name).default
    checkpoint: str = BUNDLED[0].name
    precision: str = REFERENCE
    focus: int = LAST
    layer: int = 0
    head: int = 0
    seed: int = 0

    def within(self, n_layer: int, n_head: int, n_tokens: int) -> "State":
        """The same choices moved into the range of a model and a prompt; `focus` is no longer negative."""
        focus = n_tokens - 1 if self.focus < 0 else min(self.focus, n_tokens - 1)
        return replace(self, focus=focus, layer=min(self.layer, n_layer - 1), head=min(self.head, n_head - 1))


def default_state() -> State:
    """The state of a reader who has chosen nothing."""
    try:
        name = default_checkpoint()
    except ReaderError as error:
        notify(str(error))
        return State()
    return State(checkpoint=name, prompt=prompts_for(name).default)


def moved(state: State, checkpoint: str) -> State:
    """The state on another checkpoint: a prompt of the reader's own stays, any other gives way to the new default."""
    if checkpoint == state.checkpoint:
        return state
    if not is_offered(state.prompt):
        return replace(state, checkpoint=checkpoint)
    return replace(state, checkpoint=checkpoint, prompt=prompts_for(checkpoint).default, focus=LAST)


def from_query(params: Mapping[str, str], base: State) -> tuple[State, list[str]]:
    """The state that a query string names, and one sentence for each part that was refused.

    Parts that are missing or refused keep their value in `base`, but a prompt follows the checkpoint: see `moved`.
    """
    named, refused = {}, []
    for field in fields(State):
        if field.name in params:
            try:
                named[field.name] = checked(field.name, params[field.name])
            except ReaderError as error:
                refused.append(str(error))
    return replace(moved(base, named.get("checkpoint", base.checkpoint)), **named), refused


def checked(field: str, value: Any) -> Any:
    """`value` as that field of the state may hold it. Raises ReaderError when it cannot."""
    if field == "prompt":
        return clean_prompt(str(value))
    if field == "checkpoint":
        check_name(str(value))
        return str(value)
    if field == "precision":
        if value not in RECORDS:
            raise ReaderError(f"There is no such precision; the choices are {', '.join(RECORDS)}.")
        return value
    return _checked_int(field, value)


def _checked_int(field: str, value: Any) -> int:
    low, high = BOUNDS[field]
    if not re.fullmatch(r"-?[0-9]{1,10}", str(value)):
        raise ReaderError(f"The {field} has to be a whole number.")
    return max(low, min(high, int(value)))


def to_query(state: State) -> dict[str, str]:
    """The query string that names a state completely; a focus that follows the last token is left out."""
    query = {field.name: str(getattr(state, field.name)) for field in fields(State)}
    if state.focus == LAST:
        del query["focus"]
    return query


def begin(page: str) -> bool:
    """At the start of each full run: take the state from the address bar when the reader changed it there.

    Returns whether it did.

    That is on a session's first run, and on going back or forward inside one page. Any other run may carry an address
    that the browser had before it heard of the present one, and a link between chapters one that is older still.
    """
    session, query = st.session_state, st.query_params.to_dict()
    first = _STATE not in session
    if first:
        session[_STATE] = default_state()
    named = any(field.name in query for field in fields(State)) or not _VIEW.isdisjoint(query)
    moved = page == session.get(_PAGE) and _went_in_history()
    taken = named and (first or moved)
    if taken:
        session[_STATE], refused = from_query(query, session[_STATE] if first else default_state())
        for sentence in refused:
            notify(sentence)
        _presentation_from(page, query)
    if page != session.get(_PAGE):
        _forget_mirrored()
    session[_PAGE] = page
    return taken


def _went_in_history() -> bool:
    """Whether the browser's back or forward caused this run."""
    context = get_script_run_ctx(suppress_warning=True)
    return context is not None and context.is_history_navigation


def current() -> State:
    """The canonical state of this session."""
    state: State = st.session_state[_STATE]
    return state


def page() -> str:
    """The page that this session looks at: "home", or a chapter's number."""
    return str(st.session_state.get(_PAGE, ""))


def change(**values: Any) -> bool:
    """Set fields of the canonical state, each checked. A refusal becomes a notice, and the old value stays.

    Returns whether anything changed.
    """
    before = current()
    after, refused = from_query(values, before)
    for sentence in refused:
        notify(sentence)
    st.session_state[_STATE] = after
    return after != before


def notify(sentence: str) -> None:
    """Keep a sentence for the top of the page."""
    st.session_state.setdefault(_NOTICES, []).append(sentence)


def take_notices() -> list[str]:
    """The sentences to show now; each is shown once."""
    return list(dict.fromkeys(st.session_state.pop(_NOTICES, [])))


def mirror(key: str, value: Any) -> None:
    """Make a widget that is about to be drawn show `value`, without disturbing one that does already."""
    st.session_state[_MIRRORED] = st.session_state.get(_MIRRORED, frozenset()) | {key}
    before = st.session_state.get(key)
    if before != value:
        st.session_state[key] = value
        st.session_state.setdefault(_GIVEN, {})[key] = (before, time.monotonic())


def chosen(key: str) -> Any:
    """In a callback: what the reader has chosen with a mirrored widget, or None.

    A browser that has not yet heard of the value it was given still sends the one before: that is no choice.
    """
    value = st.session_state.get(key)
    before, when = st.session_state.get(_GIVEN, {}).pop(key, (None, 0.0))
    echo = value == before and time.monotonic() - when < _ECHO_SECONDS
    return None if echo else value


def renewed(name: str, value: Any) -> tuple[str, Any]:
    """The key of a widget that shows `value`, and the value that it begins with.

    Where something else than the widget has changed the value, the widget gives way to a new one under another key:
    what a browser still sends of the old one is no choice of the reader's (`is_current`).
    """
    known: dict[str, tuple[int, Any]] = st.session_state.setdefault(_RENEWED, {})
    number, begun = known.get(name, (0, value))
    key = f"{name}-{number}" if number else name
    shown = st.session_state.get(key, begun)
    if name in known and shown != value:
        number, begun = number + 1, value
        key = f"{name}-{number}"
    known[name] = (number, begun)
    return key, begun


def is_current(name: str, key: str) -> bool:
    """Whether `key` is that of the widget now on the page under `name`."""
    number, _ = st.session_state.get(_RENEWED, {}).get(name, (0, None))
    return key == (f"{name}-{number}" if number else name)


def _forget_mirrored() -> None:
    """On another page a key names another widget, which would ignore the value left under it by the old one."""
    st.session_state.pop(_GIVEN, None)
    for name, (number, _) in st.session_state.pop(_RENEWED, {}).items():
        st.session_state.pop(f"{name}-{number}" if number else name, None)
    for key in st.session_state.pop(_MIRRORED, ()):
        if key in st.session_state:
            del st.session_state[key]


# Presentation: whether the page is on a projector, which beat is on it, and whether figures wait for a guess.

_PRESENT, _BEAT, _PREDICT = "anatomy.present", "anatomy.beat", "anatomy.predict"
_VIEW = frozenset({"present", "beat", "predict"})
"""What the address says of them."""


def presenting() -> bool:
    return bool(st.session_state.get(_PRESENT, False))


def present(on: bool) -> None:
    st.session_state[_PRESENT] = on


def predicting() -> bool:
    return bool(st.session_state.get(_PREDICT, False))


def predict(on: bool) -> None:
    st.session_state[_PREDICT] = on


def beat_of(page: str) -> str:
    """The key of the beat last presented on a page, or an empty string."""
    return str(st.session_state.get(_BEAT, {}).get(page, ""))


def set_beat(page: str, key: str) -> None:
    st.session_state[_BEAT] = st.session_state.get(_BEAT, {}) | {page: key}


def _presentation_from(page: str, query: Mapping[str, str]) -> None:
    st.session_state[_PRESENT] = query.get("present") == "1"
    st.session_state[_PREDICT] = query.get("predict") == "1"
    if "beat" in query:
        st.session_state[_BEAT] = st.session_state.get(_BEAT, {}) | {page: query["beat"]}


def link_query() -> dict[str, str]:
    """The address of the present view, without the beat: what a link to another chapter carries."""
    modes = {"present": presenting(), "predict": predicting()}
    return to_query(current()) | {mode: "1" for mode, on in modes.items() if on}


OWN = "anatomy.own.address"
"""Where the controls of the beats of each page are, as the address names them: page -> name -> text."""


PINS = "anatomy.pins.address"
"""What is pinned on each page, as the address names it: page -> name -> text."""


def write_address() -> None:
    """Make the address bar name the present view. Where a run ends, so that of quick inputs the last one does it.

    What a run knows of the address may be older than what an earlier one has sent and the browser not yet taken, and
    any step of a run may be its last, when a newer input comes.
    """
    query = link_query()
    for kind in (OWN, PINS):
        query |= st.session_state.get(kind, {}).get(page(), {})
    beat = beat_of(page())
    if presenting() and beat:
        query["beat"] = beat
    if st.query_params.to_dict() != query or st.session_state.get(_SENT) != query:
        st.session_state[_SENT] = None
        st.query_params.from_dict(query)
        st.session_state[_SENT] = query


def adopt(state: State) -> None:
    """Replace the canonical state by one that is known to be good."""
    st.session_state[_STATE] = state

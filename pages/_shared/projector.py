"""The projector: one beat at a time, moved by the arrow keys or by a presenter's PageUp and PageDown."""

from collections.abc import Sequence

import streamlit as st

from engine.tokens.text import markdown
from pages._shared import chapters, state

_LEAVE_FOR = "anatomy.leave_for"


def enter() -> None:
    """The button that starts it."""
    st.button(
        "Present",
        key="present",
        icon=":material/slideshow:",
        type="tertiary",
        help="One beat at a time, for a projector: ← → or PageUp and PageDown move, Esc leaves.",
        on_click=state.present,
        args=(True,),
    )


def index(page: str, keys: Sequence[str]) -> int:
    """Which beat is on the projector; the first when the address names none that exists."""
    key = state.beat_of(page)
    return keys.index(key) if key in keys else 0


def bar(page: str, title: str, keys: Sequence[str]) -> None:
    """The line at the top: where we are, and the four ways to go."""
    at = index(page, keys)
    state.set_beat(page, keys[at])
    goal = st.session_state.pop(_LEAVE_FOR, None)
    if goal is not None:
        st.switch_page(goal, query_params=state.link_query())
    with st.container(key="projector-bar", horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"{markdown(title)} · {at + 1} of {len(keys)}", width="stretch")
        _step("Back", "Left", page, keys, at - 1)
        _step("Next", "Right", page, keys, at + 1)
        st.button(
            "Leave", key="leave", shortcut="Esc", type="tertiary", on_click=state.present, args=(False,)
        )
    with st.container(key="projector-remote"):  # a presenter's remote sends these; the buttons are not shown
        _step("Back", "PageUp", page, keys, at - 1)
        _step("Next", "PageDown", page, keys, at + 1)


def _step(label: str, key: str, page: str, keys: Sequence[str], to: int) -> None:
    beat = keys[to] if 0 <= to < len(keys) else None
    chapter = None if beat else chapters.around(int(page))[to > 0]
    st.button(
        label,
        key=f"go-{key}",
        shortcut=key,
        disabled=beat is None and chapter is None,
        on_click=_go,
        args=(page, beat, chapter.path if chapter else None),
    )


def _go(page: str, beat: str | None, chapter: str | None) -> None:
    if beat is not None:
        state.set_beat(page, beat)
    elif chapter is not None:
        st.session_state[_LEAVE_FOR] = chapter
        state.touch()

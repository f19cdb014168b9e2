"""Choices that the beats of one chapter share and that are not part of the canonical state."""

from collections.abc import Callable, Sequence

import streamlit as st

from pages._shared import fragments, sheet, state
from pages._shared.view import View


def pick(
    view: View,
    name: str,
    label: str,
    options: Sequence[str],
    default: str,
    format_func: Callable[[str], str] = str,
) -> str:
    """A select box for a choice that holds for the whole chapter: moved in one beat, it moves in all.

    `name` is the choice's name within the chapter. Until the reader has chosen, the value is `default`.
    """
    held = view.choice(name, default)
    if held is not None:
        return held if held in options else default
    view.used.add(_name(view, name))
    chosen = st.session_state.get(sheet.CHOICES, {}).get(_name(view, name), default)
    value = chosen if chosen in options else default
    view.note(f"choice {name}", value, value)
    key = view.key(f"choice-{name}")
    state.mirror(key, value)
    return str(
        st.selectbox(
            label, options, format_func=format_func, key=key, on_change=_copy, args=(view, name, key)
        )
    )


def write(
    view: View,
    name: str,
    label: str,
    default: str = "",
    *,
    limit: int = 400,
    tall: bool = False,
    hint: str = "",
) -> str:
    """A text field, with several lines if `tall`, for a text that holds for the whole chapter.

    Until the reader has written something, the value is `default`. It may be longer than `limit`: check it again.
    """
    held = view.choice(name, default)
    if held is not None:
        return held[:limit]
    view.used.add(_name(view, name))
    key = view.key(f"choice-{name}")
    state.mirror(key, st.session_state.get(sheet.CHOICES, {}).get(_name(view, name), default))
    field = st.text_area if tall else st.text_input
    text = str(
        field(label, max_chars=limit, placeholder=hint, key=key, on_change=_copy, args=(view, name, key))
        or ""
    )
    view.note(f"choice {name}", text, text)
    return text


def _copy(view: View, name: str, key: str) -> None:
    """The select box was moved or the text changed: remember it, then rerun every beat on the page, this one first."""
    value = state.chosen(key)
    if value is not None:
        st.session_state[sheet.CHOICES] = st.session_state.get(sheet.CHOICES, {}) | {_name(view, name): value}
    fragments.rerun(view.fragment)


def _name(view: View, name: str) -> str:
    return f"choice {view.page} {name}"

"""The presenter's keys, and where they lead."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

_KEY = "remote"
_HEARD = "anatomy.heard"
"""The number of the last message of the browser that was heard."""


def mount(
    page: str,
    titles: Sequence[str],
    at: int,
    before: bool,
    after: bool,
    go: Callable[[int], None],
    leave: Callable[[], None],
    ask: Callable[[], None],
) -> None:
    """Listen while a page is presented: `go` is told the number of a beat, or one beyond either end; `ask` is called
    when figures shall wait for a guess, or no longer."""

    def told() -> None:
        _told(dict(st.session_state.get(_KEY) or {}).get("turn"), page, len(titles), go, leave, ask)

    _component()(
        key=_KEY,
        data={
            "on": True,
            "page": page,
            "titles": list(titles),
            "at": at,
            "before": before,
            "after": after,
            "heard": st.session_state.get(_HEARD, 0),
        },
        on_turn_change=told,
    )


def off() -> None:
    """The page is no longer presented: the keys do what they do elsewhere."""
    _component()(key=_KEY, data={"on": False, "page": "", "titles": [], "at": 0}, on_turn_change=lambda: None)


def _told(
    turn: Any,
    page: str,
    count: int,
    go: Callable[[int], None],
    leave: Callable[[], None],
    ask: Callable[[], None],
) -> None:
    """In a callback. What a browser sends is checked; a step on a page that has been left meanwhile is none on this."""
    if not isinstance(turn, dict):
        return
    if turn.get("leave") is True:
        leave()
    if turn.get("ask") is True:
        ask()
    to, number = turn.get("to"), turn.get("number")
    if isinstance(to, int) and -1 <= to <= count and turn.get("page") == page:
        go(to)
    if isinstance(number, int):
        st.session_state[_HEARD] = number


@cache
def _component() -> Any:
    source = (Path(__file__).parent / "remote.js").read_text("utf-8")
    return st.components.v2.component("anatomy_remote", js=source, isolate_styles=False)

"""The projector: one beat at a time, moved by the arrow keys or by a presenter's PageUp and PageDown."""

from collections.abc import Sequence

import streamlit as st

from engine.tokens.text import markdown
from pages._shared import chapters, fragments, predict, remote, sheet, sidebar, state

_LEAVE_FOR = "anatomy.leave_for"
HOME = "home"


def enter(page: str) -> None:
    """The button that starts it, at the beat in sight."""
    st.button(
        "Present",
        key="present",
        icon=":material/slideshow:",
        type="tertiary",
        help="One beat at a time, for a projector: ← → or PageUp and PageDown turn, B blanks the screen, "
        "O shows all beats, P asks before it shows, Esc leaves.",
        on_click=_enter,
        args=(page,),
    )


def index(page: str, keys: Sequence[str]) -> int:
    """Which beat is on the projector; the first when the address names none that exists."""
    key = state.beat_of(page)
    return keys.index(key) if key in keys else 0


def bar(page: str, title: str, keys: Sequence[str]) -> None:
    """The line at the top: where we are, the ways to go, and the text, which can be changed here."""
    at = index(page, keys)
    state.set_beat(page, keys[at])
    before, after = _around(page)
    with st.container(key="projector-bar", horizontal=True, vertical_alignment="center", gap="small"):
        st.title(f"{markdown(title)} · {at + 1} of {len(keys)}", anchor=False, width="stretch")
        with st.popover("Text", type="tertiary", icon=":material/edit:"):
            sidebar.prompt("projector-prompt", "Prompt")
            sidebar.example_menu("projector-example")
            sidebar.apply("projector-prompt")
        for label, to, there in (
            ("Back", at - 1, at > 0 or before),
            ("Next", at + 1, at + 1 < len(keys) or after),
        ):
            st.button(
                label, key=f"go-{label}", disabled=not there, on_click=_go, args=(page, tuple(keys), to)
            )
        st.button("Leave", key="leave", type="tertiary", on_click=_leave, args=(page,))


def listen(page: str, keys: Sequence[str], titles: Sequence[str]) -> None:
    """The presenter's keys. Early in a run: a press that comes before is lost."""
    at = index(page, keys)
    before, after = _around(page)
    remote.mount(
        page,
        titles,
        at,
        before is not None,
        after is not None,
        lambda to: _go(page, tuple(keys), to),
        lambda: _leave(page),
        predict.toggle,
    )


def leave_for(path: str) -> None:
    """In a callback: the next run of the whole page goes to another one."""
    st.session_state[_LEAVE_FOR] = path


def go_where_asked() -> None:
    """At the start of a run of the whole page."""
    goal = st.session_state.pop(_LEAVE_FOR, None)
    if goal is not None:
        fragments.leave()
        st.switch_page(goal, query_params=state.link_query())


def _enter(page: str) -> None:
    """In a callback."""
    seen = sheet.current().first_in_sight.removeprefix(f"{page}-")
    if seen:
        state.set_beat(page, seen)
    state.present(True)


def _leave(page: str) -> None:
    """In a callback: back to the scroll, at the beat that was on the wall."""
    sheet.current().bring(f"{page}-{state.beat_of(page)}")
    state.present(False)


def _go(page: str, keys: Sequence[str], to: int) -> None:
    """In a callback: to a beat, or to the chapter before or after."""
    before, after = _around(page)
    if 0 <= to < len(keys):
        state.set_beat(page, keys[to])
        return
    goal = before if to < 0 else after
    if goal is not None:
        leave_for(goal)


def _around(page: str) -> tuple[str | None, str | None]:
    """The pages before and after, as `switch_page` takes them."""
    if page == HOME:
        book = chapters.chapters()
        return None, book[0].path if book else None
    earlier, later = chapters.around(int(page))
    return earlier.path if earlier else "Home.py", later.path if later else None

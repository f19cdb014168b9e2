"""The fragments of the page being shown, by name: the bar, the beats, and the pulse that watches them."""

from collections.abc import Callable, Sequence

import streamlit as st
from streamlit.errors import StreamlitAPIException

from pages._shared import resources, sheet

BAR, PULSE = "bar", "pulse"
_DRAWN = "anatomy.fragments"


def forget() -> None:
    """At the start of a full run: nothing has been drawn yet."""
    st.session_state[_DRAWN] = ()


def run(name: str, function: Callable[..., None], *args: object) -> None:
    """Run a function as the fragment `name`: its own widgets rerun it alone."""
    st.session_state[_DRAWN] = (*st.session_state.get(_DRAWN, ()), name)
    st.fragment(function, key=name)(*args)


def rerun(first: str = "") -> None:
    """In a callback, after a choice of the page's: run what is in sight and shows it, and `first` in any case."""
    drawn = st.session_state.get(_DRAWN, ())
    names = [name for name in (BAR, *sheet.current().stale_in_sight(first), PULSE) if name in drawn]
    if names:
        resources.begin_run()
        again(names)


def again(names: Sequence[str]) -> None:
    """In a callback: run some fragments; the whole page where one of them is of another page, just left."""
    try:
        st.rerun(list(names))
    except StreamlitAPIException:
        st.rerun()

"""The fragments of the page being shown: the token strip and the beats, by name."""

from collections.abc import Callable, Sequence

import streamlit as st

from pages._shared import resources

_DRAWN = "anatomy.fragments"


def forget() -> None:
    """At the start of a full run: nothing has been drawn yet."""
    st.session_state[_DRAWN] = []


def run(name: str, function: Callable[..., None], *args: object) -> None:
    """Run a function as the fragment `name`: its own widgets rerun it alone."""
    st.session_state[_DRAWN] = [*st.session_state.get(_DRAWN, []), name]
    st.fragment(function, key=name)(*args)


def rerun(first: str) -> None:
    """In a callback: rerun all fragments of the page and nothing else, the one that the reader used first."""
    names: Sequence[str] = st.session_state.get(_DRAWN, [])
    ordered = sorted(names, key=lambda name: name != first)
    if ordered:
        resources.begin_run()
        st.rerun(ordered)

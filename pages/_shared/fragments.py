"""The fragments of the page being shown, by name: the bar, the beats, and the pulse that watches them."""

from collections.abc import Callable, Sequence

import streamlit as st
from streamlit.errors import StreamlitAPIException
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.scriptrunner_utils.script_run_context import ScriptRunContext

from pages._shared import resources, sheet

BAR, PULSE = "bar", "pulse"
_DRAWN = "anatomy.fragments"


def forget() -> None:
    """At the start of a full run: nothing has been drawn yet."""
    st.session_state[_DRAWN] = ()


def leave() -> None:
    """Nothing of the page shown until now may run any more, because another one takes its place.

    Streamlit forgets old fragments where a run ends. A browser's wish for one of them that comes before would wait for
    that end, name the old page, and empty the new one.
    """
    context = get_script_run_ctx(suppress_warning=True)
    if context is not None:
        context.fragment_storage.clear()


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
    """In a callback: run some fragments, and all that the run of this callback was to draw.

    That run ends here, and what it was to draw has been taken back from what the browser is still to get. The whole
    page, where that was it, or where a fragment is of another page, just left.
    """
    due = _due()
    if due is None:
        st.rerun()
    try:
        st.rerun(list(dict.fromkeys([*names, *due])))
    except StreamlitAPIException:
        st.rerun()


def _due() -> list[str] | None:
    """What the present run is to draw, by name; None for the whole page."""
    context = get_script_run_ctx(suppress_warning=True)
    ids = context.fragment_ids_this_run if context else None
    if context is None or ids is None:
        return None
    return [name for name in st.session_state.get(_DRAWN, ()) if not set(_ids(context, name)).isdisjoint(ids)]


def _ids(context: ScriptRunContext, name: str) -> Sequence[str]:
    try:
        return context.fragment_storage.resolve_target(name)
    except StreamlitAPIException:
        return ()

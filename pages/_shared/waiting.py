"""What a beat shows while its figure is being made: how far that is, the text so far, and a button to stop it."""

from collections.abc import Hashable

import streamlit as st

from engine.tokens.text import markdown
from pages._shared import fragments, sheet
from pages._shared.sheet import Stop
from pages._shared.work import Job


def show(job: Job, fragment: str, height: int) -> None:
    """A placeholder as high as the figure; with what is known of the work, once it has taken a while.

    What is an element stays one, and what is a container too: Streamlit lets a message take the place of one for the
    same place that has not left yet, and a child of a container that has become an element breaks the page.
    """
    ghost, line, texts = st.empty(), st.container(), st.container()
    if job.columns:
        with texts:
            _columns(job.columns)
    elif job.seconds < sheet.SHORT:
        ghost.skeleton(height=height)
        return
    else:
        ghost.skeleton(height=max(120, height - 60))
    with line, st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if job.ahead:
            st.caption(f"{markdown(job.label)}: {job.ahead} ahead of you in the queue.")
        elif job.share is None:
            st.caption(f"{markdown(job.what)} …")
        else:
            st.progress(job.share, text=markdown(job.what))
        st.button(
            "Stop",
            key=f"{fragment}-stop",
            icon=":material/stop:",
            type="tertiary",
            on_click=_stop,
            args=(fragment,),
        )


def stopped(stop: Stop, fragment: str) -> None:
    """What there was when the reader stopped it, and the way back."""
    _, line, texts = st.empty(), st.container(), st.container()
    if stop.job.columns:
        with texts:
            _columns(stop.job.columns)
    with line, st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(f"{markdown(stop.job.label)}: stopped.")
        st.button(
            "Go on",
            key=f"{fragment}-go-on",
            icon=":material/play_arrow:",
            type="tertiary",
            on_click=_go_on,
            args=(stop.key, fragment),
        )


def _columns(texts: tuple[str, ...]) -> None:
    for place, text in zip(st.columns(len(texts), gap="medium"), texts, strict=True):
        place.markdown(text)


def _stop(fragment: str) -> None:
    sheet.current().stop(fragment)
    _again(fragment)


def _go_on(key: Hashable, fragment: str) -> None:
    sheet.current().go_on(key)
    _again(fragment)


def _again(fragment: str) -> None:
    fragments.again([fragment, fragments.PULSE])

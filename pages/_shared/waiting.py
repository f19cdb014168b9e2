"""What a beat shows while its figure is being made: how far that is, the text so far, and a button to stop it."""

from collections.abc import Hashable

import streamlit as st

from engine.tokens.text import markdown
from pages._shared import fragments, sheet
from pages._shared.sheet import Stop
from pages._shared.work import Job

WAITING = '<i class="anatomy-waiting"></i>'
"""In a beat or a row of evidence that waits for work: its own controls run it alone, without the pulse, which looks for
this mark. In a place that the next run writes again: what is only left out may stay."""


class Slots:
    """Where all this stands: each piece has a place of its own, which every run of a fragment writes or empties.

    Streamlit may keep what a run only leaves out, and a place that is now an element and now a container breaks the
    page when messages for both are under way.
    """

    def __init__(self) -> None:
        self.ghost = st.empty()
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            self.words, self.button = st.empty(), st.empty()
        self.texts = st.container()


def show(job: Job, waiter: str, height: int, at: Slots | None = None) -> None:
    """A placeholder as high as the figure; with what is known of the work, once it has taken a while."""
    slots = at or Slots()
    if job.columns:
        with slots.texts:
            _columns(job.columns)
    elif job.seconds < sheet.SHORT:
        slots.ghost.skeleton(height=height)
        return
    else:
        slots.ghost.skeleton(height=max(120, height - 60))
    if job.ahead:
        slots.words.caption(f"{markdown(job.label)}: {job.ahead} ahead of you in the queue.")
    elif job.share is None:
        slots.words.caption(f"{markdown(job.what)} …")
    else:
        slots.words.progress(job.share, text=markdown(job.what))
    slots.button.button(
        "Stop",
        key=f"{waiter}-stop",
        icon=":material/stop:",
        type="tertiary",
        on_click=_stop,
        args=(waiter,),
    )


def stopped(stop: Stop, waiter: str, at: Slots | None = None) -> None:
    """What there was when the reader stopped it, and the way back."""
    slots = at or Slots()
    if stop.job.columns:
        with slots.texts:
            _columns(stop.job.columns)
    slots.words.caption(f"{markdown(stop.job.label)}: stopped.")
    slots.button.button(
        "Go on",
        key=f"{waiter}-go-on",
        icon=":material/play_arrow:",
        type="tertiary",
        on_click=_go_on,
        args=(stop.key, waiter),
    )


def _columns(texts: tuple[str, ...]) -> None:
    for place, text in zip(st.columns(len(texts), gap="medium"), texts, strict=True):
        place.markdown(text)


def _stop(waiter: str) -> None:
    sheet.current().stop(waiter)
    _again(waiter)


def _go_on(key: Hashable, waiter: str) -> None:
    sheet.current().go_on(key)
    _again(waiter)


def _again(waiter: str) -> None:
    fragments.again([sheet.fragment_of(waiter), fragments.PULSE])

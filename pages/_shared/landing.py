"""The landing page: words first, then the prompt's stations, then the table of chapters."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import streamlit as st

from engine.evidence.card import Card
from engine.tokens.text import markdown
from pages._shared import chapters, fragments, frame, minute, models, projector, remote, sidebar, sight, state
from pages._shared.scene import Step
from pages._shared.view import Beat, View

PAGE = "home"
Steps = Callable[[View, Card], Sequence[Step]]


@dataclass(frozen=True)
class Station:
    """A stop on the prompt's way, and the numbers of the chapters about it, the nearest first."""

    beat: Beat
    chapters: tuple[int, ...]


def home(
    title: str,
    lead: str,
    steps: Steps | None,
    about: str,
    stations: Sequence[Station],
) -> None:
    """Show the landing page. Everything that needs no model is on the screen before torch is imported.

    `steps` explain the drawing of the whole model; `about` stands behind it, before the stations.
    """
    own = _OWN if steps else {}
    keys = [*own, *(station.beat.key for station in stations)]
    frame.begin(PAGE, title, keys, [*own.values(), *(station.beat.title for station in stations)])
    if state.presenting():
        _present(title, keys, steps, stations)
        return
    with st.container(key="home-lead"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.title(markdown(title), anchor=False)
            projector.enter(PAGE)
        st.markdown(inspect.cleandoc(lead))
    sentences = st.container()
    with st.container(key="home-text", gap="small"):
        sidebar.prompt("home-prompt", "Your text")
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            sidebar.apply("home-prompt")
            sidebar.example_pills("home-example")
    way, contents = st.container(), st.container()
    with contents:
        _table_of_chapters()
    state.write_address()
    with way:
        models.ready()
        with sentences:
            frame.notices()
        frame.begin_beats(PAGE, keys)
        if steps:
            _own(minute.NEXT, steps)
            _own(minute.MACHINE, steps)
        st.markdown(inspect.cleandoc(about))
        frame.draw_beats(PAGE, {station.beat: station.chapters for station in stations})
        remote.off()
        sight.mount()


_OWN = {minute.NEXT: "What comes next?", minute.MACHINE: "The whole machine"}
"""Titles of what stands on the landing page before its stations."""


def _own(key: str, steps: Steps) -> None:
    name = f"{PAGE}-{key}"
    if key == minute.NEXT:
        fragments.run(name, minute.following)
    else:
        fragments.run(name, minute.machine, steps)


def _present(title: str, keys: Sequence[str], steps: Steps | None, stations: Sequence[Station]) -> None:
    """The same on a wall: one thing at a time."""
    if not keys:
        return
    projector.bar(PAGE, title, keys)
    state.write_address()
    models.ready()
    frame.notices()
    shown = keys[projector.index(PAGE, keys)]
    frame.begin_beats(PAGE, [shown])
    if steps and shown in _OWN:
        _own(shown, steps)
    else:
        station = next(one for one in stations if one.beat.key == shown)
        frame.draw_beats(PAGE, {station.beat: ()})
    sight.mount()


def _table_of_chapters() -> None:
    groups = [
        (name, list(members)) for name, members in groupby(chapters.chapters(), key=lambda one: one.group)
    ]
    if groups:
        st.header("The chapters", anchor=False, divider="gray")
    for start in range(0, len(groups), 3):
        for column, (name, members) in zip(
            st.columns(3, gap="large"), groups[start : start + 3], strict=False
        ):
            with column:
                with st.container(key=f"chapters-{name}"):
                    st.subheader(name, anchor=False)
                for chapter in members:
                    sidebar.link(chapter)
                    if chapter.about:
                        st.caption(markdown(f"{chapter.about[0].upper()}{chapter.about[1:]}."))

"""The landing page: words first, then the prompt's stations, then the table of chapters."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import streamlit as st

from engine.tokens.text import markdown
from pages._shared import chapters, fragments, frame, models, sidebar, state, strip
from pages._shared.view import Beat, beat_fragment

PAGE = "home"


@dataclass(frozen=True)
class Station:
    """A stop on the prompt's way, and the numbers of the chapters about it, the nearest first."""

    beat: Beat
    chapters: tuple[int, ...]


def home(title: str, lead: str, stations: Sequence[Station]) -> None:
    """Show the landing page. Everything that needs no model is on the screen before torch is imported."""
    frame.begin(PAGE, title)
    st.title(markdown(title), anchor=False)
    st.markdown(inspect.cleandoc(lead))
    sentences = st.container()
    sidebar.prompt("home-prompt", "Your text")
    sidebar.example_pills("home-example")
    way, contents = st.container(), st.container()
    with contents:
        _table_of_chapters()
    state.write_address()
    with way:
        models.ready()
        with sentences:
            frame.notices()
        strip.show(compact=False)
        for station in stations:
            name = beat_fragment(PAGE, station.beat.key)
            fragments.run(name, frame.draw_beat, station.beat, PAGE, station.chapters)


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
                st.markdown(f"##### {name}")
                for chapter in members:
                    sidebar.link(chapter)
                    if chapter.about:
                        st.caption(markdown(f"{chapter.about[0].upper()}{chapter.about[1:]}."))

"""The frame around a chapter: the same beats as a scroll or on a projector."""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from engine import ReaderError
from engine.evidence.card import Card
from engine.tokens.text import markdown
from pages._shared import card as cards
from pages._shared import chapters, fragments, models, projector, sidebar, state, strip, style
from pages._shared.view import Beat, View, beat_fragment

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

BOOK = "Anatomy of a Language Model"


def chapter(number: int, title: str, question: str, lead: str, beats: Sequence[Beat]) -> None:
    """Show a chapter. Call it once, at the end of the chapter's file."""
    page, name = str(number), f"{number} · {title}"
    keys = [beat.key for beat in beats]
    begin(page, name)
    if state.presenting():
        projector.bar(page, name, keys)
    else:
        _lead(name, question, lead)
    sentences = st.container()
    state.write_address()
    models.ready()
    with sentences:
        notices()
    strip.show(compact=state.presenting())
    shown = [beats[projector.index(page, keys)]] if state.presenting() else beats
    for beat in shown:
        fragments.run(beat_fragment(page, beat.key), draw_beat, beat, page)
    sidebar.seen(page, [beat.key for beat in shown], len(beats))
    if not state.presenting():
        _neighbours(number)


def begin(page: str, title: str) -> None:
    """The start of each full run of a page: state, page settings, style, sidebar. Needs no model."""
    state.begin(page)
    projected = state.presenting() and page != "home"
    st.set_page_config(
        page_title=title if title == BOOK else f"{title} · {BOOK}",
        layout="wide",
        initial_sidebar_state="collapsed" if projected else "auto",
    )
    style.apply(projected)
    fragments.forget()
    sidebar.show(page)


def notices() -> None:
    """Sentences that an earlier step left for the reader. After `models.ready`, which may add one and run again."""
    for sentence in state.take_notices():
        st.warning(markdown(sentence), icon=":material/info:")


def draw_beat(beat: Beat, page: str, chapter_numbers: Sequence[int] = ()) -> None:
    """One beat: prose and controls beside the figure, one under the other on a phone."""
    with st.container(key=f"beat-{page}-{beat.key}"):
        st.subheader(markdown(beat.title), anchor=False)
        prose_column, figure_column = st.columns([4, 7], gap="large")
        with prose_column:
            prose, controls, hint = st.container(), st.container(), st.container()
            for number in chapter_numbers:
                sidebar.link(chapters.chapter_number(number))
        with figure_column:
            view = View(page, beat.key, controls, st.container())
            _guarded(_words, prose, view, beat.prose)
            _guarded(_figures, figure_column, view, beat.draw)
        if beat.try_this:
            _guarded(_words, hint.container(key=f"try-{page}-{beat.key}"), view, beat.try_this)


def _lead(eyebrow: str, question: str, lead: str) -> None:
    with st.container(key="lead"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(markdown(eyebrow), width="content")
            projector.enter()
        st.title(markdown(question), anchor=False)
        st.markdown(inspect.cleandoc(lead))


def _guarded(show: Callable[..., None], where: "DeltaGenerator", *args: object) -> None:
    """Run `show` in a container; an error meant for the reader becomes one sentence there."""
    with where:
        try:
            show(*args)
        except ReaderError as error:
            st.warning(markdown(str(error)), icon=":material/info:")


def _words(view: View, words: str | Callable[[View], str]) -> None:
    st.markdown(inspect.cleandoc(words(view) if callable(words) else words))


def _figures(view: View, draw: Callable[[View], Card | Sequence[Card] | None]) -> None:
    drawn = draw(view) or ()
    for card in [drawn] if isinstance(drawn, Card) else drawn:
        cards.draw(card, view.page, view.pick)


def _neighbours(number: int) -> None:
    """Links to the chapters before and after this one."""
    before, after = chapters.around(number)
    st.divider()
    left, right = st.columns(2)
    with left:
        if before:
            sidebar.link(before, prefix="← ")
        else:
            sidebar.home_link("← Home")
    with right, st.container(horizontal_alignment="right"):
        sidebar.link(after, suffix=" →")

"""The frame around a chapter: the same beats as a scroll or on a projector."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import streamlit as st

from engine import ReaderError
from engine.evidence.card import Card
from engine.evidence.question import Ask
from engine.tokens.text import markdown
from pages._shared import bar as strip
from pages._shared import card as cards
from pages._shared import (
    chapters,
    forged,
    fragments,
    models,
    notebook,
    own,
    pin,
    predict,
    projector,
    publicity,
    remote,
    resources,
    sheet,
    sidebar,
    sight,
    state,
    style,
    terms,
    tidying,
    waiting,
    where,
)
from pages._shared.bar import on_a_phone
from pages._shared.card import Place
from pages._shared.sheet import Stop
from pages._shared.view import Beat, View, beat_fragment
from pages._shared.work import Pending

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

forged.refuse()

BOOK = "Anatomy of a Language Model"
_BESIDE_TEXT = 0.6
"""The part of a wall that figures have where text stands above them."""

_HALF = 0.91
"""The part of a wall's height that two figures beside each other have: titles and buttons take more lines."""

_TABLE = 1.5
"""The width of a table, where a figure beside it has 1."""

_BELOW = 0.85
"""The part that pinned figures have below their words."""

_WIDE = 1200
"""Pixels: the width of a window from which a wall has two figures beside each other."""

_SHORTEST = 24
"""Letters that a sentence on a wall has at least; what is shorter takes the next one along."""


def chapter(
    number: int,
    title: str,
    question: str,
    lead: str,
    beats: Sequence[Beat],
    bar: Sequence[str] = ("focus", "layer", "head"),
    asks: Mapping[str, Ask] = MappingProxyType({}),
    parts: Sequence[str] = (),
) -> None:
    """Show a chapter. Call it once, at the end of the chapter's file.

    `bar` names the fields it looks at; `asks` makes questions of some beats, by their keys; `parts` are those of the
    model that it is about, as `where.PARTS` has them.
    """
    beats = [replace(beat, ask=asks.get(beat.key)) for beat in beats]
    page, name = str(number), f"{number} · {title}"
    keys = [beat.key for beat in beats]
    begin(page, name, keys, [beat.title for beat in beats])
    if state.presenting():
        projector.bar(page, name, keys)
    else:
        _lead(page, name, question, lead, parts)
    sentences = st.container()
    state.write_address()
    models.ready()
    with sentences:
        notices()
        if not state.presenting():
            strip.about()
    shown = [beats[projector.index(page, keys)]] if state.presenting() else beats
    begin_beats(page, [beat.key for beat in shown])
    strip.show(bar)
    draw_beats(page, dict.fromkeys(shown, ()))
    sidebar.seen(page, [beat.key for beat in shown], len(beats))
    if not state.presenting():
        notebook.offer(page, name, keys)
        _neighbours(number)
        remote.off()
    sight.mount()


def begin(page: str, title: str, keys: Sequence[str] = (), titles: Sequence[str] = ()) -> None:
    """The start of each full run of a page: state, page settings, style, sidebar. Needs no model.

    `keys` and `titles` are those of its beats.
    """
    publicity.look()
    resources.set_aside("torch")  # before the first run of the first reader is over
    if state.page() != page:
        fragments.leave()
    if state.begin(page):
        query = st.query_params.to_dict()
        own.from_link(page, query)
        pin.from_link(page, query)
        if "beat" in query and state.beat_of(page) in keys:
            sheet.current().bring(beat_fragment(page, state.beat_of(page)))
    projector.go_where_asked()
    projected = state.presenting()
    st.set_page_config(
        page_title=title if title == BOOK else f"{title} · {BOOK}",
        layout="wide",
        initial_sidebar_state="collapsed" if projected else "auto",
    )
    if projected and keys:
        projector.listen(page, keys, titles)
    style.apply(projected)
    fragments.forget()
    sidebar.show(page)


def begin_beats(page: str, keys: Sequence[str]) -> None:
    """A run of a page with beats of these keys begins: what is in sight before anything has told is known."""
    names = [beat_fragment(page, key) for key in keys]
    linked = beat_fragment(page, state.beat_of(page))
    here = sheet.current()
    here.begin(page, names, linked if linked in names else "".join(names[:1]))
    here.patience()


def draw_beats(page: str, beats: Mapping[Beat, Sequence[int]]) -> None:
    """All beats of a page, each with the numbers of the chapters that it leads to.

    First the words of all and a placeholder for each figure, then the figures in sight.
    """
    here, later = sheet.current(), []
    names = [beat_fragment(page, beat.key) for beat in beats]
    for (beat, numbers), name in zip(beats.items(), names, strict=True):
        place = st.container(key=f"place-{name}")
        if here.wanted(name):
            later.append((place, name, beat, numbers))
        else:
            with place:
                fragments.run(name, draw_beat, beat, page, numbers)
    for place, name, beat, numbers in later:
        with place:
            fragments.run(name, draw_beat, beat, page, numbers)


def notices() -> None:
    """Sentences that an earlier step left for the reader. After `models.ready`, which may add one and run again."""
    for sentence in state.take_notices():
        st.warning(markdown(sentence), icon=":material/info:")


def draw_beat(beat: Beat, page: str, chapter_numbers: Sequence[int] = ()) -> None:
    """One beat: prose and controls beside the figure, one under the other on a phone."""
    name, here = beat_fragment(page, beat.key), sheet.current()
    here.draws(name)
    tidying.soon()
    projected = state.presenting()
    with st.container(key=f"beat-{name}"):
        st.header(markdown(beat.title), anchor=False if projected else beat.key)
        pinned = pin.of(page, beat.key)
        prose, controls, stage, hint = _places(projected, name, pinned is not None)
        with hint:
            for number in chapter_numbers:
                sidebar.link(chapters.chapter_number(number))
        with stage:
            view = View(page, beat.key, controls, st.container())
            _guarded(_prose, prose, view, beat.prose, projected)
            place = st.container(gap=None)
            if here.wanted(name):
                _guarded(_figures, place, view, beat, pinned)
            else:
                with place:
                    _places_of_figures()[1].ghost.skeleton(height=sight.height(name))
        if beat.try_this and not projected:
            _guarded(_words, hint.container(key=f"try-{page}-{beat.key}"), view, beat.try_this)


def _places(projected: bool, name: str, wide: bool) -> "tuple[DeltaGenerator, ...]":
    """Places for the prose, the controls, the figure and the hint: side by side, on a phone one below the other with
    the figure before its controls. `wide`: the figure needs the whole width."""
    if on_a_phone():
        prose, stage = st.container(), st.container(key=f"stage-{name}")
        return prose, st.container(), stage, st.container()
    if wide:
        words, more = st.columns([1, 2] if projected else 2, gap="large")
        controls = more.container(horizontal=projected, vertical_alignment="center")
        return words.container(), controls, st.container(key=f"stage-{name}"), words.container()
    prose_column, figure_column = st.columns([3, 8] if projected else [4, 7], gap="large")
    with prose_column:
        prose, controls, hint = st.container(), st.container(), st.container()
    with figure_column:
        stage = st.container(key=f"stage-{name}")
    return prose, controls, stage, hint


def _lead(page: str, eyebrow: str, question: str, lead: str, parts: Sequence[str]) -> None:
    with st.container(key="lead"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(markdown(eyebrow), width="content")
            projector.enter(page)
        st.title(markdown(question), anchor=False)
        st.markdown(inspect.cleandoc(lead))
        where.show(parts)


def _guarded(show: Callable[..., None], where: "DeltaGenerator", *args: object) -> None:
    """Run `show` in a container; an error meant for the reader becomes one sentence there."""
    with where:
        try:
            show(*args)
        except ReaderError as error:
            st.warning(markdown(str(error)), icon=":material/info:")


def _words(view: View, words: str | Callable[[View], str]) -> None:
    st.markdown(inspect.cleandoc(words(view) if callable(words) else words))


def _prose(view: View, words: str | Callable[[View], str], projected: bool) -> None:
    """The words of a beat; for a wall, their first sentence."""
    view.prose = inspect.cleandoc(words(view) if callable(words) else words)
    st.markdown(_explained(view, first_sentence(view.prose) if projected else view.prose))


def _explained(view: View, prose: str) -> str:
    """Some words of a beat, with the meaning of each term that no beat further up has explained."""
    chapter = int(view.page) if view.page.isdecimal() else None  # Home is none
    return terms.marked(prose, chapter, lambda term: sheet.current().explains(view.fragment, term.name))


def first_sentence(text: str) -> str:
    """The first sentence of some markdown, or its first paragraph where a sentence would cut marks in two."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    for end in re.finditer(r"(?<=[.!?])\s+(?=[A-Z“*$(])", paragraph):
        head = paragraph[: end.start()]
        if len(head) > _SHORTEST and all(head.count(mark) % 2 == 0 for mark in ("**", "$", "`")):
            return head
    return paragraph


def _places_of_figures() -> "tuple[DeltaGenerator, waiting.Slots, DeltaGenerator]":
    """Where a beat has the mark that it waits, what it shows meanwhile, and its figures: each always in one place."""
    return st.empty(), waiting.Slots(), st.container()


def _figures(view: View, beat: Beat, pinned: pin.Pin | None) -> None:
    """The figures of a beat, or how far the work for them is."""
    here, name = sheet.current(), view.fragment
    mark, pending, body = _places_of_figures()
    try:
        drawn = view.settle(beat.draw(view))
        share = (_BESIDE_TEXT if view.staged else 1.0) * (_BELOW if pinned else 1.0)
        with body:
            if pinned is not None:
                pin.draw(pinned, view, beat.draw, drawn, share / max(1, len(drawn)))
            elif not predict.covered(view, beat.ask, [card for card, _ in drawn]):
                _laid_out(view, drawn, share)
        pin.button(view)
        notebook.note(view.page, beat.key, beat.title, view.prose, [card for card, _ in drawn])
        here.drew(name, view.used)
    except Pending as still:
        waiting.show(still.job, name, sight.height(name), pending)
    except Stop as stop:
        waiting.stopped(stop, name, pending)
        here.drew(name, view.used)
    except ReaderError:
        here.drew(name, view.used)
        raise
    finally:
        if here.is_waiting(name):
            mark.html(waiting.WAITING)
        own.write(view.page)


def _laid_out(view: View, drawn: Sequence[tuple[Card, Place]], share: float) -> None:
    """The figures of a beat one below the other; on a wall that is wide enough, two beside each other."""
    beside = view.presenting and len(drawn) > 1 and sheet.current().window[0] >= _WIDE
    across = 2 if beside else 1
    rows = [drawn[i : i + across] for i in range(0, len(drawn), across)]
    for row in rows:
        widths = [_TABLE if card.figure is None else 1.0 for card, _ in row]
        columns = st.columns(widths, gap="medium") if beside else [st.container(gap=None)]
        for column, (card, place) in zip(columns, row, strict=True):
            with column:
                cards.draw(card, view.page, place, view.pick, share * (_HALF if beside else 1.0) / len(rows))


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

"""The card: a figure, its badge, and the evidence for it."""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st

from engine import ReaderError
from engine.evidence.card import Badge, Card, Proof
from engine.tokens.text import markdown
from pages._shared import files, resources, sheet, state, waiting
from pages._shared.bar import on_a_phone
from pages._shared.sheet import Stop
from pages._shared.state import State
from pages._shared.work import PLAIN_BYTES, Pending, Progress

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

listeners: list[Callable[[Card], None]] = []
"""Told of every card that is drawn; tests listen here."""

PROVE, TABLE, CODE, DOWNLOAD = "Prove it", "Table", "Code", "Download"
_ICONS = {PROVE: "verified", TABLE: "table", CODE: "code", DOWNLOAD: "download"}
_BADGES: dict[Badge, tuple[Literal["green", "blue", "orange"], str]] = {
    Badge.LIVE: ("green", "Computed now from the loaded checkpoint. Prove it recomputes it another way."),
    Badge.RECORDED: ("blue", "Read from a file that a run of a script in this repository wrote."),
    Badge.TOY: ("orange", "A small example with made-up inputs; the arithmetic is done by the same engine."),
}
_INVITATION = "A click in the figure chooses the {} for all beats."
_WALL = 720
"""Pixels: the height of a window on which type has its usual size."""

_AROUND = 300
"""Pixels at that height for the line at the top, heading, title, evidence and the bar at the foot."""

_BETWEEN = 100
"""Pixels at that height for what stands between two figures."""

_ROW = 39
"""Pixels at that height for a row of a table that has room."""

_LARGER = 1.2
_PLOT = {"displayModeBar": False, "scrollZoom": False}


@dataclass(frozen=True)
class Place:
    """Where a card stands, for its evidence.

    key     names all that the card depends on
    waiter  who waits for its proof: a part of the beat's fragment, see `sheet.part`
    chosen  the state that it was made of
    """

    key: Hashable
    waiter: str
    chosen: State


def draw(
    card: Card,
    page: str,
    place: Place,
    pick: Callable[[Mapping[str, Any]], None] | None = None,
    share: float = 1.0,
) -> None:
    """Draw a card on a page: title, badge, figure, note, and a row of evidence that opens on request.

    `pick` is told in a callback which fields of the state a click on the figure has chosen. `share` is the part of a
    wall's height that is this card's.
    """
    tell(card)
    key = f"{page}-{card.key}"
    clickable = bool(card.picks) and pick is not None and not on_a_phone()
    with st.container(key=f"card-{key}", gap="small"):
        head(card, key)
        if card.figure is not None:
            _figure(card, key, pick if clickable else None, share)
        else:
            _table(card, f"{key}-shown", share)
        note = f"{card.note} {_INVITATION.format(' and '.join(card.picks))}" if clickable else card.note
        if note:
            st.caption(markdown(note.strip()))
        if card.source is not None:
            st.caption(_source(card))
        evidence(card, page, place)


def tell(card: Card) -> None:
    """Tell the listeners of a card that is drawn, here or by a component."""
    for listener in listeners:
        listener(card)


def evidence(card: Card, page: str, place: Place) -> None:
    """The row of evidence below a figure, and the panel that is open.

    It is no fragment of its own: messages of a fragment inside a beat would outlive those of the beat, when a newer
    input takes back what the browser has not had yet, and break the page there.
    """
    key, offered, mark = f"{page}-{card.key}", _offered(card), st.empty()
    chosen = st.pills(
        f"Evidence for: {_spoken(card.title)}",
        offered,
        format_func=lambda choice: f":material/{_ICONS[choice]}: {choice}",
        key=f"{key}-evidence",
        label_visibility="collapsed",
    )
    if chosen is None:
        return
    try:
        _panel(str(chosen), card, key, place)
    except Pending as pending:
        mark.html(waiting.WAITING)
        waiting.show(pending.job, place.waiter, 120)
    except Stop as stop:
        waiting.stopped(stop, place.waiter)
    except ReaderError as error:
        st.warning(markdown(str(error)))


def head(card: Card, key: str) -> None:
    """Badge and title."""
    color, meaning = _BADGES[card.badge]
    with st.container(key=f"head-{key}", horizontal=True, gap="small"):
        st.badge(card.badge.value, color=color, help=meaning)
        st.subheader(markdown(card.title), anchor=False, width="stretch")


def _figure(card: Card, key: str, pick: Callable[[Mapping[str, Any]], None] | None, share: float) -> None:
    figure = _enlarged(card.figure, share) if state.presenting() else card.figure
    if pick is None:
        st.plotly_chart(figure, theme="streamlit", key=f"{key}-figure", alt=card.alt, config=_PLOT)
        return
    key = f"{key}-clickable"
    st.plotly_chart(
        figure,
        theme="streamlit",
        key=key,
        alt=card.alt,
        config=_PLOT,
        on_select=partial(_picked, card.picks, key, pick),
        selection_mode="points",
    )


def _picked(fields: Sequence[str], key: str, pick: Callable[[Mapping[str, Any]], None]) -> None:
    """A point was clicked: what it carries comes from the browser, and is checked here and where it is used."""
    selection = dict(st.session_state.get(key) or {}).get("selection")
    points = dict(selection).get("points") if isinstance(selection, Mapping) else None
    first = points[0] if isinstance(points, Sequence) and points else None
    values = first.get("customdata") if isinstance(first, Mapping) else None
    if isinstance(values, Sequence) and not isinstance(values, str) and len(values) == len(fields):
        pick(dict(zip(fields, values, strict=True)))


def _source(card: Card) -> str:
    source = card.source
    assert source is not None
    return markdown(f"Recorded by {source.script} on {source.date}, {source.hardware}.")


def _enlarged(figure: "Figure", share: float) -> "Figure":
    """A copy for a wall: as high as the window has room for it, its type as large as the page's.

    `share` is its part of the room; each further card takes room for its title and its evidence too.
    """
    from engine.figures.scaling import scaled

    return scaled(figure, _factor() * _LARGER, _room(share))


def _factor() -> float:
    """How much larger everything is on a wall of this height."""
    return max(1.0, sheet.current().window[1] / _WALL)


def _room(share: float) -> float:
    """Pixels that a wall of this height has for a share of its figures."""
    tall, factor = sheet.current().window[1], _factor()
    return max(160.0 * factor, share * (tall - _AROUND * factor) - (1 - share) * _BETWEEN * factor)


def _offered(card: Card) -> tuple[str, ...]:
    offered = {
        PROVE: card.oracle is not None,
        TABLE: card.figure is not None,
        CODE: card.code,
        DOWNLOAD: True,
    }
    return tuple(choice for choice, there in offered.items() if there)


def _spoken(title: str) -> str:
    """A title for a label that is only read aloud, where nobody takes escapes away: without marks of markdown."""
    return re.sub(r"[^\w\s.,;%+−“”’·␣]", "", title)


def _panel(chosen: str, card: Card, key: str, place: Place) -> None:
    if chosen == PROVE:
        _prove(card, place)
    elif chosen == TABLE:
        _table(card, f"{key}-table")
    elif chosen == CODE:
        st.caption("Reproduces these numbers with torch and transformers alone, and leaves them in `result`.")
        code = printed(card.code or "")
        st.code(code, language="python", height=320 if code.count("\n") > 14 else "content")
    elif chosen == DOWNLOAD:
        _downloads(card, key, place.chosen)


def printed(code: str) -> str:
    """A script that also says what it found."""
    return code if "print(" in code else f"{code.rstrip()}\nprint(result)\n"


def _prove(card: Card, place: Place) -> None:
    prove, uses = card.prove, resources.page_in_use()

    def do(progress: Progress) -> Proof:
        with resources.on_behalf(uses, progress):
            return prove()

    proof: Proof = sheet.current().work(
        place.waiter, ("proof", place.key, _numbers(card)), "Computing it another way", do, weigh=PLAIN_BYTES
    )
    sentence = (
        f"{markdown(proof.claim)}\n\n"
        f"max |Δ| = **{proof.max_abs_diff:.2g}**, tolerance {proof.tolerance:.2g}: "
        f"{'it holds' if proof.passed else 'it does not hold'}."
    )
    if proof.passed:
        st.success(sentence, icon=":material/verified:")
    else:
        st.error(sentence, icon=":material/error:")


def _numbers(card: Card) -> Hashable:
    """What stands for the numbers of a card that fills while its choices stay."""
    import numpy as np

    return tuple((name, hash(np.asarray(shown, np.float64).tobytes())) for name, shown in card.shown.items())


def _table(card: Card, key: str, share: float | None = None) -> None:
    """The numbers of a card. With a `share`, they are all that the card shows: with all rows, on a wall in its room."""
    import pandas as pd

    frame = pd.DataFrame({name: _uniform(column) for name, column in card.table.items()})
    height: Literal["content", "auto"] = "auto" if share is None else "content"
    row = None
    if share is not None and state.presenting():
        row = int(min(_ROW * _factor(), _room(share) / (len(frame) + 1)))
    st.dataframe(frame, hide_index=True, key=key, height=height, row_height=row, alt=card.alt)


def _uniform(column: Sequence[Any]) -> Sequence[Any]:
    """A column of one kind: numbers as they are, anything mixed with text as text."""
    values = list(column)
    return [str(value) for value in values] if any(isinstance(value, str) for value in values) else values


def _downloads(card: Card, key: str, chosen: State) -> None:
    file = files.name(key, chosen)
    with st.container(horizontal=True, gap="small"):
        if card.figure is not None:
            st.download_button(
                "Figure as one HTML file, which saves PNG and SVG",
                lambda: files.to_html(card, chosen),
                f"{file}.html",
                "text/html",
                key=f"{key}-html",
                on_click="ignore",
            )
        st.download_button(
            "Numbers as CSV",
            lambda: files.to_csv(card, chosen),
            f"{file}.csv",
            "text/csv",
            key=f"{key}-csv",
            on_click="ignore",
        )

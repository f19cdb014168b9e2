"""The card: a figure, its badge, and the evidence for it."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st

from engine import ReaderError
from engine.evidence.card import Badge, Card
from engine.tokens.text import label, markdown
from pages._shared import state

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
_PLOT = {"displayModeBar": False, "scrollZoom": False}


def draw(card: Card, page: str, pick: Callable[[Mapping[str, Any]], None] | None = None) -> None:
    """Draw a card on a page: title, badge, figure, note, and a row of evidence that opens on request.

    `pick` is told in a callback which fields of the state a click on the figure has chosen.
    """
    for listener in listeners:
        listener(card)
    key = f"{page}-{card.key}"
    clickable = bool(card.picks) and pick is not None and not _on_a_phone()
    with st.container(key=f"card-{key}", gap="small"):
        _head(card, key)
        if card.figure is not None:
            _figure(card, key, pick if clickable else None)
        else:
            _table(card, f"{key}-shown")
        note = f"{card.note} {_INVITATION.format(' and '.join(card.picks))}" if clickable else card.note
        if note:
            st.caption(markdown(note.strip()))
        if card.source is not None:
            st.caption(_source(card))
        st.fragment(_evidence)(card, key)


def _head(card: Card, key: str) -> None:
    color, meaning = _BADGES[card.badge]
    with st.container(key=f"head-{key}", horizontal=True, gap="small"):
        st.badge(card.badge.value, color=color, help=meaning)
        st.markdown(f"#### {markdown(card.title)}", width="stretch")


def _figure(card: Card, key: str, pick: Callable[[Mapping[str, Any]], None] | None) -> None:
    figure = _enlarged(card.figure) if state.presenting() else card.figure
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
    """A point was clicked: what it carries comes from the browser, and is checked where it is used."""
    points = st.session_state[key]["selection"]["points"]
    values = points[0].get("customdata") if points else None
    if isinstance(values, Sequence) and len(values) == len(fields):
        pick(dict(zip(fields, values, strict=True)))


def _on_a_phone() -> bool:
    """There a figure that answers a tap would also hold back the finger that wants to scroll past it.

    "Mobi" is what browsers of phones say of themselves (MDN, "Browser detection using the user agent").
    """
    return "Mobi" in (st.context.headers.get("User-Agent") or "")


def _source(card: Card) -> str:
    source = card.source
    assert source is not None
    return markdown(f"Recorded by {source.script} on {source.date}, {source.hardware}.")


def _enlarged(figure: "Figure") -> "Figure":
    """A copy with larger type on the axes, for the last row of a room. The rest has no room to grow."""
    import plotly.graph_objects as go

    larger = {"title_font_size": 17, "tickfont_size": 15}
    return go.Figure(figure).update_xaxes(**larger).update_yaxes(**larger)


def _evidence(card: Card, key: str) -> None:
    """A fragment of its own: opening a panel neither recomputes nor redraws the figure."""
    offered = {PROVE: card.prove, TABLE: card.figure is not None, CODE: card.code, DOWNLOAD: True}
    chosen = st.pills(
        f"Evidence for: {markdown(card.title)}",
        [choice for choice, there in offered.items() if there],
        format_func=lambda choice: f":material/{_ICONS[choice]}: {choice}",
        key=f"{key}-evidence",
        label_visibility="collapsed",
    )
    if chosen == PROVE:
        _prove(card)
    elif chosen == TABLE:
        _table(card, f"{key}-table")
    elif chosen == CODE:
        st.caption("Reproduces these numbers with torch and transformers alone, and leaves them in `result`.")
        code = printed(card.code or "")
        st.code(code, language="python", height=320 if code.count("\n") > 14 else "content")
    elif chosen == DOWNLOAD:
        _downloads(card, key)


def printed(code: str) -> str:
    """A script that also says what it found."""
    return code if "print(" in code else f"{code.rstrip()}\nprint(result)\n"


def _prove(card: Card) -> None:
    assert card.prove is not None
    try:
        proof = card.prove()
    except ReaderError as error:
        st.warning(markdown(str(error)))
        return
    sentence = (
        f"{markdown(proof.claim)}\n\n"
        f"max |Δ| = **{proof.max_abs_diff:.2g}**, tolerance {proof.tolerance:.2g}: "
        f"{'it holds' if proof.passed else 'it does not hold'}."
    )
    if proof.passed:
        st.success(sentence, icon=":material/verified:")
    else:
        st.error(sentence, icon=":material/error:")


def _table(card: Card, key: str) -> None:
    import pandas as pd

    frame = pd.DataFrame({name: _uniform(column) for name, column in card.table.items()})
    st.dataframe(frame, hide_index=True, key=key, height="auto", alt=card.alt)


def _uniform(column: Sequence[Any]) -> Sequence[Any]:
    """A column of one kind: numbers as they are, anything mixed with text as text."""
    values = list(column)
    return [str(value) for value in values] if any(isinstance(value, str) for value in values) else values


def _downloads(card: Card, key: str) -> None:
    with st.container(horizontal=True, gap="small"):
        if card.figure is not None:
            st.download_button(
                "Figure as one HTML file",
                lambda: to_html(card),
                f"{key}.html",
                "text/html",
                key=f"{key}-html",
                on_click="ignore",
            )
        st.download_button(
            "Numbers as CSV",
            lambda: to_csv(card),
            f"{key}.csv",
            "text/csv",
            key=f"{key}-csv",
            on_click="ignore",
        )


def to_html(card: Card) -> str:
    """The figure as a page that needs no network."""
    import plotly.graph_objects as go

    figure = go.Figure(card.figure)
    figure.update_layout(title_text=label(card.title), template="plotly_white", margin_t=80)
    html: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return html


def to_csv(card: Card) -> bytes:
    """The table as UTF-8 with a byte order mark, so that spreadsheets read it; text never starts a formula."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([inert(name) for name in card.table])
    columns: Sequence[Sequence[Any]] = list(card.table.values())
    writer.writerows([inert(value) for value in row] for row in zip(*columns, strict=True))
    return text.getvalue().encode("utf-8-sig", "replace")


def inert(value: Any) -> Any:
    """A cell that a spreadsheet reads as text: a leading = + - @, tab or line break gets an apostrophe."""
    if isinstance(value, str) and value.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n"):
        return "'" + value
    return value

"""The sidebar: where the reader is, and the three things that every chapter shares."""

from collections.abc import Sequence
from itertools import groupby

import streamlit as st

from engine.checkpoints.catalogue import CATALOGUE, offered, public
from engine.checkpoints.naming import short
from engine.checkpoints.prompts import prompts_for
from engine.model.precisions import PRECISIONS, precision
from engine.tokens.text import PROMPT_CHARACTERS, markdown
from pages._shared import chapters, download, models, predict, sheet, state
from pages._shared.chapters import Chapter

_SEEN = "anatomy.seen"
_GLOSSARY = "Glossary.py"
_MOST, _LONGEST = 40, 40
"""Beats of a page that a browser may name, and letters of a name."""


def show(page: str) -> None:
    """Draw the sidebar of a page."""
    with st.sidebar:
        _choices(page)
        predict.switch()
        _whole()
        download.offer()
        _contents(page)


def link(chapter: Chapter | None, prefix: str = "", suffix: str = "") -> None:
    """A link to a chapter that carries the reader's choices; nothing when the chapter does not exist."""
    if chapter is not None:
        label = f"{prefix}{chapter.number} · {chapter.title}{suffix}"
        st.page_link(chapter.path, label=markdown(label), query_params=state.link_query())


def seen(page: str, keys: Sequence[str], total: int) -> None:
    """Remember the beats that were on the screen."""
    record = st.session_state.get(_SEEN, {})
    before, _ = record.get(page, (frozenset(), total))
    st.session_state[_SEEN] = record | {page: (before | frozenset(keys), total)}


def record() -> dict[str, list[str]]:
    """What was on the screen, for the browser to keep: how many beats each page has, and the keys of those seen."""
    return {
        page: [str(total), *sorted(keys)] for page, (keys, total) in st.session_state.get(_SEEN, {}).items()
    }


def recall(kept: object) -> None:
    """In a callback: what a browser has kept from earlier visits; each part is checked."""
    if not isinstance(kept, dict):
        return
    known, now = {str(chapter.number) for chapter in chapters.chapters()}, st.session_state.get(_SEEN, {})
    for page in known.intersection(kept):
        parts = kept[page]
        if not (
            isinstance(parts, list) and 1 < len(parts) <= _MOST and all(isinstance(p, str) for p in parts)
        ):
            continue
        total, keys = parts[0], frozenset(key[:_LONGEST] for key in parts[1:])
        if total.isdecimal() and len(total) <= 2:
            here, beats = now.get(page, (frozenset(), int(total)))
            now = now | {page: (here | keys, beats)}
    st.session_state[_SEEN] = now


def home_link(label: str = "Home") -> None:
    """A link to the landing page."""
    st.page_link("Home.py", label=label, query_params=state.link_query())


def prompt(key: str, label: str) -> None:
    """A field for the prompt; `key` is this field's own."""
    state.mirror(key, state.current().prompt)
    st.text_area(
        label,
        key=key,
        height=110,
        on_change=_copy,
        args=("prompt", key),
        help=f"Every chapter follows this text, of up to {PROMPT_CHARACTERS:,} characters. Ctrl+Enter applies it too.",
    )


def apply(key: str) -> None:
    """A button beside the prompt: leaving the field applies what is in it, and this is a place to go."""
    st.button("Apply", key=f"{key}-apply", type="tertiary", icon=":material/check:")


def example_menu(key: str) -> None:
    """The example prompts of the checkpoint as a menu of one line."""
    offered = _examples(key)
    st.selectbox(
        "Example prompts",
        list(offered),
        index=None,
        format_func=lambda text: offered[text],
        key=key,
        on_change=_take_example,
        args=(key,),
        placeholder="Try an example",
        required=True,
        filter_mode=None,
        label_visibility="collapsed",
    )


def example_pills(key: str) -> None:
    """The example prompts of the checkpoint side by side."""
    offered = _examples(key)
    st.pills(
        "Or try an example",
        list(offered),
        format_func=lambda text: markdown(offered[text]),
        required=True,
        key=key,
        on_change=_take_example,
        args=(key,),
    )


def _examples(key: str) -> dict[str, str]:
    """Labels of the example prompts by their texts; the widget `key` shows the one that is the prompt, or none."""
    chosen = state.current()
    prompts = prompts_for(chosen.checkpoint)
    state.mirror(key, chosen.prompt if prompts.example(chosen.prompt) else None)
    return {example.text: example.label for example in prompts.examples}


def _take_example(key: str) -> None:
    text = st.session_state.get(key)
    if text is not None:
        state.change(prompt=text, focus=state.LAST)


def _choices(page: str) -> None:
    chosen = state.current()
    if page != "home":  # which has its own field for the text
        prompt("side-prompt", "Prompt")
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            example_menu("side-example")
            apply("side-prompt")
    names = list(dict.fromkeys([*offered(), chosen.checkpoint]))
    state.mirror("side-checkpoint", chosen.checkpoint)
    st.selectbox(
        "Checkpoint",
        names,
        key="side-checkpoint",
        format_func=_called,
        on_change=_choose,
        help=_note(chosen.checkpoint),
    )
    state.mirror("side-precision", chosen.precision)
    st.selectbox(
        "Precision",
        PRECISIONS,
        key="side-precision",
        format_func=lambda name: f"{name}: {precision(name).title}",
        on_change=_copy,
        args=("precision", "side-precision"),
    )
    if public():
        st.caption(
            "This is a public copy: it offers the checkpoints that are on its server and downloads none."
        )
    else:
        download.other()


def _whole() -> None:
    """A switch that has all figures drawn, in sight or not: for paper, and for the browser's own search."""
    here = sheet.current()
    state.mirror("side-whole", here.whole)
    st.toggle(
        "Draw the whole page",
        key="side-whole",
        on_change=_draw_whole,
        help="Figures are drawn when they come into sight. To print a chapter, have all of them drawn first, "
        "then print with Ctrl+P.",
    )


def _draw_whole() -> None:
    sheet.current().whole = bool(st.session_state.get("side-whole"))


def _choose() -> None:
    name = st.session_state.get("side-checkpoint")
    if name is not None:
        models.choose(name)


def _called(name: str) -> str:
    """A checkpoint in the select box, where no two entries may read alike."""
    called = short(name)
    return f"{called} (a folder)" if called != name and called in CATALOGUE else called


def _note(name: str) -> str | None:
    """What the select box tells of the chosen checkpoint: a note on a listed one, the whole path of a local one."""
    if name in CATALOGUE:
        return markdown(CATALOGUE[name].note)
    return markdown(name) if short(name) != name else None


def _copy(field: str, key: str) -> None:
    value = st.session_state.get(key)
    if value is not None:  # None: the page was left meanwhile
        state.change(**{field: value})


def _contents(page: str) -> None:
    home_link()
    book = chapters.chapters()
    for group, members in groupby(book, key=lambda chapter: chapter.group):
        st.caption(group)
        for chapter in members:
            link(chapter, suffix=_progress(chapter))
    if (chapters.PAGES / _GLOSSARY).exists():
        st.page_link(f"pages/{_GLOSSARY}", label="Glossary and search", query_params=state.link_query())
    visited = {page, *st.session_state.get(_SEEN, {})}
    opened = sum(str(chapter.number) in visited for chapter in book)
    if book:
        st.progress(opened / len(book), text=f"{opened} of {len(book)} chapters opened")


def _progress(chapter: Chapter) -> str:
    """A tick when every beat of the chapter was on the screen, else how many were."""
    keys, total = st.session_state.get(_SEEN, {}).get(str(chapter.number), ((), 0))
    if not keys:
        return ""
    return "  ✓" if len(keys) >= total else f"  {len(keys)}/{total}"

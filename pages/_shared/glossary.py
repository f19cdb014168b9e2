"""The terms of the book, each in two sentences with the chapter that shows it; and a search over terms and beats."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import streamlit as st

from engine.tokens.text import markdown
from pages._shared import chapters, frame, projector, remote, sheet, sidebar, state
from pages._shared.chapters import Chapter
from pages._shared.terms import terms

PAGE = "glossary"


@dataclass(frozen=True)
class Heading:
    """A beat of a chapter: its key, and its title."""

    key: str
    title: str


def show() -> None:
    """The page: a field to search in, and what it finds; everything when it is empty."""
    frame.begin(PAGE, "Glossary and search")
    state.write_address()
    with st.container(key="lead"):
        st.title("Glossary and search", anchor=False)
    asked = st.text_input("Search terms and headings", key="glossary-search", max_chars=60).strip()
    listed = [term for term in terms() if _matches(asked, term.name, term.meaning)]
    found = [
        (chapter, heading) for chapter, heading in headings() if asked and _matches(asked, heading.title)
    ]
    if found:
        st.header("Headings", anchor=False)
        for chapter, heading in found:
            st.button(
                f"{chapter.number} · {markdown(chapter.title)}: {markdown(heading.title)}",
                key=f"heading-{chapter.number}-{heading.key}",
                type="tertiary",
                on_click=_go,
                args=(chapter, heading.key),
            )
    st.header("Terms", anchor=False)
    if not listed:
        st.caption("No term has this in it.")
    for term in listed:
        with st.container(key=f"term-{term.name}"):
            st.subheader(term.name, anchor=False)
            st.markdown(term.meaning)
            sidebar.link(chapters.chapter_number(term.chapter))
    remote.off()


def _go(chapter: Chapter, beat: str) -> None:
    """In a callback: to a beat."""
    page = str(chapter.number)
    state.set_beat(page, beat)
    sheet.current().bring(f"{page}-{beat}")
    projector.leave_for(chapter.path)


def headings() -> Sequence[tuple[Chapter, Heading]]:
    """All beats of all chapters, read from their files."""
    files = [(chapter, chapters.PAGES.parent / chapter.path) for chapter in chapters.chapters()]
    return [(chapter, one) for chapter, file in files for one in _headings(file, file.stat().st_mtime_ns)]


@lru_cache(maxsize=64)
def _headings(file: Path, _changed: int) -> tuple[Heading, ...]:
    """The beats in a page's source: calls of Beat with a key and a title."""
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except SyntaxError:
        return ()
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    named = (call.args[:2] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Beat")
    return tuple(
        Heading(str(key.value), str(title.value))
        for key, title in (pair for pair in named if len(pair) == 2)
        if isinstance(key, ast.Constant) and isinstance(title, ast.Constant)
    )


def _matches(asked: str, *texts: str) -> bool:
    return all(word in " ".join(texts).casefold() for word in asked.casefold().split())

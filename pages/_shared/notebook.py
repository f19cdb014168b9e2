"""A chapter as a notebook: the words of its beats, and the scripts that reproduce its figures for this prompt."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import streamlit as st

from engine.evidence.card import Card
from engine.tokens.text import markdown
from pages._shared import files, state
from pages._shared.card import printed
from pages._shared.state import State

_DRAWN = "anatomy.notebook"


@dataclass(frozen=True)
class Part:
    """What a notebook takes from a beat: its title, its words as markdown, and (title, script) of each figure."""

    title: str
    words: str
    scripts: tuple[tuple[str, str], ...]


def note(page: str, beat: str, title: str, words: str, cards: Sequence[Card]) -> None:
    """Keep what a beat shows, as text."""
    scripts = tuple((card.title, card.code) for card in cards if card.code)
    pages = st.session_state.setdefault(_DRAWN, {})
    if page not in pages:
        pages.clear()  # of one page at a time
    pages.setdefault(page, {})[beat] = Part(title, words, scripts)


def offer(page: str, title: str, keys: Sequence[str]) -> None:
    """A button that hands over the notebook of the beats drawn so far."""
    chosen, drawn = state.current(), st.session_state.get(_DRAWN, {}).get(page, {})
    st.download_button(
        "This chapter as a notebook",
        partial(made, title, keys, drawn, chosen),
        f"{files.name(f'chapter-{page}', chosen)}.ipynb",
        "application/x-ipynb+json",
        key=f"{page}-notebook",
        on_click="ignore",
        icon=":material/download:",
        type="tertiary",
        help="Its words, and for each figure that has been drawn the script that reproduces it with torch and "
        "transformers. Draw the whole page (in the sidebar) to have all of them.",
    )


def made(title: str, keys: Sequence[str], drawn: Mapping[str, Part], chosen: State) -> str:
    """The notebook as JSON, in format 4.5 (nbformat.readthedocs.io)."""
    facts = "\n".join(f"- {name}: {markdown(value)}" for name, value in files.facts(chosen).items())
    cells = [
        _words(
            "about",
            f"# {markdown(title)}\n\n{facts}\n\nRun it in the project's root folder, with torch and transformers.",
        )
    ]
    for key in keys:
        if key in drawn:
            part = drawn[key]
            cells.append(_words(key, f"## {markdown(part.title)}\n\n{part.words}"))
            for number, (name, script) in enumerate(part.scripts):
                cells.append(_words(f"{key}-{number}-title", f"**{markdown(name)}**"))
                cells.append(_code(f"{key}-{number}", printed(script)))
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": about, "cells": cells}, indent=1)


def _words(id: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": id[:64], "metadata": {}, "source": text}


def _code(id: str, text: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": id[:64],
        "metadata": {},
        "source": text,
        "execution_count": None,
        "outputs": [],
    }

"""The drawing of the whole model, with the prompt's own numbers in it, beside the steps that explain it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from engine.evidence.card import Card
from engine.figures import theme
from engine.tokens.text import shorten
from pages._shared import chapters, projector

_HERE = Path(__file__).parent
_KEY = "scene"
_TOKENS = 16
"""Columns: of a longer prompt the first token, on which so much attention rests, and the last ones."""

_NAMED_ROWS = 12


@dataclass(frozen=True)
class Step:
    """One step of the way: what it says, which parts of the drawing it lights up, and the chapters that it opens.

    `parts` are of "tokens", "reads", "attention", "mlp", "guess", "answer" and "all", with spaces between them.
    """

    title: str
    text: str
    parts: str
    chapters: tuple[int, ...]


def draw(
    card: Card, tokens: Sequence[str], guesses: Sequence[str], nexts: Sequence[str], steps: Sequence[Step]
) -> None:
    """Draw a card of `engine.chapters.home.machine`; a door that is opened leads to its chapter."""
    _component()(key=_KEY, data=_data(card, tokens, guesses, nexts, steps), on_open_change=_opened)


def _opened() -> None:
    """In a callback: a door was opened. What a browser sends is checked."""
    name = dict(st.session_state.get(_KEY) or {}).get("open")
    chapter = next((one for one in chapters.chapters() if one.path == name), None)
    if chapter is not None:
        projector.leave_for(chapter.path)
        st.rerun()


def drawn_columns(count: int) -> list[int]:
    """The positions that have a column."""
    return list(range(count)) if count <= _TOKENS else [0, *range(count - _TOKENS + 1, count)]


def _data(
    card: Card, tokens: Sequence[str], guesses: Sequence[str], nexts: Sequence[str], steps: Sequence[Step]
) -> dict[str, Any]:
    shown = {name: np.asarray(values) for name, values in card.shown.items()}
    columns = drawn_columns(len(tokens))
    reads = shown["reads"][:, columns]
    adds = {name: shown[f"{name} adds"] for name in ("attention", "MLP")}
    every = max(1, -(-len(reads) // _NAMED_ROWS))
    return {
        "alt": card.alt,
        "tokens": [
            f"{shorten(tokens[at], 20)}{' …' if number == 0 and len(columns) < len(tokens) else ''}"
            for number, at in enumerate(columns)
        ],
        "most": max(1e-9, *(float(np.abs(values).max()) for values in adds.values())),
        "colors": {
            name: theme.color(name) for name in ("attention", "mlp", "residual", "logits", "embedding")
        },
        "blocks": [
            {
                "reads": row.tolist(),
                "attention": float(adds["attention"][layer]),
                "mlp": float(adds["MLP"][layer]),
                "said": [
                    f"{name} of block {layer} adds {float(values[layer]):+.2f}"
                    for name, values in adds.items()
                ],
                "name": f"block {layer}" if layer % every == 0 or layer == len(reads) - 1 else "",
                "guess": _guess(guesses, shown["guessed"], layer, every),
                "chance": float(shown["guessed"][layer + 1]),
            }
            for layer, row in enumerate(reads)
        ],
        "next": [
            {"token": shorten(name, 16), "chance": float(chance), "said": f"{float(chance):.0%}"}
            for name, chance in zip(nexts, shown["chances"], strict=True)
        ],
        "steps": [
            {
                "title": step.title,
                "text": step.text,
                "parts": step.parts,
                "doors": [
                    {"name": one.path, "title": f"{one.number} · {one.title}"}
                    for number in step.chapters
                    if (one := chapters.chapter_number(number)) is not None
                ],
            }
            for step in steps
        ],
    }


def _guess(guesses: Sequence[str], chances: np.ndarray, layer: int, every: int) -> str:
    if layer % every and layer != len(guesses) - 2:
        return ""
    return f"{shorten(guesses[layer + 1], 14)} {float(chances[layer + 1]):.0%}"


@cache
def _component() -> Any:
    return st.components.v2.component(
        "anatomy_scene",
        html='<div class="scene"><div class="machine"></div><ol class="steps"></ol></div>',
        css=(_HERE / "scene.css").read_text("utf-8"),
        js=(_HERE / "scene.js").read_text("utf-8"),
    )

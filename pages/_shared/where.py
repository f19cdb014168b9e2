"""A small drawing of the model at the head of a chapter, with the parts lit that the chapter is about."""

from collections.abc import Collection

import streamlit as st

from engine.figures.theme import COLORS

PARTS = {
    "tokens": ("tokens", COLORS["token"]),
    "embedding": ("embedding", COLORS["embedding"]),
    "attention": ("attention", COLORS["attention"]),
    "mlp": ("MLP", COLORS["mlp"]),
    "unembedding": ("unembedding", COLORS["logits"]),
    "prediction": ("next token", COLORS["token"]),
    "training": ("training: loss and gradients", COLORS["gradient"]),
}
"""Each part's name in the drawing and its colour, in the order of a forward pass; training runs the other way."""

_ROW = ("tokens", "embedding", "block", "unembedding", "prediction")
_BLOCK = ("attention", "mlp")


def show(lit: Collection[str]) -> None:
    """Draw the model with some of `PARTS` lit. Nothing for a chapter that names none."""
    if lit:
        st.html(drawing(lit))


def drawing(lit: Collection[str]) -> str:
    """The drawing as HTML; its description names the parts that are lit. Raises ValueError for an unknown part."""
    unknown = set(lit) - set(PARTS)
    if unknown:
        raise ValueError(f"no part of the drawing: {', '.join(sorted(unknown))}")
    row = "".join(_block(lit) if name == "block" else _part(name, lit) for name in _ROW)
    said = ", ".join(name for part, (name, _) in PARTS.items() if part in lit)
    return (
        f'<div class="anatomy-here" role="img" aria-label="The model; this chapter is about: {said}.">'
        f"{row}{_part('training', lit)}</div>"
    )


def _block(lit: Collection[str]) -> str:
    inside = "".join(_part(name, lit) for name in _BLOCK)
    return f'<span class="block">{inside}<span class="more">in every block</span></span>'


def _part(part: str, lit: Collection[str]) -> str:
    name, color = PARTS[part]
    return f'<span class="part {part}{" lit" if part in lit else ""}" style="--part: {color}">{name}</span>'

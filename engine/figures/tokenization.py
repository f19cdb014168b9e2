"""A text cut into parts, each as wide as it has bytes: tokenizers beside each other, merges under each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import plotly.graph_objects as go

from engine.figures.boxes import Box, add_boxes
from engine.figures.theme import canvas, color
from engine.tokens.text import label, shorten

_ROW, _GAP = 30, 14  # pixels
_PHONE = 262  # pixels that a phone leaves for the parts
_LETTER = 6.6  # pixels of one letter

MOST = 240
"""Bytes of a line that are drawn at most: more would be boxes of a pixel or two."""


@dataclass(frozen=True)
class Part:
    """A stretch of the text: what is printed on it, its width in bytes, and what the pointer reads."""

    text: str
    width: int
    hover: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Strip:
    """One way to cut a stretch of text."""

    name: str
    parts: tuple[Part, ...]
    concept: str = "token"

    @property
    def width(self) -> int:
        return sum(part.width for part in self.parts)


def strips(lines: Sequence[Sequence[Strip]], axis: str = "bytes of the text in UTF-8") -> go.Figure:
    """Lines of strips, every strip of a line starting at the same byte, on one scale of bytes.

    Each part is outlined and its neighbours have another tint, so that a cut is seen; a marked part is filled. Of a
    line that is longer than `MOST` bytes the beginning is drawn, and the axis says so.
    """
    whole = max((strip.width for line in lines for strip in line), default=1)
    longest = min(whole, MOST)
    if whole > MOST:
        axis = f"{axis}: the first {MOST} of {whole:,}"
        lines = [[_beginning(strip) for strip in line] for line in lines]
    rows = sum(len(line) for line in lines)
    figure = canvas(50 + rows * _ROW + (len(lines) - 1) * _GAP, axis)
    y, middles, names = 0.0, [], []
    texts: list[tuple[float, float, str, str]] = []
    boxes: list[Box] = []
    for line in lines:
        for strip in line:
            middles.append(y + _ROW / 2)
            names.append(label(shorten(strip.name, 13)))
            texts += _texts(strip, y, _PHONE / longest)
            boxes += _boxes(strip, y)
            y += _ROW
        y += _GAP
    add_boxes(figure, boxes)
    figure.add_scatter(
        x=[x for x, _, _, _ in texts],
        y=[y for _, y, _, _ in texts],
        mode="text",
        text=[text for _, _, text, _ in texts],
        customdata=[hover for _, _, _, hover in texts],
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.update_xaxes(range=[0, longest], nticks=8, showgrid=False)
    figure.update_yaxes(range=[y - _GAP, 0], tickvals=middles, ticktext=names, showgrid=False)
    return figure


def _beginning(strip: Strip) -> Strip:
    """A strip up to `MOST` bytes; the part that reaches beyond them is drawn as far as they go."""
    return replace(
        strip,
        parts=tuple(
            replace(part, width=min(part.width, MOST - start))
            for part, start in zip(strip.parts, _starts(strip), strict=True)
            if start < MOST
        ),
    )


def _starts(strip: Strip) -> list[int]:
    """The byte at which each part begins."""
    return list(accumulate((part.width for part in strip.parts[:-1]), initial=0)) if strip.parts else []


def _fitted(text: str, room: int) -> str:
    """Text that fits into a box, or nothing where not even its beginning would."""
    return text if len(text) <= max(room, 1) else shorten(text, room) if room > 1 else ""


def _boxes(strip: Strip, top: float) -> list[Box]:
    tints = (0.45 if part.marked else 0.24 if i % 2 else 0.1 for i, part in enumerate(strip.parts))
    return [
        Box(start, start + part.width, top + 2, top + _ROW - 2, color(strip.concept), tint)
        for part, start, tint in zip(strip.parts, _starts(strip), tints, strict=True)
    ]


def _texts(strip: Strip, top: float, pixels: float) -> list[tuple[float, float, str, str]]:
    """The middle, the text and the hover text of each part; `pixels` of a byte decide how much text has room."""
    return [
        (
            start + part.width / 2,
            top + _ROW / 2,
            label(_fitted(part.text, int(part.width * pixels / _LETTER))),
            label(part.hover),
        )
        for part, start in zip(strip.parts, _starts(strip), strict=True)
    ]

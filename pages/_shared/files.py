"""Files that a reader takes home: a figure as a page of its own, its numbers as a table, and what both were made of."""

import csv
import html
import io
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from engine.checkpoints.naming import short
from engine.evidence.card import Card
from engine.tokens.text import label
from pages._shared.state import State

BOOK = "Anatomy of a Language Model"
_ROOT = Path(__file__).parent.parent.parent

_BUTTONS = """
for (const kind of ["png", "svg"]) {{
  const button = document.createElement("button");
  button.textContent = "Save as " + kind.toUpperCase();
  button.onclick = () => Plotly.downloadImage("{{plot_id}}", {{format: kind, filename: "{name}", scale: {scale}}});
  document.getElementById("save").append(button);
}}
"""
_SCALE = 2
"""Pixels of a PNG for each of the page's."""


def facts(chosen: State) -> dict[str, str]:
    """What a figure was made of, in words."""
    values = {name: str(value) for name, value in asdict(chosen).items() if name != "focus" or value >= 0}
    return {"made with": f"{BOOK} {version()}"} | values


@cache
def version() -> str:
    """The project's version, where its own file stands beside the pages."""
    try:
        return str(tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])
    except (OSError, KeyError, ValueError):
        return ""


def name(key: str, chosen: State) -> str:
    """A file's name without its ending: the figure, the checkpoint and the choices that all figures share."""
    parts = [key, short(chosen.checkpoint), chosen.precision, f"L{chosen.layer}", f"H{chosen.head}"]
    return re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(parts))[:120].strip("-.")


def to_html(card: Card, chosen: State | None = None) -> str:
    """The figure as a page that needs no network, with buttons that save it as PNG and as SVG."""
    import plotly.graph_objects as go

    figure = go.Figure(card.figure)
    figure.update_layout(title_text=label(card.title), template="plotly_white", margin_t=80)
    file = name(card.key, chosen or State())
    page: str = figure.to_html(
        include_plotlyjs=True, full_html=True, post_script=_BUTTONS.format(name=file, scale=_SCALE)
    )
    about = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>"
        for key, value in (facts(chosen) if chosen else {}).items()
    )
    head = (
        f'<title>{html.escape(card.title)}</title><meta name="viewport" content="width=device-width">'
        "<style>body{font-family:sans-serif} button{margin:.3rem} dt{float:left;width:7rem;color:#555}</style>"
    )
    page = page.replace("<html>", '<html lang="en">', 1).replace("<head>", f"<head>{head}", 1)
    before, _, after = page.rpartition("</body>")
    return f'{before}<div id="save"></div><p>{html.escape(card.alt)}</p><dl>{about}</dl></body>{after}'


def to_csv(card: Card, chosen: State | None = None) -> bytes:
    """The table as UTF-8 with a byte order mark, so that spreadsheets read it; text never starts a formula.

    What it was made of stands below it, after an empty line.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([inert(column) for column in card.table])
    columns: Sequence[Sequence[Any]] = list(card.table.values())
    writer.writerows([inert(value) for value in row] for row in zip(*columns, strict=True))
    told: Mapping[str, str] = facts(chosen) if chosen else {}
    if told:
        writer.writerow([])
        writer.writerows([inert(key), inert(value)] for key, value in told.items())
    return text.getvalue().encode("utf-8-sig", "replace")


_FORMULAS = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # full-width ones too


def inert(value: Any) -> Any:
    """A cell that a spreadsheet reads as text: a leading = + - @, tab or line break gets an apostrophe."""
    if isinstance(value, str) and value.lstrip(" \u3000\u00a0")[:1] in _FORMULAS:
        return "'" + value
    return value

"""Tells which beats are near the window, and runs those that are stale or whose work has got further."""

from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from pages._shared import fragments, resources, sheet, sidebar, state

_KEY = "sight"
_HEIGHTS: dict[tuple[str, bool], int] = {}
"""Heights of figures with their evidence, by (beat, whether the page is narrow), as browsers have measured them."""

_USUAL_HEIGHT = 560
_TALLEST = 4000


def mount() -> None:
    """Watch the beats of the page. Once in a run of the page, behind its beats."""
    fragments.run(fragments.PULSE, _pulse)


def height(beat: str) -> int:
    """The height of a beat's figure, before it is there."""
    return _HEIGHTS.get((beat, False), _USUAL_HEIGHT)


def _pulse() -> None:
    here = sheet.current()
    here.end()
    state.write_address()
    if not sheet.browserless:
        name, number = here.goto
        data = {
            "busy": here.busy,
            "news": here.news,
            "page": here.page,
            "goto": name,
            "gotoNumber": number,
            "seen": sidebar.record(),
        }
        _component()(key=_KEY, data=data, on_sight_change=_told)


def _told() -> None:
    """In a callback: the window shows other beats, or the browser asks whether something has come."""
    sent = dict(st.session_state.get(_KEY) or {}).get("sight")
    here, told = sheet.current(), _checked(sent)
    if told is not None and told["page"] != here.page:
        return  # of a page that has been left
    if isinstance(sent, dict):
        sidebar.recall(sent.get("seen"))
    if told is not None:
        here.seen(told["inside"], told["near"], told["size"])
        for name, tall in told["heights"].items():
            if name in here.beats and not here.is_waiting(name):
                _HEIGHTS[name, False] = tall
    due = here.due()
    if due:
        resources.begin_some()
        fragments.again([*due, fragments.PULSE])


def _checked(told: Any) -> dict[str, Any] | None:
    """What a browser sent, if it has the form that it must have."""
    if not isinstance(told, dict):
        return None
    names = {which: told.get(which) for which in ("inside", "near")}
    if not all(
        isinstance(one, list) and all(isinstance(name, str) for name in one) for one in names.values()
    ):
        return None
    tall = told.get("heights")
    heights = {
        name: min(value, _TALLEST)
        for name, value in (tall.items() if isinstance(tall, dict) else ())
        if isinstance(name, str) and isinstance(value, int) and value > 0
    }
    size = told.get("size")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)):
        return None
    wide, high = (min(max(side, 200), 8000) for side in size)
    return {**names, "page": told.get("page"), "heights": heights, "size": (wide, high)}


@cache
def _component() -> Any:
    source = (Path(__file__).parent / "sight.js").read_text("utf-8")
    return st.components.v2.component("anatomy_sight", js=source, isolate_styles=False)

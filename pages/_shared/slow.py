"""Slow work: started by a button, shown as it goes, stopped on request, kept for the whole process."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import streamlit as st

from engine.text import markdown
from pages._shared.view import View

Progress = Callable[[float, str], None]
"""Told (share done between 0 and 1, what is being done)."""

KEPT = 64
"""Results kept, for all sessions together; the least recently used leave first."""

_results: "OrderedDict[Hashable, Any]" = OrderedDict()
_lock = threading.Lock()


def slow(view: View, label: str, key: Hashable, work: Callable[[Progress], Any]) -> Any:
    """The result of `work` under `key`, or None until the reader has asked for it with the button `label`.

    `key` names everything the result depends on: two readers with the same key share one result. `work` is given
    a function to report progress with, often enough that *Stop* answers within a second or so; what was not
    finished is dropped. Draws the button into the controls of the beat and the progress bar above its figures.
    """
    full = (view.page, view.beat, label, key)
    found, result = _get(full)
    if found:
        return result
    with view.controls:
        asked = st.button(label, key=view.key(f"slow-{label}"), type="primary")
    if not asked:
        return None
    with view.stage:
        bar, stop = st.empty(), st.empty()
        stop.button("Stop", key=view.key(f"stop-{label}"))  # a click reruns the beat, which ends this run
        with view.job(label):
            result = work(
                lambda share, what: bar.progress(min(max(share, 0.0), 1.0), text=markdown(what)) and None
            )
        bar.empty()
        stop.empty()
    _put(full, result)
    return result


def forget() -> None:
    """Drop every kept result."""
    with _lock:
        _results.clear()


def _get(key: Hashable) -> tuple[bool, Any]:
    with _lock:
        if key not in _results:
            return False, None
        _results.move_to_end(key)
        return True, _results[key]


def _put(key: Hashable, result: Any) -> None:
    with _lock:
        _results[key] = result
        while len(_results) > KEPT:
            _results.popitem(last=False)

"""A beat's own controls. What they were set to is kept for the session, and is in the address where it matters.

Streamlit forgets a control that a run does not draw: one of a beat out of sight, or of another page. So each value
that differs from its default is kept beside it, and given back when the control is drawn again.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import streamlit as st

from engine.tokens.text import clean_prompt
from pages._shared import state

Option = TypeVar("Option")
Number = TypeVar("Number", int, float)
Value = TypeVar("Value")

_KEPT = "anatomy.own"
_LINKED = "anatomy.linked"
_BEGUN = "anatomy.begun"
_OLDEST = 200
"""Controls remembered in a session; beyond them the oldest are forgotten."""

MARK = "."
"""Between a beat and a control in the address; no field of the state has it in its name."""


def from_link(page: str, query: Mapping[str, str]) -> None:
    """Take the controls that an address names; each is checked when it is drawn."""
    linked = {(page, name): text for name, text in query.items() if MARK in name}
    st.session_state[_LINKED] = dict(list(linked.items())[:_OLDEST])
    kept = st.session_state.get(_KEPT, {})
    st.session_state[_KEPT] = {key: value for key, value in kept.items() if key[0] != page}
    st.session_state.setdefault(state.OWN, {})[page] = {name: text for (_, name), text in linked.items()}


def write(page: str) -> None:
    """Let the address say what a page's own controls are set to, where that is not the usual."""
    kept: dict[Any, tuple[Any, str]] = st.session_state.get(_KEPT, {})
    waiting = st.session_state.get(_LINKED, {})
    named = {name: text for (of, name), text in waiting.items() if of == page}
    named |= {key[1]: text for key, (_, text) in kept.items() if key[0] == page}
    pages = st.session_state.setdefault(state.OWN, {})
    if pages.get(page, {}) != named:
        pages[page] = named
        state.write_address()


class Controls:
    """Draws controls where the caller is: `with view.controls: view.slider(…)`.

    `name` is the control's own within its beat; `of` names what its range depends on, where the range changes.
    """

    def __init__(self, page: str, beat: str) -> None:
        self.page, self.beat = page, beat
        self.pinnable = True
        self._read: dict[str, Hashable] = {}
        self._keys: list[str] = []

    def key(self, name: Hashable) -> str:
        """A key for a widget of this beat's own."""
        key = f"{self.page}-{self.beat}-{name}"
        self._keys.append(key)
        return key

    def read(self) -> dict[str, Hashable]:
        """What the controls drawn so far say, by name and what their range depends on."""
        return dict(self._read)

    def note(self, name: str, value: Hashable) -> None:
        """Something else that was read, which belongs to what the beat shows."""
        self._read[name] = value

    def live(self) -> None:
        """What the beat shows goes on by itself, so it cannot be kept beside another."""
        self.pinnable = False

    def slider(
        self,
        name: str,
        label: str,
        low: Number,
        high: Number,
        default: Number,
        step: Number | None = None,
        *,
        of: Hashable = None,
        **more: Any,
    ) -> Number:
        """A number between two ends. Where the ends are one, there is no slider."""
        if low == high:
            return low
        kind = type(default)
        key, begun = self._restored(
            name,
            of,
            default,
            lambda text: _between(kind(text), low, high),
            lambda value: low <= value <= high,
        )
        value = kind(st.slider(label, low, high, begun, step=step, key=key, **more))
        return self._keep(name, of, value, default, f"{value:g}" if kind is float else str(value))

    def number(
        self, name: str, label: str, low: int, high: int, default: int, *, of: Hashable = None, **more: Any
    ) -> int:
        """A whole number between two ends, typed or counted up and down."""
        key, begun = self._restored(
            name, of, default, lambda text: _between(int(text), low, high), lambda value: low <= value <= high
        )
        value = int(st.number_input(label, low, high, begun, step=1, key=key, **more))
        return self._keep(name, of, value, default, str(value))

    def select_slider(
        self,
        name: str,
        label: str,
        options: Sequence[Option],
        default: Option,
        *,
        of: Hashable = None,
        **more: Any,
    ) -> Option:
        """One of some values in a row."""
        if len(options) == 1:
            return options[0]
        key, begun = self._restored(
            name, of, default, lambda text: _option(options, text), options.__contains__
        )
        value: Option = st.select_slider(label, options, begun, key=key, **more)
        return self._keep(name, of, value, default, str(value))

    def select(
        self,
        name: str,
        label: str,
        options: Sequence[Option],
        default: Option | None = None,
        format_func: Callable[[Any], str] = str,
        *,
        of: Hashable = None,
        **more: Any,
    ) -> Option:
        """One of some options, in a box that unfolds; the first, unless `default` is another."""
        usual = options[0] if default is None or default not in options else default
        key, begun = self._restored(
            name, of, usual, lambda text: _option(options, text), options.__contains__
        )
        at = list(options).index(begun)
        value: Option = st.selectbox(label, options, at, format_func=format_func, key=key, **more)
        return self._keep(name, of, value, usual, str(value))

    def segments(
        self,
        name: str,
        label: str,
        options: Sequence[Option],
        default: Option | None = None,
        format_func: Callable[[Any], str] = str,
        *,
        of: Hashable = None,
        pills: bool = False,
        **more: Any,
    ) -> Option:
        """One of a few options side by side, with gaps between them if `pills`; there is always one."""
        usual = options[0] if default is None or default not in options else default
        key, begun = self._restored(
            name, of, usual, lambda text: _option(options, text), options.__contains__
        )
        field: Any = st.pills if pills else st.segmented_control
        value: Option | None = field(
            label, options, default=begun, format_func=format_func, required=True, key=key, **more
        )
        return self._keep(name, of, usual if value is None else value, usual, str(value))

    def toggle(
        self, name: str, label: str, default: bool = False, *, of: Hashable = None, **more: Any
    ) -> bool:
        """On or off."""
        key, begun = self._restored(name, of, default, lambda text: {"1": True, "0": False}[text])
        value = bool(st.toggle(label, begun, key=key, **more))
        return self._keep(name, of, value, default, str(int(value)))

    def text(
        self,
        name: str,
        label: str,
        default: str = "",
        *,
        limit: int = 40,
        tall: bool = False,
        hint: str = "",
        of: Hashable = None,
        **more: Any,
    ) -> str:
        """A text of the reader's, in one line or, `tall`, in several."""
        key, begun = self._restored(name, of, default, lambda text: clean_prompt(text)[:limit])
        field = st.text_area if tall else st.text_input
        value = str(field(label, begun, max_chars=limit, placeholder=hint, key=key, **more) or "")[:limit]
        return self._keep(name, of, value, default, value)

    def several(
        self,
        name: str,
        label: str,
        options: Sequence[Option],
        default: Sequence[Option] = (),
        format_func: Callable[[Any], str] = str,
        *,
        of: Hashable = None,
        pills: bool = False,
    ) -> list[Option]:
        """Any number of some options."""

        def read(text: str) -> list[Option]:
            return [_option(options, part) for part in text.split("|") if part]

        key, begun = self._restored(name, of, list(default), read)
        if pills:
            value = st.pills(
                label, options, selection_mode="multi", default=begun, format_func=format_func, key=key
            )
        else:
            value = st.multiselect(label, options, begun, format_func=format_func, key=key)
        return self._keep(name, of, list(value), list(default), "|".join(map(str, value)))

    def _restored(
        self,
        name: str,
        of: Hashable,
        default: Any,
        read: Callable[[str], Any],
        possible: Callable[[Any], bool] = lambda value: True,
    ) -> tuple[str, Any]:
        """The key of a control that is about to be drawn, and the value that it begins with.

        That is what the reader last set it to, or its default, and stays the same while the control is there: a
        browser that hears of two runs at once takes the control's first value from the later one.
        """
        key = self.key(name if of is None else (name, of))
        session = st.session_state
        begun: dict[str, Any] = session.setdefault(_BEGUN, {})
        if key in session and key in begun:
            if possible(session[key]) and possible(begun[key]):
                return key, begun[key]
            del session[key]
        kept = session.get(_KEPT, {}).get((self.page, _param(self.beat, name), of))
        text = session.get(_LINKED, {}).pop((self.page, _param(self.beat, name)), None)
        value = kept[0] if kept is not None else default
        if text is not None:
            try:
                value = read(text)
            except (ValueError, KeyError, OverflowError):
                state.notify(f"The address names no possible value for “{name}”; it is as it usually is.")
        if not possible(value):
            value = default
        session.pop(key, None)
        begun[key] = value
        return key, value

    def _keep(self, name: str, of: Hashable, value: Value, default: Value, text: str) -> Value:
        """Remember a value that is not the usual one."""
        self._read[str((name, of))] = tuple(value) if isinstance(value, list) else value
        kept, key = st.session_state.setdefault(_KEPT, {}), (self.page, _param(self.beat, name), of)
        if value == default:
            kept.pop(key, None)
            return value
        if key not in kept and len(kept) >= _OLDEST:
            del kept[next(iter(kept))]
        kept[key] = (value, text)
        return value

    def _values(self) -> Hashable:
        """All that was read from this beat's controls, those included that streamlit drew without this class."""
        own = tuple(sorted(self._read.items(), key=lambda pair: pair[0]))
        others = tuple((key, repr(st.session_state[key])) for key in self._keys if key in st.session_state)
        return own, others


def _param(beat: str, name: str) -> str:
    return f"{beat}{MARK}{name}"


def _between(number: Number, low: Number, high: Number) -> Number:
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError
    return number


def _option(options: Sequence[Option], text: str) -> Option:
    for option in options:
        if str(option) == text:
            return option
    raise ValueError(text)

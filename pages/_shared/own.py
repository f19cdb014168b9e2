"""A beat's own controls. What they were set to is kept for the session, and is in the address where it matters.

Streamlit forgets a control that a run does not draw: one of a beat out of sight, or of another page. So each value
that differs from its default is kept beside it, and given back when the control is drawn again.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

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
    st.session_state.setdefault(state.OWN, {})[page] = named
    state.write_address()


IMPOSSIBLE = (ValueError, KeyError, OverflowError)
"""What reading a control's value from a text raises."""


@dataclass(frozen=True)
class Asked(Generic[Value]):
    """What a control is asked for.

    name     its own within its beat
    of       what its range depends on
    default  the value that nobody has chosen
    read     the value that a text of an address names; raises one of `IMPOSSIBLE` for none
    text     the other way round
    """

    name: str
    of: Hashable
    default: Value
    read: Callable[[str], Value]
    text: Callable[[Value], str] = str


class Controls:
    """Draws controls where the caller is: `with view.controls: view.slider(…)`.

    `name` is the control's own within its beat; `of` names what its range depends on, where the range changes.
    """

    def __init__(self, page: str, beat: str) -> None:
        self.page, self.beat = page, beat
        self.pinnable = True
        self._read: dict[str, Hashable] = {}
        self._said: dict[str, str] = {}
        self._keys: list[str] = []

    def key(self, name: Hashable) -> str:
        """A key for a widget of this beat's own."""
        key = f"{self.page}-{self.beat}-{name}"
        self._keys.append(key)
        return key

    def said(self) -> dict[str, str]:
        """What the controls drawn so far say, as an address would, by their names."""
        return dict(self._said)

    def note(self, name: str, value: Hashable, text: str | None = None, of: Hashable = None) -> None:
        """Something was read that belongs to what the beat shows; `text` is how an address says it, if it can."""
        self._read[str((name, of))] = value
        if text is not None:
            self._said[name] = text

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
        return self._control(
            Asked(name, of, default, lambda text: _between(kind(text), low, high), _number),
            lambda key, begun: kind(st.slider(label, low, high, begun, step=step, key=key, **more)),
            lambda value: low <= value <= high,
        )

    def number(
        self, name: str, label: str, low: int, high: int, default: int, *, of: Hashable = None, **more: Any
    ) -> int:
        """A whole number between two ends, typed or counted up and down."""
        return self._control(
            Asked(name, of, default, lambda text: _between(int(text), low, high)),
            lambda key, begun: int(st.number_input(label, low, high, begun, step=1, key=key, **more)),
            lambda value: low <= value <= high,
        )

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
        return self._control(
            Asked(name, of, default, lambda text: _option(options, text)),
            lambda key, begun: st.select_slider(label, options, begun, key=key, **more),
            options.__contains__,
        )

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

        def draw(key: str, begun: Option) -> Option:
            at = list(options).index(begun)
            value: Option = st.selectbox(label, options, at, format_func=format_func, key=key, **more)
            return value

        return self._control(
            Asked(name, of, usual, lambda text: _option(options, text)), draw, options.__contains__
        )

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
        field: Any = st.pills if pills else st.segmented_control

        def draw(key: str, begun: Option) -> Option:
            value: Option | None = field(
                label, options, default=begun, format_func=format_func, required=True, key=key, **more
            )
            return usual if value is None else value

        return self._control(
            Asked(name, of, usual, lambda text: _option(options, text)), draw, options.__contains__
        )

    def toggle(
        self, name: str, label: str, default: bool = False, *, of: Hashable = None, **more: Any
    ) -> bool:
        """On or off."""
        return self._control(
            Asked(name, of, default, {"1": True, "0": False}.__getitem__, lambda value: str(int(value))),
            lambda key, begun: bool(st.toggle(label, begun, key=key, **more)),
        )

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
        field = st.text_area if tall else st.text_input
        return self._control(
            Asked(name, of, default, lambda text: clean_prompt(text)[:limit]),
            lambda key, begun: str(
                field(label, begun, max_chars=limit, placeholder=hint, key=key, **more) or ""
            )[:limit],
        )

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

        def draw(key: str, begun: list[Option]) -> list[Option]:
            if not pills:
                return list(st.multiselect(label, options, begun, format_func=format_func, key=key))
            return list(
                st.pills(
                    label, options, selection_mode="multi", default=begun, format_func=format_func, key=key
                )
            )

        return self._control(
            Asked(name, of, list(default), read, lambda values: "|".join(map(str, values))), draw
        )

    def _control(
        self,
        asked: "Asked[Value]",
        draw: Callable[[str, Value], Value],
        possible: Callable[[Any], bool] = lambda value: True,
    ) -> Value:
        """What a control says: it is drawn, with the value that it begins with, and what it says is kept."""
        key, begun = self._restored(asked, possible)
        return self._keep(asked, draw(key, begun))

    def _restored(self, asked: "Asked[Value]", possible: Callable[[Any], bool]) -> tuple[str, Value]:
        """The key of a control that is about to be drawn, and the value that it begins with.

        That is what the reader last set it to, or its default, and stays the same while the control is there: a
        browser that hears of two runs at once takes the control's first value from the later one.
        """
        key = self.key(asked.name if asked.of is None else (asked.name, asked.of))
        session = st.session_state
        begun: dict[str, Any] = session.setdefault(_BEGUN, {})
        if key in session and key in begun:
            if possible(session[key]) and possible(begun[key]):
                kept_first: Value = begun[key]
                return key, kept_first
            del session[key]
        kept = session.get(_KEPT, {}).get(self._place(asked))
        text = session.get(_LINKED, {}).pop((self.page, _param(self.beat, asked.name)), None)
        value: Value = kept[0] if kept is not None else asked.default
        if text is not None:
            try:
                value = asked.read(text)
            except IMPOSSIBLE:
                state.notify(
                    f"The address names no possible value for “{asked.name}”; it is as it usually is."
                )
        if not possible(value):
            value = asked.default
        session.pop(key, None)
        begun[key] = value
        return key, value

    def _keep(self, asked: "Asked[Value]", value: Value) -> Value:
        """Remember a value that is not the usual one."""
        self._noted(asked, value)
        kept, key = st.session_state.setdefault(_KEPT, {}), self._place(asked)
        if value == asked.default:
            kept.pop(key, None)
            return value
        if key not in kept and len(kept) >= _OLDEST:
            del kept[next(iter(kept))]
        kept[key] = (value, asked.text(value))
        return value

    def _noted(self, asked: "Asked[Value]", value: Value) -> None:
        plain = tuple(value) if isinstance(value, list) else cast("Hashable", value)
        self.note(asked.name, plain, asked.text(value), asked.of)

    def _place(self, asked: "Asked[Any]") -> Hashable:
        return self.page, _param(self.beat, asked.name), asked.of

    def _values(self) -> Hashable:
        """All that was read from this beat's controls, those included that streamlit drew without this class."""
        own = tuple(sorted(self._read.items(), key=lambda pair: pair[0]))
        others = tuple((key, repr(st.session_state[key])) for key in self._keys if key in st.session_state)
        return own, others


def _param(beat: str, name: str) -> str:
    return f"{beat}{MARK}{name}"


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _between(number: Number, low: Number, high: Number) -> Number:
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError
    return number


def _option(options: Sequence[Option], text: str) -> Option:
    for option in options:
        if str(option) == text:
            return option
    raise ValueError(text)

"""Pin: a beat's figure stays, and a second one beside it follows the choices, on one scale."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import streamlit as st

from engine import ReaderError
from engine.evidence.card import Card
from engine.evidence.difference import difference
from engine.tokens.text import markdown, shorten
from pages._shared import card as cards
from pages._shared import state, work
from pages._shared.card import Place
from pages._shared.own import IMPOSSIBLE, Asked, Value
from pages._shared.state import State
from pages._shared.view import View
from pages._shared.work import Work

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

_PINS = "anatomy.pins"
PREFIX = "pin-"
"""In the address, before the beat that is pinned."""

_LONGEST = 3000
"""Letters of one pin in the address."""

_SUFFIX = "-pinned"


@dataclass(frozen=True)
class Pin:
    """What a pinned figure was made of: the state, and what the beat's own controls said, as an address says it."""

    chosen: State
    own: Mapping[str, str]


def of(page: str, beat: str) -> Pin | None:
    """The pin of a beat, if it has one."""
    pins: dict[tuple[str, str], Pin] = st.session_state.get(_PINS, {})
    return pins.get((page, beat))


def button(view: View) -> None:
    """The way to pin the figure as it is, or to let it go."""
    pinned = of(view.page, view.beat) is not None
    if not view.pinnable and not pinned:
        return
    with view.controls:
        st.button(
            "Unpin" if pinned else "Pin",
            key=f"{view.fragment}-pin",
            icon=":material/keep_off:" if pinned else ":material/keep:",
            type="tertiary",
            help="Keep this figure, and draw the next beside it: another text, token, head, checkpoint or precision.",
            on_click=_let_go if pinned else _pin,
            args=(view.page, view.beat, *(() if pinned else (view.chosen, view.said()))),
        )


class Fixed(View):
    """A beat as it was pinned: its controls are not drawn, and say what they said then."""

    def __init__(self, now: View, pin: Pin, controls: "DeltaGenerator", stage: "DeltaGenerator") -> None:
        super().__init__(now.page, now.beat, controls, stage)
        self.chosen, self._own = pin.chosen, pin.own
        self.suffix = _SUFFIX

    def key(self, name: Hashable) -> str:
        """Of a widget that is drawn all the same, out of sight."""
        return f"{super().key(name)}{_SUFFIX}"

    def _control(
        self,
        asked: Asked[Value],
        draw: Callable[[str, Value], Value],
        possible: Callable[[Any], bool] = lambda value: True,
    ) -> Value:
        """What a control said when it was pinned, or what it usually says where that is impossible here."""
        value = asked.default
        try:
            if asked.name in self._own:
                value = asked.read(self._own[asked.name])
        except IMPOSSIBLE:
            pass
        if not possible(value):
            value = asked.default
        self._noted(asked, value)
        return value

    def choice(self, name: str, default: str) -> str | None:
        return self._kept(f"choice {name}", default)

    def asked(self, label: str, key: Hashable, do: Work) -> Any:
        return self.work(label, key, do, long=True) if work.found(self._key(label, key)) else None

    def again(self, label: str, *, long: bool = False) -> int:
        pressed = self._kept(f"again {label}", "0")
        return int(pressed) if pressed.isdecimal() else 0

    def offer(self, label: str, reason: str, picks: Mapping[str, Any]) -> None:
        """Nothing: it stays as it is."""

    def live(self) -> None:
        raise ReaderError("A run that goes on cannot be pinned.")

    def _kept(self, name: str, default: str) -> str:
        text = self._own.get(name, default)
        self.note(name, text, text)
        return text


def draw(
    pin: Pin, now: View, make: Callable[[View], Any], drawn: Sequence[tuple[Card, Place]], share: float
) -> None:
    """The pinned figures on the left, those of now on the right, and what separates them."""
    left, right = st.columns(2, gap="medium")
    with left:
        st.caption(f"**Pinned.** {_told(pin.chosen, now.chosen, pin.own, now.said())}")
        stage = st.container()
    with right:
        st.caption(f"**Now.** {_told(now.chosen, pin.chosen, now.said(), pin.own)}")
        with left:
            kept = _kept(pin, now, make, stage)
        for number, (card, place) in enumerate(drawn):
            before = kept[number] if number < len(kept) and kept[number][0].key == card.key else None
            one, two = _paired(before[0] if before else None, card)
            if before and one:
                with left:
                    cards.draw(one, f"{now.page}{_SUFFIX}", before[1], None, share)
            with right:
                cards.draw(two, now.page, place, now.pick, share)
            if before:
                st.caption(markdown(difference(before[0].shown, card.shown) if card.shown else ""))


def _kept(
    pin: Pin, now: View, make: Callable[[View], Any], stage: "DeltaGenerator"
) -> list[tuple[Card, Place]]:
    """The cards as they were pinned, made again where they are no longer kept."""
    hidden = st.container(key=f"hidden-{now.fragment}")
    fixed = Fixed(now, pin, hidden, stage)
    try:
        fixed.load()
        return fixed.settle(make(fixed))
    except ReaderError as error:
        st.warning(markdown(str(error)), icon=":material/info:")
        return []


def _paired(left: Card | None, right: Card) -> tuple[Card | None, Card]:
    """Two cards with figures on one scale."""
    if left is None or left.figure is None or right.figure is None:
        return left, right
    from engine.figures.pairing import on_one_scale

    one, two = on_one_scale(left.figure, right.figure)
    return replace(left, figure=one), replace(right, figure=two)


def _told(this: State, other: State, own: Mapping[str, str], others: Mapping[str, str]) -> str:
    """In which choices one side differs from the other."""
    chosen = {name: str(value) for name, value in asdict(this).items() if value != getattr(other, name)}
    chosen |= {
        name: text for name, text in own.items() if others.get(name) != text and not name.startswith("again ")
    }
    told = (f"{markdown(name.removeprefix('choice '))} {_short(text)}" for name, text in chosen.items())
    return ", ".join(told) or "As beside it, until you change something."


def _short(text: str) -> str:
    return markdown(f"“{shorten(text, 40)}”" if " " in text else shorten(text, 40))


def _pin(page: str, beat: str, chosen: State, own: Mapping[str, str]) -> None:
    """In a callback."""
    _set({**st.session_state.get(_PINS, {}), (page, beat): Pin(chosen, own)})


def _let_go(page: str, beat: str) -> None:
    """In a callback."""
    _set({key: pin for key, pin in st.session_state.get(_PINS, {}).items() if key != (page, beat)})


def _set(pins: dict[tuple[str, str], Pin]) -> None:
    st.session_state[_PINS] = pins
    write(state.page())


# The address


def write(page: str) -> None:
    """Let the address name the pins of a page."""
    named = {}
    for (where, beat), pin in st.session_state.get(_PINS, {}).items():
        text = _to_text(pin)
        if where == page and len(text) <= _LONGEST:
            named[f"{PREFIX}{beat}"] = text
    st.session_state.setdefault(state.PINS, {})[page] = named
    state.write_address()


def from_link(page: str, query: Mapping[str, str]) -> None:
    """Take the pins that an address names; each value is checked, here or where it is used."""
    pins = {key: pin for key, pin in st.session_state.get(_PINS, {}).items() if key[0] != page}
    for name, text in query.items():
        pin = _from_text(text) if name.startswith(PREFIX) and len(text) <= _LONGEST else None
        if pin is not None:
            pins[page, name.removeprefix(PREFIX)] = pin
    st.session_state[_PINS] = pins
    write(page)


def _to_text(pin: Pin) -> str:
    """A pin as JSON: of the state only what differs from the usual."""
    usual = asdict(State())
    chosen = {name: value for name, value in asdict(pin.chosen).items() if value != usual[name]}
    return json.dumps([chosen, pin.own], ensure_ascii=False, separators=(",", ":"))


def _from_text(text: str) -> Pin | None:
    try:
        chosen, own = json.loads(text)
        named = {name: state.checked(name, chosen[name]) for name in asdict(State()) if name in chosen}
    except (ValueError, TypeError, RecursionError, ReaderError):
        state.notify("The address pins a figure in a way that cannot be read; it is not pinned.")
        return None
    if not isinstance(own, dict):
        return None
    return Pin(replace(State(), **named), {name: text for name, text in own.items() if isinstance(text, str)})

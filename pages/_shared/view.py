"""What a beat is, and what its `draw` function is given."""

import itertools
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import streamlit as st

from engine.evidence.card import Card
from engine.evidence.question import Ask
from pages._shared import fragments, own, resources, sheet, state, work
from pages._shared.card import Place
from pages._shared.state import State
from pages._shared.work import Job, Progress, Work

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from engine import Loaded, Token, Trace

Cards = Card | Sequence[Card] | None


@dataclass(frozen=True)
class Beat:
    """One idea of a chapter: a heading that states it, prose, controls, figures, and something to try.

    `key` is unique in its chapter and stable: it is in the address bar. `prose` and `try_this` are markdown, or a
    function of the view that returns markdown (text from the reader goes through `engine.tokens.text.markdown`).
    `draw` draws the beat's own controls and returns a function without arguments that makes the card, or several;
    that function runs in a worker's thread, so it may not touch streamlit. `ask` makes a question of the cards, for
    readers who want to guess before they see them.
    """

    key: str
    title: str
    prose: "str | Callable[[View], str]"
    draw: "Callable[[View], Cards | Callable[[], Cards]]"
    try_this: "str | Callable[[View], str]" = ""
    ask: Ask | None = None


def beat_fragment(page: str, beat: str) -> str:
    """The name of the fragment that a beat of a page is."""
    return f"{page}-{beat}"


class _Noted:
    """A state that notes which of its fields are read."""

    def __init__(self, chosen: State, used: set[str]) -> None:
        self._chosen, self._used = chosen, used

    def __getattr__(self, name: str) -> Any:
        self._used.add(name)
        return getattr(self._chosen, name)


class View(own.Controls):
    """The reader's choices, the loaded checkpoint and the trace, as one beat sees them at one moment.

    It holds choices and names, no tensor: what is large is looked up in the caches that all sessions share, each time
    it is read. `controls` is a container in the prose column, `stage` one in the figure column above the cards. `prose`
    is what the beat's words have come to, once they are drawn.
    """

    def __init__(self, page: str, beat: str, controls: "DeltaGenerator", stage: "DeltaGenerator") -> None:
        super().__init__(page, beat)
        self.controls, self._stage = controls, stage
        self.staged = False
        self.suffix, self.prose = "", ""
        self.used: set[str] = set()
        self.chosen = state.current()
        self._uses = resources.page_in_use()

    @property
    def stage(self) -> "DeltaGenerator":
        """A container above the figures."""
        self.staged = True
        return self._stage

    @cached_property
    def state(self) -> State:
        """The choices, moved into the range of the loaded checkpoint and the prompt."""
        spec = self.loaded.spec
        within = self.chosen.within(spec.n_layer, spec.n_head, len(self.tokens))
        return cast("State", _Noted(within, self.used))

    @property
    def loaded(self) -> "Loaded":
        """The chosen checkpoint at the chosen precision."""
        return resources.loaded(self.chosen.checkpoint, self.chosen.precision)

    @property
    def tokens(self) -> "tuple[Token, ...]":
        """The tokens of the prompt, without running the model."""
        return resources.prompt_tokens(self.loaded, self.chosen.prompt)[0]

    @property
    def total(self) -> int:
        """How many tokens the prompt has, those included that the pages do not look at."""
        return resources.prompt_tokens(self.loaded, self.chosen.prompt)[1]

    def tokens_of(self, loaded: "Loaded") -> "tuple[Token, ...]":
        """The tokens of the prompt as another checkpoint cuts it, without running that model."""
        return resources.prompt_tokens(loaded, self.chosen.prompt)[0]

    @property
    def trace(self) -> "Trace":
        """The forward pass over the prompt."""
        return resources.prompt_trace(self.loaded, self.chosen.prompt)

    @property
    def presenting(self) -> bool:
        """Whether the page is on a projector, one beat at a time."""
        return state.presenting()

    def load(self, checkpoint: str | None = None, precision: str | None = None) -> "Loaded":
        """Another checkpoint, or the same at another precision. Raises ReaderError when it cannot be loaded.

        Outside of a worker's thread it raises Pending while it is being loaded.
        """
        name, at = checkpoint or self.chosen.checkpoint, precision or self.chosen.precision
        if not resources.in_memory(name, at) and not resources.working():
            self.work(f"Loading at {at}", ("load", name, at), lambda progress: _load(name, at))
        return resources.loaded(name, at)

    def capture(
        self, text: str | None = None, interventions: Sequence[Any] = (), loaded: "Loaded | None" = None
    ) -> "Trace":
        """A forward pass over another text, with interventions, or through another checkpoint."""
        model = loaded or self.loaded
        prompt = self.chosen.prompt if text is None else text
        return resources.prompt_trace(model, prompt, tuple(interventions))

    # Work

    def work(self, label: str, key: Hashable, do: Work, *, long: bool = False) -> Any:
        """The result of some work, done in a worker's thread once for all readers who ask the same.

        `key` names all that it depends on beside the checkpoint, the precision and the prompt. Until there is a
        result the rest of `draw` does not run: the page shows how far the work is, with a button to stop it, and
        draws the beat again when it is done.
        """
        lane = work.LONG if long else work.QUICK
        return sheet.current().work(
            self.fragment, self._key(label, key), label, self._worker(do), lane=lane, weigh=work.PLAIN_BYTES
        )

    def start(self, label: str, key: Hashable, do: Work, *, long: bool = False) -> Job:
        """As `work`, for a beat that shows something of its own meanwhile: the job, done or not."""
        lane = work.LONG if long else work.QUICK
        return sheet.current().start(
            self.fragment, self._key(label, key), label, self._worker(do), lane=lane, weigh=work.PLAIN_BYTES
        )

    def asked(self, label: str, key: Hashable, do: Work) -> Any:
        """Long work that begins with the button `label`, drawn where this is called: its result, or None before.

        One for each session: a new one ends the one before.
        """
        here, whole = sheet.current(), self._key(label, key)
        there = whole in here.asked or work.found(whole) is not None
        self.note(f"asked {label}", there)  # what is drawn depends on it
        if not there:
            st.button(label, key=self.key(f"ask-{label}"), type="primary", on_click=_ask, args=(whole,))
            return None
        return self.work(label, key, do, long=True)

    def again(self, label: str, *, long: bool = False) -> int:
        """A button that has some work done anew, such as a measurement: what this returns belongs in the work's key.

        It is 0 until the reader presses it on this checkpoint and prompt, and then unlike that of any other press, so
        that no kept result answers.
        """
        key, here = self.key(f"again-{label}"), self._key(label, None)
        st.button(label, key=f"{key}-button", on_click=_anew, args=(key, here, long))
        pressed, where = st.session_state.get(key, (0, here))
        number = int(pressed) if where == here else 0
        self.note(f"again {label}", number, str(number))
        return number

    def choice(self, name: str, default: str) -> str | None:
        """What a choice of the chapter is held at, where it is not to be asked for."""
        return None

    def settle(self, drawn: "Cards | Callable[[], Cards]") -> list[tuple[Card, Place]]:
        """The cards that `draw` returned, made in a worker's thread where it returned a function; and their places."""
        key = self._key("card", (self.beat, self.chosen, self._values(), self.presenting))
        cards = self._made(drawn, key) if callable(drawn) else _several(drawn)
        waiters = (sheet.part(self.fragment, f"evidence{self.suffix}-{at}") for at in itertools.count())
        return [
            (card, Place((key, at), waiter, self.chosen))
            for at, (card, waiter) in enumerate(zip(cards, waiters, strict=False))
        ]

    def _made(self, make: "Callable[[], Cards]", key: Hashable) -> list[Card]:
        """Once for all readers who ask the same."""

        def do(progress: Progress) -> tuple[list[Card], frozenset[str]]:
            return _several(make()), frozenset(self.used)

        weigh = resources.weight(self.loaded, len(self.tokens))
        cards: list[Card]
        cards, used = sheet.current().work(self.fragment, key, "Computing", self._worker(do), weigh=weigh)
        self.used |= used
        return cards

    def _worker(self, do: Work) -> Work:
        uses = self._uses

        def whole(progress: Progress) -> Any:
            with resources.on_behalf(uses, progress):
                return do(progress)

        return whole

    def _key(self, label: str, key: Hashable) -> Hashable:
        chosen = self.chosen
        return (self.page, label, chosen.checkpoint, chosen.precision, chosen.prompt, key)

    # The page

    @property
    def fragment(self) -> str:
        """The name of the fragment that this beat is."""
        return beat_fragment(self.page, self.beat)

    def pick(self, values: Mapping[str, Any]) -> None:
        """In a callback: set fields of the state, then draw what is in sight and shows them."""
        if state.change(**values):
            fragments.rerun(self.fragment)

    def offer(self, label: str, reason: str, picks: Mapping[str, Any]) -> None:
        """A button that chooses what shows the beat's point best here, and why; `reason` is markdown."""
        there = all(getattr(self.state, field) == value for field, value in picks.items())
        with self.controls:
            st.button(
                label,
                key=f"{self.page}-{self.beat}-offer",
                on_click=self.pick,
                args=(dict(picks),),
                disabled=there,
            )
            st.caption(f"This is shown. {reason}" if there else reason)

    def pick_layer(self) -> int:
        """The layer that the bar chooses."""
        return self.state.layer

    def pick_head(self) -> int:
        """The query head that the bar chooses."""
        return self.state.head

    def pick_token(self) -> int:
        """The position of the focus token, which the bar chooses."""
        return self.state.focus

    def pick_seed(self) -> int:
        """The seed that the bar chooses."""
        return self.state.seed


def _several(drawn: Cards) -> list[Card]:
    return [drawn] if isinstance(drawn, Card) else list(drawn or ())


def _load(name: str, precision: str) -> None:
    """Into the cache: the work's result must not keep a model alive."""
    resources.loaded(name, precision)


def _ask(key: Hashable) -> None:
    """In a callback: the reader wants some long work."""
    here = sheet.current()
    here.stop_long()
    here.go_on(key)
    here.asked.add(key)


def _anew(key: str, here: Hashable, long: bool) -> None:
    """In a callback: the reader wants some work done again."""
    if long:
        sheet.current().stop_long()
    st.session_state[key] = (time.time_ns(), here)

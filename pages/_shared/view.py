"""What a beat is, and what its `draw` function is given."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import streamlit as st

from engine.evidence.card import Card
from engine.tokens.text import shorten
from pages._shared import card as cards
from pages._shared import fragments, jobs, models, resources, state
from pages._shared.state import State

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from engine import Loaded, Token, Trace


@dataclass(frozen=True)
class Beat:
    """One idea of a chapter: a heading that states it, prose, controls, figures, and something to try.

    `key` is unique in its chapter and stable: it is in the address bar. `prose` and `try_this` are markdown, or a
    function of the view that returns markdown (text from the reader goes through `engine.tokens.text.markdown`).
    `draw` returns a card, or several, or None when it has shown everything through `view.show`.
    """

    key: str
    title: str
    prose: "str | Callable[[View], str]"
    draw: "Callable[[View], Card | Sequence[Card] | None]"
    try_this: "str | Callable[[View], str]" = ""


def beat_fragment(page: str, beat: str) -> str:
    """The name of the fragment that a beat of a page is."""
    return f"{page}-{beat}"


class View:
    """The reader's choices, the loaded checkpoint and the trace, as one beat sees them.

    `controls` is a container in the prose column, `stage` one in the figure column above the returned cards.
    """

    def __init__(self, page: str, beat: str, controls: "DeltaGenerator", stage: "DeltaGenerator") -> None:
        self.page, self.beat, self.controls, self.stage = page, beat, controls, stage

    @cached_property
    def state(self) -> State:
        """The choices, moved into the range of the loaded checkpoint and the prompt."""
        spec = self.loaded.spec
        return state.current().within(spec.n_layer, spec.n_head, len(self.tokens))

    @cached_property
    def loaded(self) -> "Loaded":
        """The chosen checkpoint at the chosen precision."""
        chosen = state.current()
        return resources.loaded(chosen.checkpoint, chosen.precision)

    @cached_property
    def tokens(self) -> "tuple[Token, ...]":
        """The tokens of the prompt, without running the model."""
        return resources.prompt_tokens(self.loaded, state.current().prompt)[0]

    @cached_property
    def trace(self) -> "Trace":
        """The forward pass over the prompt."""
        return resources.prompt_trace(self.loaded, state.current().prompt)

    @property
    def presenting(self) -> bool:
        """Whether the page is on a projector, one beat at a time."""
        return state.presenting()

    def load(self, checkpoint: str | None = None, precision: str | None = None) -> "Loaded":
        """Another checkpoint, or the same at another precision. Raises ReaderError when it cannot be loaded."""
        chosen = state.current()
        name, at = checkpoint or chosen.checkpoint, precision or chosen.precision
        if resources.in_memory(name, at):
            return resources.loaded(name, at)
        with self.stage, models.loading(name, at):
            return resources.loaded(name, at)

    def capture(
        self, text: str | None = None, interventions: Sequence[Any] = (), loaded: "Loaded | None" = None
    ) -> "Trace":
        """A forward pass over another text, with interventions, or through another checkpoint."""
        model = loaded or self.loaded
        prompt = state.current().prompt if text is None else text
        return resources.prompt_trace(model, prompt, tuple(interventions))

    def job(self, label: str) -> AbstractContextManager[None]:
        """Run a heavy piece of work as the only one on a public deployment, with the queue visible."""
        return jobs.job(label, self.stage)

    @property
    def fragment(self) -> str:
        """The name of the fragment that this beat is."""
        return beat_fragment(self.page, self.beat)

    def key(self, name: Hashable) -> str:
        """A key for a widget of this beat's own."""
        return f"{self.fragment}-{name}"

    def show(self, card: Card) -> None:
        """Draw a card into the stage now."""
        with self.stage:
            cards.draw(card, self.page, self.pick)

    def pick(self, values: Mapping[str, Any]) -> None:
        """In a callback: set fields of the state, then rerun every beat on the page, this one before the others."""
        if state.change(**values):
            state.write_address()
            fragments.rerun(self.fragment)

    def pick_layer(self, label: str = "Layer") -> int:
        """A slider for the layer that all beats share."""
        return self._slider("layer", label, self.loaded.spec.n_layer)

    def pick_head(self, label: str = "Head") -> int:
        """A slider for the query head that all beats share."""
        return self._slider("head", label, self.loaded.spec.n_head)

    def pick_token(self, label: str = "Token") -> int:
        """A select box for the focus token that all beats and the token strip share; its position."""
        tokens, key = self.tokens, self.key("focus")
        state.mirror(key, self.state.focus)
        return int(
            st.selectbox(
                label,
                range(len(tokens)),
                format_func=lambda i: f"{i}  {shorten(tokens[i].display, 24)}",
                key=key,
                on_change=self._copy,
                args=("focus", key),
            )
        )

    def pick_seed(self, label: str = "Seed") -> int:
        """A number field for the seed that all beats share."""
        key = self.key("seed")
        state.mirror(key, self.state.seed)
        high = state.BOUNDS["seed"][1]
        return int(st.number_input(label, 0, high, step=1, key=key, on_change=self._copy, args=("seed", key)))

    def _slider(self, field: str, label: str, count: int) -> int:
        if count == 1:  # a slider needs two ends
            return 0
        key = self.key(field)
        state.mirror(key, getattr(self.state, field))
        return int(st.slider(label, 0, count - 1, key=key, on_change=self._copy, args=(field, key)))

    def _copy(self, field: str, key: str) -> None:
        """A control was moved."""
        value = st.session_state.get(key)
        if value is not None:
            self.pick({field: value})

"""Predict first: a beat's figures stay covered until the reader has guessed what they will show."""

from collections.abc import Hashable, Sequence

import streamlit as st

from engine.evidence.card import Card
from engine.evidence.question import Ask, Question
from engine.tokens.text import markdown
from pages._shared import state
from pages._shared.view import View

_GUESSES, _SCORE = "anatomy.guesses", "anatomy.score"
_SHOWN = -1
"""In place of a guess: the reader wanted to see the figure without one."""


def switch() -> None:
    """The switch in the sidebar."""
    state.mirror("side-predict", state.predicting())
    st.toggle(
        "Predict first",
        key="side-predict",
        on_change=_switched,
        help="Some figures are covered by a question until you have guessed. On a projector: P.",
    )
    right, total = st.session_state.get(_SCORE, (0, 0))
    if total and state.predicting():
        st.caption(f"{right} of {total} guesses right.")


def toggle() -> None:
    """In a callback: on, or off again."""
    state.predict(not state.predicting())


def covered(view: View, ask: Ask | None, cards: Sequence[Card]) -> bool:
    """Whether the figures of a beat are to stay covered: then its question is drawn instead, else what became of it."""
    question = ask(cards) if ask is not None and state.predicting() else None
    if question is None:
        return False
    key = (view.page, view.beat, view.chosen.checkpoint, view.chosen.prompt)
    guess, asked = st.session_state.get(_GUESSES, {}).get(key, (None, question))
    if guess is None:
        _ask(view, key, question)
        return True
    _answer(view, key, question, guess if asked == question else None)
    return False


def _ask(view: View, key: Hashable, question: Question) -> None:
    with st.container(key=f"ask-{view.fragment}", gap="small"):
        st.subheader(markdown(question.text), anchor=False)
        for number, choice in enumerate(question.choices):
            st.button(
                markdown(choice),
                key=f"{view.fragment}-guess-{number}",
                width="stretch",
                on_click=_guessed,
                args=(key, number, question),
            )
        st.button(
            "Show the figure",
            key=f"{view.fragment}-guess-none",
            type="tertiary",
            on_click=_guessed,
            args=(key, _SHOWN, question),
        )


def _answer(view: View, key: Hashable, question: Question, guess: int | None) -> None:
    """The question with its answers, the right one marked; or, where other choices hold now, the way to a new one."""
    wide = not view.presenting  # on a wall it stands beside the figure, which needs the height
    with (
        st.container() if wide else view.controls,
        st.container(
            key=f"answer-{view.fragment}", horizontal=wide, vertical_alignment="center", gap="small"
        ),
    ):
        if guess is not None:
            st.markdown(f"**{markdown(question.text)}**", width="content")
            for number, choice in enumerate(question.choices):
                if number == question.right:
                    st.badge(markdown(choice), color="green", icon=":material/check:")
                elif number == guess:
                    st.badge(markdown(choice), color="red", icon=":material/close:")
                else:
                    st.badge(markdown(choice), color="gray")
            right, total = st.session_state.get(_SCORE, (0, 0))
            if total:
                st.caption(f"{right} of {total} right so far", width="content")
        st.button(
            "Ask again" if guess is not None else "Predict this one",
            key=f"{view.fragment}-ask-again",
            type="tertiary",
            on_click=_forget,
            args=(key,),
        )


def _switched() -> None:
    state.predict(bool(st.session_state.get("side-predict")))


def _guessed(key: Hashable, guess: int, question: Question) -> None:
    """In a callback."""
    st.session_state[_GUESSES] = st.session_state.get(_GUESSES, {}) | {key: (guess, question)}
    if guess != _SHOWN:
        right, total = st.session_state.get(_SCORE, (0, 0))
        st.session_state[_SCORE] = (right + (guess == question.right), total + 1)


def _forget(key: Hashable) -> None:
    """In a callback: the figures are covered again."""
    st.session_state[_GUESSES] = {k: v for k, v in st.session_state.get(_GUESSES, {}).items() if k != key}

"""The first minute: what the model says next, large, and buttons that let it write; below it the whole machine."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import streamlit as st

from engine import ReaderError
from engine.evidence.card import Card
from engine.tokens.text import PROMPT_CHARACTERS, display_bytes, markdown, shorten
from pages._shared import card as cards
from pages._shared import fragments, resources, scene, sheet, sight, state, waiting
from pages._shared.scene import Step
from pages._shared.sheet import Stop
from pages._shared.view import View
from pages._shared.work import Pending, Progress

PAGE = "home"
NEXT, MACHINE = "says", "machine"
KEEP_WRITING = 24
"""Tokens that one press of *Keep writing* writes."""

_WRITING = "anatomy.writing"
_OFFERED = 5


def following() -> None:
    """What comes next, as buttons: each writes its token to the end of the prompt."""
    _as_beat(NEXT, _following)


def machine(steps: Callable[[View, Card], Sequence[Step]]) -> None:
    """The drawing of the whole model, with the steps that `steps` makes of its card."""
    _as_beat(MACHINE, lambda view: _machine(view, steps))


def _as_beat(key: str, show: Callable[[View], None]) -> None:
    here, name = sheet.current(), f"{PAGE}-{key}"
    here.draws(name)
    with st.container(key=f"beat-{name}"), st.container(key=f"stage-{name}"):
        view = View(PAGE, key, st.container(), st.container())
        try:
            if here.wanted(name):
                show(view)
                here.drew(name, view.used)
            else:
                st.skeleton(height=sight.height(name))
        except Pending as pending:
            waiting.show(pending.job, name, sight.height(name))
        except Stop as stop:
            waiting.stopped(stop, name)
            here.drew(name, view.used)
        except ReaderError as error:
            st.warning(markdown(str(error)), icon=":material/info:")
            here.drew(name, view.used)


def _following(view: View) -> None:
    count = st.session_state.get(_WRITING, 0)
    if count:
        _write(view, count)
    from engine.chapters import home

    ((card, _),) = view.settle(lambda: home.next_token(view.loaded, view.trace))
    ids = np.asarray(card.shown["ids"])[:_OFFERED].tolist()
    names, chances = card.table["token"], card.table["probability"]
    with st.container(key="says-large"):
        st.markdown(
            f"## {_tail(view.chosen.prompt)} :blue-background[**{markdown(names[0])}**] {chances[0]:.0%}"
        )
    with st.container(horizontal=True, gap="small", key="says-candidates"):
        for place, id in enumerate(ids):
            st.button(
                f"{markdown(shorten(names[place], 18))}  :small[{chances[place]:.1%}]",
                key=f"says-{place}",
                type="primary" if place == 0 else "secondary",
                help="Write this token to the end of the text",
                on_click=_take,
                args=(id,),
            )
        st.button(
            f"Keep writing {KEEP_WRITING} tokens",
            key="keep-writing",
            icon=":material/edit:",
            on_click=_begin_writing,
            args=(KEEP_WRITING,),
        )


def _write(view: View, count: int) -> None:
    """Write some tokens greedily to the end of the prompt; what was written when the reader stops stays."""
    try:
        text = view.work("Writing", ("keep writing", count), lambda progress: _greedy(view, count, progress))
    except Stop as stop:
        sheet.current().go_on(stop.key)
        text = str(stop.job.so_far or "")
    except ReaderError:
        st.session_state.pop(_WRITING, None)
        raise
    st.session_state.pop(_WRITING, None)
    if not text:
        state.notify("The model ends the text here.")
    _append(text)
    st.rerun()


def _greedy(view: View, count: int, progress: Progress) -> str:
    """The text of the next tokens, shown as it grows."""
    from engine.model.capturing import tokens_of
    from engine.model.generation import generate

    loaded, written = view.loaded, b""
    for step in generate(loaded, view.trace.ids, count):
        if step.end:
            break
        written += tokens_of(loaded, [step.id])[0].bytes
        progress.keep(written.decode("utf-8", "ignore"))
        progress.show(f"## {_tail(view.chosen.prompt)}**{markdown(display_bytes(written))}**")
    return written.decode("utf-8", "ignore")


def _machine(view: View, steps: Callable[[View, Card], Sequence[Step]]) -> None:
    from engine.chapters import home
    from engine.model.capturing import tokens_of

    ((card, place),) = view.settle(lambda: home.machine(view.loaded, view.trace))
    shown: dict[str, Any] = dict(card.shown)
    cards.tell(card)
    with st.container(key=f"card-{PAGE}-{card.key}"):
        cards.head(card, f"{PAGE}-{card.key}")
        scene.draw(
            card,
            [token.display for token in view.tokens],
            [token.display for token in tokens_of(view.loaded, [int(id) for id in shown["guess"]])],
            [token.display for token in tokens_of(view.loaded, [int(id) for id in shown["next"]])],
            steps(view, card),
        )
        st.caption(markdown(card.note))
        cards.evidence(card, PAGE, place)


def _take(id: int) -> None:
    """In a callback: one token is written."""
    from engine.model.capturing import tokens_of

    chosen = state.current()
    token = tokens_of(resources.loaded(chosen.checkpoint, chosen.precision), [id])[0]
    if token.special:
        state.notify("This token means the end of the text; there is nothing to write.")
    _append(token.bytes.decode("utf-8", "ignore"))
    st.rerun()


def _append(text: str) -> None:
    prompt = state.current().prompt + text
    if len(prompt) > PROMPT_CHARACTERS:
        state.notify("The text has become too long; it starts again with its end.")
        prompt = prompt[-PROMPT_CHARACTERS // 2 :]
    state.change(prompt=prompt, focus=state.LAST)


def _begin_writing(count: int) -> None:
    st.session_state[_WRITING] = count
    fragments.again([f"{PAGE}-{NEXT}", fragments.PULSE])


def _tail(prompt: str) -> str:
    """The end of the prompt, as literal markdown on one line."""
    flat = " ".join(prompt.split())
    return markdown(f"…{flat[-60:]}" if len(flat) > 60 else flat)

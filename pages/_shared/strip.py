"""The token strip: the prompt as chips. Clicking one makes it the focus token everywhere."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from engine import ReaderError
from engine.tokens.text import markdown, shorten
from pages._shared import fragments, resources, state

if TYPE_CHECKING:
    from engine import Loaded, Token

NAME = "strip"
_KEY = "token-strip"


def show(compact: bool) -> None:
    """Draw the strip of the current prompt; `compact` keeps it on one line."""
    fragments.run(NAME, _strip, compact)


def _strip(compact: bool) -> None:
    chosen = state.current()
    model = resources.loaded(chosen.checkpoint, chosen.precision)
    try:
        tokens, total = resources.prompt_tokens(model, chosen.prompt)
    except ReaderError as error:
        st.warning(markdown(str(error)))
        return
    focus = chosen.within(model.spec.n_layer, model.spec.n_head, len(tokens)).focus
    with st.container(key="strip-compact" if compact else "strip"):
        st.pills(
            "Tokens of the prompt; the chosen one is the focus token",
            range(len(tokens)),
            format_func=_labels(tokens).__getitem__,
            required=True,
            key=_mirrored(focus),
            on_change=_focus,
            label_visibility="collapsed",
            wrap=not compact,
        )
        if not compact:
            st.caption(_summary(model, chosen.prompt, tokens, total, focus))
            if model.origin:
                st.caption(markdown(model.origin))


def _labels(tokens: Sequence["Token"]) -> list[str]:
    """One label for each token, unlike every other: streamlit knows pills by their label."""
    return [f":gray[:small[{i}]] {_name(t)}" for i, t in enumerate(tokens)]


def _name(token: "Token") -> str:
    """A token's text; one that the tokenizer put there, such as a start token, says so."""
    text = markdown(shorten(token.display, 24))
    return f":gray[{text} :small[not typed]]" if token.special else text


def _mirrored(focus: int) -> str:
    state.mirror(_KEY, focus)
    return _KEY


def _focus() -> None:
    value = st.session_state.get(_KEY)
    if value is not None and state.change(focus=value):
        state.write_address()
        fragments.rerun(NAME)


def _summary(model: "Loaded", prompt: str, tokens: Sequence["Token"], total: int, focus: int) -> str:
    cut = f" The pages look at the first {len(tokens)} of them." if total > len(tokens) else ""
    return (
        f"{total} token{'s' if total != 1 else ''} of {markdown(model.name)}{_not_typed(tokens)}.{cut}"
        f"{_left_out(model, prompt)} Focus: **{markdown(tokens[focus].display)}** at position {focus}; "
        "click another to look at it."
    )


def _not_typed(tokens: Sequence["Token"]) -> str:
    """What the reader did not type: a start token, or the only token of a text that has none."""
    put = markdown(" ".join(t.display for t in tokens if t.special))
    if not put:
        return ""
    if all(t.special for t in tokens):
        return f": {put} alone, because no token stands for this text and a model cannot run on nothing"
    return f", with {put}, which the tokenizer puts there"


def _left_out(model: "Loaded", prompt: str) -> str:
    from engine.tokens.encoder import encoder

    lacking = set(encoder(model.tokenizer).lacking or ())
    count = sum(byte in lacking for byte in prompt.encode("utf-8", "replace"))
    if not count:
        return ""
    said = (
        "byte has no token in this tokenizer and is"
        if count == 1
        else "bytes have no token in this tokenizer and are"
    )
    return f" {count} {said} left out."

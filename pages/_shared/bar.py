"""The bar: the prompt's tokens, the layer, the head and the seed, once for the whole page and always in sight.

A control that was not touched never writes back. The bar gives its controls a value only where something else has
changed the choice since they were drawn: a click on a figure, a link, another checkpoint.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from engine import ReaderError
from engine.tokens.text import markdown, shorten
from pages._shared import fragments, resources, state

if TYPE_CHECKING:
    from engine import Loaded, Token

FIELDS = ("focus", "layer", "head", "seed")
_NAMES = {"layer": "Layer", "head": "Head", "seed": "Seed"}


def show(fields: Sequence[str]) -> None:
    """Draw the bar with these fields of the state at the foot of the window; the tokens are always there."""
    with st.bottom:
        fragments.run(fragments.BAR, _bar, tuple(fields))


def about() -> None:
    """How many tokens the prompt has, and what the reader did not type. Part of the page, not of the bar."""
    chosen = state.current()
    model = resources.loaded(chosen.checkpoint, chosen.precision)
    try:
        tokens, total = resources.prompt_tokens(model, chosen.prompt)
    except ReaderError as error:
        st.warning(markdown(str(error)))
        return
    st.caption(_summary(model, chosen.prompt, tokens, total))
    if model.origin:
        st.caption(markdown(model.origin))


def _bar(fields: tuple[str, ...]) -> None:
    chosen = state.current()
    model = resources.loaded(chosen.checkpoint, chosen.precision)
    try:
        tokens, _ = resources.prompt_tokens(model, chosen.prompt)
    except ReaderError:
        return  # said on the page
    within = chosen.within(model.spec.n_layer, model.spec.n_head, len(tokens))
    counts = {"layer": model.spec.n_layer, "head": model.spec.n_head}
    numbers = [field for field in ("layer", "head") if field in fields and counts[field] > 1]
    seed = "seed" in fields
    with st.container(key="bar"):
        says = " · ".join(_said(tokens, within, [*numbers, *(["seed"] if seed else [])]))
        with st.expander(says, expanded=not on_a_phone(), key="bar-fold"):
            places = st.columns(
                [6, *(1.4 for _ in numbers), *([0.9] if seed else [])],
                vertical_alignment="center",
                gap="medium",
            )
            with places[0]:
                _strip(tokens, within.focus)
            for field, place in zip(numbers, places[1:], strict=False):
                with place:
                    _slider(field, counts[field], getattr(within, field))
            if seed:
                with places[-1]:
                    _number(within.seed)


def _said(tokens: "Sequence[Token]", within: state.State, fields: Sequence[str]) -> list[str]:
    """The bar in a line, for where it is folded."""
    token = f"“{markdown(shorten(tokens[within.focus].display, 16))}”"
    return [token, *(f"{field} {getattr(within, field)}" for field in fields)]


def _strip(tokens: "Sequence[Token]", focus: int) -> None:
    name = f"bar-focus-{len(tokens)}"
    key, begun = state.renewed(name, focus)
    with st.container(key="strip"):
        st.pills(
            "Tokens of the prompt; the chosen one is the focus token",
            range(len(tokens)),
            default=begun,
            format_func=_labels(tokens).__getitem__,
            required=True,
            key=key,
            on_change=_changed,
            args=("focus", name, key),
            label_visibility="collapsed",
            wrap=False,
        )


def _slider(field: str, count: int, value: int) -> None:
    name = f"bar-{field}-{count}"
    key, begun = state.renewed(name, value)
    st.slider(_NAMES[field], 0, count - 1, begun, key=key, on_change=_changed, args=(field, name, key))


def _number(value: int) -> None:
    key, begun = state.renewed("bar-seed", value)
    high = state.BOUNDS["seed"][1]
    st.number_input(
        "Seed", 0, high, begun, step=1, key=key, on_change=_changed, args=("seed", "bar-seed", key)
    )


def _changed(field: str, name: str, key: str) -> None:
    """In a callback: a control of the bar was moved."""
    value = st.session_state.get(key)
    if value is not None and state.is_current(name, key):
        state.change(**{field: value})
    fragments.rerun()


def on_a_phone() -> bool:
    """ "Mobi" is what browsers of phones say of themselves (MDN, "Browser detection using the user agent")."""
    return "Mobi" in (st.context.headers.get("User-Agent") or "")


def _labels(tokens: Sequence["Token"]) -> list[str]:
    """One label for each token, unlike every other: streamlit knows pills by their label."""
    return [f":gray[:small[{i}]] {_name(t)}" for i, t in enumerate(tokens)]


def _name(token: "Token") -> str:
    """A token's text; one that the tokenizer put there, such as a start token, says so."""
    text = markdown(shorten(token.display, 24))
    return f":gray[{text} :small[not typed]]" if token.special else text


def _summary(model: "Loaded", prompt: str, tokens: Sequence["Token"], total: int) -> str:
    cut = f" The pages look at the first {len(tokens)} of them." if total > len(tokens) else ""
    return (
        f"{total} token{'s' if total != 1 else ''} of {markdown(model.name)}{_not_typed(tokens)}.{cut}"
        f"{_left_out(model, prompt)}"
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

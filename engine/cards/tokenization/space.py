"""A space at the end of a prompt, and what it does to the next token."""

from collections.abc import Callable
from textwrap import dedent

import numpy as np
import torch
from numpy.typing import NDArray

from engine.cards.tokenization.common import plural
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.script import preamble
from engine.figures.bars import grouped_bars
from engine.model.capturing import token, tokenize
from engine.model.loading import Loaded
from engine.model.trace import Trace
from engine.tokens.text import clean_prompt

SHOWN = 5
"""Candidates taken from the top of each distribution."""

BARE, SPACED = "no space", "space at the end"
_TOLERANCE = {"fp32": 1e-4}
_LOOSE = 0.02  # two passes at 16 bits or fewer need not add in the same order


def space(loaded: Loaded, text: str, capture: Callable[[str], Trace], most: int = 120) -> Card:
    """Next-token probabilities after a text with and without a space at its end.

    `most` tokens of the end of a long text are kept, so that the space is still part of what the model reads.
    """
    bare = tail(loaded, clean_prompt(text).rstrip(), most)
    traces = {BARE: capture(bare), SPACED: capture(bare + " ")}
    probabilities = {name: softmax(trace.logits[-1]) for name, trace in traces.items()}
    chosen = candidates(list(probabilities.values()), SHOWN)
    names = [token(loaded, int(i)).display for i in chosen]
    shown = {name: values[chosen] for name, values in probabilities.items()}
    begins = starts_with_space(loaded, len(next(iter(probabilities.values()))))
    share = {name: float(values[begins].sum()) for name, values in probabilities.items()}

    def prove() -> Proof:
        theirs = {name: returned(loaded, trace.ids)[chosen] for name, trace in traces.items()}
        return Proof(
            "The probabilities shown against the softmax of the logits that transformers returns for both texts.",
            max(float(np.abs(theirs[name] - shown[name]).max()) for name in shown),
            _TOLERANCE.get(loaded.precision, _LOOSE),
        )

    return Card(
        key="space",
        title=f"Tokens that begin with a space: {share[BARE]:.0%} of the probability, "
        f"{share[SPACED]:.0%} after a space was typed",
        alt="Pairs of bars: the probability of each likely next token without and with a space at the end. "
        f"Most likely without: {names[0]}; with: {_first(names, shown[SPACED])}.",
        badge=Badge.LIVE,
        figure=grouped_bars(
            names,
            shown,
            colors={BARE: "logits", SPACED: "token"},
            probability=True,
            value_name="probability of the next token",
        ),
        table={
            "token": names,
            "id": chosen.tolist(),
            **{name: values.tolist() for name, values in shown.items()},
        },
        prove=prove,
        code=_code(loaded, traces, chosen),
        numbers={name: values.tolist() for name, values in shown.items()},
        atol=_TOLERANCE.get(loaded.precision, _LOOSE),
        note=f"Without: {_end(traces[BARE])}. With: {_end(traces[SPACED])}.",
    )


def tail(loaded: Loaded, text: str, most: int) -> str:
    """The end of a text that has at most `most` tokens, cut at a character."""
    while text and len(tokenize(loaded, text)) > most:
        text = text[max(1, len(text) // 5) :]
    return text


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities (vocab) from logits, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    result: NDArray[np.float64] = shifted / shifted.sum()
    return result


def candidates(distributions: list[NDArray[np.float64]], count: int) -> NDArray[np.int64]:
    """Ids of the `count` likeliest tokens of each distribution, each once, in the first one's order first."""
    ids = [int(i) for values in distributions for i in np.argsort(-values, kind="stable")[:count]]
    return np.array(list(dict.fromkeys(ids)))


def starts_with_space(loaded: Loaded, vocab: int) -> NDArray[np.bool_]:
    """Which vocabulary entries begin with a space; rows of padding do not."""
    known = range(min(vocab, len(loaded.tokenizer)))
    marks = np.zeros(vocab, bool)
    pieces = loaded.tokenizer.convert_ids_to_tokens(list(known))
    marks[: len(pieces)] = [piece is not None and piece.startswith(("Ġ", "▁", " ")) for piece in pieces]
    return marks


@torch.no_grad()
def returned(loaded: Loaded, ids: tuple[int, ...]) -> NDArray[np.float64]:
    """Probabilities (vocab) after the last of `ids`, from transformers' own forward pass and torch's softmax."""
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    logits = loaded.model(input_ids=batch, use_cache=False).logits[0, -1]
    found: NDArray[np.float64] = torch.softmax(logits.double(), -1).cpu().numpy()
    return found


def _first(names: list[str], values: NDArray[np.float64]) -> str:
    return names[int(values.argmax())]


def _end(trace: Trace) -> str:
    last, untyped = trace.tokens[-1], sum(token.special for token in trace.tokens)
    among = f" ({untyped} of them not typed)" if untyped else ""
    return f"{plural(len(trace.tokens), 'token')}{among}, the last is “{last.display}” (id {last.id})"


def _code(loaded: Loaded, traces: dict[str, Trace], chosen: NDArray[np.int64]) -> str:
    return preamble(loaded) + dedent(
        f"""
        texts = { ({name: list(trace.ids) for name, trace in traces.items()})!r}
        shown = {chosen.tolist()}
        result = {{}}
        for name, ids in texts.items():
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            result[name] = logits.double().softmax(-1)[shown].tolist()
        """
    )

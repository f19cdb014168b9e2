"""A space at the end of a prompt, and what it does to the next token."""

from collections.abc import Callable, Mapping, Sequence
from textwrap import dedent

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.ends import last_probabilities
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.tokenizing import begins_with_space
from engine.evidence.rounding import same_pass
from engine.evidence.script import preamble
from engine.figures.bars import grouped_bars
from engine.model.capturing import token, tokenize
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops.sampling import softmax
from engine.tokens.encoder import Kind, encoder
from engine.tokens.text import clean_prompt, plural

SHOWN = 5
"""Candidates taken from the top of each distribution."""

BARE, SPACED = "no space", "space at the end"


def space(loaded: Loaded, text: str, capture: Callable[[str], Trace], most: int = 120) -> Card:
    """Next-token probabilities after a text with and without a space at its end.

    `most` tokens of the end of a long text are kept, so that the space is still part of what the model reads.
    """
    bare = tail(loaded, clean_prompt(text).rstrip(), most)
    traces = {BARE: capture(bare), SPACED: capture(bare + " ")}
    probabilities = {name: softmax(trace.logits[-1]) for name, trace in traces.items()}
    chosen = candidates(list(probabilities.values()), SHOWN)
    names = [token(loaded, int(i)).display for i in chosen]
    shown: dict[str, NDArray[np.float64]] = {name: values[chosen] for name, values in probabilities.items()}
    begins = starts_with_space(loaded, len(next(iter(probabilities.values()))))
    share = {name: float(values[begins].sum()) for name, values in probabilities.items()}

    ids = {name: trace.ids for name, trace in traces.items()}
    begin = [best(values).tolist() for values in probabilities.values()]

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
            colors={BARE: "token", SPACED: "logits"},
            probability=True,
            value_name="probability of the next token",
        ),
        table={
            "token": names,
            "id": chosen.tolist(),
            **{name: values.tolist() for name, values in shown.items()},
        },
        shown={
            **{name: values.tolist() for name, values in shown.items()},
            "ids": chosen.tolist(),
            "begin with a space": list(share.values()),
        },
        oracle=Oracle(
            "Both texts read again by transformers alone: torch’s softmax of the logits it returns, its order of the "
            "likeliest tokens, and the sum over all tokens whose text, as the tokenizer decodes it, begins with a "
            "space. (The same model twice: this finds a wrong token, share or sum, not a wrong logit.)",
            lambda: _again(loaded, ids, begin),
            {BARE: same_pass(), SPACED: same_pass(), "ids": 0.0, "begin with a space": same_pass()},
        ),
        code=_code(loaded, traces),
        atol=same_pass(),
        note=f"Without: {_end(traces[BARE])}. With: {_end(traces[SPACED])}.{_in_bytes(names)}",
    )


def tail(loaded: Loaded, text: str, most: int) -> str:
    """The end of a text that has at most `most` tokens, cut at a character."""
    while text and len(tokenize(loaded, text)) > most:
        text = text[max(1, len(text) // 5) :]
    return text


def candidates(distributions: list[NDArray[np.float64]], count: int) -> NDArray[np.int64]:
    """Ids of the `count` likeliest tokens of each distribution, each once, in the first one's order first."""
    ids = [int(i) for values in distributions for i in best(values, count)]
    return np.array(list(dict.fromkeys(ids)))


def best(values: NDArray[np.float64], count: int = SHOWN) -> NDArray[np.int64]:
    """Ids of the `count` likeliest tokens, the likeliest first."""
    return np.argsort(-values, kind="stable")[:count]


def starts_with_space(loaded: Loaded, vocab: int) -> NDArray[np.bool_]:
    """Which vocabulary entries begin with a space; rows of padding do not."""
    known = range(min(vocab, len(loaded.tokenizer)))
    marks = np.zeros(vocab, bool)
    pieces = loaded.tokenizer.convert_ids_to_tokens(list(known))
    marks[: len(pieces)] = [piece is not None and piece.startswith(_spaces(loaded)) for piece in pieces]
    return marks


def _spaces(loaded: Loaded) -> tuple[str, ...]:
    """How the space is written with which a piece begins; an added token has the space itself."""
    kinds: dict[Kind, tuple[str, ...]] = {
        "bytes": ("Ġ", " "),
        "metaspace": ("▁", "<0x20>", " "),
        "other": ("▁", " "),
    }
    return kinds[encoder(loaded.tokenizer).kind]


def _again(
    loaded: Loaded, ids: Mapping[str, tuple[int, ...]], begin: Sequence[Sequence[int]]
) -> dict[str, ArrayLike]:
    """`begin` holds each text's likeliest ids, to be kept where others are exactly as likely."""
    found = {name: last_probabilities(loaded, given) for name, given in ids.items()}
    best = [at_ranks(like, p, same_pass()) for like, p in zip(begin, found.values(), strict=True)]
    chosen = list(dict.fromkeys(int(i) for row in best for i in row))
    begins = torch.tensor(begins_with_space(loaded, len(next(iter(found.values())))))
    return {
        **{name: p[chosen] for name, p in found.items()},
        "ids": chosen,
        "begin with a space": [float(p[begins].sum()) for p in found.values()],
    }


def _first(names: list[str], values: NDArray[np.float64]) -> str:
    return names[int(values.argmax())]


def _in_bytes(names: Sequence[str]) -> str:
    """What stands for bytes in a name, where one has them."""
    example = next((name for name in names if name.startswith("‹") and not name.startswith("‹U+")), "")
    return f" {example} are bytes that are no whole character by themselves." if example else ""


def _end(trace: Trace) -> str:
    last, untyped = trace.tokens[-1], sum(token.special for token in trace.tokens)
    among = f" ({untyped} of them not typed)" if untyped else ""
    return f"{plural(len(trace.tokens), 'token')}{among}, the last is “{last.display}” (id {last.id})"


def _code(loaded: Loaded, traces: dict[str, Trace]) -> str:
    return preamble(loaded) + dedent(
        f"""
        texts = { ({name: list(trace.ids) for name, trace in traces.items()})!r}
        with torch.no_grad():
            p = {{name: model(torch.tensor([ids])).logits[0, -1].double().softmax(-1) for name, ids in texts.items()}}
        best = [id for row in p.values() for id in row.sort(descending=True, stable=True).indices[:{SHOWN}].tolist()]
        best = list(dict.fromkeys(best))
        pieces = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), model.config.vocab_size)))
        begin = [id for id, piece in enumerate(pieces) if piece and piece.startswith({_spaces(loaded)})]
        result = {{name: row[best].tolist() for name, row in p.items()}}
        result |= {{"ids": best, "begin with a space": [float(row[begin].sum()) for row in p.values()]}}
        """
    )

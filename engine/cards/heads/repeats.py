"""A text without meaning that repeats, and what one head does with it."""

import numpy as np
import torch

from engine import Loaded, ReaderError
from engine.cards.heads.ablation import ablation_code, without
from engine.cards.heads.common import (
    ATTENTION_CODE,
    Heads,
    largest_difference,
    logits_without,
    name,
    names,
    returned_attention,
    table,
    tolerance,
)
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.script import preamble
from engine.figures import lines
from engine.figures.heads import repeated_map
from engine.model.cache import traced
from engine.model.trace import Trace
from engine.ops.heads import KINDS, queries, scores, surprisal, target_keys

LENGTH = 32
"""Random tokens in each half, fewer where the model's context does not hold two halves and a start token."""


def half_length(loaded: Loaded) -> int:
    """Random tokens in each half. Raises ReaderError when the context is too short to tell the kinds apart."""
    length = min(LENGTH, (loaded.spec.context - 1) // 2)
    if length < 3:
        raise ReaderError(f"{loaded.name} reads too few tokens for a sequence that repeats.")
    return length


def repeated_ids(loaded: Loaded, seed: int) -> tuple[int, ...]:
    """A start token, random tokens drawn from `seed` without repetition, and the same random tokens again.

    The start token is the tokenizer's beginning-of-text token, or its end-of-text token, or one more random token.
    Ids that the tokenizer does not know and special tokens are never drawn.
    """
    special, start, length = set(loaded.tokenizer.all_special_ids), _start(loaded), half_length(loaded)
    known = min(loaded.spec.vocab, len(loaded.tokenizer))
    order = torch.randperm(known, generator=torch.Generator().manual_seed(seed))
    drawn = [i for i in order[: length + 1 + len(special)].tolist() if i not in special]
    if len(drawn) <= length:
        raise ReaderError(f"{loaded.name} has too few tokens to draw from.")
    half = drawn[:length]
    return (drawn[length] if start is None else start, *half, *half)


def _start(loaded: Loaded) -> int | None:
    tokenizer = loaded.tokenizer
    start: int | None = (
        tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    )
    return start


def repeated(loaded: Loaded, seed: int) -> Trace:
    """The forward pass over the repeated random tokens of a seed."""
    return traced(loaded, repeated_ids(loaded, seed))


def _length(trace: Trace) -> int:
    return (len(trace.tokens) - 1) // 2


def pattern(loaded: Loaded, seed: int, layer: int, head: int) -> Card:
    """One head's map over the repeated random tokens, with the four places that are looked at marked."""
    trace = repeated(loaded, seed)
    length = _length(trace)
    weights = trace.attention[layer, head]
    found = {kind: float(scores(weights, length)[kind]) for kind in KINDS}
    at = queries(length)
    return Card(
        key="pattern",
        title=f"{name(layer, head)} on random tokens, seed {seed}: {_shares(found)}",
        alt=f"Attention map of layer {layer}, head {head} over a start token and {length} random tokens read twice; "
        f"dotted lines mark the previous token, the same token in the first half, and the token after it.",
        badge=Badge.LIVE,
        figure=repeated_map(weights, [token.display for token in trace.tokens], length),
        table=table(
            {
                "query": at,
                "token": [trace.tokens[i].display for i in at],
                **{f"weight on {kind} key": weights[at, target_keys(kind, length)] for kind in KINDS},
            }
        ),
        prove=lambda: _prove_pattern(loaded, trace, layer, head),
        code=preamble(loaded, trace.ids)
        + ATTENTION_CODE
        + f'result = {{"ids": ids[0], "weights": weights[{layer}, {head}]}}\n',
        numbers={"ids": list(trace.ids), "weights": weights},
        atol=tolerance(loaded),
        note=f"Token ids drawn by torch.Generator with seed {seed}, without repetition and without special tokens. "
        "The table lists the queries of the second half.",
    )


def _shares(found: dict[str, float]) -> str:
    rest = 1 - sum(found.values())
    parts = [f"{kind} {value:.0%}" for kind, value in found.items()]
    return ", ".join([*parts, f"elsewhere {max(rest, 0.0):.0%}"])


def _prove_pattern(loaded: Loaded, trace: Trace, layer: int, head: int) -> Proof:
    other = returned_attention(loaded, trace.ids)[layer, head].numpy()
    return Proof(
        claim=f"{name(layer, head)}'s weights against what transformers returns for the same token ids.",
        max_abs_diff=largest_difference(trace.attention[layer, head], other),
        tolerance=tolerance(loaded),
    )


def strongest_heads(trace: Trace, kind: str, count: int) -> Heads:
    """The `count` heads with the largest scores of a kind, in that order."""
    found = np.nan_to_num(scores(trace.attention, _length(trace))[kind], nan=-1.0)
    order = np.argsort(-found, axis=None, kind="stable")[:count]
    return tuple((int(i) // found.shape[1], int(i) % found.shape[1]) for i in order)


def second_time(loaded: Loaded, seed: int, removed: int) -> Card:
    """Surprisal of each random token at both readings, also without the `removed` best induction heads."""
    trace = repeated(loaded, seed)
    length, heads = _length(trace), strongest_heads(trace, "induction", removed)
    values = _surprisals(trace)  # of positions 1 … 2·length
    ablated = _surprisals(without(loaded, trace, heads)) if heads else values
    (first, second), (_, after) = means(values, length), means(ablated, length)
    position = np.arange(1, length + 1)
    series = {"first reading": values[:length], "second reading": values[length:]}
    if heads:
        series["second reading, heads removed"] = ablated[length:]
    effect = f"; without {names(heads[:3])}{' …' if len(heads) > 3 else ''} {after:.2f}" if heads else ""
    return Card(
        key="second-time",
        title=f"First reading {first:.2f} nats per token, second reading {second:.2f}{effect}",
        alt="Surprisal of each random token at its first and at its second reading, and at the second without the "
        "removed heads.",
        badge=Badge.LIVE,
        figure=lines(
            position,
            series,
            colors={
                "first reading": "token",
                "second reading": "key",
                "second reading, heads removed": "attention",
            },
            x_name="number of the random token",
            y_name="surprisal (nats)",
            zero=True,
            markers=True,
        ),
        table=table(
            {
                "number": position,
                "token": [token.display for token in trace.tokens[1 : length + 1]],
                **{f"{which} (nats)": value for which, value in series.items()},
            }
        ),
        prove=lambda: _prove_surprisal(loaded, trace, heads, values, ablated),
        code=preamble(loaded, trace.ids) + _second_time_code(loaded, heads, length),
        numbers={"surprisal": values, "without": ablated, "first": first, "second": second, "after": after},
        atol=10 * tolerance(loaded),
        note="The mean of the second reading leaves out its first token: nothing announces that the sequence starts "
        f"again. Seed {seed}.",
    )


def _surprisals(trace: Trace) -> np.ndarray:
    return surprisal(trace.logits, np.array(trace.ids))


def means(values: np.ndarray, length: int) -> tuple[float, float]:
    """Mean surprisal of the first half, and of the second half without its first token."""
    return float(values[:length].mean()), float(values[length + 1 :].mean())


def _prove_surprisal(
    loaded: Loaded, trace: Trace, heads: Heads, values: np.ndarray, ablated: np.ndarray
) -> Proof:
    ids, others = torch.tensor(trace.ids[1:]), []
    for removed in ((), heads):
        logits = torch.tensor(logits_without(loaded, trace.ids, removed))[:-1]
        others.append(torch.nn.functional.cross_entropy(logits, ids, reduction="none").numpy())
    how = f" without and with the output projection's part of {names(heads)} set to zero" if heads else ""
    return Proof(
        claim=f"Each surprisal against torch.nn.functional.cross_entropy on the logits of a private copy{how}.",
        max_abs_diff=largest_difference(np.stack([values, ablated]), np.stack(others)),
        tolerance=10 * tolerance(loaded),  # surprisals are of the order of ten nats
    )


def _second_time_code(loaded: Loaded, heads: Heads, length: int) -> str:
    return ablation_code(loaded) + _SURPRISAL_CODE.format(length=length, heads=list(heads))


_SURPRISAL_CODE = """\
def surprisal(heads):
    logits = logits_without(heads)
    return torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")


n = {length}
everything, without = surprisal([]), surprisal({heads})
result = {{
    "surprisal": everything,
    "without": without,
    "first": everything[:n].mean(),
    "second": everything[n + 1 :].mean(),
    "after": without[n + 1 :].mean(),
}}
"""

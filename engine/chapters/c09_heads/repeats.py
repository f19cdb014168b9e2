"""A text without meaning that repeats, and what one head does with it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import Loaded
from engine.chapters.c09_heads.ablation import ablation_code, without
from engine.chapters.c09_heads.naming import Heads, name, names, table
from engine.chapters.c09_heads.passes import ATTENTION_CODE
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.attentions import kind_scores, returned_attention
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.reading import nats_of
from engine.evidence.oracles.silenced import logits_without
from engine.evidence.rounding import LOGIT, same_pass
from engine.evidence.script import preamble
from engine.figures import lines
from engine.figures.heads import repeated_map
from engine.model.cache import traced
from engine.model.repeated import repeated_ids
from engine.model.trace import Trace
from engine.ops.heads import KINDS, queries, scores, target_keys
from engine.ops.sampling import surprisal


def repeated(loaded: Loaded, seed: int) -> Trace:
    """The forward pass over the repeated random tokens of a seed."""
    return traced(loaded, repeated_ids(loaded, seed))


def _length(trace: Trace) -> int:
    return (len(trace.tokens) - 1) // 2


def pattern(loaded: Loaded, seed: int, layer: int, head: int) -> Card:
    """One head's map over the repeated random tokens, with the four places that are looked at marked."""
    trace = repeated(loaded, seed)
    ids, length = tuple(trace.ids), _length(trace)
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
        shown={"weights": weights.copy(), "shares": list(found.values())},
        oracle=Oracle(
            f"The map of {name(layer, head)} against what transformers returns for the same token ids (the same pass "
            f"once more: it finds a wrong head, a wrong index or a leak), and the four shares along its diagonals.",
            lambda: _pattern_again(loaded, ids, layer, head),
            same_pass(),
        ),
        code=preamble(loaded, ids) + ATTENTION_CODE + _PATTERN_CODE.format(layer=layer, head=head, n=length),
        note=f"Token ids drawn by torch.Generator with seed {seed}, without repetition and without special tokens. "
        "The table lists the queries of the second half.",
    )


def _shares(found: dict[str, float]) -> str:
    rest = 1 - sum(found.values())
    parts = [f"{kind} {value:.0%}" for kind, value in found.items()]
    return ", ".join([*parts, f"elsewhere {max(rest, 0.0):.0%}"])


def _pattern_again(loaded: Loaded, ids: Sequence[int], layer: int, head: int) -> dict[str, Any]:
    weights = returned_attention(loaded, ids)[layer, head]
    scored = kind_scores(weights, (len(ids) - 1) // 2, True)
    return {"weights": weights, "shares": [scored[kind] for kind in KINDS]}


_PATTERN_CODE = """\
weights, n = weights[{layer}, {head}], {n}
query = torch.arange(n + 1, 2 * n + 1)  # the second half
keys = query - 1, query - n, query - n + 1, 0 * query  # previous, duplicate, induction, sink
result = {{"weights": weights, "shares": torch.stack([weights[query, key].mean() for key in keys])}}
"""


def strongest_heads(trace: Trace, kind: str, count: int) -> Heads:
    """The `count` heads with the largest scores of a kind, in that order."""
    found = np.nan_to_num(scores(trace.attention, _length(trace))[kind], nan=-1.0)
    order = np.argsort(-found, axis=None, kind="stable")[:count]
    return tuple((int(i) // found.shape[1], int(i) % found.shape[1]) for i in order)


def second_time(loaded: Loaded, seed: int, removed: int) -> Card:
    """Surprisal of each random token at both readings, also without the `removed` best induction heads."""
    trace = repeated(loaded, seed)
    ids = tuple(trace.ids)
    length, heads = _length(trace), strongest_heads(trace, "induction", removed)
    values = _surprisals(trace)  # of positions 1 … 2·length
    ablated = _surprisals(without(loaded, trace, heads)) if heads else values
    (first, second), (_, after) = means(values, length), means(ablated, length)
    position = np.arange(1, length + 1)
    series = {"first reading": values[:length], "second reading": values[length:]}
    if heads:
        series["second reading, heads removed"] = ablated[length:]
    shown: dict[str, Any] = {**series, "means": [first, second, *([after] if heads else [])]}
    if heads:
        shown["heads removed"] = _flat(heads)
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
        shown=shown,
        oracle=Oracle(
            "Each surprisal by torch.nn.functional.cross_entropy on the logits of a private copy"
            + (
                f", without and with the output projection's part of {names(heads)} set to zero; and these heads "
                f"ranked first by diagonals of the weights that transformers returns."
                if heads
                else "."
            ),
            lambda: _second_time_again(loaded, ids, heads),
            dict.fromkeys(shown, same_pass(LOGIT)) | {"heads removed": 0.0},
        ),
        code=preamble(loaded, ids) + _second_time_code(loaded, heads, length),
        note="The mean of the second reading leaves out its first token: nothing announces that the sequence starts "
        f"again. Seed {seed}.",
    )


def _surprisals(trace: Trace) -> np.ndarray:
    return surprisal(trace.logits[:-1], trace.ids[1:])


def means(values: np.ndarray, length: int) -> tuple[float, float]:
    """Mean surprisal of the first half, and of the second half without its first token."""
    return float(values[:length].mean()), float(values[length + 1 :].mean())


def _flat(heads: Heads) -> list[int]:
    """layer, head, layer, head, …"""
    return [number for pair in heads for number in pair]


def _second_time_again(loaded: Loaded, ids: Sequence[int], heads: Heads) -> dict[str, Any]:
    n = (len(ids) - 1) // 2
    whole = nats_of(torch.tensor(logits_without(loaded, ids, ())), ids)
    found = {"first reading": whole[:n], "second reading": whole[n:]}
    means = [whole[:n].mean(), whole[n + 1 :].mean()]
    if not heads:
        return found | {"means": means}
    after = nats_of(torch.tensor(logits_without(loaded, ids, heads)), ids)[n:]
    scored = kind_scores(returned_attention(loaded, ids), n, True)["induction"]
    given = [layer * loaded.spec.n_head + head for layer, head in heads]
    order = at_ranks(given, scored.flatten(), same_pass()).tolist()
    return found | {
        "second reading, heads removed": after,
        "means": [*means, after[1:].mean()],
        "heads removed": _flat(tuple(divmod(i, loaded.spec.n_head) for i in order)),
    }


def _second_time_code(loaded: Loaded, heads: Heads, length: int) -> str:
    removed = _REMOVED_CODE.format(heads=list(heads), count=len(heads)) if heads else ""
    return (
        ablation_code(loaded)
        + _SURPRISAL_CODE.format(length=length)
        + removed
        + 'result["means"] = torch.stack(means)\n'
    )


_SURPRISAL_CODE = """\
def surprisal(heads):
    logits = logits_without(heads)
    return torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")


n = {length}
whole = surprisal([])
result = {{"first reading": whole[:n], "second reading": whole[n:]}}
means = [whole[:n].mean(), whole[n + 1 :].mean()]
"""

_REMOVED_CODE = """\
removed = surprisal({heads})[n:]
means.append(removed[1:].mean())

with torch.no_grad():
    attentions = model(ids, output_attentions=True).attentions
induction = torch.stack(attentions)[:, 0].diagonal(1 - n, -2, -1)[..., -n:].float().mean(-1)  # layer, head
best = induction.flatten().topk({count}).indices
result |= {{
    "second reading, heads removed": removed,
    "heads removed": torch.stack([best // induction.shape[1], best % induction.shape[1]], 1).flatten(),
}}
"""

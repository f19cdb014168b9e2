"""A text without meaning that repeats, and what one head does with it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import Loaded
from engine.chapters.c09_heads.ablation import ablation_code
from engine.chapters.c09_heads.controls import DRAWS, other_heads
from engine.chapters.c09_heads.naming import Heads, flat, name, names, table
from engine.chapters.c09_heads.passes import ATTENTION_CODE
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.attentions import kind_scores, returned_attention
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.reading import nats_of
from engine.evidence.oracles.silenced import drawn_heads, logits_without
from engine.evidence.rounding import LOGIT, same_pass
from engine.evidence.script import preamble
from engine.figures import lines
from engine.figures.heads import repeated_map
from engine.model.cache import traced
from engine.model.capturing import forward
from engine.model.interventions import AblateHeads
from engine.model.repeated import repeated_ids
from engine.model.trace import Trace
from engine.ops.heads import KINDS, queries, scores, target_keys
from engine.ops.sampling import surprisal

HALF = 0.5
"""A head that gives a place less of its attention spends most of it elsewhere."""


REMOVED, OTHERS = "second reading, heads removed", "second reading, as many others removed"


def repeated(loaded: Loaded, seed: int) -> Trace:
    """The forward pass over the repeated random tokens of a seed."""
    return traced(loaded, repeated_ids(loaded, seed))


def _length(trace: Trace) -> int:
    return (len(trace.tokens) - 1) // 2


def pattern(loaded: Loaded, seed: int, layer: int, head: int, kind: str | None = None) -> Card:
    """One head's map over the repeated random tokens, with the four places that are looked at marked.

    `kind` is that of which it is the strongest head, if it was chosen for that.
    """
    trace = repeated(loaded, seed)
    ids, length = tuple(trace.ids), _length(trace)
    weights = trace.attention[layer, head]
    found = {kind: float(scores(weights, length)[kind]) for kind in KINDS}
    at = queries(length)
    return Card(
        key="pattern",
        title=f"{name(layer, head)} on random tokens, seed {seed}: {_shares(found)}{_weak(found, kind)}",
        alt=f"Attention map of layer {layer}, head {head} over a start token and {length} random tokens read twice; "
        f"pairs of dotted lines enclose the previous token, the same token in the first half, and the token after it.",
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


def _weak(found: dict[str, float], kind: str | None) -> str:
    """A warning where even the strongest head of a kind is hardly one."""
    if kind is None or found[kind] >= HALF:
        return ""
    return f". No head here gives half of its attention to the {kind} key"


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


def strongest(loaded: Loaded, seed: int, kind: str) -> tuple[tuple[int, int], float]:
    """The head with the largest score of a kind on the random tokens of a seed, and that score."""
    trace = repeated(loaded, seed)
    [head] = strongest_heads(trace, kind, 1)
    return head, float(scores(trace.attention, _length(trace))[kind][head])


def second_time(loaded: Loaded, seed: int, removed: int) -> Card:
    """Surprisal of each random token at both readings, also without the `removed` best induction heads.

    And, as a control, without as many other heads, drawn several times.
    """
    trace = repeated(loaded, seed)
    ids = tuple(trace.ids)
    length, heads = _length(trace), strongest_heads(trace, "induction", removed)
    values = _surprisals(trace)  # of positions 1 … 2·length
    first, second = means(values, length)
    position = np.arange(1, length + 1)
    series = {"first reading": values[:length], "second reading": values[length:]}
    shown: dict[str, Any] = {**series, "means": [first, second]}
    effect = ""
    if heads:
        ablated, draws = _without_nats(loaded, ids, heads), other_heads(loaded, heads, len(heads), seed)
        others = [_without_nats(loaded, ids, drawn) for drawn in draws]
        ends = [means(nats, length)[1] for nats in others]
        series[REMOVED], series[OTHERS] = ablated[length:], np.mean(others, axis=0)[length:]
        after = means(ablated, length)[1]
        shown = {
            **series, "means": [first, second, after], "heads removed": flat(heads),
            "means, others removed": ends, "others removed": [flat(drawn) for drawn in draws],
        }  # fmt: skip
        effect = (
            f"; without {names(heads[:3])}{' …' if len(heads) > 3 else ''} {after:.2f}, without as many others "
            f"{np.median(ends):.2f} (median; {min(ends):.2f} to {max(ends):.2f})"
        )
    return Card(
        key="second-time",
        title=f"First reading {first:.2f} nats per token, second reading {second:.2f}{effect}",
        alt="Surprisal of each random token at its first and at its second reading, and at the second without the "
        "removed heads and without as many others.",
        badge=Badge.LIVE,
        figure=lines(
            position,
            series,
            colors={
                "first reading": "token",
                "second reading": "key",
                REMOVED: "attention",
                OTHERS: "value",
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
                f", without and with the output projection's part of {names(heads)} set to zero; these heads ranked "
                f"first by diagonals of the weights that transformers returns. The same without the others, which are "
                f"drawn from the seed once more."
                if heads
                else "."
            ),
            lambda: _second_time_again(loaded, ids, heads, seed),
            dict.fromkeys(shown, same_pass(LOGIT)) | {"heads removed": 0.0, "others removed": 0.0},
        ),
        code=preamble(loaded, ids)
        + _second_time_code(loaded, heads, length, shown.get("others removed", [])),
        note=_reading_note(loaded, seed, bool(heads)),
    )


def _reading_note(loaded: Loaded, seed: int, control: bool) -> str:
    others = f" Others: the mean over {DRAWS} draws of as many heads." if control else ""
    return (
        "The mean of the second reading leaves out its first token: nothing announces that the sequence starts again. "
        f"Giving all {loaded.spec.vocab:,} tokens the same probability would cost {np.log(loaded.spec.vocab):.2f} nats "
        f"per token.{others} Seed {seed}."
    )


def _without_nats(loaded: Loaded, ids: Sequence[int], heads: Heads) -> np.ndarray:
    """Surprisals of positions 1 … 2·length in a pass without some heads; nothing else of it is kept."""
    logits = forward(loaded, ids, (AblateHeads(heads),))["logits", 0][0]
    return surprisal(logits[:-1].float().cpu().numpy(), ids[1:])


def _surprisals(trace: Trace) -> np.ndarray:
    return surprisal(trace.logits[:-1], trace.ids[1:])


def means(values: np.ndarray, length: int) -> tuple[float, float]:
    """Mean surprisal of the first half, and of the second half without its first token."""
    return float(values[:length].mean()), float(values[length + 1 :].mean())


def _second_time_again(loaded: Loaded, ids: Sequence[int], heads: Heads, seed: int) -> dict[str, Any]:
    n, wide = (len(ids) - 1) // 2, loaded.spec.n_head

    def nats(silent: Sequence[tuple[int, int]]) -> torch.Tensor:
        return nats_of(torch.tensor(logits_without(loaded, ids, silent)), ids)

    whole = nats(())
    found = {"first reading": whole[:n], "second reading": whole[n:]}
    means = [whole[:n].mean(), whole[n + 1 :].mean()]
    if not heads:
        return found | {"means": means}
    scored = kind_scores(returned_attention(loaded, ids), n, True)["induction"]
    given = [layer * wide + head for layer, head in heads]
    order = at_ranks(given, scored.flatten(), same_pass()).tolist()
    chosen = [divmod(i, wide) for i in order]
    after, draws = nats(chosen)[n:], drawn_heads(loaded, order, len(order), DRAWS, seed)
    others = torch.stack([nats(drawn)[n:] for drawn in draws])
    return found | {
        REMOVED: after,
        OTHERS: others.mean(0),
        "means": [*means, after[1:].mean()],
        "means, others removed": others[:, 1:].mean(1),
        "heads removed": flat(chosen),
        "others removed": [flat(drawn) for drawn in draws],
    }


def _second_time_code(loaded: Loaded, heads: Heads, length: int, drawn: Sequence[Sequence[int]]) -> str:
    removed = ""
    if heads:
        others = [list(zip(one[::2], one[1::2], strict=True)) for one in drawn]
        removed = _REMOVED_CODE.format(
            heads=list(heads), count=len(heads), draws=others, removed=REMOVED, others=OTHERS
        )
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
    "{removed}": removed,
    "heads removed": torch.stack([best // induction.shape[1], best % induction.shape[1]], 1).flatten(),
}}

draws = {draws}
others = torch.stack([surprisal(drawn)[n:] for drawn in draws])
result |= {{
    "{others}": others.mean(0),
    "means, others removed": others[:, 1:].mean(1),
    "others removed": [[number for pair in drawn for number in pair] for drawn in draws],
}}
"""

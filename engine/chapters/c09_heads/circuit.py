"""How induction works: what becomes of induction heads without the previous-token heads below them, and a control."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import Loaded
from engine.chapters.c09_heads.ablation import ablation_code
from engine.chapters.c09_heads.controls import DRAWS, other_heads
from engine.chapters.c09_heads.naming import Heads, flat, name, names, table
from engine.chapters.c09_heads.repeats import repeated, strongest_heads
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.attentions import kind_scores, returned_attention
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.silenced import attention_without, drawn_heads
from engine.evidence.rounding import LOGIT, same_pass
from engine.evidence.script import preamble
from engine.figures import grouped_bars
from engine.model.capturing import forward
from engine.model.interventions import AblateHeads
from engine.model.trace import Trace
from engine.ops.heads import Floats, scores

SHOWN = 5
"""Induction heads whose scores are followed."""

WITHOUT, OTHERS = "without the previous-token heads", "without as many others"


def previous_heads(trace: Trace, below: int, count: int) -> Heads:
    """The heads in layers before `below` that look most at the token before, the strongest first."""
    every = strongest_heads(trace, "previous", trace.attention.shape[0] * trace.attention.shape[1])
    return tuple(pair for pair in every if pair[0] < below)[:count]


def circuit(loaded: Loaded, seed: int, removed: int) -> Card:
    """Scores of the strongest induction heads without the `removed` strongest previous-token heads below them."""
    trace = repeated(loaded, seed)
    ids, followed = tuple(trace.ids), strongest_heads(trace, "induction", SHOWN)
    heads = previous_heads(trace, followed[0][0], removed)
    draws = other_heads(loaded, (*followed, *heads), len(heads), seed) if heads else []
    series = {"as it is": _induction(trace.attention, followed)}
    if heads:
        series[WITHOUT] = _induction(_attention(loaded, ids, heads), followed)
        series[OTHERS] = np.mean(
            [_induction(_attention(loaded, ids, drawn), followed) for drawn in draws], axis=0
        )
    shown: dict[str, Any] = {**series, "followed": flat(followed), "taken out": flat(heads)}
    shown |= {"drawn": [flat(drawn) for drawn in draws]} if heads else {}
    return Card(
        key="circuit",
        title=_title(series, heads),
        alt=f"For each of the {len(followed)} strongest induction heads a bar with its score as it is, one without "
        f"the previous-token heads and one without as many other heads.",
        badge=Badge.LIVE,
        figure=grouped_bars(
            [name(*pair) for pair in followed],
            series,
            colors={"as it is": "key", WITHOUT: "attention", OTHERS: "token"},
            value_name="induction score",
            label_name="induction head",
        ),
        table=table({"head": [name(*pair) for pair in followed], **series}),
        shown=shown,
        oracle=Oracle(
            "Scores along diagonals of the weights that transformers returns, for the model and for private copies in "
            "which the output projection's part of the heads that are taken out is zero; these heads ranked, and the "
            "others drawn from the seed, once more.",
            lambda: _again(loaded, ids, followed, heads, seed),
            dict.fromkeys(series, same_pass(LOGIT)) | {"followed": 0.0, "taken out": 0.0, "drawn": 0.0},
        ),
        code=preamble(loaded, ids) + ablation_code(loaded) + _code(followed, heads, draws),
        note=_note(seed, heads),
    )


def _induction(attention: Floats, followed: Heads) -> Floats:
    """The induction scores of some heads, from (layer, head, query, key)."""
    found = scores(attention, (attention.shape[-1] - 1) // 2)["induction"]
    return np.array([found[pair] for pair in followed], np.float64)


def _attention(loaded: Loaded, ids: Sequence[int], heads: Heads) -> Floats:
    """All maps of a pass without some heads; nothing of it is kept."""
    recorded = forward(loaded, ids, (AblateHeads(heads),))
    maps = [recorded["attention", layer][0] for layer in range(loaded.spec.n_layer)]
    result: Floats = torch.stack(maps).float().cpu().numpy()
    return result


def _title(series: dict[str, Floats], heads: Heads) -> str:
    means = {which: float(values.mean()) for which, values in series.items()}
    count, now = len(series["as it is"]), means["as it is"]
    if not heads:
        return f"The {count} strongest induction heads have a mean score of {now:.2f}"
    return (
        f"Without {names(heads[:3])}{' …' if len(heads) > 3 else ''} the mean score of the {count} strongest induction "
        f"heads goes from {now:.2f} to {means[WITHOUT]:.2f}; without as many others, to {means[OTHERS]:.2f}"
    )


def _note(seed: int, heads: Heads) -> str:
    if not heads:
        return f"Random tokens read twice, seed {seed}."
    return (
        f"Taken out: {names(heads)}, the strongest previous-token heads in layers below the strongest induction head. "
        f"Others: mean over {DRAWS} draws of {len(heads)} heads that are neither these nor shown. Seed {seed}."
    )


def _again(loaded: Loaded, ids: Sequence[int], followed: Heads, heads: Heads, seed: int) -> dict[str, Any]:
    n, wide, whole = (len(ids) - 1) // 2, loaded.spec.n_head, returned_attention(loaded, ids)
    scored = kind_scores(whole, n, True)
    best = at_ranks([a * wide + b for a, b in followed], scored["induction"].flatten(), same_pass()).tolist()
    below = scored["previous"].clone()
    below[best[0] // wide :] = -1
    taken = at_ranks([a * wide + b for a, b in heads], below.flatten(), same_pass()).tolist()

    def read(weights: torch.Tensor) -> torch.Tensor:
        return kind_scores(weights, n, True)["induction"].flatten()[best]

    found = {"as it is": read(whole), "followed": _pairs(best, wide), "taken out": _pairs(taken, wide)}
    if not heads:
        return found
    draws = drawn_heads(loaded, [*best, *taken], len(taken), DRAWS, seed)
    apart = [read(attention_without(loaded, ids, drawn)) for drawn in draws]
    return found | {
        WITHOUT: read(attention_without(loaded, ids, [divmod(i, wide) for i in taken])),
        OTHERS: torch.stack(apart).mean(0),
        "drawn": [flat(drawn) for drawn in draws],
    }


def _pairs(numbers: Sequence[int], wide: int) -> list[int]:
    return [part for number in numbers for part in divmod(number, wide)]


def _code(followed: Heads, heads: Heads, draws: Sequence[Heads]) -> str:
    return _CODE.format(
        followed=list(followed),
        heads=list(heads),
        draws=[list(drawn) for drawn in draws],
        more=_MORE.format(without=WITHOUT, others=OTHERS) if heads else "",
    )


_CODE = """\
followed, taken, draws = {followed}, {heads}, {draws}
n = (ids.shape[1] - 1) // 2


def induction(heads):
    hooks = silenced(heads)
    with torch.no_grad():
        attentions = model(ids, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    along = torch.stack(attentions)[:, 0].diagonal(1 - n, -2, -1)[..., -n:].float().mean(-1)  # layer, head
    return torch.stack([along[pair] for pair in followed])


def flat(heads):
    return [number for pair in heads for number in pair]


result = {{"as it is": induction([]), "followed": flat(followed), "taken out": flat(taken)}}
{more}"""

_MORE = """\
result |= {{
    "{without}": induction(taken),
    "{others}": torch.stack([induction(drawn) for drawn in draws]).mean(0),
    "drawn": [flat(drawn) for drawn in draws],
}}
"""

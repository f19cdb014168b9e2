"""Every head scored on the repeated random tokens, and named where a score is large enough."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from engine import Loaded
from engine.chapters.c09_heads.naming import PICKS, names, table
from engine.chapters.c09_heads.passes import ATTENTION_CODE
from engine.chapters.c09_heads.repeats import repeated
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.attentions import kind_scores, returned_attention
from engine.evidence.rounding import same_pass
from engine.evidence.script import preamble
from engine.figures.heads import kind_map, score_panels
from engine.model.trace import Trace
from engine.ops.heads import (
    KINDS,
    UNCLASSIFIED,
    Floats,
    classify,
    scores,
    scores_without_sink,
    uniform_score,
)

RAW = "sink (raw)"
THRESHOLD = 0.5
"""Half of the attention: the four keys are different ones, so no head reaches it for two kinds."""


def found(trace: Trace, sink: bool) -> dict[str, Floats]:
    """Scores (layer, head) of the repeated random tokens, raw or with the sink removed."""
    length = (len(trace.tokens) - 1) // 2
    return scores(trace.attention, length) if sink else scores_without_sink(trace.attention, length)


def score_map(loaded: Loaded, seed: int, sink: bool, chosen: tuple[int, int] | None = None) -> Card:
    """Layer × head heat maps of the scores; without the sink its raw share stays for comparison.

    `chosen` is the (layer, head) to be framed.
    """
    trace = repeated(loaded, seed)
    ids, scored = tuple(trace.ids), found(trace, sink)
    shown: dict[str, Floats] = {**scored}
    if not sink:
        shown[RAW] = found(trace, True)["sink"]
    return Card(
        key="scores",
        title=_summary(scored),
        alt="Four heat maps, one for each kind of head, with layers down and heads across; darker cells are heads that "
        "look more often where that kind looks.",
        badge=Badge.LIVE,
        figure=score_panels(shown, chosen),
        table=_table(shown),
        shown=shown,
        oracle=Oracle(_claim(sink), lambda: _again(loaded, ids, sink), same_pass()),
        code=_code(loaded, trace, sink),
        note=f"Mean over the second half's queries, seed {seed}. A head that spreads its attention evenly over all "
        f"earlier keys would score {uniform_score(_length(trace)):.3f} on each.",
        picks=PICKS,
    )


def classes(
    loaded: Loaded, seed: int, sink: bool, threshold: float, chosen: tuple[int, int] | None = None
) -> Card:
    """Each head's kind: the largest of its scores, where that reaches the threshold; `chosen` is framed."""
    trace = repeated(loaded, seed)
    ids, scored = tuple(trace.ids), found(trace, sink)
    order = [*scored, UNCLASSIFIED]
    kinds = classify(scored, threshold)
    best = np.max(np.stack(list(scored.values())), axis=0)
    named = int((kinds != UNCLASSIFIED).sum())
    return Card(
        key="classes",
        title=f"{named} of {kinds.size} heads reach {threshold:.2f} on one of the scores: {_induction(kinds)}",
        alt="A grid of layers and heads; each cell has the letter of the head's kind, or a dot where it has none.",
        badge=Badge.LIVE,
        figure=kind_map(kinds, best, chosen),
        table=_table({"kind": kinds, "largest score": best, **scored}),
        shown={**scored, "kind": [order.index(kind) for kind in kinds.ravel()], "largest": best},
        oracle=Oracle(
            f"{_claim(sink)} Each head's largest and its kind from those.",
            lambda: _classes_again(loaded, ids, sink, threshold),
            dict.fromkeys([*scored, "largest"], same_pass()) | {"kind": 0.0},
        ),
        code=_code(loaded, trace, sink, threshold),
        note=("Scores of the maps as they are." if sink else "Scores of the maps without the start token.")
        + f" Seed {seed}.",
        picks=PICKS,
    )


def _summary(scored: Mapping[str, Floats]) -> str:
    """The largest score of each kind and the head that has it."""
    parts = []
    for kind, values in scored.items():
        if not np.isfinite(values).any():
            continue
        layer, head = np.unravel_index(int(np.nanargmax(values)), values.shape)
        parts.append(f"{kind} {values[layer, head]:.2f} (L{layer} H{head})")
    return "Strongest heads: " + (", ".join(parts) or "no score is a number")


def _induction(kinds: np.ndarray) -> str:
    heads = [(int(layer), int(head)) for layer, head in np.argwhere(kinds == "induction")]
    if not heads:
        return "no induction head"
    listed = names(heads[:4]) + (" …" if len(heads) > 4 else "")
    return f"{len(heads)} induction head{'s' if len(heads) > 1 else ''} ({listed})"


def _length(trace: Trace) -> int:
    return (len(trace.tokens) - 1) // 2


def _table(columns: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    layer, head = np.indices(next(iter(columns.values())).shape)
    return table({"layer": layer, "head": head, **columns})


def _claim(sink: bool) -> str:
    how = "as they are" if sink else "with key 0 cut off and the rows divided by their new sums"
    return f"All scores along diagonals of the weights that transformers returns for the same ids, {how}."


def _again(loaded: Loaded, ids: Sequence[int], sink: bool) -> dict[str, torch.Tensor]:
    weights, length = returned_attention(loaded, ids), (len(ids) - 1) // 2
    raw = {} if sink else {RAW: kind_scores(weights, length, True)["sink"]}
    return kind_scores(weights, length, sink) | raw


def _classes_again(loaded: Loaded, ids: Sequence[int], sink: bool, threshold: float) -> dict[str, ArrayLike]:
    scored = kind_scores(returned_attention(loaded, ids), (len(ids) - 1) // 2, sink)
    ordered = [scored[kind] for kind in KINDS if kind in scored]
    largest, kind = torch.stack(ordered).max(0)
    return {
        **scored,
        "kind": kind.masked_fill(largest < threshold, len(ordered)).flatten(),
        "largest": largest,
    }


def _code(loaded: Loaded, trace: Trace, sink: bool, threshold: float | None = None) -> str:
    """`threshold` None: the scores alone, without the sink also its raw share."""
    chosen = [kind for kind in KINDS if sink or kind != "sink"]
    lines = [f'    "{kind}": weights[..., query, {_KEYS[kind]}].mean(-1),' for kind in chosen]
    raw = f'    "{RAW}": raw,\n' if not sink and threshold is None else ""
    return (
        preamble(loaded, trace.ids)
        + ATTENTION_CODE
        + f"n = {_length(trace)}\nquery = torch.arange(n + 1, 2 * n + 1)  # the second half\n"
        + ("" if sink else "raw = weights[..., query, 0].mean(-1)\n" + _WITHOUT_SINK)
        + "result = {\n"
        + "\n".join(lines)
        + f"\n{raw}}}\n"
        + ("" if threshold is None else _KIND.format(threshold=threshold))
    )


_KEYS = {"previous": "query - 1", "duplicate": "query - n", "induction": "query - n + 1", "sink": "0"}

_WITHOUT_SINK = """\
weights[..., 0] = 0
total = weights.sum(-1, keepdim=True)
weights = weights / total.masked_fill(total == 0, 1)  # an empty row stays empty
"""

_KIND = """\
largest, kind = torch.stack(list(result.values())).max(0)
kind[largest < {threshold}] = len(result)  # unclassified
result |= {{"kind": kind.flatten(), "largest": largest}}
"""

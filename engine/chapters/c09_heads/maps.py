"""All maps as a wall, one of them large, and the same one as arcs over the text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import Loaded
from engine.chapters.c09_heads.naming import PICKS, name, table
from engine.chapters.c09_heads.passes import ATTENTION_CODE
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.attentions import kv_heads, returned_attention
from engine.evidence.rounding import same_pass
from engine.evidence.script import preamble
from engine.figures import arcs as arcs_figure
from engine.figures import attention_map
from engine.figures import wall as wall_figure
from engine.figures.wall import lies
from engine.model.trace import Trace
from engine.ops.heads import row_entropy
from engine.tokens.text import shorten

DRAWN = 80
"""Arcs in one figure, at most."""

RETURNED = (
    "against what transformers returns with output_attentions=True for the same ids (the same pass once more: it finds "
    "a wrong head, a wrong index or a leak; chapter 8 proves the arithmetic of a map)"
)


def wall(loaded: Loaded, trace: Trace, layer: int, head: int) -> Card:
    """The map of every head of every layer, the chosen one framed."""
    spec, seq = loaded.spec, len(trace.tokens)
    places = [(at, h) for at in range(spec.n_layer) for h in range(spec.n_head)]
    shown = {
        "weights": trace.attention,
        "kv head": [_kv_head(loaded, h) for _, h in places],
        "first": trace.attention[..., 0].mean(-1).ravel(),
        "itself": _diagonal(trace.attention).ravel(),
        "entropy": row_entropy(trace.attention).mean(-1).ravel(),
    }
    ids = tuple(trace.ids)
    sinks = int((trace.attention[:, :, 1:, 0].mean(-1) > 0.5).sum()) if seq > 1 else 0
    return Card(
        key="wall",
        title=f"One forward pass, {len(places)} attention maps; "
        f"heads that give the first token more than half of their weight: {sinks}",
        alt=f"A grid of {spec.n_layer} layers and {spec.n_head} heads of small attention maps of the prompt's {seq} "
        f"tokens; {name(layer, head)} is framed.",
        badge=Badge.LIVE,
        figure=wall_figure(trace.attention, notes=_notes(loaded), marked=(layer, head)),
        table=table(
            {
                "layer": [at for at, _ in places],
                "head": [h for _, h in places],
                "kv head": shown["kv head"],
                "mean weight on the first token": shown["first"],
                "mean weight on the token itself": shown["itself"],
                "mean entropy of a row (nats)": shown["entropy"],
            }
        ),
        shown=shown | {"sinks": sinks},
        oracle=Oracle(
            f"Every map {RETURNED}; means, entropies and the count of heads from those by torch, and kv heads by "
            f"transformers' repeat_kv.",
            lambda: _wall_again(loaded, ids),
            {
                "weights": same_pass(),
                "kv head": 0.0,
                "first": same_pass(),
                "itself": same_pass(),
                "entropy": same_pass(shown["entropy"]),
                "sinks": 0.0,
            },
        ),
        code=preamble(loaded, ids) + ATTENTION_CODE + _wall_code(loaded),
        note=f"{_sides(spec.n_layer, spec.n_head)} Inside a map rows are queries, "
        "columns are keys, and the first token is at the top left. The first query is left out of the count: "
        "it has only itself to look at.",
        picks=PICKS,
    )


def one_head(loaded: Loaded, trace: Trace, layer: int, head: int, query: int) -> Card:
    """One head's weights, query by key, with one query outlined."""
    ids, weights = tuple(trace.ids), trace.attention[layer, head]
    tokens = [token.display for token in trace.tokens]
    return Card(
        key="one-head",
        title=f"{name(layer, head)}: {_favourite(weights, tokens, query)}",
        alt=f"Attention weights of layer {layer}, head {head}: rows are queries, columns are keys, later keys are "
        f"masked; the row of the chosen token is outlined.",
        badge=Badge.LIVE,
        figure=attention_map(weights, tokens, query=query),
        table=_row(weights, tokens, query),
        shown={"weights": weights.copy()},  # a view would keep all maps in memory
        oracle=Oracle(
            f"The map of {name(layer, head)} {RETURNED}.",
            lambda: {"weights": returned_attention(loaded, ids)[layer, head]},
            same_pass(),
        ),
        code=preamble(loaded, ids) + ATTENTION_CODE + f'result = {{"weights": weights[{layer}, {head}]}}\n',
        note="The table lists the outlined row: the chosen token's query.",
    )


def arcs(loaded: Loaded, trace: Trace, layer: int, head: int, query: int | None, least: float) -> Card:
    """One head's larger weights as arcs over the text; `query` None shows every query's."""
    ids, weights = tuple(trace.ids), trace.attention[layer, head]
    tokens = [token.display for token in trace.tokens]
    rows = range(len(tokens)) if query is None else [query]
    pairs = [(i, j) for i in rows for j in range(i + 1) if weights[i, j] >= least]
    pairs.sort(key=lambda pair: -weights[pair])
    shown = pairs or [(rows[0], rows[0])]
    whose = "the whole text" if query is None else f"“{shorten(tokens[query])}”"
    return Card(
        key="arcs",
        title=f"{name(layer, head)} over {whose}: {len(pairs)} weight{'' if len(pairs) == 1 else 's'} of {least:g} "
        f"or more{'' if len(pairs) <= DRAWN else f', of which the {DRAWN} largest are drawn'}",
        alt=f"The prompt's tokens on a line, joined by arcs from each query back to its keys, wider for larger "
        f"weights of layer {layer}, head {head}.",
        badge=Badge.LIVE,
        figure=arcs_figure(weights, tokens, query=query, least=least, most=DRAWN),
        table={
            "query": [f"{i} {tokens[i]}" for i, _ in shown],
            "key": [f"{j} {tokens[j]}" for _, j in shown],
            "weight": [float(weights[pair]) for pair in shown],
        },
        shown={"weights": [weights[pair] for pair in shown], "count": len(pairs)},
        oracle=Oracle(
            f"The weights of these queries and keys in the map of {name(layer, head)} {RETURNED}; and how many of its "
            f"weights are {least:g} or more.",
            lambda: _arcs_again(returned_attention(loaded, ids)[layer, head], shown, query, least),
            {"weights": same_pass(), "count": 0.0},
        ),
        code=preamble(loaded, ids) + ATTENTION_CODE + _arcs_code(layer, head, shown, query, least),
        note="An arc joins a query to an earlier key; a ring is weight on the token itself. "
        f"At most the {DRAWN} largest are drawn.",
    )


def _wall_again(loaded: Loaded, ids: Sequence[int]) -> dict[str, Any]:
    weights = returned_attention(loaded, ids).double()
    first = weights[..., 1:, 0].mean(-1) if len(ids) > 1 else torch.zeros(1)
    return {
        "weights": weights,
        "kv head": kv_heads(loaded).repeat(loaded.spec.n_layer),
        "first": weights[..., 0].mean(-1).flatten(),
        "itself": torch.einsum("lhqq->lh", weights).flatten() / len(ids),
        "entropy": torch.special.entr(weights).sum(-1).mean(-1).flatten(),
        "sinks": (first > 0.5).sum(),
    }


def _sides(layers: int, heads: int) -> str:
    if lies(layers, heads):
        return "Columns of the grid are layers, the first on the left; rows are heads."
    return "Rows of the grid are layers, the first on top; columns are heads."


def _wall_code(loaded: Loaded) -> str:
    share = loaded.spec.n_head // loaded.spec.n_kv_head
    return f"""\
layers, heads, seq, _ = weights.shape
mean = lambda each: each.mean(-1).flatten()  # over the queries
result = {{
    "weights": weights,
    "kv head": [head // {share} for _ in range(layers) for head in range(heads)],
    "first": mean(weights[..., 0]),
    "itself": mean(weights.diagonal(dim1=-2, dim2=-1)),
    "entropy": mean(torch.special.entr(weights).sum(-1)),
    "sinks": (mean(weights[..., 1:, 0]) > 0.5).sum(),
}}
"""


def _arcs_again(
    weights: torch.Tensor, pairs: Sequence[tuple[int, int]], query: int | None, least: float
) -> dict[str, Any]:
    read = weights if query is None else weights[[query]]
    return {"weights": [weights[pair] for pair in pairs], "count": (read >= least).sum()}


def _arcs_code(
    layer: int, head: int, pairs: Sequence[tuple[int, int]], query: int | None, least: float
) -> str:
    return f"""\
weights = weights[{layer}, {head}]
queries, keys = zip(*{pairs})
read = weights{"" if query is None else f"[{query}]"}
result = {{"weights": weights[queries, keys], "count": (read >= {least!r}).sum()}}
"""


def _row(weights: np.ndarray, tokens: list[str], query: int) -> dict[str, list[object]]:
    keys = range(query + 1)
    return {
        "position": list(keys),
        "key": [tokens[j] for j in keys],
        "weight": [float(weights[query, j]) for j in keys],
    }


def _favourite(weights: np.ndarray, tokens: list[str], query: int) -> str:
    """What a query looks at most, in words."""
    row = weights[query, : query + 1]
    if not np.isfinite(row).all():
        return f"“{shorten(tokens[query])}” has no finite weights"
    key = int(row.argmax())
    aim = "itself" if key == query else f"“{shorten(tokens[key])}” at position {key}"
    return f"“{shorten(tokens[query])}” looks most at {aim} ({row[key]:.0%})"


def _diagonal(attention: np.ndarray) -> np.ndarray:
    return np.asarray(attention.diagonal(axis1=-2, axis2=-1).mean(-1))


def _kv_head(loaded: Loaded, head: int) -> int:
    return head * loaded.spec.n_kv_head // loaded.spec.n_head


def _notes(loaded: Loaded) -> list[list[str]] | None:
    """Under grouped-query attention, which keys and values a head reads."""
    spec = loaded.spec
    if spec.n_kv_head == spec.n_head:
        return None
    row = [f"reads kv head {_kv_head(loaded, head)}" for head in range(spec.n_head)]
    return [row] * spec.n_layer

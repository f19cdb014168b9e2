"""All maps as a wall, one of them large, and the same one as arcs over the text."""

import numpy as np

from engine import Loaded
from engine.cards.heads.common import (
    ATTENTION_CODE,
    PICKS,
    largest_difference,
    name,
    returned_attention,
    table,
    tolerance,
)
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.script import preamble
from engine.figures import arcs as arcs_figure
from engine.figures import attention_map
from engine.figures import wall as wall_figure
from engine.model.trace import Trace
from engine.ops.heads import row_entropy
from engine.tokens.text import shorten


def wall(loaded: Loaded, trace: Trace, layer: int, head: int) -> Card:
    """The map of every head of every layer, the chosen one framed."""
    spec, seq = loaded.spec, len(trace.tokens)
    places = [(at, h) for at in range(spec.n_layer) for h in range(spec.n_head)]
    first = trace.attention[..., 0].mean(-1)  # layer, head
    sinks = int((trace.attention[:, :, 1:, 0].mean(-1) > 0.5).sum()) if seq > 1 else 0
    return Card(
        key="wall",
        title=f"One forward pass, {len(places)} attention maps; "
        f"heads that give the first token more than half of their weight: {sinks}",
        alt=f"A grid of {spec.n_layer} rows and {spec.n_head} columns of small attention maps of the prompt's {seq} "
        f"tokens; {name(layer, head)} is framed.",
        badge=Badge.LIVE,
        figure=wall_figure(trace.attention, notes=_notes(loaded), marked=(layer, head)),
        table=table(
            {
                "layer": [at for at, _ in places],
                "head": [h for _, h in places],
                "kv head": [_kv_head(loaded, h) for _, h in places],
                "mean weight on the first token": first.ravel(),
                "mean weight on the token itself": _diagonal(trace.attention).ravel(),
                "mean entropy of a row (nats)": row_entropy(trace.attention).mean(-1).ravel(),
            }
        ),
        prove=lambda: _proof(loaded, trace, "Every weight of every map"),
        code=preamble(loaded, trace.ids) + ATTENTION_CODE + 'result = {"weights": weights}\n',
        numbers={"weights": trace.attention},
        atol=tolerance(loaded),
        note="Rows of the grid are layers, the first on top; columns are heads. Inside a map rows are queries, "
        "columns are keys, and the first token is at the top left. The first query is left out of the count: "
        "it has only itself to look at.",
        picks=PICKS,
    )


def one_head(loaded: Loaded, trace: Trace, layer: int, head: int, query: int) -> Card:
    """One head's weights, query by key, with one query outlined."""
    weights = trace.attention[layer, head]
    tokens = [token.display for token in trace.tokens]
    return Card(
        key="one-head",
        title=f"{name(layer, head)}: {_favourite(weights, tokens, query)}",
        alt=f"Attention weights of layer {layer}, head {head}: rows are queries, columns are keys, later keys are "
        f"masked; the row of the chosen token is outlined.",
        badge=Badge.LIVE,
        figure=attention_map(weights, tokens, query=query),
        table=_row(weights, tokens, query),
        prove=lambda: _proof(loaded, trace, f"{name(layer, head)}'s weights", layer, head),
        code=_head_code(loaded, trace, layer, head),
        numbers={"weights": weights},
        atol=tolerance(loaded),
        note="The table lists the outlined row: the chosen token's query.",
    )


def arcs(loaded: Loaded, trace: Trace, layer: int, head: int, query: int | None, least: float) -> Card:
    """One head's larger weights as arcs over the text; `query` None shows every query's."""
    weights = trace.attention[layer, head]
    tokens = [token.display for token in trace.tokens]
    rows = range(len(tokens)) if query is None else [query]
    pairs = [(i, j) for i in rows for j in range(i + 1) if weights[i, j] >= least]
    pairs.sort(key=lambda pair: -weights[pair])
    shown = pairs or [(rows[0], rows[0])]
    whose = "the whole text" if query is None else f"“{shorten(tokens[query])}”"
    return Card(
        key="arcs",
        title=f"{name(layer, head)} over {whose}: {len(pairs)} weights of {least:g} or more",
        alt=f"The prompt's tokens on a line, joined by arcs from each query back to its keys, wider for larger "
        f"weights of layer {layer}, head {head}.",
        badge=Badge.LIVE,
        figure=arcs_figure(weights, tokens, query=query, least=least),
        table={
            "query": [f"{i} {tokens[i]}" for i, _ in shown],
            "key": [f"{j} {tokens[j]}" for _, j in shown],
            "weight": [float(weights[pair]) for pair in shown],
        },
        prove=lambda: _proof(loaded, trace, f"{name(layer, head)}'s weights", layer, head),
        code=_head_code(loaded, trace, layer, head),
        numbers={"weights": weights},
        atol=tolerance(loaded),
        note="An arc joins a query to an earlier key; a ring is weight on the token itself. "
        "At most the 80 largest are drawn.",
    )


def _proof(
    loaded: Loaded, trace: Trace, what: str, layer: int | None = None, head: int | None = None
) -> Proof:
    chosen = (slice(None) if layer is None else layer, slice(None) if head is None else head)
    other = returned_attention(loaded, trace.ids).numpy()[chosen]
    return Proof(
        claim=f"{what} against what transformers returns with output_attentions=True for the same token ids.",
        max_abs_diff=largest_difference(trace.attention[chosen], other),
        tolerance=tolerance(loaded),
    )


def _head_code(loaded: Loaded, trace: Trace, layer: int, head: int) -> str:
    return (
        preamble(loaded, trace.ids) + ATTENTION_CODE + f'result = {{"weights": weights[{layer}, {head}]}}\n'
    )


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

"""How a query is matched with keys: one dot product, one row, the whole map."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from engine import ReaderError
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.head import head_again
from engine.evidence.rounding import EXACT, tolerance
from engine.figures import attention_map, heatmap
from engine.figures.attention import dot_product, score_row
from engine.figures.axes import short
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops import attention as ops
from engine.ops.sampling import softmax

Stage = Literal["scores", "masked", "weights"]
STAGES: tuple[Stage, ...] = ("scores", "masked", "weights")


def product(loaded: Loaded, trace: Trace, layer: int, head: int, query: int, key: int | None = None) -> Card:
    """The products q_i·k_i of one query and one key, their sum, and the score sum/√d_head.

    `key` None is the one that this query gives the largest weight.
    """
    one = Head(loaded, trace, layer, head)
    if key is None:
        key = int(np.nan_to_num(one.weights[one.position(query), : query + 1]).argmax())
    parts = ops.products(one.q[one.position(query)], one.k[one.position(key, "key")])
    total, d_head = float(parts.sum()), loaded.spec.d_head
    score = total * one.scale

    asks, answers = one.quoted(query), one.quoted(key)
    return Card(
        key="product",
        title=f"{asks} asks {answers}: {d_head} products add up to {short(total)}, so the score is {short(score)}",
        alt=f"Bars of the query of {asks} and the key of {answers} over {d_head} dimensions, bars of their products, "
        f"and the running sum of the products, which ends at {total:.4g}.",
        badge=Badge.LIVE,
        figure=dot_product(
            one.q[query],
            one.k[key],
            parts,
            names=(f"query of {one.tokens[query]}", f"key of {one.tokens[key]}"),
        ),
        table={
            "dimension": list(range(d_head)),
            "q_i": one.q[query].tolist(),
            "k_i": one.k[key].tolist(),
            "q_i·k_i": parts.tolist(),
            "running sum": np.cumsum(parts).tolist(),
        },
        shown={
            "query": one.q[query],
            "key": one.k[key],
            "products": parts,
            "running sum": np.cumsum(parts),
            "score": score,
        },
        oracle=Oracle(
            "Query and key projected again from the stream that transformers returns"
            + (", rotated by RoPE" if one.rotary else "")
            + "; their products, the sums and the score from the query and the key that are drawn.",
            lambda: _product_again(one, query, key),
            {
                "query": tolerance(loaded, one.q[query]),
                "key": tolerance(loaded, one.k[key]),
                **dict.fromkeys(("products", "running sum", "score"), EXACT * max(1.0, np.abs(parts).sum())),
            },
        ),
        code=code.script(
            one,
            f"products = q[{query}] * k[{key}]",
            'result = {"products": products, "sum": products.sum(), "score": products.sum() * scale}',
        ),
        numbers={"products": parts, "sum": total, "score": score},
        atol=tolerance(loaded, np.abs(parts).sum()),
        note=_scaling(one, total, score) + f" ({one.name}{_reads(one)}).",
    )


def _scaling(one: Head, total: float, score: float) -> str:
    if not one.loaded.spec.scaled:
        return f"This architecture does not scale its scores: score = sum = {short(score)}"
    return f"score = sum × 1/√d_head = {short(total)} × {short(one.scale)} = {short(score)}"


def row(
    loaded: Loaded,
    trace: Trace,
    layer: int,
    head: int,
    query: int,
    causal: bool = True,
    scaled: bool = True,
) -> Card:
    """Scores of one query against every key, the causal mask, and the softmax; either step can be left out."""
    one = Head(loaded, trace, layer, head)
    factor = 1.0 if scaled else 1 / one.scale
    scores = one.scores[one.position(query)] * factor
    hidden = ops.future(one.seq)[query] & causal
    weights = softmax(ops.mask(scores, hidden))
    top = int(np.nanargmax(weights)) if np.isfinite(weights).any() else 0

    least, most = _range(scores[~hidden])
    return Card(
        key="row",
        title=f"{one.quoted(query)} puts {weights[top]:.0%} of its attention on {one.quoted(top)} (position {top})"
        + _left_out(causal, scaled),
        alt=f"Scores of {one.seq} keys from {least:.3g} to {most:.3g}, and below them weights between 0 and 1. "
        f"{int(hidden.sum())} later keys are masked.",
        badge=Badge.LIVE,
        figure=score_row(
            scores,
            weights,
            one.tokens,
            hidden=hidden,
            query=query,
            names=(
                "score q·k/√d_head" if scaled and loaded.spec.scaled else "q·k, not scaled",
                "weight: softmax of the scores",
            ),
        ),
        table={
            "position": list(range(one.seq)),
            "key": one.tokens,
            "score": scores.tolist(),
            "masked": hidden.tolist(),
            "weight": weights.tolist(),
        },
        shown={"scores": scores, "weights": weights},
        oracle=Oracle(
            "Scores from query and keys projected again; weights "
            + (
                "as the model, run again, returns them."
                if causal and scaled
                else "by PyTorch’s scaled_dot_product_attention with the same steps left out."
            ),
            lambda: _row_again(one, query, causal, scaled),
            {
                "scores": tolerance(loaded, one.scores[query] * factor),
                "weights": tolerance(loaded, 1.0, one.scores[query][: query + 1] * factor, steps=2),
            },
        ),
        code=code.script(one, *_row_lines(query, causal, scaled)),
        numbers={"scores": scores, "weights": weights},
        atol=tolerance(loaded, scores, 1.0),
        note=_row_note(one, query, causal),
    )


def head_map(
    loaded: Loaded, trace: Trace, layer: int, head: int, query: int, stage: Stage = "weights"
) -> Card:
    """The scores or the softmax weights of every query and key of a head."""
    one = Head(loaded, trace, layer, head)
    one.position(query)
    if stage not in STAGES:
        raise ReaderError("The stages are scores, masked and weights.")
    future, values = ops.future(one.seq), one.scores if stage != "weights" else one.weights.astype(np.float64)

    return Card(
        key="map",
        title=_map_title(one, stage),
        alt=f"A square of {one.seq} queries by {one.seq} keys with the {_STAGE_NAME[stage]} of {one.name}. "
        f"The row of {one.quoted(query)} is framed.",
        badge=Badge.LIVE,
        figure=_map_figure(one, values, stage, query),
        table={
            "query": [f"{i} {token}" for i, token in enumerate(one.tokens) for _ in range(one.seq)],
            "key": [f"{j} {token}" for j, token in enumerate(one.tokens)] * one.seq,
            "masked": (future & (stage != "scores")).ravel().tolist(),
            _STAGE_NAME[stage]: values.ravel().tolist(),
        },
        shown={stage: values},
        oracle=Oracle(
            "Softmax of the masked scores by PyTorch's own attention, from queries and keys projected again from the "
            "stream that transformers returns."
            if stage == "weights"
            else "Scores from queries and keys projected again from the stream that transformers returns.",
            lambda: {stage: head_again(one).weights() if stage == "weights" else head_again(one).scores},
            tolerance(loaded, 1.0, np.tril(one.scores), steps=2)
            if stage == "weights"
            else tolerance(loaded, values),
        ),
        code=code.script(one, f'result = {{"{stage}": {"weights" if stage == "weights" else "scores"}}}'),
        numbers={stage: values},
        atol=tolerance(loaded, values, 1.0),
        note=""
        if stage == "scores"
        else "Hatched: keys that come after the query, which the causal mask hides.",
    )


def _product_again(one: Head, query: int, key: int) -> dict[str, Any]:
    again = head_again(one)
    q, k = (torch.tensor(drawn, dtype=torch.float64) for drawn in (one.q[query], one.k[key]))
    return {
        "query": again.query[query],
        "key": again.key[key],
        "products": q * k,
        "running sum": (q * k).cumsum(0),
        "score": q @ k * one.scale,
    }


def _row_again(one: Head, query: int, causal: bool, scaled: bool) -> dict[str, Any]:
    again = head_again(one)
    weights = again.returned if causal and scaled else again.weights(causal=causal, scaled=scaled)
    return {"scores": (again.scores if scaled else again.dots)[query], "weights": weights[query]}


_STAGE_NAME = {"scores": "score", "masked": "score", "weights": "weight"}


def _map_title(one: Head, stage: Stage) -> str:
    if stage == "weights":
        return f"Each row of {one.name} adds up to 1: how one query divides its attention"
    if stage == "masked":
        return f"The mask of {one.name} leaves each query the keys up to its own position"
    return f"{one.seq} queries × {one.seq} keys: every score of {one.name}, before the mask"


def _map_figure(one: Head, values: NDArray[np.float64], stage: Stage, query: int) -> object:
    if stage == "weights":
        return attention_map(values, one.tokens, query=query)
    return heatmap(
        values,
        one.tokens,
        one.tokens,
        kind="diverging",
        masked=ops.future(one.seq) if stage == "masked" else None,
        row_name="query",
        column_name="key",
        value_name="score",
        outline_row=query,
    )


def _reads(one: Head) -> str:
    if one.loaded.spec.n_kv_head == one.loaded.spec.n_head:
        return ""
    return f", whose keys and values come from kv_head {one.kv}"


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (float("nan"), float("nan"))


def _left_out(causal: bool, scaled: bool) -> str:
    missing = [name for name, there in (("the mask", causal), ("the scale", scaled)) if not there]
    return f", if {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} left out" if missing else ""


def _row_note(one: Head, query: int, causal: bool) -> str:
    line = f"Dotted: the query’s own position, {query}."
    if causal and query < one.seq - 1:
        line += f" The mask hides {one.seq - 1 - query} later key{'s' if one.seq - 1 - query > 1 else ''}: their scores"
        line += " become −∞, their weights 0."
    return line


def _row_lines(query: int, causal: bool, scaled: bool) -> list[str]:
    lines = [f"row = scores[{query}]" + ("" if scaled else " / scale  # left out")]
    masked = f"row.masked_fill(future[{query}], float('-inf'))" if causal else "row"
    return [*lines, f'result = {{"scores": row, "weights": {masked}.softmax(-1)}}']

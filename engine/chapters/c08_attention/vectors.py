"""Where a head's query, key and value come from, and what they are for every token."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import ReaderError
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.head import head_again
from engine.evidence.rounding import tolerance
from engine.figures.attention import matrix_product, token_vectors
from engine.figures.axes import short
from engine.model.head import LETTER, PARTS, Head, Part
from engine.model.loaded import Loaded
from engine.model.trace import Trace


def projection(
    loaded: Loaded, trace: Trace, layer: int, head: int, query: int, part: Part = "query", dimension: int = 0
) -> Card:
    """x·W + b of one token: its normalised residual stream through the head's query, key or value matrix.

    Raises ReaderError for a layer, head, token, part or dimension that is not there.
    """
    one = _checked(Head(loaded, trace, layer, head), part, dimension)
    x, (weight, bias) = one.normed()[one.position(query)], one.projection(part)
    result = x.astype(np.float64) @ weight + bias
    letter, spec = LETTER[part], loaded.spec

    return Card(
        key="projection",
        title=f"{spec.d_model} numbers of {one.quoted(query)} become a {part} of {spec.d_head} ({_whose(one, part)})",
        alt=f"A column of {spec.d_model} numbers beside a matrix of {spec.d_model} by {spec.d_head}, and below them "
        f"the {part}, a row of {spec.d_head} numbers. Entry {dimension} of the row is {result[dimension]:.4g}.",
        badge=Badge.LIVE,
        figure=matrix_product(
            x,
            weight,
            result,
            names=("x", f"W{letter}", f"{part} x·W{letter}{' + b' if bias.any() else ''}"),
            sizes=("d_model", "d_head"),
            concepts=("residual", part),
            column=dimension,
        ),
        table={
            "dimension": list(range(spec.d_head)),
            f"x·W{letter}": (result - bias).tolist(),
            "bias": bias.tolist(),
            part: result.tolist(),
        },
        shown={"x": x, "finished": one.finish(result, part, query)},
        oracle=Oracle(
            f"x from the stream that transformers returns, after the model's own norm; x·W + b{_and_norm(one, part)} "
            f"against the {part} that the model computed in its pass.",
            lambda: {"x": head_again(one).read[query], "finished": one.unrotated(part)[query]},
            tolerance(loaded, x, result),
        ),
        code=code.script(
            one, code.projection(one, part), f'result = {{"x": x[{query}], "{part}": (x @ W + b)[{query}]}}'
        ),
        numbers={"x": x, part: result},
        atol=tolerance(loaded, result),
        note=_sum_note(x, weight, bias, dimension) + _still_to_come(one, part),
    )


def vectors(loaded: Loaded, trace: Trace, layer: int, head: int, query: int, rotated: bool = True) -> Card:
    """q, k and v (seq, d_head) of every token in one head; with `rotated` as they enter the dot product."""
    one = Head(loaded, trace, layer, head)
    one.position(query)
    shown = {"query": one.q, "key": one.k, "value": one.v}
    if not rotated:
        shown = {part: one.unrotated(part) for part in PARTS}

    when = "" if not one.rotary else (" after RoPE" if rotated else " before RoPE")
    return Card(
        key="vectors",
        title=f"Every token has its own query, key and value in {one.name}{when}",
        alt=f"Three matrices with a row for each of {one.seq} tokens and {loaded.spec.d_head} columns. "
        f"The row of {one.quoted(query)} is framed.",
        badge=Badge.LIVE,
        figure=token_vectors(shown, one.tokens, row=query),
        table={
            "position": [i for i in range(one.seq) for _ in range(loaded.spec.d_head)],
            "token": [token for token in one.tokens for _ in range(loaded.spec.d_head)],
            "dimension": list(range(loaded.spec.d_head)) * one.seq,
            **{part: values.ravel().tolist() for part, values in shown.items()},
        },
        shown=shown,
        oracle=Oracle(
            "All of them again, from the ids: the stream that transformers returns, norm, x·W + b"
            + (", RoPE." if one.rotary and rotated else "."),
            lambda: _again(one, rotated),
            tolerance(loaded, *shown.values()),
        ),
        code=code.script(one, _vectors_result(rotated)),
        note="Each matrix has its own colour scale, symmetric about zero; its end is printed beside the name.",
    )


def has_bias(loaded: Loaded) -> bool:
    """Whether this checkpoint adds a bias to its queries, keys and values."""
    name, _ = loaded.adapter.columns("query", loaded.spec, 0, 0)
    return getattr(loaded.part(name, 0), "bias", None) is not None


def _again(one: Head, rotated: bool) -> dict[str, Any]:
    again = head_again(one)
    if not rotated:
        return {str(part): values for part, values in again.before.items()}
    return {"query": again.query, "key": again.key, "value": again.value}


def _checked(one: Head, part: str, dimension: int) -> Head:
    if part not in PARTS:
        raise ReaderError("A head has a query, a key and a value.")
    if not 0 <= dimension < one.loaded.spec.d_head:
        raise ReaderError(
            f"This head has no dimension {dimension}; its last one is {one.loaded.spec.d_head - 1}."
        )
    return one


def _whose(one: Head, part: Part) -> str:
    if part == "query" or one.loaded.spec.n_kv_head == one.loaded.spec.n_head:
        return one.name
    return f"layer {one.layer}, head {one.index} reads kv_head {one.kv}"


def _and_norm(one: Head, part: Part) -> str:
    return f" and sent through the model’s {LETTER[part]}-norm" if one.has_qk_norm and part != "value" else ""


def _still_to_come(one: Head, part: Part) -> str:
    if part == "value" or not one.rotary:
        return ""
    over = (
        "the head’s dimensions" if one.loaded.adapter.qk_norm == "head" else "all heads’ dimensions together"
    )
    norm = f"an RMSNorm over {over} and then " if one.has_qk_norm else ""
    return f" Before it is used, this {part} still goes through {norm}RoPE, which rotates it by its position."


def _sum_note(x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32], j: int) -> str:
    total = float(x.astype(np.float64) @ weight[:, j])
    add = f" + bias {short(float(bias[j]))}" if bias.any() else ""
    return (
        f"Framed: dimension {j}. The {len(x)} products of x with column {j} add up to {short(total)}{add}"
        f"{f' = {short(total + float(bias[j]))}' if add else ''}. "
        "Each panel has its own colour scale, symmetric about zero; its end is printed beside the name."
    )


def _vectors_result(rotated: bool) -> str:
    if rotated:
        return 'result = {"query": q, "key": k, "value": v}'
    return "result = before  # as they leave the projection, before RoPE"

"""All steps of one head for one query, one after the other."""

from typing import Any

import numpy as np

from engine.chapters.c08_attention.outputs import direct, removed
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.head import head_again
from engine.evidence.rounding import tolerance
from engine.figures.attention import Strip, steps
from engine.figures.axes import short
from engine.model.capturing import token
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops import attention as ops
from engine.ops.sampling import softmax

STEPS = ("query", "dot products", "scale", "mask", "softmax", "output", "write")


def walk(loaded: Loaded, trace: Trace, layer: int, head: int, query: int, step: int = len(STEPS)) -> Card:
    """From the query to the write in seven strips, the first `step` of them filled in (1 to 7)."""
    one, step = Head(loaded, trace, layer, head), min(max(step, 1), len(STEPS))
    scores = one.scores[one.position(query)]
    dots, masked = scores / one.scale, ops.mask(scores, ops.future(one.seq)[query])
    weights, output, write = softmax(masked), one.output(query), one.write(query)

    return Card(
        key="walk",
        title=f"{step} of {len(STEPS)}: {_what(one, query, step, dots, weights)}",
        alt=f"Seven strips, {step} of them filled in: {', '.join(STEPS[:step])}.",
        badge=Badge.LIVE,
        figure=steps(
            [
                Strip(f"query of {one.tokens[query]}", one.q[query], "query"),
                Strip("q·k for every key", dots, "key", one.tokens),
                Strip(_scaling(one), scores, "key", one.tokens),
                Strip("causal mask", masked, "key", one.tokens),
                Strip("softmax", weights, "attention", one.tokens),
                Strip("output: Σ weight·value", output, "value"),
                Strip("write: output·W_O", write, "residual"),
            ],
            step,
        ),
        table={
            "position": list(range(one.seq)),
            "key": one.tokens,
            "q·k": dots.tolist(),
            "scaled": scores.tolist(),
            "masked": masked.tolist(),
            "weight": weights.tolist(),
        },
        shown={
            "query": one.q[query],
            "dots": dots,
            "scores": scores,
            "weights": weights,
            "output": output,
            "write": write,
        },
        oracle=Oracle(
            "Query, dot products and scores projected again; weights and output by PyTorch’s own attention; and the "
            "write, which stands on all of them, is what the attention sublayer loses when the model runs with this "
            "head’s output set to zero.",
            lambda: _walk_again(one, query),
            {
                "query": tolerance(loaded, one.q[query]),
                "dots": tolerance(loaded, dots),
                "scores": tolerance(loaded, scores),
                "weights": tolerance(loaded, 1.0, scores[: query + 1], steps=2),
                "output": tolerance(
                    loaded, one.v[: query + 1], scores[: query + 1] * float(np.abs(one.v).max()), steps=2
                ),
                "write": tolerance(loaded, write, trace.attn_out[layer, query]),
            },
        ),
        code=code.script(
            one,
            code.output_matrix(one),
            f'result = {{"query": q[{query}], "dots": q[{query}] @ k.T, "scores": scores[{query}],\n'
            f'          "weights": weights[{query}], "output": z[{query}], "write": write[{query}]}}',
        ),
        numbers={
            "query": one.q[query],
            "dots": dots,
            "scores": scores,
            "weights": weights,
            "output": output,
            "write": write,
        },
        atol=tolerance(loaded, dots, output, write),
        note="The signed strips are each on their own scale, symmetric about zero; the end is printed beside the name.",
    )


def _walk_again(one: Head, query: int) -> dict[str, Any]:
    again = head_again(one)
    return {
        "query": again.query[query],
        "dots": again.dots[query],
        "scores": again.scores[query],
        "weights": again.weights()[query],
        "output": again.output[query],
        "write": removed(one)[query],
    }


def _scaling(one: Head) -> str:
    return f"× 1/√{one.loaded.spec.d_head}" if one.loaded.spec.scaled else "× 1: not scaled here"


def _what(one: Head, query: int, step: int, dots: ops.Floats, weights: ops.Floats) -> str:
    """One sentence about the strip that has just been filled in."""
    asks, seen, seq = one.quoted(query), query + 1, one.seq
    top = int(np.nanargmax(weights)) if np.isfinite(weights).any() else 0
    best = int(np.nanargmax(dots)) if np.isfinite(dots).any() else 0
    if step == 1:
        return f"{asks} makes a query of {one.loaded.spec.d_head} numbers"
    if step == 2:
        return f"its dot product is largest with the key of {one.quoted(best)}: {short(float(dots[best]))}"
    if step == 3 and not one.loaded.spec.scaled:
        return f"this architecture does not scale: {short(float(dots[best]))} stays as it is"
    if step == 3:
        return f"the scale makes {short(float(dots[best]))} into {short(float(one.scores[query, best]))}"
    if step == 4:
        return f"{seen} of {seq} keys may be seen from position {query}"
    if step == 5:
        return f"softmax gives {one.quoted(top)} the largest weight, {weights[top]:.2f}"
    if step == 6:
        return f"{seen} values, so weighted, add up to one vector of {one.loaded.spec.d_head} numbers"
    likes = direct(one, query, 3).promoted
    names = ", ".join(f"“{token(one.loaded, i).display}”" for i in likes)
    return f"the write raises the logits of {names} most"

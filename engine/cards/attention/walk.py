"""All steps of one head for one query, one after the other."""

import numpy as np

from engine.cards.attention import code
from engine.cards.attention.evidence import gap
from engine.cards.attention.head import Head
from engine.cards.attention.outputs import direct, removed
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.rounding import tolerance
from engine.figures.attention import Strip, steps
from engine.figures.axes import short
from engine.model.capturing import token
from engine.model.loading import Loaded
from engine.model.trace import Trace
from engine.ops import attention as ops

STEPS = ("query", "dot products", "scale", "mask", "softmax", "output", "write")


def walk(loaded: Loaded, trace: Trace, layer: int, head: int, query: int, step: int = len(STEPS)) -> Card:
    """From the query to the write in seven strips, the first `step` of them filled in (1 to 7)."""
    one, step = Head(loaded, trace, layer, head), min(max(step, 1), len(STEPS))
    scores = one.scores[one.position(query)]
    dots, masked = scores / ops.scale(loaded.spec.d_head), ops.mask(scores, ops.future(one.seq)[query])
    weights, output, write = ops.softmax(masked), one.output(query), one.write(query)

    def prove() -> Proof:
        return Proof(
            "The last strip stands on all others. Run the model with this head’s output set to zero: the attention "
            "sublayer’s output loses exactly this write.",
            gap(ops.contributions(weights, one.v).sum(axis=0) @ one.output_matrix()[0], removed(one)[query]),
            tolerance(loaded, write, trace.attn_out[layer, query], steps=16),
        )

    return Card(
        key="walk",
        title=f"{step} of {len(STEPS)}: {_what(one, query, step, dots, weights)}",
        alt=f"Seven strips, {step} of them filled in: {', '.join(STEPS[:step])}.",
        badge=Badge.LIVE,
        figure=steps(
            [
                Strip(f"query of {one.tokens[query]}", one.q[query], "query"),
                Strip("q·k for every key", dots, "key", one.tokens),
                Strip(f"× 1/√{loaded.spec.d_head}", scores, "key", one.tokens),
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
        prove=prove,
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


def _what(one: Head, query: int, step: int, dots: ops.Floats, weights: ops.Floats) -> str:
    """One sentence about the strip that has just been filled in."""
    asks, seen, seq = one.quoted(query), query + 1, one.seq
    top = int(np.nanargmax(weights)) if np.isfinite(weights).any() else 0
    best = int(np.nanargmax(dots)) if np.isfinite(dots).any() else 0
    if step == 1:
        return f"{asks} makes a query of {one.loaded.spec.d_head} numbers"
    if step == 2:
        return f"its dot product is largest with the key of {one.quoted(best)}: {short(float(dots[best]))}"
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

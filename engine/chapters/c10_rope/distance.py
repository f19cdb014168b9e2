"""One query and one key, and what only their distance makes of the score."""

import numpy as np

from engine.chapters.c10_rope.pair import at_positions, within
from engine.chapters.c10_rope.rotation import before, rotation, rounding
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.comparing import max_difference
from engine.evidence.rounding import float_tolerance
from engine.figures.axes import short
from engine.figures.rope import waves
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops import attention as ops
from engine.ops import rope

LONGEST = 2048
"""Distances shown; more would be a solid block of ink for the fast pairs."""


def distance(loaded: Loaded, trace: Trace, layer: int, head: int, query: int, key: int, index: int) -> Card:
    """The score of one query with one key at every distance in the context, and the part of pair `index` in it."""
    one, own = Head(loaded, trace, layer, head), rotation(loaded)
    q, k = (x[one.position(i)] for x, i in zip(before(one), (query, key), strict=True))
    within(index, own.pairs, "pair")
    away = np.arange(min(loaded.spec.context, LONGEST))
    turned, fixed = at_positions(own, q, range(len(away))), at_positions(own, k, range(1))[0]
    products = rope.split(turned, own.pairs) * rope.split(fixed, own.pairs)  # distance, pair, 2
    score = (turned.astype(np.float64) @ fixed.astype(np.float64)) * ops.scale(loaded.spec.d_head)
    part = products[:, index].sum(-1) * ops.scale(loaded.spec.d_head)
    near = rounding(own, q, k, len(away))
    here, names = query - key, (f"pair {index} alone", "all pairs: the score")

    def prove() -> Proof:
        closed, rest = rope.by_distance(q, k, own.inv_freq, away, own.factor)
        captured = abs(one.scores[query, key] - score[here]) if here >= 0 else 0.0
        return Proof(
            "A sum of cosines, one for each pair: |q||k|·cos(angle between them + distance·frequency)/√d_head, against "
            "the vectors that the model’s own module rotated."
            + (" At the distance they have, it is the captured score." if here >= 0 else ""),
            max(
                max_difference(closed.sum(-1) + rest, score), max_difference(closed[:, index], part), captured
            ),
            max(near, float_tolerance(loaded, score)),
        )

    best = int(np.nan_to_num(score).argmax())
    return Card(
        key="distance",
        title=f"{one.quoted(query)} asks, {one.quoted(key)} answers: {short(score[0])} side by side, at most "
        f"{short(score[best])}, {best} tokens apart",
        alt=f"The score over {len(away)} distances, between {score.min():.3g} and {score[best]:.3g}, and the "
        f"cosine wave of pair {index} in it.",
        badge=Badge.LIVE,
        figure=waves(
            away,
            {names[1]: score, names[0]: part},
            colors={names[0]: "key", names[1]: "query"},
            mark=here if here >= 0 else None,
            y_name="q·k / √d_head",
        ),
        table={"distance": away.tolist(), names[1]: score.tolist(), names[0]: part.tolist()},
        prove=prove,
        code=code.script(
            one, _SCRIPT.format(query=query, key=key, index=index, pairs=own.pairs, count=len(away))
        ),
        numbers={"score": score, "pair": part},
        atol=max(near, float_tolerance(loaded, score)),
        note=f"{one.name[0].upper()}{one.name[1:]} of {loaded.name}. The contents of query and key are the captured "
        f"ones and never change; only the rotation does. Pair {index} repeats every "
        f"{short(float(rope.wavelengths(own.inv_freq)[index]))} tokens."
        + (
            f" Dotted: the distance they have in the prompt, {here}."
            if here >= 0
            else " In the prompt this key comes after the query, so the mask hides it."
        ),
    )


_SCRIPT = """
places = torch.arange({count})[None]
cos, sin = rotary(torch.zeros(1), places)
asks, answers = before["query"][{query}], before["key"][{key}]
everywhere = asks.expand(1, 1, {count}, -1)
turned, _ = apply_rotary_pos_emb(everywhere, everywhere, cos, sin)
_, fixed = apply_rotary_pos_emb(asks[None, None, None], answers[None, None, None], cos[:, :1], sin[:, :1])
products = turned[0, 0] * fixed[0, 0] * scale  # distance, d_head
result = {{"score": products.sum(-1), "pair": products[:, [{index}, {index} + {pairs}]].sum(-1)}}
"""

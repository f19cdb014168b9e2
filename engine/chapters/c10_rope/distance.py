"""One query and one key, and what only their distance makes of the score."""

from typing import Any

import numpy as np

from engine.chapters.c10_rope.pair import at_positions, within
from engine.chapters.c10_rope.rotation import STEPS, before, narrower, rotation, rounding
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.head import head_again
from engine.evidence.oracles.rope import rope_again
from engine.evidence.rounding import tolerance
from engine.figures.axes import short
from engine.figures.rope import waves
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops import attention as ops
from engine.ops import rope
from engine.ops.heads import on_previous

NEAR = 33
"""Distances of a first look, from 0: as far as single tokens can be told apart."""

LONGEST = 2048
"""Distances shown; more would be a solid block of ink for the fast pairs."""


def previous_head(trace: Trace) -> tuple[int, int, float]:
    """(layer, head, weight): the head that gives the token before each query the largest mean weight.

    For fewer than three tokens it is the first head.
    """
    mean = np.nan_to_num(on_previous(trace.attention))
    layer, head = (int(i) for i in np.unravel_index(int(mean.argmax()), mean.shape))
    return layer, head, float(mean[layer, head])


def looking_back(
    loaded: Loaded, trace: Trace, query: int, key: int, index: int | None = None, furthest: int = LONGEST
) -> Card:
    """`distance` for the head that looks most at the token before, and why it is shown."""
    layer, head, weight = previous_head(trace)
    why = (
        f"Of all heads it looks most at the token before: with {weight:.0%} of its attention on this prompt. "
    )
    return distance(loaded, trace, layer, head, query, key, index, furthest, why if weight else "")


def distance(
    loaded: Loaded, trace: Trace, layer: int, head: int, query: int, key: int, index: int | None = None,
    furthest: int = LONGEST, why: str = "",
) -> Card:  # fmt: skip
    """The score of one query with one key at every distance, and the part of pair `index` in it.

    index     None is the pair whose part changes most over these distances
    furthest  how many distances, at most as many as the context has
    why       a sentence for the caption
    """
    one, own = Head(loaded, trace, layer, head), rotation(loaded)
    q, k = (x[one.position(i)] for x, i in zip(before(one), (query, key), strict=True))
    away = np.arange(min(loaded.spec.context, furthest, LONGEST))
    turned, fixed = at_positions(own, q, range(len(away))), at_positions(own, k, range(1))[0]
    products = rope.split(turned, own.pairs) * rope.split(fixed, own.pairs)  # distance, pair, 2
    if index is None:
        index = int(np.nan_to_num(np.ptp(products.sum(-1), axis=0)).argmax())
    within(index, own.pairs, "pair")
    score = (turned.astype(np.float64) @ fixed.astype(np.float64)) * ops.scale(loaded.spec.d_head)
    part = products[:, index].sum(-1) * ops.scale(loaded.spec.d_head)
    near = max(rounding(own, q, k, len(away)), tolerance(loaded, score, steps=STEPS))
    here, names = query - key, (f"pair {index} alone", "all pairs: the score")
    best = int(np.nan_to_num(score).argmax())
    return Card(
        key="distance",
        title=f"{one.quoted(query)} asks, {one.quoted(key)} answers: the score is largest at distance {best}, "
        f"{short(score[best])}" + (f"; at distance 0 it is {short(score[0])}" if best else ""),
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
        shown={"score": score, "pair": part},
        oracle=Oracle(
            "Query and key projected again from the stream that transformers returns; a wave of each pair over the "
            "distance, the real part of q·k̄·e^(i·distance·frequency)/√d_head with frequencies by the formula of their "
            "paper, and the sum of all, against the vectors that the model’s own module rotated.",
            lambda: _again(one, query, key, index, len(away)),
            {"score": near, "pair": narrower(near, part)},
        ),
        code=code.script(
            one, _SCRIPT.format(query=query, key=key, index=index, pairs=own.pairs, count=len(away))
        ),
        note=f"{one.name[0].upper()}{one.name[1:]} of {loaded.name}. {why}The contents of query and key are the "
        f"captured ones and never change; only the rotation does. Pair {index} repeats every "
        f"{short(float(rope.wavelengths(own.inv_freq)[index]))} tokens."
        + (
            f" Dotted: the distance they have in the prompt, {here}."
            if here >= 0
            else " In the prompt this key comes after the query, so the mask hides it."
        ),
    )


def _again(one: Head, query: int, key: int, index: int, count: int) -> dict[str, Any]:
    head, scale = head_again(one), one.loaded.spec.d_head**-0.5
    waves, rest = rope_again(one.loaded).by_distance(
        head.before["query"][query], head.before["key"][key], range(count)
    )
    return {"score": (waves.sum(-1) + rest) * scale, "pair": waves[:, index] * scale}


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

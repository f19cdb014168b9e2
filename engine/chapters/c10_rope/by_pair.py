"""What each pair of dimensions gives to one score, and the most that it could give at any distance."""

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
from engine.figures.rope import bars_within
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops import attention as ops
from engine.ops import rope


def by_pair(loaded: Loaded, trace: Trace, layer: int, head: int, query: int, key: int, away: int) -> Card:
    """The part of every pair in the score of a query with a key that is `away` tokens before it.

    Raises ReaderError for a distance beyond the context.
    """
    one, own = Head(loaded, trace, layer, head), rotation(loaded)
    within(away, loaded.spec.context, "distance")
    q, k = (x[one.position(i)] for x, i in zip(before(one), (query, key), strict=True))
    scale = ops.scale(loaded.spec.d_head)
    turned, fixed = (
        at_positions(own, x, range(n + 1))[-1].astype(np.float64) for x, n in ((q, away), (k, 0))
    )
    points = rope.split(turned, own.pairs), rope.split(fixed, own.pairs)
    given = (points[0] * points[1]).sum(-1) * scale
    most = np.hypot(*points[0].T) * np.hypot(*points[1].T) * scale
    score = float(turned @ fixed) * scale
    near = max(rounding(own, q, k, away + 1), tolerance(loaded, score, most, steps=STEPS))
    top = int(np.abs(np.nan_to_num(given)).argmax())
    return Card(
        key="by-pair",
        title=f"At distance {away} the score is {short(score)}: pair {top} counts most, {short(given[top])} of at most "
        f"±{short(most[top])}",
        alt=f"A bar for each of {own.pairs} pairs: what it adds to the score at distance {away}, inside the most that "
        f"it could add or take away.",
        badge=Badge.LIVE,
        figure=bars_within(
            given, most, name=f"at distance {away}", x_name="pair", y_name="part of q·k / √d_head"
        ),
        table={
            "pair": list(range(own.pairs)),
            f"at distance {away}": given.tolist(),
            "most, |q||k| / √d_head": most.tolist(),
        },
        shown={"given": given, "most": most, "score": score},
        oracle=Oracle(
            "Query and key projected again from the stream that transformers returns; each part the real part of "
            "q·k̄·e^(i·distance·frequency)/√d_head, with frequencies by the formula of their paper; the most it can be "
            "from the lengths of the two complex numbers; the score as the sum of all parts.",
            lambda: _again(one, query, key, away),
            {"given": narrower(near, given), "most": narrower(near, most), "score": near},
        ),
        code=code.script(one, _SCRIPT.format(query=query, key=key, away=away, pairs=own.pairs)),
        note=f"{one.name[0].upper()}{one.name[1:]} of {loaded.name}, {one.quoted(query)} with {one.quoted(key)}. "
        "Grey: as far as the two lengths let a pair go, when both of its vectors point the same way or opposite ways."
        + (
            ""
            if 2 * own.pairs == len(q)
            else f" The {len(q) - 2 * own.pairs} dimensions without rotation add the rest."
        ),
    )


def _again(one: Head, query: int, key: int, away: int) -> dict[str, Any]:
    head, turner, scale = head_again(one), rope_again(one.loaded), one.loaded.spec.d_head**-0.5
    q, k = head.before["query"][query], head.before["key"][key]
    waves, rest = turner.by_distance(q, k, [away])
    return {
        "given": waves[0] * scale,
        "most": turner.points(q).abs() * turner.points(k).abs() * turner.factor**2 * scale,
        "score": (waves[0].sum() + rest) * scale,
    }


_SCRIPT = """
cos, sin = rotary(torch.zeros(1), torch.tensor([[0, {away}]]))
asks, answers = before["query"][{query}], before["key"][{key}]
turned, _ = apply_rotary_pos_emb(asks[None, None, None], asks[None, None, None], cos[:, 1:], sin[:, 1:])
_, fixed = apply_rotary_pos_emb(answers[None, None, None], answers[None, None, None], cos[:, :1], sin[:, :1])
q, k = turned[0, 0, 0], fixed[0, 0, 0]
split = lambda x: torch.stack([x[:{pairs}], x[{pairs} : 2 * {pairs}]])
result = {{
    "given": (split(q) * split(k)).sum(0) * scale,
    "most": split(q).norm(dim=0) * split(k).norm(dim=0) * scale,
    "score": q @ k * scale,
}}
"""

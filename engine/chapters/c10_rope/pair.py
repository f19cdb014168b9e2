"""One pair of dimensions, turning with the position."""

import math
from typing import Any

import numpy as np
import torch

from engine import ReaderError
from engine.chapters.c10_rope.rotation import (
    ROUNDED,
    STEPS,
    Rotation,
    before,
    narrower,
    rotation,
    turning,
)
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.head import head_again
from engine.evidence.oracles.rope import rope_again
from engine.evidence.rounding import EXACT, tolerance
from engine.figures.axes import short
from engine.figures.rope import turning as drawn
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.trace import Array, Trace
from engine.ops import rope

LETTERS = {"query": "q", "key": "k"}


def pair(
    loaded: Loaded, trace: Trace, layer: int, head: int, token: int, part: str, index: int, position: int
) -> Card:
    """Pair `index` of a token's query or key, before RoPE and after it as if the token stood at `position`.

    Raises ReaderError for a layer, head, token, part, pair or position that is not there.
    """
    one, own = Head(loaded, trace, layer, head), rotation(loaded)
    vector = chosen(one, part)[one.position(token)]
    within(index, own.pairs, "pair")
    within(position, loaded.spec.context, "position")
    everywhere = at_positions(own, vector, range(position + 1))
    points = rope.split(everywhere, own.pairs)[:, index]
    start, end = rope.split(vector, own.pairs)[index], points[-1]
    angles = own.angles(range(position + 1))[:, index]
    angle, lengths, frequency = (
        float(angles[-1]),
        np.hypot(points[:, 0], points[:, 1]),
        float(own.inv_freq[index]),
    )
    near = narrower(max(tolerance(loaded, vector, steps=STEPS), turning(own, vector, position)), points)
    letter, turns = LETTERS[part], angle / rope.TURN
    return Card(
        key="pair",
        title=f"{position} × {short(frequency)} rad = {short(angle)} rad: pair {index} of "
        f"{letter} turns by {_turned(turns)}",
        alt=f"A circle with two arrows of {'the same length' if own.factor == 1 else 'two lengths'}: the pair before "
        f"RoPE at ({start[0]:.3g}, {start[1]:.3g}), and at position {position} at ({end[0]:.3g}, {end[1]:.3g}).",
        badge=Badge.LIVE,
        figure=drawn(
            start,
            end,
            points[1:-1],
            angle,
            names=("before RoPE", "in between", f"at position {position}"),
            concept=part,
        ),
        table={
            "position": list(range(position + 1)),
            "angle (rad)": angles.tolist(),
            f"{letter}[{index}]": points[:, 0].tolist(),
            f"{letter}[{index + own.pairs}]": points[:, 1].tolist(),
            "length": lengths.tolist(),
        },
        shown={
            "frequency": frequency,
            "angle (rad)": angles,
            "before": start,
            "points": points,
            "length": lengths,
        },
        oracle=Oracle(
            f"The {part} projected again from the stream that transformers returns, its pair as a complex number times "
            "e^(i·position·frequency), with the frequency by the formula of its paper.",
            lambda: _again(one, token, part, index, position),
            {
                "frequency": ROUNDED * frequency,
                "angle (rad)": max(EXACT, ROUNDED * angle),
                **dict.fromkeys(("before", "points", "length"), near),
            },
        ),
        code=code.script(one, _script(part, token, index, own.pairs, position)),
        note=f"{one.quoted(token)} in {one.name} of {loaded.name}. Pair {index} is dimensions {index} and "
        f"{index + own.pairs} of {loaded.spec.d_head}. Its length is {short(math.hypot(*start))} before and "
        f"{short(math.hypot(*end))} after.{_scaled(own)}",
    )


def _again(one: Head, token: int, part: str, index: int, position: int) -> dict[str, Any]:
    turner, vector = (
        rope_again(one.loaded),
        head_again(one).before["query" if part == "query" else "key"][token],
    )
    turned = turner.turned(vector, range(position + 1))[:, index]
    return {
        "frequency": turner.frequency[index],
        "angle (rad)": turner.angles(range(position + 1))[:, index],
        "before": torch.view_as_real(turner.points(vector)[index]),
        "points": torch.view_as_real(turned),
        "length": turned.abs(),
    }


def chosen(one: Head, part: str) -> Array:
    """The head's queries or keys before RoPE, (seq, d_head). Raises ReaderError for another part."""
    if part not in LETTERS:
        raise ReaderError("RoPE rotates queries and keys only.")
    q, k = before(one)
    return q if part == "query" else k


def within(value: int, count: int, what: str) -> int:
    """`value` if it is one of `count`; else ReaderError."""
    if not 0 <= value < count:
        raise ReaderError(f"There is no {what} {value}; the last one is {count - 1}.")
    return value


def at_positions(own: Rotation, vector: Array, positions: range) -> Array:
    """One vector as it would be at each of these positions, (position, d_head)."""
    repeated = np.repeat(vector[None], len(positions), axis=0)
    return own.turn(repeated, repeated, positions)[0]


def _turned(turns: float) -> str:
    if turns >= 1:
        return f"{turns:.2f} full turns"
    return f"{360 * turns:.3g}°"


def _scaled(own: Rotation) -> str:
    return "" if own.factor == 1 else f" YaRN also multiplies every length by {own.factor:.4g}."


def _script(part: str, token: int, index: int, pairs: int, position: int) -> str:
    return f"""
vector, index, pairs = before[{part!r}][{token}], {index}, {pairs}
places = torch.arange({position + 1})
cos, sin = rotary(torch.zeros(1), places[None])
everywhere = vector.expand(1, 1, len(places), -1)
turned, _ = apply_rotary_pos_emb(everywhere, everywhere, cos, sin)
points = turned[0, 0][:, [index, index + pairs]]
frequency = rotary.inv_freq[index].double()
result = {{
    "frequency": frequency,
    "angle (rad)": places * frequency,
    "before": vector[[index, index + pairs]],
    "points": points,
    "length": points.norm(dim=-1),
}}
"""

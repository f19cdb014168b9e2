"""One pair of dimensions, turning with the position."""

import math

import numpy as np

from engine import ReaderError
from engine.chapters.c10_rope.rotation import Rotation, before, rotation, rounding
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.comparing import max_difference
from engine.evidence.rounding import float_tolerance
from engine.figures.axes import short
from engine.figures.rope import turning
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
    angle = float(own.angles([position])[0, index])

    def prove() -> Proof:
        complex_product = rope.complex_rotation(vector, own.angles([position])[0], own.factor)
        difference = max_difference(complex_product, everywhere[-1])
        if position == token:
            captured = one.q[token] if part == "query" else one.k[token]
            difference = max(difference, max_difference(complex_product, captured))
        same = " It is also what the model’s pass left at this token." if position == token else ""
        return Proof(
            f"The model’s rotation of all pairs, against complex numbers times e^(i·position·frequency).{same}",
            difference,
            max(float_tolerance(loaded, vector), rounding(own, vector, vector, position)),
        )

    letter, turns = LETTERS[part], angle / rope.TURN
    return Card(
        key="pair",
        title=f"{position} × {short(own.inv_freq[index])} rad = {short(angle)} rad: pair {index} of "
        f"{letter} turns by {_turned(turns)}",
        alt=f"A circle with two arrows of {'the same length' if own.factor == 1 else 'two lengths'}: the pair before "
        f"RoPE at ({start[0]:.3g}, {start[1]:.3g}), and at position {position} at ({end[0]:.3g}, {end[1]:.3g}).",
        badge=Badge.LIVE,
        figure=turning(
            start,
            end,
            points[1:-1],
            angle,
            names=("before RoPE", "in between", f"at position {position}"),
            concept=part,
        ),
        table={
            "position": list(range(position + 1)),
            "angle (rad)": own.angles(range(position + 1))[:, index].tolist(),
            f"{letter}[{index}]": points[:, 0].tolist(),
            f"{letter}[{index + own.pairs}]": points[:, 1].tolist(),
            "length": np.hypot(points[:, 0], points[:, 1]).tolist(),
        },
        prove=prove,
        code=code.script(one, _script(part, token, index, own.pairs, position)),
        numbers={"angle": angle, "before": start, "after": end},
        atol=max(float_tolerance(loaded, vector), rounding(own, vector, vector, position)),
        note=f"{one.quoted(token)} in {one.name} of {loaded.name}. Pair {index} is dimensions {index} and "
        f"{index + own.pairs} of {loaded.spec.d_head}. Its length is {short(math.hypot(*start))} before and "
        f"{short(math.hypot(*end))} after.{_scaled(own)}",
    )


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
cos, sin = rotary(torch.zeros(1), torch.tensor([[{position}]]))
after, _ = (x[0, 0, 0] for x in apply_rotary_pos_emb(vector[None, None, None], vector[None, None, None], cos, sin))
result = {{
    "angle": {position} * rotary.inv_freq[index].double(),
    "before": vector[[index, index + pairs]],
    "after": after[[index, index + pairs]],
}}
"""

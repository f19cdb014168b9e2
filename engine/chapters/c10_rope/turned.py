"""A captured query or key before and after RoPE, pair by pair."""

from typing import Any

import numpy as np
import torch

from engine.chapters.c10_rope.ladder import tokens
from engine.chapters.c10_rope.pair import LETTERS, chosen
from engine.chapters.c10_rope.rotation import ROUNDED, STEPS, rotation, turning
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.comparing import max_difference
from engine.evidence.oracles.head import head_again
from engine.evidence.oracles.rope import rope_again
from engine.evidence.rounding import EXACT, largest, tolerance
from engine.figures.axes import short
from engine.figures.rope import clocks
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops import rope


def turned(loaded: Loaded, trace: Trace, layer: int, head: int, token: int, part: str) -> Card:
    """All pairs of one token's query or key, as the projection made them and as attention used them."""
    one, own = Head(loaded, trace, layer, head), rotation(loaded)
    first = chosen(one, part)[one.position(token)]
    last = (one.q if part == "query" else one.k)[token]
    old, new = rope.split(first, own.pairs), rope.split(last, own.pairs)
    lengths = [np.hypot(points[:, 0], points[:, 1]) for points in (old, new)]
    angles = own.angles([token])[0]
    wave = rope.wavelengths(own.inv_freq)
    near = max(tolerance(loaded, first, steps=STEPS), turning(own, first, token))
    change = max_difference(lengths[1], own.factor * lengths[0])
    letter = LETTERS[part]
    return Card(
        key="turned",
        title=_title(letter, token, own.factor, change),
        alt=f"{own.pairs} dials, one for each pair, with a dotted hand before RoPE and a solid one after it. Pair 0 "
        f"has turned by {short(angles[0])} radians, the last by {short(angles[-1])}.",
        badge=Badge.LIVE,
        figure=clocks(
            old,
            new,
            [
                f"pair {i}: turned {short(angle)} rad, a full turn takes {tokens(period)}, length {short(size)}"
                for i, (angle, period, size) in enumerate(zip(angles, wave, lengths[1], strict=True))
            ],
            names=("before RoPE", "after RoPE"),
            concept=part,
        ),
        table={
            "pair": list(range(own.pairs)),
            "angle (rad)": angles.tolist(),
            "first before": old[:, 0].tolist(),
            "second before": old[:, 1].tolist(),
            "first after": new[:, 0].tolist(),
            "second after": new[:, 1].tolist(),
            "length before": lengths[0].tolist(),
            "length after": lengths[1].tolist(),
        },
        shown={
            "angle (rad)": angles,
            "frequency": own.inv_freq,
            "before": old,
            "after": new,
            "length before": lengths[0],
            "length after": lengths[1],
        },
        oracle=Oracle(
            f"The {part} projected again from the stream that transformers returns; each of its pairs as a complex "
            "number times e^(i·position·frequency), with frequencies by the formula of their paper, is the captured "
            f"pair after RoPE, and its length after is {own.factor:.6g} × its length before.",
            lambda: _again(one, token, part),
            {
                "angle (rad)": max(EXACT, ROUNDED * largest(angles)),
                "frequency": ROUNDED * largest(own.inv_freq),
                **dict.fromkeys(("before", "after", "length before", "length after"), near),
            },
        ),
        code=code.script(one, _script(part, token, own.pairs)),
        note=f"{one.quoted(token)} in {one.name} of {loaded.name}. Each dial has its own scale; its circle is the "
        f"pair’s length before RoPE. Largest change of a length{'' if own.factor == 1 else ', the factor apart'}: "
        f"{change:.1e}.{_left(own.pairs, loaded.spec.d_head)}",
    )


def _again(one: Head, token: int, part: str) -> dict[str, Any]:
    turner, vector = (
        rope_again(one.loaded),
        head_again(one).before["query" if part == "query" else "key"][token],
    )
    before, after = turner.points(vector), turner.turned(vector, [token])[0]
    return {
        "angle (rad)": turner.angles([token])[0],
        "frequency": turner.frequency,
        "before": torch.view_as_real(before),
        "after": torch.view_as_real(after),
        "length before": before.abs(),
        "length after": before.abs() * turner.factor,
    }


def _title(letter: str, token: int, factor: float, change: float) -> str:
    if not np.isfinite(change):
        return f"This {letter} holds numbers that overflowed: there is no direction to show"
    if token == 0:
        return f"At position 0 nothing turns: {letter} is used as the projection made it"
    length = "its old length" if factor == 1 else f"{factor:.3g} times its length"
    return f"At position {token}, every pair of {letter} has a new direction and {length}"


def _left(pairs: int, d_head: int) -> str:
    rest = d_head - 2 * pairs
    return f" The other {rest} dimensions of the head are not rotated." if rest else ""


def _script(part: str, token: int, pairs: int) -> str:
    used = "q" if part == "query" else "k"
    return f"""
def in_pairs(vector, pairs={pairs}):
    return torch.stack([vector[:pairs], vector[pairs : 2 * pairs]], dim=-1)

first, last = in_pairs(before[{part!r}][{token}]), in_pairs({used}[{token}])
frequency = rotary.inv_freq.double()
result = {{
    "angle (rad)": {token} * frequency,
    "frequency": frequency,
    "before": first,
    "after": last,
    "length before": first.norm(dim=-1),
    "length after": last.norm(dim=-1),
}}
"""

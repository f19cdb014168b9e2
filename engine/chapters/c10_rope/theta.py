"""What another θ does to the same query: its frequencies, and how far apart it still recognises itself."""

from typing import Any

import numpy as np
import torch

from engine.chapters.c10_rope.ladder import log_wavelengths, tokens
from engine.chapters.c10_rope.pair import at_positions
from engine.chapters.c10_rope.rotation import (
    ROUNDED,
    STEPS,
    Rotation,
    before,
    narrower,
    rotation,
    rounding,
    with_theta,
)
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.head import head_again
from engine.evidence.oracles.rope import RopeAgain, rope_again
from engine.evidence.rounding import tolerance
from engine.evidence.script import preamble
from engine.figures.rope import ladder as drawn
from engine.figures.rope import waves
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops import attention as ops
from engine.ops import rope
from engine.ops.attention import Floats

THETAS = (1e3, 1e4, 1e5, 5e5, 1e6, 1e7)
"""Offered beside the checkpoint's own."""

REACHES = (1, 2, 4, 8)
"""How many contexts far the scores are followed."""

MOST_DISTANCES = 4096


def thetas(loaded: Loaded) -> list[float]:
    """The θ on offer for a checkpoint, its own among them, smallest first."""
    return sorted({*THETAS, rotation(loaded).theta})


def theta_ladder(loaded: Loaded, theta: float) -> Card:
    """The wavelengths of the checkpoint's own θ and of another, both made by transformers' rotary class."""
    own, other = rotation(loaded), with_theta(loaded, theta)
    context = loaded.spec.context
    old, new = rope.wavelengths(own.inv_freq), rope.wavelengths(other.inv_freq)
    whole = [int((lengths <= context).sum()) for lengths in (old, new)]
    names = ("its own: " + _theta(own), "chosen: " + _theta(other))
    return Card(
        key="theta-ladder",
        title=f"With {_theta(other)} the slowest pair turns once in {tokens(new.max())}, "
        f"with {_theta(own)} in {tokens(old.max())}",
        alt=f"Wavelengths of {own.pairs} pairs. {whole[0]} are shorter than the context with {_theta(own)}, "
        f"{whole[1]} with {_theta(other)}.",
        badge=Badge.LIVE,
        figure=drawn(
            dict(zip(names, (old, new), strict=True)), context, colors={names[0]: "key", names[1]: "query"}
        ),
        table={"pair": list(range(own.pairs)), names[0]: old.tolist(), names[1]: new.tolist()},
        shown={f"own{_LOG}": np.log10(old), f"chosen{_LOG}": np.log10(new)},
        oracle=Oracle(
            "Wavelengths by the formula of their paper with either θ, against the rotary modules of both.",
            lambda: {
                f"own{_LOG}": log_wavelengths(rope_again(loaded)),
                f"chosen{_LOG}": log_wavelengths(rope_again(loaded, theta=theta)),
            },
            ROUNDED,
        ),
        code=preamble(loaded) + _other(loaded, theta) + _LADDER,
        note=f"{whole[0]} of {own.pairs} pairs complete a turn within the context of {loaded.name} with its own θ, "
        f"{whole[1]} with the chosen one.{_kind(own)}",
    )


def theta_decay(
    loaded: Loaded, trace: Trace, layer: int, head: int, query: int, theta: float, reach: int = 1
) -> Card:
    """Score of a captured query with a key equal to itself over distance, under the model's own θ and another.

    With equal contents every pair is aligned at distance 0, so the score starts at its maximum, |q|²/√d_head.
    """
    one = Head(loaded, trace, layer, head)
    vector = before(one)[0][one.position(query)]
    furthest = reach * loaded.spec.context
    away = range(0, furthest, -(-furthest // MOST_DISTANCES))
    rotations = (rotation(loaded), with_theta(loaded, theta))
    curves = [self_score(turner, vector, away) for turner in rotations]
    left = [float(curve.mean() / curve[0]) for curve in curves]
    names = ("its own: " + _theta(rotations[0]), "chosen: " + _theta(rotations[1]))
    near = max(rounding(turner, vector, vector, furthest) for turner in rotations)
    near = max(near, tolerance(loaded, *curves, steps=STEPS))
    return Card(
        key="theta-decay",
        title=f"Averaged over distances up to {away[-1]:,}, {left[1]:.0%} of the score at distance 0 is left with "
        f"{_theta(rotations[1])}, {left[0]:.0%} with {_theta(rotations[0])}",
        alt=f"Two curves that start at {curves[0][0]:.3g} and fall: one for each θ.",
        badge=Badge.LIVE,
        figure=waves(
            away,
            dict(zip(names, curves, strict=True)),
            colors={names[0]: "key", names[1]: "query"},
            mark=loaded.spec.context if reach > 1 else None,
            y_name="q·q′ / √d_head",
        ),
        table={"distance": list(away), names[0]: curves[0].tolist(), names[1]: curves[1].tolist()},
        shown={"own": curves[0], "chosen": curves[1], "left": left},
        oracle=Oracle(
            "The query projected again from the stream that transformers returns, and a sum of cosines, "
            "|q_i|²·cos(distance·frequency)/√d_head over the pairs, with frequencies by the formula of their paper for "
            "either θ, against vectors that the rotary modules of both turned.",
            lambda: _again(one, query, theta, away),
            {"own": near, "chosen": near, "left": narrower(2 * near / abs(curves[0][0]), left)},
        ),
        code=code.script(one, _other(loaded, theta), _DECAY.format(query=query, away=away)),
        note=f"The query of {one.quoted(query)} in {one.name} of {loaded.name}, and a key with the same numbers."
        + (" Dotted: the end of the context." if reach > 1 else "")
        + (
            ""
            if away.step == 1
            else f" One distance in {away.step} is computed, so waves shorter "
            f"than {2 * away.step} tokens look slower than they are."
        ),
    )


def self_score(turner: Rotation, vector: np.ndarray, away: range) -> Floats:
    """Scores of a vector with itself at position 0, by distance."""
    turned = at_positions(turner, vector, away).astype(np.float64)
    result: Floats = (turned @ turned[0]) * ops.scale(len(vector))
    return result


def _again(one: Head, query: int, theta: float, away: range) -> dict[str, Any]:
    vector = head_again(one).before["query"][query]

    def curve(turner: RopeAgain) -> torch.Tensor:
        waves, rest = turner.by_distance(vector, vector, away)
        return torch.mul(waves.sum(-1) + rest, one.scale)

    last = away[-1] + 1
    own = curve(rope_again(one.loaded, tokens=last))
    chosen = curve(rope_again(one.loaded, theta=theta, tokens=last))
    return {"own": own, "chosen": chosen, "left": [x.mean() / x[0] for x in (own, chosen)]}


def _theta(own: Rotation) -> str:
    return f"θ = {own.theta:,.0f}"


def _kind(own: Rotation) -> str:
    return "" if own.kind == "default" else f" The “{own.kind}” scaling of its config stays in force."


def _other(loaded: Loaded, theta: float) -> str:
    return f"""
import copy

rotary = model.get_submodule({loaded.path("rotary")!r})
config = copy.deepcopy(model.config)
config.rope_parameters = {{**config.rope_parameters, "rope_theta": {float(theta)!r}}}
other = type(rotary)(config)
"""


_LOG = " (log10)"

_LADDER = """
own, chosen = ((2 * torch.pi / module.inv_freq.double()).log10() for module in (rotary, other))
result = {"own (log10)": own, "chosen (log10)": chosen}
"""

_DECAY = """
away = torch.tensor([*{away}])
vector = before["query"][{query}].expand(1, 1, len(away), -1)

def with_itself(module):
    cos, sin = module(torch.zeros(1), away[None])
    turned, _ = apply_rotary_pos_emb(vector, vector, cos, sin)
    return turned[0, 0] @ turned[0, 0, 0] * scale

own, chosen = with_itself(rotary), with_itself(other)
result = {{"own": own, "chosen": chosen, "left": torch.stack([x.mean() / x[0] for x in (own, chosen)])}}
"""

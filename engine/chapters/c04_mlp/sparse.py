"""How unequally the neurons of a layer are active, beside neurons that are all equal and beside random noise."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.mlp import mlps_again
from engine.evidence.rounding import EXACT, counted, same_pass
from engine.evidence.script import preamble
from engine.figures import lines
from engine.figures.theme import NEUTRAL
from engine.model.loaded import Loaded
from engine.model.neuron import checked_layer
from engine.model.trace import Trace, inside
from engine.ops import neurons as ops

SHARE = 0.9
"""The part of the absolute mass that the second line is about."""

NOISE, EQUAL = "normally distributed noise", "all equal"


def noise(share: float) -> float:
    """Share of the neurons that carries a share of the mass where activations are normally distributed with mean 0.

    Those beyond ±t carry exp(−t²/2) of it, the integral of |x| times the density.
    """
    return 2 * NormalDist().cdf(-math.sqrt(-2 * math.log(share)))


def noise_mass(share: float) -> float:
    """The share of the mass that a share of the neurons carries, the strongest ones, under the same noise."""
    return 1.0 if share >= 1 else math.exp(-(NormalDist().inv_cdf(share / 2) ** 2) / 2)


def sparsity(loaded: Loaded, trace: Trace, threshold: float) -> Card:
    """By layer, mean over the prompt's tokens: the share of near-zero activations, and of neurons with 90 %.

    Near zero: under `threshold` times the token's largest activation in the layer, in magnitude.
    """
    quiet = ops.near_zero(trace.mlp_act, threshold).mean(axis=1)  # layer
    need = ops.carriers(trace.mlp_act, SHARE)  # layer, seq
    share = need.mean(axis=1) / loaded.spec.d_ff
    layers = list(range(loaded.spec.n_layer))
    least = int(np.argmin(share))
    ids, levels = trace.ids, {NOISE: noise(SHARE), EQUAL: SHARE}
    drawn = lines(
        layers,
        {f"below {threshold:.0%} of the largest": quiet, f"neurons with {SHARE:.0%} of the mass": share},
        colors={
            f"below {threshold:.0%} of the largest": "token",
            f"neurons with {SHARE:.0%} of the mass": "mlp",
        },
        x_name="layer",
        y_name="share of the neurons",
        zero=True,
    ).update_yaxes(range=[0, 1.04], tickformat=".0%")
    for name, level in levels.items():
        drawn.add_hline(
            y=level,
            line={"color": NEUTRAL, "dash": "dot", "width": 1.5},
            annotation={"text": f"{SHARE:.0%} of the mass if {name}", "font_size": 11},
            annotation_position="top left",
        )
    return Card(
        key="sparsity",
        title=f"{SHARE:.0%} of the mass is in {share.min():.0%} of the neurons in layer {least} and in "
        f"{share.max():.0%} in layer {int(np.argmax(share))}; noise would need {levels[NOISE]:.0%}",
        alt="Two lines over the layers: the share of activations near zero, and the share of the neurons that carry "
        f"{SHARE:.0%} of the sum of magnitudes.",
        badge=Badge.LIVE,
        figure=drawn,
        table={
            "layer": layers,
            f"share below {threshold:.0%} of the largest": quiet.tolist(),
            f"neurons with {SHARE:.0%} of the mass, mean": need.mean(axis=1).tolist(),
            "fewest at a token": need.min(axis=1).tolist(),
            "most at a token": need.max(axis=1).tolist(),
        },
        shown={
            "quiet": quiet,
            "neurons": share,
            "fewest": need.min(axis=1),
            "most": need.max(axis=1),
            "levels": list(levels.values()),
        },
        oracle=Oracle(
            "What leaves the projections of a private copy of the model, bent by transformers' own activation "
            "function, and counted with torch; the level of noise by a sum over a grid of torch’s normal distribution.",
            lambda: _counted_again(loaded, ids, threshold),
            {
                "quiet": counted(loaded.spec.d_ff),
                "neurons": counted(loaded.spec.d_ff),
                "fewest": 0.0,
                "most": 0.0,
                "levels": GRID_ERROR,
            },
        ),
        code=_hooks(loaded, trace)
        + f"""
size = acts.abs()
quiet = (size < {threshold} * size.amax(-1, keepdim=True)).double().mean((1, 2))
mass = size.double().sort(-1, descending=True).values.cumsum(-1)
need = (mass < {SHARE} * mass[..., -1:]).sum(-1) + 1  # layer, seq
result = {{
    "quiet": quiet,
    "neurons": need.double().mean(1) / acts.shape[-1],
    "fewest": need.amin(1),
    "most": need.amax(1),
}}
""",
        numbers={"quiet": quiet, "neurons": share, "fewest": need.min(axis=1), "most": need.max(axis=1)},
        atol=counted(loaded.spec.d_ff),
        note=f"Means over the prompt's {len(trace.tokens)} tokens. Mass: the sum of the magnitudes of one layer's "
        f"{loaded.spec.d_ff:,} activations at one token. Dotted: what {SHARE:.0%} of it would need if all neurons were "
        "equally active, and if their activations were normally distributed random numbers.",
    )


def mass(loaded: Loaded, trace: Trace, layer: int, position: int) -> Card:
    """At one token: the share of the mass that the k strongest neurons carry, over k; this layer, first and last."""
    inside(trace, position)
    layers = sorted({0, checked_layer(loaded, layer), loaded.spec.n_layer - 1})
    size = -np.sort(-np.abs(trace.mlp_act[:, position].astype(np.float64)), axis=-1)
    total = size.sum(axis=-1, keepdims=True)
    grown = np.cumsum(size, axis=-1) / np.where(total > 0, total, 1)
    ks = steps(loaded.spec.d_ff)
    need = int(ops.carriers(trace.mlp_act[layer, position], SHARE))
    half = int(ops.carriers(trace.mlp_act[layer, position], 0.5))
    at = np.array(ks) - 1
    shown, ids = grown[layers][:, at], trace.ids
    parts = [k / loaded.spec.d_ff for k in ks]
    random = [noise_mass(part) for part in parts]
    expected = round(noise(0.5) * loaded.spec.d_ff)
    return Card(
        key="mass",
        title=f"At “{trace.tokens[position].display}” in layer {layer}, {half} of {loaded.spec.d_ff:,} neurons carry "
        f"half of the mass, where noise would need {expected:,}; {need:,} carry {SHARE:.0%}",
        alt="The share of the sum of magnitudes carried by the k strongest neurons, over k on a logarithmic axis.",
        badge=Badge.LIVE,
        figure=lines(
            ks,
            {**{f"layer {i}": grown[i, at] for i in layers}, NOISE: random, EQUAL: parts},
            colors={f"layer {layer}": "mlp", NOISE: NEUTRAL, EQUAL: NEUTRAL},
            x_name="k strongest neurons (log scale)",
            y_name="share of the mass",
            log_x=True,
            mark_x=float(need),
        ).update_yaxes(range=[0, 1.04], tickformat=".0%"),
        table={
            "k": ks,
            **{f"layer {i}": grown[i, at].tolist() for i in layers},
            NOISE: random,
            EQUAL: parts,
        },
        shown={
            "k": np.array(ks),
            "grown": shown,
            "half": half,
            "need": need,
            NOISE: random,
            EQUAL: parts,
            "expected": expected,
        },
        oracle=Oracle(
            "What leaves the projections of a private copy of the model, bent by transformers' own activation "
            "function; every point by torch.topk; the line of noise by a sum over torch’s normal distribution.",
            lambda: _mass_again(loaded, ids, layers, layer, position),
            {
                "k": 0.0,
                "grown": same_pass(),
                "half": 0.0,
                "need": 0.0,
                NOISE: GRID_ERROR,
                EQUAL: EXACT,
                "expected": 0.0,
            },
        ),
        code=_hooks(loaded, trace)
        + f"""
size = acts[{layers}, {position}].abs().double().sort(-1, descending=True).values
grown = size.cumsum(-1) / size.sum(-1, keepdim=True)
half, need = ((grown[{layers.index(layer)}] < share).sum() + 1 for share in (0.5, {SHARE}))
ks = {ks}
result = {{"k": ks, "grown": grown[:, [k - 1 for k in ks]], "half": half, "need": need}}
""",
        numbers={"k": ks, "grown": shown, "half": half, "need": need},
        atol=same_pass(),
        note=f"Dotted: the {need} neurons that carry {SHARE:.0%} in layer {layer}.",
    )


def steps(d_ff: int) -> list[int]:
    """1, 2, 4, … and d_ff."""
    return [*(2**i for i in range(d_ff.bit_length()) if 2**i < d_ff), d_ff]


def activations_again(loaded: Loaded, ids: Sequence[int], layers: Sequence[int]) -> torch.Tensor:
    """The magnitudes of all activations in a new run, (layer, seq, d_ff), float64."""
    return torch.stack([one.activations.abs() for one in mlps_again(loaded, ids, layers)])


GRID_ERROR = 1e-7
"""How far a sum over `GRID` points may lie from the integral."""

GRID = 400_001


def _noise_again(wanted: Sequence[float], of_mass: bool) -> list[float]:
    """Noise once more, on a fine grid of magnitudes: shares of neurons -> shares of mass, or (`of_mass`) back."""
    x = torch.linspace(0, 9, GRID, dtype=torch.float64)
    density = (
        torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double()).log_prob(x).exp()
    )
    beyond = [1 - torch.cumulative_trapezoid(y, x) / torch.trapezoid(y, x) for y in (density, x * density)]
    neurons, mass = (torch.cat([torch.ones(1, dtype=torch.float64), part]) for part in beyond)
    given, found = (mass, neurons) if of_mass else (neurons, mass)
    asked = torch.tensor(wanted, dtype=torch.float64)
    after = torch.searchsorted(-given, -asked).clamp(1, len(given) - 1)
    part = (given[after - 1] - asked) / (given[after - 1] - given[after])  # between two points of the grid
    values: list[float] = (found[after - 1] + part * (found[after] - found[after - 1])).tolist()
    return values


def _counted_again(loaded: Loaded, ids: Sequence[int], threshold: float) -> dict[str, Any]:
    size = activations_again(loaded, ids, range(loaded.spec.n_layer))
    sizes = size.sort(-1, descending=True).values
    need = (sizes.cumsum(-1) < SHARE * sizes.sum(-1, keepdim=True)).sum(-1) + 1
    return {
        "quiet": (size < threshold * size.amax(-1, keepdim=True)).double().mean((1, 2)),
        "neurons": need.double().mean(1) / size.shape[-1],
        "fewest": need.amin(1),
        "most": need.amax(1),
        "levels": [*_noise_again([SHARE], True), SHARE],
    }


def _mass_again(
    loaded: Loaded, ids: Sequence[int], layers: Sequence[int], layer: int, position: int
) -> dict[str, Any]:
    size = activations_again(loaded, ids, layers)[:, position]  # layer, d_ff
    every = size.shape[-1]
    ks = [*(1 << i for i in range((every - 1).bit_length())), every]
    own = size[layers.index(layer)].sort(descending=True).values
    half, need = ((own.cumsum(0) < share * own.sum()).sum() + 1 for share in (0.5, SHARE))
    grown = [[row.topk(k).values.sum() / row.sum() for k in ks] for row in size]
    parts = [k / every for k in ks]
    return {
        "k": ks,
        "grown": grown,
        "half": half,
        "need": need,
        NOISE: _noise_again(parts, False),
        EQUAL: parts,
        "expected": round(every * _noise_again([0.5], True)[0]),
    }


def _hooks(loaded: Loaded, trace: Trace) -> str:
    place = loaded.adapter.inside("down_proj")
    return (
        preamble(loaded, trace.ids)
        + f"""
acts = []
for block in model.{loaded.path("blocks")}:
    block.{place}.register_forward_hook(lambda module, args, output: acts.append(args[0][0].float()))
with torch.no_grad():
    model(ids, use_cache=False)
acts = torch.stack(acts)  # layer, seq, d_ff
"""
    )

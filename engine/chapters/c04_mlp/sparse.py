"""How many neurons of a layer do anything: near-zero activations, and the few that carry most of the mass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.mlp import mlps_again
from engine.evidence.rounding import counted, same_pass
from engine.evidence.script import preamble
from engine.figures import lines
from engine.model.loaded import Loaded
from engine.model.neuron import checked_layer
from engine.model.trace import Trace, inside
from engine.ops import neurons as ops

SHARE = 0.9
"""The part of the absolute mass that the second line is about."""


def sparsity(loaded: Loaded, trace: Trace, threshold: float) -> Card:
    """By layer, mean over the prompt's tokens: the share of near-zero activations, and of neurons with 90 %.

    Near zero: under `threshold` times the token's largest activation in the layer, in magnitude.
    """
    quiet = ops.near_zero(trace.mlp_act, threshold).mean(axis=1)  # layer
    need = ops.carriers(trace.mlp_act, SHARE)  # layer, seq
    share = need.mean(axis=1) / loaded.spec.d_ff
    layers = list(range(loaded.spec.n_layer))
    least = int(np.argmin(share))
    ids = trace.ids
    return Card(
        key="sparsity",
        title=f"{SHARE:.0%} of the activity is in {share.min():.0%} of the neurons in layer {least}, and in "
        f"{share.max():.0%} in layer {int(np.argmax(share))}",
        alt="Two lines over the layers: the share of activations near zero, and the share of the neurons that carry "
        f"{SHARE:.0%} of the sum of magnitudes.",
        badge=Badge.LIVE,
        figure=lines(
            layers,
            {f"below {threshold:.0%} of the largest": quiet, f"neurons with {SHARE:.0%} of the mass": share},
            colors={
                f"below {threshold:.0%} of the largest": "token",
                f"neurons with {SHARE:.0%} of the mass": "mlp",
            },
            x_name="layer",
            y_name="share of the neurons",
            zero=True,
        ).update_yaxes(range=[0, 1.04], tickformat=".0%"),
        table={
            "layer": layers,
            f"share below {threshold:.0%} of the largest": quiet.tolist(),
            f"neurons with {SHARE:.0%} of the mass, mean": need.mean(axis=1).tolist(),
            "fewest at a token": need.min(axis=1).tolist(),
            "most at a token": need.max(axis=1).tolist(),
        },
        shown={"quiet": quiet, "neurons": share, "fewest": need.min(axis=1), "most": need.max(axis=1)},
        oracle=Oracle(
            "What leaves the projections of a private copy of the model, bent by transformers' own activation "
            "function, and counted with torch.",
            lambda: _counted_again(loaded, ids, threshold),
            {
                "quiet": counted(loaded.spec.d_ff),
                "neurons": counted(loaded.spec.d_ff),
                "fewest": 0.0,
                "most": 0.0,
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
        f"{loaded.spec.d_ff:,} activations at one token.",
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
    return Card(
        key="mass",
        title=f"At “{trace.tokens[position].display}” in layer {layer}, {half} of {loaded.spec.d_ff:,} neurons carry "
        f"half of the mass and {need} carry {SHARE:.0%}",
        alt="The share of the sum of magnitudes carried by the k strongest neurons, over k on a logarithmic axis.",
        badge=Badge.LIVE,
        figure=lines(
            ks,
            {f"layer {i}": grown[i, at] for i in layers},
            colors={f"layer {layer}": "mlp"},
            x_name="k strongest neurons (log scale)",
            y_name="share of the mass",
            log_x=True,
            mark_x=float(need),
        ).update_yaxes(range=[0, 1.04], tickformat=".0%"),
        table={"k": ks, **{f"layer {i}": grown[i, at].tolist() for i in layers}},
        shown={"k": np.array(ks), "grown": shown, "half": half, "need": need},
        oracle=Oracle(
            "What leaves the projections of a private copy of the model, bent by transformers' own activation "
            "function; every point by torch.topk.",
            lambda: _mass_again(loaded, ids, layers, layer, position),
            {"k": 0.0, "grown": same_pass(), "half": 0.0, "need": 0.0},
        ),
        code=_hooks(loaded, trace)
        + f"""
size = acts[{layers}, {position}].abs().double().sort(-1, descending=True).values
grown = size.cumsum(-1) / size.sum(-1, keepdim=True)
half, need = ((grown[{layers.index(layer)}] < share).sum() + 1 for share in (0.5, {SHARE}))
ks = {ks}
result = {{"k": ks, "grown": grown[:, [k - 1 for k in ks]], "half": half, "need": need}}
""",
        note=f"Dotted: the {need} neurons that carry {SHARE:.0%} in layer {layer}.",
    )


def steps(d_ff: int) -> list[int]:
    """1, 2, 4, … and d_ff."""
    return [*(2**i for i in range(d_ff.bit_length()) if 2**i < d_ff), d_ff]


def activations_again(loaded: Loaded, ids: Sequence[int], layers: Sequence[int]) -> torch.Tensor:
    """The magnitudes of all activations in a new run, (layer, seq, d_ff), float64."""
    return torch.stack([one.activations.abs() for one in mlps_again(loaded, ids, layers)])


def _counted_again(loaded: Loaded, ids: Sequence[int], threshold: float) -> dict[str, Any]:
    size = activations_again(loaded, ids, range(loaded.spec.n_layer))
    sizes = size.sort(-1, descending=True).values
    need = (sizes.cumsum(-1) < SHARE * sizes.sum(-1, keepdim=True)).sum(-1) + 1
    return {
        "quiet": (size < threshold * size.amax(-1, keepdim=True)).double().mean((1, 2)),
        "neurons": need.double().mean(1) / size.shape[-1],
        "fewest": need.amin(1),
        "most": need.amax(1),
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
    return {"k": ks, "grown": grown, "half": half, "need": need}


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

"""How many neurons of a layer do anything: near-zero activations, and the few that carry most of the mass."""

import numpy as np
import torch

from engine.cards.attention.evidence import gap
from engine.cards.neurons.evidence import logits_of, private_copy
from engine.cards.neurons.neuron import checked_layer
from engine.cards.sampling.common import inside
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.script import preamble
from engine.figures import lines
from engine.model.loading import Loaded
from engine.model.trace import Array, Trace
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
        prove=lambda: _prove(loaded, trace, threshold, quiet, need.mean(axis=1)),
        code=_hooks(loaded, trace)
        + f"""
size = acts.abs()
quiet = (size < {threshold} * size.amax(-1, keepdim=True)).double().mean((1, 2))
mass = size.double().sort(-1, descending=True).values.cumsum(-1)
need = (mass < {SHARE} * mass[..., -1:]).sum(-1) + 1  # layer, seq
result = {{"quiet": quiet, "neurons": need.double().mean(1)}}
""",
        numbers={"quiet": quiet, "neurons": need.mean(axis=1)},
        atol=_rounding(loaded),
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
    shown = grown[layers][:, at]
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
        prove=lambda: _mass_proof(loaded, trace, layers, position, shown, at),
        code=_hooks(loaded, trace)
        + f"""
size = acts[{layers}, {position}].abs().double().sort(-1, descending=True).values
grown = size.cumsum(-1) / size.sum(-1, keepdim=True)
result = {{"grown": grown[:, {at.tolist()}]}}
""",
        numbers={"grown": shown},
        atol=1e-4,
        note=f"Dotted: the {need} neurons that carry {SHARE:.0%} in layer {layer}.",
    )


def steps(d_ff: int) -> list[int]:
    """1, 2, 4, … and d_ff."""
    return [*(2**i for i in range(d_ff.bit_length()) if 2**i < d_ff), d_ff]


def activations_again(loaded: Loaded, trace: Trace) -> Array:
    """What enters every down projection of a private copy of the model, (layer, seq, d_ff)."""
    model, seen = private_copy(loaded), []
    for block in model.get_submodule(loaded.adapter.parts["blocks"]):
        block.get_submodule(loaded.adapter.layer["down_proj"]).register_forward_hook(
            lambda module, args, output: seen.append(args[0][0].detach().to("cpu", torch.float32).numpy())
        )
    logits_of(model, trace.ids)
    return np.stack(seen)


def _prove(loaded: Loaded, trace: Trace, threshold: float, quiet: ops.Floats, need: ops.Floats) -> Proof:
    size = torch.tensor(activations_again(loaded, trace)).abs()
    apart = (size < threshold * size.amax(-1, keepdim=True)).double().mean((1, 2)).numpy()
    sizes = size.double().sort(-1, descending=True).values
    again = (sizes.cumsum(-1) < SHARE * sizes.sum(-1, keepdim=True)).sum(-1).double().mean(1) + 1
    return Proof(
        "Both lines (as a share, and as a number of neurons) from activations caught by forward hooks on a private "
        "copy of the model, counted with torch.",
        max(gap(quiet, apart), gap(need, again.numpy())),
        _rounding(loaded),
    )


def _rounding(loaded: Loaded) -> float:
    """One neuron more or less at a few tokens, where sums meet the mark within rounding."""
    return 0.1 if loaded.precision == "fp32" else 1.0


def _mass_proof(
    loaded: Loaded, trace: Trace, layers: list[int], position: int, shown: ops.Floats, at: np.ndarray
) -> Proof:
    acts = torch.tensor(activations_again(loaded, trace)[layers, position]).abs().double()
    again = [[float(row.topk(int(k) + 1).values.sum() / row.sum()) for k in at] for row in acts]
    return Proof(
        "Every point from torch.topk over activations caught by forward hooks on a private copy of the model.",
        gap(shown, again),
        1e-4,
    )


def _hooks(loaded: Loaded, trace: Trace) -> str:
    place = f"{loaded.adapter.layer['down_proj']}"
    return (
        preamble(loaded, trace.ids)
        + f"""
acts = []
for block in model.{loaded.adapter.parts["blocks"]}:
    block.{place}.register_forward_hook(lambda module, args, output: acts.append(args[0][0].float()))
with torch.no_grad():
    model(ids, use_cache=False)
acts = torch.stack(acts)  # layer, seq, d_ff
"""
    )

"""What a neuron writes: the tokens that its output direction promotes and suppresses."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from engine.cards.attention.evidence import gap
from engine.cards.block.by_hand import path
from engine.cards.neurons.evidence import matrix_lines, watched
from engine.cards.neurons.neuron import Neuron
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.rounding import tolerance
from engine.figures import bars
from engine.figures.axes import short
from engine.model.capturing import tokens_of
from engine.model.loading import Loaded
from engine.model.trace import Array, Trace
from engine.ops.attention import extremes, length, through_final_norm

SHOWN = 7
"""Tokens promoted, and as many suppressed: a figure that fits on a projector."""


def per_unit(one: Neuron, position: int) -> NDArray[np.float64]:
    """What one unit of activation adds to every logit directly, relative to the vocabulary's mean; vocab.

    The neuron's row of W_down, through the final norm with its gain and with its scale held at `position`, times the
    unembedding.
    """
    stream = one.trace.hidden[-1, position]
    spec = one.loaded.spec
    gain = _weight(one.loaded, "final_norm").numpy()
    held = through_final_norm(one.out, stream, gain, spec.norm_eps, spec.norm == "LayerNorm")
    logits: NDArray[np.float64] = held @ _weight(one.loaded, "unembedding").numpy().astype(np.float64).T
    return logits - logits.mean()


def direction(loaded: Loaded, trace: Trace, layer: int, neuron: int, position: int) -> Card:
    """The tokens whose logits one unit of a neuron's activation raises and lowers most, directly."""
    one = Neuron(loaded, trace, layer, neuron)
    effect = per_unit(one, one.position(position))
    promoted, suppressed = extremes(effect, SHOWN)
    ids = [*promoted.tolist(), *suppressed.tolist()[::-1]]
    names = [token.display for token in tokens_of(loaded, ids)]
    shown, active = effect[ids], float(one.activations[position])
    atol = tolerance(loaded, shown)
    return Card(
        key="direction",
        title=f"A unit of {one.name} promotes “{names[0]}” most and suppresses “{names[-1]}” most",
        alt=f"Bars of {len(names)} tokens: the largest effect of one unit on a logit is {shown[0]:+.3g}, the smallest "
        f"{shown[-1]:+.3g}.",
        badge=Badge.LIVE,
        figure=bars(
            names, shown, signed=True, value_name="effect of one unit on the logit", label_name="token"
        ),
        table={
            "id": ids,
            "token": names,
            "per unit of activation": shown.tolist(),
            f"at the focus token (activation {active:.4g})": (active * shown).tolist(),
        },
        prove=lambda: Proof(
            "PyTorch's own norm on the residual stream with and without this direction, brought back to one scale, "
            "and the difference of the logits.",
            gap(shown, _difference(one, position, ids)),
            atol,
        ),
        code=watched(loaded, trace.ids, layer, "down_proj").replace(
            "places = {", f"places = {{'final_norm': {path(loaded, 'final_norm')!r}, ", 1
        )
        + matrix_lines(loaded, "down_proj", "W_down")
        + _lines(loaded, neuron, position, ids),
        numbers={"per unit": shown},
        atol=atol,
        note=_note(one, position, active),
    )


def _note(one: Neuron, position: int, active: float) -> str:
    spec = one.loaded.spec
    centred = "mean taken out, " if spec.norm == "LayerNorm" else ""
    flipped = "; it is negative here, so promoted and suppressed change places" if active < 0 else ""
    return (
        f"Row {one.index} of W_down (length {float(length(one.out)):.3g}): {centred}divided by the scale that the "
        f"final {spec.norm} measured at {one.quoted(position)}, times the norm's gain, times the unembedding; relative "
        f"to the mean of all {spec.vocab:,} logits. The neuron's activation there is {short(active)}, and the direct "
        f"effect is that many units{flipped}."
    )


def _weight(loaded: Loaded, name: str) -> torch.Tensor:
    weight: Any = loaded.part(name).weight
    tensor: torch.Tensor = weight.detach().float().cpu()
    return tensor


def _difference(one: Neuron, position: int, ids: list[int]) -> Array:
    """Logits of some tokens (less the vocabulary's mean) with one unit more, minus those without, the scale held."""
    table, gain, eps = (
        _weight(one.loaded, "unembedding"),
        _weight(one.loaded, "final_norm"),
        one.loaded.spec.norm_eps,
    )
    rows = (table[ids] - table.mean(0)).double()
    plain = torch.tensor(one.trace.hidden[-1, position], dtype=torch.float64)
    streams = (plain + torch.tensor(one.out, dtype=torch.float64), plain)
    if one.loaded.spec.norm == "LayerNorm":
        normed = [F.layer_norm(x, x.shape, gain.double(), None, eps) for x in streams]
        scales = [(x.var(unbiased=False) + eps).sqrt() for x in streams]
    else:
        normed = [F.rms_norm(x, x.shape, gain.double(), eps) for x in streams]
        scales = [(x.square().mean() + eps).sqrt() for x in streams]
    difference: Array = (rows @ (normed[0] * scales[0] / scales[1] - normed[1])).numpy()
    return difference


def _lines(loaded: Loaded, neuron: int, position: int, ids: list[int]) -> str:
    centre = (
        "row, stream = row - row.mean(), stream - stream.mean()" if loaded.spec.norm == "LayerNorm" else ""
    )
    return f"""
row = W_down[{neuron}]  # d_model
stream = took["final_norm"][{position}]
{centre}
norm = model.get_submodule(places["final_norm"])
held = row / (stream.square().mean() + {loaded.spec.norm_eps}).sqrt() * norm.weight.detach().float()
effect = model.get_submodule({path(loaded, "unembedding")!r}).weight.detach().float() @ held  # vocab
result = {{"per unit": (effect - effect.mean())[{ids}]}}
"""

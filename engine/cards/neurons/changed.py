"""Neurons held at a value or silenced: the next-token distribution before and after."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.cards.attention.weights import matrix
from engine.cards.block.by_hand import path
from engine.cards.heads.ablation import leading
from engine.cards.neurons.evidence import logits_of, private_copy
from engine.cards.neurons.neuron import Neuron
from engine.cards.sampling.common import difference, inside, probability_tolerance
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.script import preamble
from engine.figures import grouped_bars
from engine.figures.axes import short
from engine.model.capturing import token
from engine.model.interventions import ClampNeuron, KeepTopNeurons
from engine.model.loading import Loaded
from engine.model.trace import Array, Trace
from engine.ops.heads import kl_divergence
from engine.ops.sampling import Float, softmax
from engine.tokens.text import shorten

SHOWN = 8

Change = ClampNeuron | KeepTopNeurons


def clamped(loaded: Loaded, before: Trace, after: Trace, change: ClampNeuron, position: int) -> Card:
    """The next-token distribution with a neuron as it is, and held at a value at every token."""
    one = Neuron(loaded, before, change.layer, change.neuron)
    was = float(one.activations[inside(before, position)])
    return compared(
        loaded,
        before,
        after,
        change,
        position,
        key="clamp",
        names=("as it is", f"held at {short(change.value)}"),
        title=f"{one.name.capitalize()} held at {short(change.value)} (it was {short(was)})",
    )


def compared(
    loaded: Loaded,
    before: Trace,
    after: Trace,
    change: Change,
    position: int,
    *,
    key: str,
    names: tuple[str, str],
    title: str,
) -> Card:
    """Two next-token distributions as bars; the title ends with their KL divergence and the favourites."""
    p, q = (softmax(trace.logits[inside(before, position)]) for trace in (before, after))
    shown = leading(p, q, SHOWN)
    kl = float(kl_divergence(before.logits[position], after.logits[position]))
    texts = [token(loaded, int(i)).display for i in shown]
    here = f"“{shorten(before.tokens[position].display)}”"
    return Card(
        key=key,
        title=f"{title}: KL {kl:.3g} nats after {here}; {_favourite(loaded, p, q)}",
        alt=f"Probabilities of the likeliest next tokens after {here}, {names[0]} and {names[1]}.",
        badge=Badge.LIVE,
        figure=grouped_bars(
            texts,
            {names[0]: p[shown], names[1]: q[shown]},
            colors={names[0]: "token", names[1]: "mlp"},
            probability=True,
            value_name="probability of the next token",
            label_name="next token",
        ),
        table={
            "id": shown.tolist(),
            "token": texts,
            names[0]: p[shown].tolist(),
            names[1]: q[shown].tolist(),
        },
        prove=lambda: _prove(loaded, before, after, change, position, p, q),
        code=preamble(loaded, before.ids) + _code(loaded, change, position, shown.tolist()),
        numbers={"before": p[shown], "after": q[shown], "kl": kl},
        atol=max(probability_tolerance(loaded), 1e-3 * kl),
        note="KL is the Kullback–Leibler divergence in nats from the distribution before to the one after, over the "
        "whole vocabulary. The bars are the likeliest tokens of both.",
    )


def _favourite(loaded: Loaded, p: Float, q: Float) -> str:
    if not (np.isfinite(p).all() and np.isfinite(q).all()):
        return "a probability is not a number"
    first, then = int(p.argmax()), int(q.argmax())
    name = f"“{shorten(token(loaded, first).display)}”"
    if first == then:
        return f"{name} stays first, {p[first]:.1%} → {q[first]:.1%}"
    return f"{name} gives way to “{shorten(token(loaded, then).display)}”"


def _prove(
    loaded: Loaded, before: Trace, after: Trace, change: Change, position: int, p: Float, q: Float
) -> Proof:
    model = by_hand(loaded, change, list(after.mlp_act))
    ours, theirs = (logits_of(one, before.ids)[position] for one in (private_copy(loaded), model))
    how = (
        "the difference between the two activations, times the neuron's row of W_down, is added to the MLP's output"
        if isinstance(change, ClampNeuron)
        else "each MLP's down projection is replaced by one that sums the kept neurons alone (and none of those left "
        "out was stronger than one that was kept)"
    )
    return Proof(
        f"Both distributions, against private copies of the model: one untouched, and one in which {how}.",
        max(difference(p, softmax(ours)), difference(q, softmax(theirs)), wrongly_kept(model)),
        probability_tolerance(loaded),
    )


def by_hand(loaded: Loaded, change: Change, acts: Sequence[Array]) -> Any:
    """A private copy of the model whose down projections compute what the change leaves.

    acts  (layer, seq, d_ff) of the run with the change. Of neurons that are equally strong but for rounding, either
          may be the last one kept, so the copy keeps those that the run kept; `wrongly_kept` judges the choice.
    """
    model = private_copy(loaded)
    layers: Sequence[int] = [change.layer] if isinstance(change, ClampNeuron) else _layers(loaded, change)
    for layer in layers:
        where = path(loaded, "down_proj", layer)
        kept = torch.tensor(np.asarray(acts[layer]) != 0)
        model.set_submodule(where, _Changed(model.get_submodule(where), change, loaded.half, kept))
    return model


def wrongly_kept(model: Any) -> float:
    """By how much, at most, a neuron left out was stronger than one kept, in the last run of a `by_hand` model.

    Infinite where the number of neurons kept is not k (or all that are not zero, if they are fewer).
    """
    return max((part.wrong for part in model.modules() if isinstance(part, _Changed)), default=0.0)


def _layers(loaded: Loaded, change: KeepTopNeurons) -> Sequence[int]:
    return range(loaded.spec.n_layer) if change.layers is None else change.layers


class _Changed(nn.Module):
    """A down projection that changes its own output, not what enters it."""

    def __init__(self, plain: Any, change: Change, half: torch.dtype, kept: torch.Tensor) -> None:
        super().__init__()
        self.plain, self.change, self.kept, self.wrong = plain, change, kept, 0.0
        weight, bias = matrix(plain, half)  # d_ff, d_model
        self.rows, self.bias = torch.tensor(weight), torch.tensor(bias)

    def forward(self, acts: torch.Tensor) -> torch.Tensor:
        rows = self.rows.to(acts.device)
        if isinstance(self.change, ClampNeuron):
            n = self.change.neuron
            more = (self.change.value - acts[..., n : n + 1].float()) * rows[n]
            out: torch.Tensor = self.plain(acts)
            return (out.float() + more).to(out.dtype)
        wide = acts.float()
        kept = self.kept.to(acts.device)
        self.wrong = _wrong(wide.abs(), kept, self.change.k)
        alone = wide * kept
        if not self.plain.weight.is_floating_point():  # a quantized layer rounds what enters it, too
            answer: torch.Tensor = self.plain(alone.to(acts.dtype))
            return answer
        return (alone @ rows + self.bias.to(acts.device)).to(acts.dtype)


def _wrong(strength: torch.Tensor, kept: torch.Tensor, k: int) -> float:
    """See `wrongly_kept`; (batch, seq, d_ff) and (seq, d_ff)."""
    if (kept.sum(-1) != (strength > 0).sum(-1).clamp(max=k)).any():
        return math.inf
    weakest = strength.masked_fill(~kept, math.inf).amin(-1)
    strongest = strength.masked_fill(kept, 0).amax(-1)
    return max(0.0, float((strongest - weakest).max()))


def change_lines(loaded: Loaded, change: Change, k: str = "") -> str:
    """Script lines that define `changed()`: a list of hooks that change what enters the down projections."""
    if isinstance(change, ClampNeuron):
        body = f"acts[..., {change.neuron}] = {change.value!r}"
        layers = [change.layer]
    else:
        body = (
            f"kept = acts.abs().topk({k or change.k}).indices\n"
            "    acts = torch.zeros_like(acts).scatter(-1, kept, acts.gather(-1, kept))"
        )
        layers = list(_layers(loaded, change))
    place = f"{loaded.adapter.parts['blocks']}.{{layer}}.{loaded.adapter.layer['down_proj']}"
    return f"""
def change(module, args):
    acts = args[0].clone()  # batch, seq, d_ff
    {body}
    return (acts,)


def changed():
    places = [f"{place}" for layer in {layers}]
    return [model.get_submodule(place).register_forward_pre_hook(change) for place in places]
"""


def _code(loaded: Loaded, change: Change, position: int, shown: list[int]) -> str:
    return (
        change_lines(loaded, change)
        + f"""

def log_p():
    with torch.no_grad():
        return model(ids, use_cache=False).logits[0, {position}].double().log_softmax(-1)


p = log_p()
changed()
q = log_p()
shown = {shown}
result = {{"before": p.exp()[shown], "after": q.exp()[shown], "kl": (p.exp() * (p - q)).sum()}}
"""
    )

"""Neurons held at a value or silenced: the next-token distribution before and after."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.copies import private_copy
from engine.evidence.oracles.mlp import mlp_again
from engine.evidence.passes import logits_of
from engine.evidence.rounding import LOGIT, chance_tolerance, largest, logit_tolerance, same_pass, tolerance
from engine.evidence.script import preamble
from engine.figures import grouped_bars
from engine.figures.axes import short
from engine.model.capturing import forward, token
from engine.model.interventions import ClampNeuron, KeepTopNeurons
from engine.model.loaded import Loaded
from engine.model.matrices import matrix
from engine.model.neuron import Neuron
from engine.model.trace import Trace, inside
from engine.ops.sampling import Float, kl_divergence, leading, softmax
from engine.tokens.text import shorten

SHOWN = 8

NOTHING = 2.0**-10
"""An activation is as good as zero that is so small a part of the largest one."""

Change = ClampNeuron | KeepTopNeurons


def clamped(loaded: Loaded, before: Trace, after: Trace, change: ClampNeuron, position: int) -> Card:
    """The next-token distribution with a neuron as it is, and held at a value at every token."""
    one = Neuron(loaded, before, change.layer, change.neuron)
    was = float(one.activations[inside(before, position)])
    ids = before.ids
    return compared(
        loaded,
        before,
        after,
        change,
        position,
        key="clamp",
        names=("as it is", f"held at {short(change.value)}"),
        title=f"{one.name.capitalize()} held at {short(change.value)} (it was {short(was)})",
        own={"was": was},
        own_again=lambda: {"was": mlp_again(loaded, ids, change.layer).activations[position, change.neuron]},
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
    own: Mapping[str, float] | None = None,
    own_again: Callable[[], Mapping[str, Any]] = dict,
) -> Card:
    """Two next-token distributions as bars; the title ends with their KL divergence and the favourites.

    own  further numbers of the activations that the title tells; `own_again` computes them another way
    """
    p, q = (softmax(trace.logits[inside(before, position)]) for trace in (before, after))
    shown = leading(p, q, SHOWN)
    kl = float(kl_divergence(before.logits[position], after.logits[position]))
    texts = [token(loaded, int(i)).display for i in shown]
    here = f"“{shorten(before.tokens[position].display)}”"
    ids = before.ids
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
        shown={"id": shown, "bars": np.column_stack([p, q])[shown], "KL": kl, **(own or {})},
        oracle=Oracle(
            "Both distributions, against the model run again and a private copy in which "
            f"{_how(loaded, change)}; KL by torch.nn.functional.kl_div.",
            lambda: _again(loaded, ids, change, position, shown.tolist()) | dict(own_again()),
            {
                "id": 0.0,
                "bars": chance_tolerance(loaded, p[shown], q[shown]),
                "KL": _kl_tolerance(loaded, kl),
                **{name: same_pass(value) for name, value in (own or {}).items()},
            },
        ),
        code=preamble(loaded, ids) + _code(loaded, change, position, shown.tolist()),
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


def _how(loaded: Loaded, change: Change) -> str:
    """What a `by_hand` model does; where a projection rounds what it reads, a sum behind it is another number."""
    exact = loaded.dtype == torch.float32
    if isinstance(change, ClampNeuron):
        return (
            "the activations' difference, times the neuron's row of W_down, is added to the MLP's output"
            if exact
            else "the activation is set in what the MLP's down projection reads and rounds"
        )
    return (
        f"each MLP's down projection {'is replaced by one that sums' if exact else 'reads'} the kept neurons alone "
        "(and none of those left out was stronger than one that was kept)"
    )


def _kl_tolerance(loaded: Loaded, kl: float) -> float:
    """Logits that are off by δ move KL by no more than about δ·|p − q| + δ², and |p − q| ≤ √(2·KL) (Pinsker).

    All tokens together are off by less than the one that is off most: a third of that is three times the largest seen.
    With fewer bits than 32 the copy rounds where the model does.
    """
    off = logit_tolerance(loaded) / 3 if loaded.dtype == torch.float32 else same_pass(LOGIT)
    return off * math.sqrt(2 * max(kl, 0.0)) + off**2 if math.isfinite(kl) else off


def _again(
    loaded: Loaded, ids: Sequence[int], change: Change, position: int, given: list[int]
) -> dict[str, Any]:
    plain = torch.tensor(logits_of(loaded.model, ids)[position]).double().log_softmax(-1)
    other = changed_logits(loaded, ids, change)[position].log_softmax(-1)
    chosen = _chosen(given, plain, other, logit_tolerance(loaded))
    return {
        "id": chosen,
        "bars": torch.stack([plain, other], 1).exp()[chosen],
        "KL": F.kl_div(other, plain, log_target=True, reduction="sum"),
    }


def changed_logits(loaded: Loaded, ids: Sequence[int], change: Change) -> torch.Tensor:
    """Logits (seq, vocab) of a `by_hand` model in float64; NaN where it keeps a weaker neuron than it leaves out.

    Which of two neurons that are equally strong but for rounding is kept, the engine's own run decides.
    """
    acts: list[Any] = []
    apart = 0.0
    if isinstance(change, KeepTopNeurons):
        recorded = forward(loaded, ids, (change,))
        acts = [recorded["mlp_act", layer][0].float().cpu().numpy() for layer in range(loaded.spec.n_layer)]
        apart = tolerance(loaded, max(largest(one) for one in acts))
    model = by_hand(loaded, change, acts)
    logits = torch.tensor(logits_of(model, ids)).double()
    return logits if wrongly_kept(model) <= apart else logits * math.nan


def _chosen(given: list[int], p: torch.Tensor, q: torch.Tensor, allowed: float) -> list[int]:
    """Ids of the largest of both log-probabilities, in turn from each, by falling p.

    The `given` ones are kept where they differ from that by no more than ties within `allowed`.
    """
    lists = [x.sort(descending=True, stable=True).indices[: len(given)].tolist() for x in (p, q)]
    picked = list(dict.fromkeys(i for pair in zip(*lists, strict=True) for i in pair))[: len(given)]
    own = sorted(picked, key=lambda i: (-float(p[i]), i))
    if not all(0 <= i < len(p) for i in given) or len(set(given)) != len(given):
        return own
    taken = [[i for i in chosen if i in picked] for chosen in lists]
    ends = [float(x[chosen[-1]]) for x, chosen in zip((p, q), taken, strict=True)]
    strong = all(p[i] >= ends[0] - allowed or q[i] >= ends[1] - allowed for i in given)
    weak = all(p[i] <= ends[0] + allowed or q[i] <= ends[1] + allowed for i in set(own) - set(given))
    falling = all(p[a] >= p[b] - allowed for a, b in pairwise(given))
    return given if strong and weak and falling else own


def by_hand(loaded: Loaded, change: Change, acts: Sequence[Any]) -> Any:
    """A private copy of the model whose down projections compute what the change leaves.

    acts  (layer, seq, d_ff) of the run with the change. Of neurons that are equally strong but for rounding, either
          may be the last one kept, so the copy keeps those that the run kept; `wrongly_kept` judges the choice.
    """
    model = private_copy(loaded)
    layers: Sequence[int] = [change.layer] if isinstance(change, ClampNeuron) else _layers(loaded, change)
    for layer in layers:
        where = loaded.path("down_proj", layer)
        kept = torch.tensor(np.asarray(acts[layer]) != 0) if isinstance(change, KeepTopNeurons) else None
        model.set_submodule(where, _Changed(model.get_submodule(where), change, kept))
    return model


def wrongly_kept(model: Any) -> float:
    """By how much, at most, a neuron left out was stronger than one kept, in the last run of a `by_hand` model.

    Infinite where more than k neurons were kept, or fewer and one that is not as good as zero was left out.
    """
    return max((part.wrong for part in model.modules() if isinstance(part, _Changed)), default=0.0)


def _layers(loaded: Loaded, change: KeepTopNeurons) -> Sequence[int]:
    return range(loaded.spec.n_layer) if change.layers is None else change.layers


class _Changed(nn.Module):
    """A down projection that changes its own output in float32, and what enters it where it rounds what it reads."""

    def __init__(self, plain: Any, change: Change, kept: torch.Tensor | None) -> None:
        super().__init__()
        self.plain, self.change, self.kept, self.wrong = plain, change, kept, 0.0
        self.exact = plain.weight.dtype == torch.float32
        self.rows, self.bias = torch.zeros(0), torch.zeros(0)
        if self.exact:
            weight, bias = matrix(plain, torch.float32)  # d_ff, d_model
            self.rows, self.bias = torch.tensor(weight), torch.tensor(bias)

    def forward(self, acts: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor
        if isinstance(self.change, ClampNeuron):
            n, value = self.change.neuron, self.change.value
            if self.exact:
                out = self.plain(acts)
                return out + (value - acts[..., n : n + 1]) * self.rows.to(acts.device)[n]
            out = self.plain(acts.index_fill(-1, torch.tensor([n], device=acts.device), value))
            return out
        assert self.kept is not None
        kept = self.kept.to(acts.device)
        self.wrong = _wrong(acts.float().abs(), kept, self.change.k)
        if self.exact:
            return (acts * kept) @ self.rows.to(acts.device) + self.bias.to(acts.device)
        out = self.plain(acts * kept)
        return out


def _wrong(strength: torch.Tensor, kept: torch.Tensor, k: int) -> float:
    """See `wrongly_kept`; (batch, seq, d_ff) and (seq, d_ff)."""
    count, strongest = kept.sum(-1), strength.masked_fill(kept, 0).amax(-1)
    nothing = strongest <= NOTHING * strength.amax(-1)  # what one run rounds to zero, another one may not
    if (count > k).any() or ((count < min(k, strength.shape[-1])) & ~nothing).any():
        return math.inf
    weakest = strength.masked_fill(~kept, math.inf).amin(-1)
    weakest = weakest.where(count == k, strongest)
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
    place = loaded.path("down_proj", "{layer}")
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
    was, told = "", ""
    if isinstance(change, ClampNeuron):
        told = ', "was": was[0]'
        was = f"""
was = []
own = model.get_submodule({loaded.path("down_proj", change.layer)!r})
own.register_forward_pre_hook(lambda module, args: was.append(args[0][0, {position}, {change.neuron}].float()))
"""
    return (
        change_lines(loaded, change)
        + was
        + f"""

def log_p():
    with torch.no_grad():
        return model(ids, use_cache=False).logits[0, {position}].double().log_softmax(-1)


p = log_p()
changed()
q = log_p()
shown = {shown}
kl = (p.exp() * (p - q)).sum()
bars = torch.stack([p, q], 1).exp()[shown]  # token, before and after
result = {{"id": shown, "bars": bars, "KL": kl{told}}}
"""
    )

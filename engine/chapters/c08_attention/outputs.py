"""What a head takes from the tokens it looks at, and what it writes to the residual stream."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.head import head_again
from engine.evidence.rounding import tolerance
from engine.figures import bars
from engine.figures.attention import matrix_product, weighted_values
from engine.model.cache import traced
from engine.model.capturing import tokens_of
from engine.model.head import Head
from engine.model.interventions import AblateHeads
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops import attention as ops

SHOWN = 7
"""Tokens promoted, and as many suppressed: a figure that fits on a projector."""


def values(loaded: Loaded, trace: Trace, layer: int, head: int, query: int) -> Card:
    """weight·value of every visible key, their sum (the head's output), and each key's share of that sum."""
    one = Head(loaded, trace, layer, head)
    seen = one.position(query) + 1
    weights = one.weights[query, :seen].astype(np.float64)
    parts = ops.contributions(weights, one.v[:seen])
    output, share = parts.sum(axis=0), ops.shares(parts)
    top = int(np.nanargmax(share)) if np.isfinite(share).any() else 0
    around = summed_tolerance(one, query)

    return Card(
        key="values",
        title=f"{one.quoted(top)} (position {top}) accounts for {share[top]:.0%} of what this head gives "
        f"{one.quoted(query)}",
        alt=f"For each of {seen} keys its weight, its weighted value vector and its share of their sum. "
        f"The largest share is {share[top]:.3g}, of {one.quoted(top)} at position {top}.",
        badge=Badge.LIVE,
        figure=weighted_values(weights, parts, output, share, one.tokens[:seen]),
        table={
            "position": list(range(seen)),
            "key": one.tokens[:seen],
            "weight": weights.tolist(),
            "length of value": ops.length(one.v[:seen]).tolist(),
            "length of weight·value": ops.length(parts).tolist(),
            "share of the sum": share.tolist(),
        },
        shown={"weights": weights, "parts": parts, "output": output, "shares": share},
        oracle=Oracle(
            "Queries, keys and values projected again; weights and their sum by PyTorch’s own attention, and each "
            "share by its definition.",
            lambda: _values_again(one, query),
            {
                "weights": tolerance(loaded, 1.0, one.scores[query, :seen], steps=2),
                "parts": around,
                "output": around,
                "shares": around / max(1e-9, float(np.abs(output).max())),
            },
        ),
        code=code.script(one, code.output_matrix(one), _values_result(query)),
        numbers={"weights": weights, "output": output, "shares": share},
        atol=tolerance(loaded, output, share, 1.0),
        note="share = (weight·value) · sum / |sum|²: how much of the sum comes from this key. Shares add up to 100 %; "
        "a value that points against the sum has a negative share, and then others can exceed 100 %.",
    )


def output_projection(loaded: Loaded, trace: Trace, layer: int, head: int, query: int) -> Card:
    """The head's output vector times its own rows of W_O: what it writes to the residual stream, d_model."""
    one, spec = Head(loaded, trace, layer, head), loaded.spec
    output, (weight, _) = one.output(one.position(query)), one.output_matrix()
    write = one.write(query)

    return Card(
        key="output",
        title=f"{spec.d_head} numbers of head {head} become a write of {spec.d_model} at {one.quoted(query)}",
        alt=f"The head's output of {spec.d_head} numbers beside its {spec.d_head} rows of the output matrix, and below "
        f"them the write, {spec.d_model} numbers of length {float(ops.length(write)):.4g}.",
        badge=Badge.LIVE,
        figure=matrix_product(
            output,
            weight,
            write,
            names=("output", f"rows {head * spec.d_head}–{(head + 1) * spec.d_head - 1} of W_O", "write"),
            sizes=("d_head", "d_model"),
            concepts=("value", "residual"),
        ),
        table={"dimension": list(range(spec.d_model)), "write": write.tolist()},
        shown={"output": output, "write": write},
        oracle=Oracle(
            "The output by PyTorch’s own attention of queries, keys and values projected again; the write is what the "
            "attention sublayer loses when the model runs with this head’s output set to zero.",
            lambda: {"output": head_again(one).output[query], "write": removed(one)[query]},
            {
                "output": tolerance(
                    loaded, one.v, one.scores[query, : query + 1] * float(np.abs(one.v).max()), steps=2
                ),
                "write": tolerance(loaded, write, trace.attn_out[layer, query]),
            },
        ),
        code=code.script(
            one, code.output_matrix(one), f'result = {{"output": z[{query}], "write": write[{query}]}}'
        ),
        numbers={"output": output, "write": write},
        atol=tolerance(loaded, output, write),
        note=_write_note(one, write, query),
    )


@dataclass(frozen=True, eq=False)
class Direct:
    """A head's direct effect on the logits, relative to the vocabulary's mean: vocab, and the ids to show."""

    logits: NDArray[np.float64]
    promoted: list[int]
    suppressed: list[int]

    @property
    def ids(self) -> list[int]:
        return self.promoted + self.suppressed[::-1]


def direct(one: Head, query: int, count: int = SHOWN) -> Direct:
    """The head's write through the final norm (its scale held) and the unembedding, minus the vocabulary's mean."""
    table = weight_of(one.loaded, "unembedding").float().cpu()
    logits = F.linear(torch.tensor(_held(one, query), dtype=torch.float32), table).double().numpy()
    logits -= logits.mean()
    promoted, suppressed = ops.extremes(logits, count)
    return Direct(logits, promoted.tolist(), suppressed.tolist())


def promoted(loaded: Loaded, trace: Trace, layer: int, head: int, query: int) -> Card:
    """The tokens whose logits a head's write raises and lowers most, directly."""
    one = Head(loaded, trace, layer, head)
    effect = direct(one, one.position(query))
    shown = effect.logits[effect.ids]
    names = [token.display for token in tokens_of(loaded, effect.ids)]

    return Card(
        key="promoted",
        title=f"At {one.quoted(query)} this head votes most for “{names[0]}” and most against “{names[-1]}”",
        alt=f"Bars of {len(names)} tokens: the largest effect on a logit is {shown[0]:+.3g}, the smallest "
        f"{shown[-1]:+.3g}.",
        badge=Badge.LIVE,
        figure=bars(names, shown, signed=True, value_name="effect on the logit", label_name="token"),
        table={
            "id": effect.ids,
            "token": names,
            "effect on the logit": shown.tolist(),
            "logit in the end": trace.logits[query][effect.ids].tolist(),
        },
        shown={"shown": shown},
        oracle=Oracle(
            "PyTorch’s own norm on the residual stream with and without this write, at the scale it has with it, "
            "and the difference of the two sets of logits.",
            lambda: {"shown": _difference(one, query, effect.ids)},
            tolerance(loaded, shown),
        ),
        code=code.script(one, code.output_matrix(one), _direct_lines(one, query, effect)),
        numbers={"shown": shown, "largest": shown[: len(effect.promoted)]},
        atol=tolerance(loaded, shown),
        note=f"In logits, relative to the mean of all {loaded.spec.vocab:,} tokens: a constant added to every logit "
        f"changes no probability. {one.name.capitalize()}, token at position {query}.",
    )


def summed_tolerance(one: Head, query: int) -> float:
    """How far two sums of weighted values may lie apart: a weight is off by as much as its score is rounded."""
    seen = query + 1
    largest = float(np.abs(one.v[:seen]).max())
    return tolerance(one.loaded, largest, one.scores[query, :seen] * largest, steps=2)


def _values_again(one: Head, query: int) -> dict[str, Any]:
    again = head_again(one)
    weights = again.weights()[query, : query + 1]
    output = again.output[query]
    parts = weights[:, None] * again.value[: query + 1]
    return {
        "weights": weights,
        "parts": parts,
        "output": output,
        "shares": parts @ output / (output @ output),
    }


def removed(one: Head) -> NDArray[np.float32]:
    """What the attention sublayer adds less when this head's output is set to zero, (seq, d_model)."""
    without = traced(one.loaded, one.trace.ids, (AblateHeads(((one.layer, one.index),)),))
    lost: NDArray[np.float32] = one.trace.attn_out[one.layer] - without.attn_out[one.layer]
    return lost


def _held(one: Head, query: int) -> NDArray[np.float64]:
    loaded = one.loaded
    gain = weight_of(loaded, "final_norm").float().cpu().numpy()
    stream = one.trace.hidden[-1, query]
    return ops.through_final_norm(one.write(query), stream, gain, loaded.spec.norm_eps, loaded.spec.centred)


@torch.no_grad()
def _difference(one: Head, query: int, ids: list[int]) -> NDArray[np.float64]:
    """Logits of some tokens (minus the vocabulary's mean) with the write, minus those without it, the scale held."""
    table, gain = weight_of(one.loaded, "unembedding"), weight_of(one.loaded, "final_norm").float().cpu()
    rows = table[ids].float().cpu() - table.mean(0, dtype=torch.float32).cpu()
    whole = torch.tensor(one.trace.hidden[-1, query])
    rest = whole - torch.tensor(one.write(query), dtype=torch.float32)
    eps = one.loaded.spec.norm_eps
    if one.loaded.spec.centred:
        normed = [F.layer_norm(x, x.shape, gain, None, eps) for x in (whole, rest)]
        scales = [(x.var(unbiased=False) + eps).sqrt() for x in (whole, rest)]
    else:
        normed = [F.rms_norm(x, x.shape, gain, eps) for x in (whole, rest)]
        scales = [(x.square().mean() + eps).sqrt() for x in (whole, rest)]
    difference: NDArray[np.float64] = (
        (rows @ (normed[0] - normed[1] * scales[1] / scales[0])).double().numpy()
    )
    return difference


def weight_of(loaded: Loaded, name: str) -> torch.Tensor:
    """The weight of one of the model's own parts, such as the final norm, as it is."""
    weight: Any = loaded.part(name).weight
    tensor: torch.Tensor = weight.detach()
    return tensor


def _values_result(query: int) -> str:
    return f"""
parts = weights[{query}, : {query} + 1, None] * v[: {query} + 1]
total = parts.sum(0)
result = {{"weights": weights[{query}, : {query} + 1], "output": z[{query}], "shares": parts @ total / (total @ total)}}
"""


def _direct_lines(one: Head, query: int, effect: Direct) -> str:
    centre = "part, whole = part - part.mean(), whole - whole.mean()\n" if one.loaded.spec.centred else ""
    return f"""
norm = model.get_submodule(watched["final_norm"])
unembedding = model.get_submodule({code.path(one, "unembedding")!r})
part, whole = write[{query}], took["final_norm"][0, {query}].float()
{centre}held = part / (whole.square().mean() + {one.loaded.spec.norm_eps}).sqrt() * norm.weight.float()
with torch.no_grad():
    direct = unembedding.weight.float() @ held  # without the bias, which no head writes
direct = direct - direct.mean()
shown = {effect.ids}
result = {{"shown": direct[shown].detach(), "largest": direct.topk({len(effect.promoted)}).values}}
"""


def _write_note(one: Head, write: NDArray[np.float64], query: int) -> str:
    whole = one.trace.attn_out[one.layer, query]
    return (
        f"Length {float(ops.length(write)):.3g}; all {one.loaded.spec.n_head} heads of the layer together, with the "
        f"bias of W_O if it has one, write a vector of length {float(ops.length(whole)):.3g} here. "
        "Each panel has its own colour scale, symmetric about zero."
    )

"""What a score owes to each part of the keys' residual stream: each alone on the model's way from stream to key."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.models.llama.modeling_llama import repeat_kv

from engine.evidence.oracles.attentions import kind_scores, returned_attention
from engine.evidence.oracles.embedding import position_rows, rows
from engine.evidence.oracles.head import HeadAgain, head_again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.stream import mlp_writes
from engine.model import hooks
from engine.model.head import Head

Tensor = torch.Tensor


@torch.no_grad()
def leads_again(one: Head, order: Sequence[int], allowed: float) -> dict[str, Any]:
    """By how much the induction key leads, the amount of each part, and the weight of each on the token before.

    `order` are the parts drawn one by one; it is kept where ranks differ by less than `allowed`. Without a head the
    weight is 0.
    """
    again = head_again(one)
    amounts = _amounts(one, again)
    drawn = at_ranks(order, amounts.abs(), allowed).tolist()
    rest = [i for i in range(len(amounts)) if i not in drawn]
    return {
        "amounts": amounts,
        "drawn": [*amounts[drawn].tolist(), *([float(amounts[rest].sum())] if rest else [])],
        "order": drawn,
        "previous": _on_previous(one, len(amounts)),
        "whole": lead(again.scores),
    }


def lead(scores: Tensor) -> Tensor:
    """The induction key's score minus the mean of the other keys', mean over the second half; (…, query, key) in."""
    n = (scores.shape[-1] - 1) // 2
    right = scores.diagonal(1 - n, -2, -1)[..., -n:]
    seen = scores.tril().sum(-1)[..., -n:]
    others = torch.arange(n + 1, 2 * n + 1, dtype=scores.dtype)
    return (right - (seen - right) / others).mean(-1)


def _amounts(one: Head, again: HeadAgain) -> Tensor:
    """The embedding, a learned position, then heads and MLP of each earlier block, and the biases."""
    loaded = one.loaded
    ids = one.trace.ids
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    out = loaded.model(batch, use_cache=True, output_hidden_states=True, output_attentions=True)
    stream = out.hidden_states[one.layer][0].cpu().double()
    places = [position_rows(loaded, one.seq)] if loaded.spec.positions == "learned" else []
    found = [_leads(one, again, stream, torch.stack([rows(loaded, ids), *places]))]
    mlps, shifts = mlp_writes(loaded, ids), torch.zeros_like(stream)
    for layer in range(one.layer):
        *heads, nothing = _writes(one, layer, out.attentions[layer], out.cache.layers[layer].values)
        shifts += nothing
        alone = torch.stack([*(write - nothing for write in heads), mlps[layer]])
        found.append(_leads(one, again, stream, alone))
    biases = _leads(one, again, stream, shifts[None]) + lead(again.query @ _constant(one).T * one.scale)
    return torch.cat([*found, biases])


def _writes(one: Head, layer: int, weights: Tensor, values: Tensor) -> Tensor:
    """What the output projection's own module makes of each head alone, and of none: (head + 1, seq, d_model)."""
    heads = weights.shape[1]
    values = repeat_kv(values, heads // values.shape[1])
    outputs = (weights.float() @ values.float())[0]  # head, seq, d_head
    alone = outputs.new_zeros(heads + 1, outputs.shape[1], heads, outputs.shape[2])  # one head's at a time
    for head in range(heads):
        alone[head, :, head] = outputs[head]
    written: Tensor = one.loaded.part("o_proj", layer)(alone.flatten(2).to(values.dtype))
    return written.cpu().double()


def _leads(one: Head, again: HeadAgain, stream: Tensor, parts: Tensor) -> Tensor:
    """The lead that each part (part, seq, d_model) gives, with the scale that the norm takes at the stream."""
    spec, norm = one.loaded.spec, one.loaded.part("attn_norm", one.layer)
    if spec.centred:
        stream, parts = (x - x.mean(-1, keepdim=True) for x in (stream, parts))
    scale = (stream.square().mean(-1, keepdim=True) + spec.norm_eps).sqrt()
    normed = parts / scale * norm.get_parameter("weight").cpu().double()
    weight = torch.tensor(one.projection("key")[0], dtype=torch.float64)
    return lead(again.query @ _rotated(one, normed @ weight).mT * one.scale)


def _constant(one: Head) -> Tensor:
    """The keys (seq, d_head) of a stream of nothing: the biases of the norm and of the projection."""
    weight, bias = (torch.tensor(array, dtype=torch.float64) for array in one.projection("key"))
    shift = getattr(one.loaded.part("attn_norm", one.layer), "bias", None)
    key = bias if shift is None else bias + shift.cpu().double() @ weight
    return _rotated(one, key.expand(1, one.seq, -1))[0]


def _rotated(one: Head, keys: Tensor) -> Tensor:
    """RoPE by the model's own rotary module and function, of keys (part, seq, d_head)."""
    if not one.rotary:
        return keys
    device = one.loaded.model.device
    places = torch.arange(one.seq, device=device)[None]
    cos, sin = one.loaded.part("rotary")(torch.zeros(1, one.seq, 1, device=device), places)
    given = keys.to(device)[None]
    _, turned = hooks.rotate(one.loaded.part("attention", one.layer), given, given, cos, sin)
    found: Tensor = turned[0].cpu().double()
    return found


def _on_previous(one: Head, count: int) -> Tensor:
    """The heads' mean weights on the token before, in the places of the parts that are heads."""
    scored = kind_scores(returned_attention(one.loaded, one.trace.ids), (one.seq - 1) // 2, True)["previous"]
    found, heads = torch.zeros(count, dtype=torch.float64), one.loaded.spec.n_head
    first = 2 if one.loaded.spec.positions == "learned" else 1
    for layer in range(one.layer):
        begin = first + layer * (heads + 1)
        found[begin : begin + heads] = scored[layer]
    return found

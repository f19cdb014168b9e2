"""Attention maps as transformers returns them, and what follows from them, by torch in float64."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.models.llama.modeling_llama import repeat_kv

from engine.model.loaded import Loaded

Tensor = torch.Tensor


@torch.no_grad()
def returned_attention(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    """The weights that transformers itself returns, (layer, head, query, key); the engine's hooks stay silent."""
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    out = loaded.model(input_ids=batch, use_cache=False, output_attentions=True)
    return torch.stack([weights[0].float().cpu() for weights in out.attentions])


def kv_heads(loaded: Loaded) -> Tensor:
    """The key/value head that each query head reads, by transformers' own repeat_kv."""
    config: Any = loaded.model.config
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    numbered = torch.arange(groups).reshape(1, groups, 1, 1)
    return repeat_kv(numbered, heads // groups).flatten()


def kind_scores(weights: Tensor, length: int, sink: bool) -> dict[str, Tensor]:
    """Mean weight of the second reading's queries on each kind's key, read along diagonals; (…, query, key) in.

    Without `sink`, key 0 is cut off and the rows are divided by their new sums.
    """
    wide = weights.double()
    scored = {"sink": wide[..., length + 1 :, 0].mean(-1)} if sink else {}
    if not sink:
        total = wide[..., 1:].sum(-1, keepdim=True)
        wide = wide[..., 1:] / total.masked_fill(total == 0, 1)  # an empty row stays empty
    first = 0 if sink else 1  # the first key that is still there
    offsets = {"previous": -1, "duplicate": -length, "induction": 1 - length}
    found = {
        kind: torch.diagonal(wide, offset=offset - first, dim1=-2, dim2=-1)[..., -length:].mean(-1)
        for kind, offset in offsets.items()
    }
    return found | scored


@torch.no_grad()
def streams_and_writes(loaded: Loaded, ids: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """The stream that enters each block, and what its attention adds to it, (seq, d_model) each, in float32.

    The write is made from what transformers returns: weights × the values in its cache, through the output projection.
    """
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    out = loaded.model(input_ids=batch, use_cache=True, output_hidden_states=True, output_attentions=True)
    found = []
    for layer, (weights, stream) in enumerate(zip(out.attentions, out.hidden_states[:-1], strict=True)):
        values = out.cache.layers[layer].values
        values = repeat_kv(values, weights.shape[1] // values.shape[1])  # batch, head, seq, d_head
        joined = (weights.float() @ values.float())[0].transpose(0, 1).flatten(1)
        write: Tensor = loaded.part("o_proj", layer)(joined.to(stream.dtype))
        if loaded.spec.norms == "behind":
            write = loaded.part("attn_norm", layer)(write)
        found.append((stream[0].float().cpu(), write.float().cpu()))
    return found

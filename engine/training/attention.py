"""Causal attention for training on the CPU: blocks of queries, each against the keys up to its own end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

BLOCKED = "causal_blocks"
BLOCKS = 4


def causal_blocks(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal self-attention over whole windows, without padding or dropout, as transformers calls it.

    query: (batch, heads, seq, head_dim); key, value: (batch, kv_heads, seq, head_dim). Returns the heads' outputs
    (batch, seq, heads, head_dim) and no attention weights. Of the seq × seq scores only those of ``BLOCKS`` block
    rows up to the diagonal block are computed, 5/8 of all with four. The query heads that share a key/value head
    are rows of one product, so keys and values are never copied.

    Raises ValueError for a mask, dropout, or keys that are not the window's own.
    """
    heads, seq, width = query.shape[1:]
    kv_heads = key.shape[1]
    if attention_mask is not None or dropout or key.shape[2] != seq:
        raise ValueError(f"{BLOCKED} attends causally within whole windows, without mask, cache or dropout.")
    shared = heads // kv_heads
    scale = width**-0.5 if scaling is None else scaling
    grouped = query.unflatten(1, (kv_heads, shared))  # (batch, kv_heads, shared, seq, head_dim)
    size = -(-seq // BLOCKS)
    outputs = []
    for start in range(0, seq, size):
        end = min(start + size, seq)
        rows = grouped[:, :, :, start:end].flatten(2, 3)
        scores = (rows @ key[:, :, :end].transpose(-1, -2)).unflatten(2, (shared, end - start)) * scale
        future = torch.ones(end - start, end, dtype=torch.bool, device=query.device).triu(start + 1)
        pattern = scores.masked_fill(future, float("-inf")).softmax(-1, dtype=torch.float32).to(value.dtype)
        out = pattern.flatten(2, 3) @ value[:, :, :end]  # (batch, kv_heads, shared · rows, head_dim)
        outputs.append(out.unflatten(2, (shared, end - start)))
    return torch.cat(outputs, 3).flatten(1, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(BLOCKED, causal_blocks)

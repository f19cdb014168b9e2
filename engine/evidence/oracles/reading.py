"""A text read once more by transformers alone: losses from torch, with and without a cache."""

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from engine.model.loaded import Loaded

Tensor = torch.Tensor


def _batch(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    return torch.tensor([list(ids)], device=loaded.model.device)


def nats_of(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Surprisal (nats) of every token but the first, from logits (seq, vocab) at all positions."""
    target = torch.tensor(list(ids[1:]), dtype=torch.long, device=logits.device)
    return cross_entropy(logits[:-1].double(), target, reduction="none").cpu()


@torch.no_grad()
def nats(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    """Surprisal of every token but the first, read in one pass."""
    return nats_of(loaded.model(input_ids=_batch(loaded, ids), use_cache=False).logits[0].float(), ids)


@torch.no_grad()
def nats_step_by_step(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    """The same, with one token at a time put into transformers' own cache."""
    cache = DynamicCache(config=loaded.model.config)
    rows = [
        loaded.model(input_ids=_batch(loaded, [id]), cache=cache, use_cache=True).logits[0, -1] for id in ids
    ]
    return nats_of(torch.stack(rows).float(), ids)


@torch.no_grad()
def probability_in_two_steps(loaded: Loaded, ids: Sequence[int], target: int) -> float:
    """Probability of the next token: all but the last one read into a cache, then the last one."""
    cache = DynamicCache(config=loaded.model.config)
    if len(ids) > 1:
        loaded.model(input_ids=_batch(loaded, ids[:-1]), cache=cache, use_cache=True)
    last = loaded.model(input_ids=_batch(loaded, ids[-1:]), cache=cache, use_cache=True)
    return float(last.logits[0, -1].double().softmax(-1)[target])

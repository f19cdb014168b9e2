"""Requests that begin alike once more: their texts chosen anew, and a cache of its own for each, token by token."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from engine.evidence.oracles.drawn import ends_of
from engine.evidence.oracles.greedy import greedy_again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.rounding import logit_tolerance
from engine.model.loaded import Loaded

Tensor = torch.Tensor


@torch.no_grad()
def texts_again(
    loaded: Loaded, prompt: Sequence[int], given: Sequence[Sequence[int]], length: int
) -> list[list[int]]:
    """What each request writes: the prompt's most probable next tokens, one each, and what follows them greedily."""
    batch = torch.tensor([list(prompt)], device=loaded.model.device)
    logits = loaded.model(batch, use_cache=False).logits[0, -1].cpu()
    firsts = at_ranks([text[0] for text in given], logits, logit_tolerance(loaded)).tolist()
    ends, found = ends_of(loaded), []
    for first, text in zip(firsts, given, strict=True):
        rest = [first]
        if first not in ends:
            begun = [*prompt, first]
            rest += greedy_again(loaded, loaded.model, begun, list(text[1:]), length - 1, whole=True)[0]
        found.append(rest)
    return found


@torch.no_grad()
def columns(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    """All keys and values of a text, fed token by token; shape seq, numbers of a token."""
    cache = DynamicCache()  # no config: no layer forgets by itself
    for one in ids:
        loaded.model(torch.tensor([[one]], device=loaded.model.device), cache=cache, use_cache=True)
    layers: list[Any] = list(cache.layers)
    held = [t[0].transpose(0, 1).flatten(1) for layer in layers for t in (layer.keys, layer.values)]
    return torch.cat(held, dim=1).cpu()


def alike(first: Tensor, other: Tensor, allowed: float) -> int:
    """How many positions from the beginning have the same keys and values in two caches, except for rounding."""
    both = min(len(first), len(other))
    apart = (first[:both].double() - other[:both].double()).abs().amax(dim=1) > allowed
    return int(apart.int().argmax()) if bool(apart.any()) else both


def paged(held: Sequence[int], agreed: int, size: int) -> np.ndarray[Any, Any]:
    """(request, place): 3 in a block of positions that agree, else 2 for a token, 1 where there is none, 0 beyond."""
    counts = [-(-count // size) for count in held]
    grid = np.zeros((len(held), max(counts) * size), int)
    for row, (tokens, count) in enumerate(zip(held, counts, strict=True)):
        for block in range(count):
            for slot in range(block * size, (block + 1) * size):
                own = 2 if slot < tokens else 1
                grid[row, slot] = 3 if (block + 1) * size <= agreed else own
    return grid

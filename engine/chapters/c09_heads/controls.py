"""Other heads, drawn at random, to take out instead: what changes then is not due to the chosen ones."""

import torch

from engine import Loaded
from engine.chapters.c09_heads.naming import Heads

DRAWS = 8
"""Times that other heads are taken out."""


def other_heads(loaded: Loaded, spared: Heads, count: int, seed: int) -> list[Heads]:
    """`DRAWS` times `count` heads drawn from the seed, none of them one of `spared`."""
    every = ((layer, head) for layer in range(loaded.spec.n_layer) for head in range(loaded.spec.n_head))
    pool = [pair for pair in every if pair not in spared]
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(len(pool), generator=generator)[:count] for _ in range(DRAWS)]
    return [tuple(pool[i] for i in order.tolist()) for order in drawn]

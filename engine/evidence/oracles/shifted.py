"""What transformers returns when a prompt stands further on: position_ids, attention, q and k of layer 0."""

from collections.abc import Sequence
from typing import Any

import torch

from engine.evidence.copies import private_copy
from engine.model.head import Head
from engine.model.loaded import Loaded

Tensor = torch.Tensor


@torch.no_grad()
def attended(loaded: Loaded, ids: Sequence[int], shift: int, layer: int, head: int) -> Tensor:
    """The attention of the last of `ids`, (key), when every position is `shift` higher; float64."""
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    places = torch.arange(len(ids), device=batch.device)[None] + shift
    out = loaded.model(batch, position_ids=places, output_attentions=True, use_cache=False)
    row: Tensor = out.attentions[layer][0, head, -1]
    return row.to("cpu", torch.float64)


def read_off(weights: Tensor, scores: Tensor, loaded: Loaded) -> Tensor:
    """Scores (key) from the weights that a softmax made of them.

    A softmax leaves a number open that all scores share: here that of `scores` at the largest weight. Where a weight
    has vanished, or is too small for all its digits, the score is that of `scores`.
    """
    best = int(weights.argmax())
    there = weights.log() - weights[best].log() + scores[best]
    return torch.where(weights >= torch.finfo(loaded.dtype).tiny, there, scores)


@torch.no_grad()
def first_layer(one: Head, tokens: Sequence[int], shifts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A head's q and k in layer 0, (shift, token, d_head) in float64, of tokens of the prompt at higher positions.

    Caught as they leave the projections of a private copy, which gets the ids and position_ids; nothing is rotated.
    """
    loaded = one.loaded
    model, gave = private_copy(loaded), dict[str, Tensor]()

    def watch(name: str) -> Any:
        return lambda module, args, output: gave.__setitem__(name, output)

    for name in loaded.adapter.projections:
        model.get_submodule(loaded.path(name, 0)).register_forward_hook(watch(name))
    steps = torch.tensor(list(shifts), device=model.device)[:, None]
    at = torch.tensor(list(tokens), device=model.device)[None]
    ids = torch.tensor([[one.trace.ids[i] for i in tokens]], device=model.device)
    model.base_model(ids.expand(len(steps), -1), position_ids=at + steps, use_cache=False)
    q, k, _ = loaded.adapter.heads(gave, loaded.spec.d_head)
    return q[:, one.index].to("cpu", torch.float64), k[:, one.kv].to("cpu", torch.float64)

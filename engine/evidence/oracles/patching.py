"""A residual stream with one vector of another text in it: a pass of its own for every place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from engine.evidence.copies import private_copy
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.stream import streams
from engine.evidence.passes import logits_of, returned_logits
from engine.evidence.rounding import logit_tolerance
from engine.model.loaded import Loaded

Tensor = torch.Tensor


@torch.no_grad()
def patched_again(
    loaded: Loaded, first: Sequence[int], second: Sequence[int], layers: Sequence[int], given: Sequence[int]
) -> dict[str, Any]:
    """How far the second text's answer moves to the first's, for a vector of the first text at each layer and token.

    The vectors are the hidden states that transformers returns. Where those of both texts are equal, there is nothing
    to patch: the effect is 0. Of answers that rounding may have in either order the `given` ones are kept.
    """
    ends = [torch.tensor(returned_logits(loaded, ids)[-1]).double() for ids in (first, second)]
    off = logit_tolerance(loaded)
    answers = [int(at_ranks([id], logits, off)[0]) for id, logits in zip(given, ends, strict=True)]

    def difference(logits: Tensor) -> float:
        return float(logits[answers[0]] - logits[answers[1]])

    top, bottom = (difference(logits) for logits in ends)
    whole, broken, model = streams(loaded, first), streams(loaded, second), private_copy(loaded)
    effects = torch.zeros(len(layers), len(second), dtype=torch.float64)
    for row, layer in enumerate(layers):
        for place in range(len(second)):
            vector = whole[layer][place]
            if not torch.equal(vector, broken[layer][place]):
                block = model.get_submodule(loaded.path("block", layer))
                logits = _last_logits(model, block, second, place, vector)
                effects[row, place] = (difference(logits) - bottom) / (top - bottom)
    return {"effects": effects, "answers": answers, "differences": [top, bottom]}


def _last_logits(model: Any, block: nn.Module, ids: Sequence[int], place: int, vector: Tensor) -> Tensor:
    """The logits after the last token when one vector that enters a block of a private copy is replaced."""

    def put(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stream = (args[0] if args else kwargs["hidden_states"]).clone()
        stream[0, place] = vector.to(stream)
        return ((stream, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": stream})

    handle = block.register_forward_pre_hook(put, with_kwargs=True)
    logits = torch.tensor(logits_of(model, ids)[-1]).double()
    handle.remove()
    return logits

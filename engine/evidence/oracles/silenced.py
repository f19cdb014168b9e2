"""A private copy of the model in which some heads write nothing to the residual stream."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from engine.evidence.copies import private_copy
from engine.evidence.passes import logits_of
from engine.model.loaded import Loaded
from engine.model.trace import Array


@torch.no_grad()
def logits_without(loaded: Loaded, ids: Sequence[int], heads: Iterable[tuple[int, int]]) -> Array:
    """The logits (seq, vocab) of a private copy in which the heads' rows of the output projection are zero.

    The copy shares every other weight with the model, which stays untouched. bitsandbytes weights are packed, so
    there the copy's projection gets its input with the heads' columns set to zero.
    """
    return logits_of(_copy_without(loaded, heads), ids)


@torch.no_grad()
def attention_without(loaded: Loaded, ids: Sequence[int], heads: Iterable[tuple[int, int]]) -> torch.Tensor:
    """The weights (layer, head, query, key) that transformers returns for the same private copy."""
    model = _copy_without(loaded, heads)
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    out = model(input_ids=batch, use_cache=False, output_attentions=True)
    return torch.stack([weights[0].float().cpu() for weights in out.attentions])


def drawn_heads(
    loaded: Loaded, spared: Sequence[int], count: int, draws: int, seed: int
) -> list[list[tuple[int, int]]]:
    """Some times `count` heads (layer, head) by the order that torch draws from the seed, without the `spared` ones.

    Heads are numbered through the layers.
    """
    wide = loaded.spec.n_head
    left = torch.tensor(sorted(set(range(loaded.spec.n_layer * wide)) - set(spared)))
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(left), generator=generator) for _ in range(draws)]
    return [[divmod(number, wide) for number in left[order][:count].tolist()] for order in orders]


def _copy_without(loaded: Loaded, heads: Iterable[tuple[int, int]]) -> Any:
    model = private_copy(loaded)
    by_layer: dict[int, set[int]] = defaultdict(set)
    for layer, head in heads:
        by_layer[layer].add(head)
    for layer, chosen in by_layer.items():
        _silence(loaded, model, layer, chosen)
    return model


def _silence(loaded: Loaded, model: nn.Module, layer: int, heads: set[int]) -> None:
    d_head, path = loaded.spec.d_head, loaded.path("o_proj", layer)
    projection = model.get_submodule(path)
    rows = torch.cat([torch.arange(head * d_head, (head + 1) * d_head) for head in sorted(heads)])
    weight: torch.Tensor = projection.weight  # type: ignore[assignment]
    if loaded.quantized:
        model.set_submodule(path, nn.Sequential(_Without(rows), projection))
        return
    zeroed = weight.detach().clone()
    if isinstance(projection, Conv1D):  # GPT-2 keeps this matrix as (input, output)
        zeroed[rows] = 0
    else:
        zeroed[:, rows] = 0
    projection.weight = nn.Parameter(zeroed, requires_grad=False)


class _Without(nn.Module):
    """The input with some of its last axis' entries set to zero."""

    def __init__(self, columns: torch.Tensor) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.index_fill(-1, self.columns.to(x.device), 0)

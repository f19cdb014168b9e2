"""What the cards about heads share: names, tolerances, and two paths around the engine's hooks."""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from engine import Loaded
from engine.model.trace import Array

Heads = tuple[tuple[int, int], ...]
"""(layer, head) pairs."""

PICKS = ("layer", "head")
"""What a click on a map of heads chooses."""


def name(layer: int, head: int) -> str:
    """How a head is called on this page: both numbers count from 0."""
    return f"L{layer} H{head}"


def names(heads: Iterable[tuple[int, int]]) -> str:
    return ", ".join(name(layer, head) for layer, head in heads)


def tolerance(loaded: Loaded) -> float:
    """How far two orders of the same sums may lie apart, for numbers from 0 to 1 and for nats.

    fp32 carries 24 bits, so 1e-4 is ample. With 16-bit activations one rounding is 2⁻⁸ (bfloat16) or 2⁻¹¹
    (float16) of a value, and a few dozen of them meet on the way to a distribution.
    """
    return 1e-4 if loaded.precision == "fp32" else 5e-2


@torch.no_grad()
def returned_attention(loaded: Loaded, ids: Sequence[int]) -> torch.Tensor:
    """The weights that transformers itself returns, (layer, head, query, key); the engine's hooks stay silent."""
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    out = loaded.model(input_ids=batch, use_cache=False, output_attentions=True)
    return torch.stack([weights[0].float().cpu() for weights in out.attentions])


@torch.no_grad()
def logits_without(loaded: Loaded, ids: Sequence[int], heads: Heads) -> Array:
    """The logits (seq, vocab) of a private copy in which the heads' rows of the output projection are zero.

    The copy shares every other weight with the model, which stays untouched. bitsandbytes weights are packed, so
    there the copy's projection gets its input with the heads' columns set to zero.
    """
    model = copy.deepcopy(loaded.model, {id(tensor): tensor for tensor in _tensors(loaded.model)})
    by_layer: dict[int, set[int]] = defaultdict(set)
    for layer, head in heads:
        by_layer[layer].add(head)
    for layer, chosen in by_layer.items():
        _silence(loaded, model, layer, chosen)
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    logits: Array = model(input_ids=batch, use_cache=False).logits[0].float().cpu().numpy()
    return logits


def _tensors(model: nn.Module) -> Iterable[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _silence(loaded: Loaded, model: nn.Module, layer: int, heads: set[int]) -> None:
    adapter, d_head = loaded.adapter, loaded.spec.d_head
    path = f"{adapter.parts['blocks']}.{layer}.{adapter.layer['o_proj']}"
    projection = model.get_submodule(path)
    rows = torch.cat([torch.arange(head * d_head, (head + 1) * d_head) for head in sorted(heads)])
    weight: torch.Tensor = projection.weight  # type: ignore[assignment]
    if not weight.is_floating_point() or loaded.precision in ("int8", "nf4", "fp4"):
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


def largest_difference(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """max |a − b|; NaN where either has a NaN."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max(initial=0.0))


def table(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns of a card's table from sequences and arrays of any shape, flattened."""
    return {title: np.asarray(values).ravel().tolist() for title, values in columns.items()}


ATTENTION_CODE = """\
with torch.no_grad():
    attentions = model(ids, output_attentions=True).attentions
weights = torch.stack(attentions)[:, 0].float()  # layer, head, query, key
"""
"""Lines that follow the preamble of a script that begins with all attention weights."""

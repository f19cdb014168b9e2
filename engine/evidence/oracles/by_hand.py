"""A model at another precision, made by hand of the same checkpoint's floats: weights rounded by torch, run by torch.

Nothing of bitsandbytes takes part in it: a weight becomes the nearest of the published levels times the largest
magnitude of its block of 64 (Dettmers et al. 2023, "QLoRA", section 3), and a 16-bit float is cast from 32 bits.

int8 is not made: it rounds the inputs of every layer too, and what it does to predictions is little more than the sum
of these roundings, each of which turns over when an input differs in its last bit. Two ways to it, right both, gave
KLs as far from each other as from 0.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from engine.evidence.oracles import blockwise
from engine.evidence.passes import logits_of
from engine.model.loaded import Loaded
from engine.model.precisions import precision

Tensor = torch.Tensor

WITHIN = 0.25
"""How far what the model made by hand shows may lie off, as a part of the largest effect.

It sums in 32 bits where bitsandbytes sums in 16; 0.14 was the most on pocket-gpt2, pocket-llama and
SmolLM2-135M-Instruct at nf4 and fp4, for a cell of the drift; bf16 and fp16 agreed to the last digit.
"""

LEAD = 0.25
"""Leads (in logits) that may change hands between the two."""


def origin(side: Loaded, sides: Sequence[Loaded]) -> Loaded | None:
    """The one of several precisions of a checkpoint whose floats `side` can be made of by hand; None without one.

    It is another precision, with 32-bit floats or those 16-bit ones that bitsandbytes starts from.
    """
    if side.quantized and not precision(side.precision).code_book:
        return None
    kinds = {torch.float32} | ({side.half} if side.quantized else set())
    plain = (one for one in sides if not one.quantized and one.precision != side.precision)
    return next((one for one in plain if one.dtype in kinds), None)


def made(side: Loaded, base: Loaded) -> Any:
    """The model of `side` made by hand of another precision's floats (see `origin`)."""
    cast = {
        id(p): nn.Parameter(p.detach().to(side.dtype), requires_grad=False) for p in base.model.parameters()
    }
    model = copy.deepcopy(base.model, cast)
    if side.quantized:
        _round(model.get_submodule(base.path("blocks")), precision(side.precision).code_book)
    return model


def logits(side: Loaded, sides: Sequence[Loaded], ids: Sequence[int]) -> Tensor | None:
    """Logits (seq, vocab) of the model made by hand; None where there is nothing to make it of."""
    base = origin(side, sides)
    return None if base is None else torch.tensor(logits_of(made(side, base), ids)).double()


def _round(blocks: nn.Module, code_book: str) -> None:
    """Replace the linear layers of some blocks by ones with rounded weights."""
    for name, module in list(blocks.named_modules()):
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        weight = module.weight.detach()
        weight = weight.T if isinstance(module, Conv1D) else weight  # GPT-2 stores (input, output)
        above, _, own = name.rpartition(".")
        setattr(blocks.get_submodule(above), own, Rounded(weight, module.bias, code_book))


class Rounded(nn.Module):
    """A linear layer whose weights (output, input) are levels of a code book times their block's absmax."""

    def __init__(self, weight: Tensor, bias: Tensor | None, code_book: str) -> None:
        super().__init__()
        levels = blockwise.code_book(code_book).to(weight.device)
        self.weight = blockwise.rounded(weight.double(), levels, 64).to(weight.dtype)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """x (…, input) times the weights, summed in float32."""
        bias = None if self.bias is None else self.bias.float()
        return F.linear(x.float(), self.weight.float(), bias).to(x.dtype)


def witnessed(
    found: Mapping[str, Any], by_hand: Mapping[str, Any], effects: Mapping[str, Tensor]
) -> dict[str, Any]:
    """What a second pass found, where the model made by hand bears it out; else what that one shows.

    effects  name -> what the precision changed: a number is borne out within `WITHIN` of the largest
    """
    kept = dict(found)
    for name, effect in effects.items():
        allowed = WITHIN * float(effect.abs().max()) + 1e-6
        away = (torch.as_tensor(found[name]) - torch.as_tensor(by_hand[name])).abs()
        kept[name] = torch.where(
            away <= allowed, torch.as_tensor(found[name]), torch.as_tensor(by_hand[name])
        )
    return kept


def leads(scores: Tensor) -> Tensor:
    """By how much the favourite leads at each position, from logits (seq, vocab)."""
    best = scores.topk(2).values
    found: Tensor = best[:, 0] - best[:, 1]
    return found

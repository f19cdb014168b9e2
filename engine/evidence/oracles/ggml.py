"""The block formats of GGUF files once more, by torch: 32 weights with a scale, and in Q4_1 a minimum, of 16 bits each.

Written after `ggml-quants.c` of llama.cpp. Weights run along the inputs of one output row after another.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from engine.evidence.copies import private_copy
from engine.evidence.oracles import blockwise
from engine.evidence.oracles.blockwise import Faked
from engine.model.loaded import Loaded

Tensor = torch.Tensor


def signed(rows: Tensor, bits: int) -> Tensor:
    """Q4_0 and Q5_0: the weight of largest magnitude is the lowest whole number, and the scale has its sign."""
    half = 2 ** (bits - 1)
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    scale = largest / -half
    whole = (rows * torch.where(scale == 0, 0, 1 / scale) + (half + 0.5)).trunc().clamp(0, 2 * half - 1)
    after: Tensor = scale.half().float() * (whole - half)
    return after


def with_minimum(rows: Tensor) -> Tensor:
    """Q4_1: 16 even steps from the smallest weight of the block to the largest."""
    low = rows.amin(1, keepdim=True)
    scale = (rows.amax(1, keepdim=True) - low) / 15
    whole = ((rows - low) * torch.where(scale == 0, 0, 1 / scale) + 0.5).trunc().clamp(0, 15)
    return scale.half().float() * whole + low.half().float()


def eight(rows: Tensor) -> Tensor:
    """Q8_0: whole numbers from -127 to 127, half-way away from 0."""
    scale = rows.abs().amax(1, keepdim=True) / 127
    steps = rows * torch.where(scale == 0, 0, 1 / scale)
    return scale.half().float() * (steps.sign() * (steps.abs() + 0.5).floor())


def rounded(name: str, weight: Tensor) -> Tensor:
    """A weight (output, input) as a format keeps it: one of GGUF's, or one of bitsandbytes' code books."""
    if name in ("nf4", "fp4"):
        return blockwise.rounded(weight.double(), blockwise.code_book(name), 64).float()
    flat = weight.flatten()
    rows = F.pad(flat, (0, -len(flat) % 32)).view(-1, 32)
    if name == "Q8_0":
        after = eight(rows)
    elif name == "Q4_1":
        after = with_minimum(rows)
    else:
        after = signed(rows, int(name[1]))
    return after.flatten()[: len(flat)].view(weight.shape)


@torch.no_grad()
def in_format(loaded: Loaded, name: str) -> Faked:
    """A private copy whose linear layers inside the blocks hold what a format keeps of them."""
    model, before, moved = private_copy(loaded), 0.0, 0.0
    for module in model.get_submodule(loaded.path("blocks")).modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        turned = isinstance(module, Conv1D)  # GPT-2 stores (input, output)
        weight = module.weight.detach().float()
        weight = weight.T if turned else weight
        after = rounded(name, weight)
        before += float(weight.double().square().sum())
        moved += float((after - weight).double().square().sum())
        kept = after.T.contiguous() if turned else after
        module.weight = nn.Parameter(kept.to(module.weight.dtype), requires_grad=False)
    return Faked(model, (moved / before) ** 0.5 if before else 0.0, 0.0)

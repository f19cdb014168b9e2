"""The block formats of GGUF files once more, by torch: blocks of weights with a scale, in some a minimum too.

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


def with_six_bit_scales(rows: Tensor) -> Tensor:
    """Q4_K, (super-block, 256): eight blocks with a minimum each, whose scales and minima are rounded to 6 bits."""
    blocks = rows.double().unflatten(1, (8, 32))
    low = blocks.amin(2, keepdim=True).clamp(max=0)
    step = (blocks.amax(2, keepdim=True) - low) / 15
    for_all = [(x.amax(1, keepdim=True).float() / 63).half().double() for x in (step, -low)]
    step, low = (
        unit * (x / unit.masked_fill(unit == 0, 1)).round().clamp(0, 63)
        for x, unit in zip((step, -low), for_all, strict=True)
    )
    whole = ((blocks + low) / step.masked_fill(step == 0, 1)).round().clamp(0, 15) * (step > 0)
    after: Tensor = (step * whole - low).flatten(1).float()
    return after


def tiny_floats(rows: Tensor) -> Tensor:
    """MXFP4: floats with a sign, two bits of exponent and one of fraction, times a power of two for each block.

    OCP Microscaling Formats (MX) Specification 1.0, sections 5.3 and 6.3: the power is that of the block's largest
    magnitude less 2, the exponent of 4, the largest power among the elements; what lies beyond 6 becomes 6.
    """
    levels = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    largest = rows.abs().amax(1, keepdim=True)
    scale = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 3)
    index = torch.bucketize((rows / scale).abs(), (levels[1:] + levels[:-1]) / 2)
    return torch.where(largest == 0, 0, rows.sign() * scale * levels[index])


def rounded(name: str, weight: Tensor) -> Tensor:
    """A weight (output, input) as a format keeps it: one of GGUF's, or one of bitsandbytes' code books."""
    if name in ("nf4", "fp4"):
        return blockwise.rounded(weight.double(), blockwise.code_book(name), 64).float()
    flat = weight.flatten()
    size = 256 if name == "Q4_K" else 32
    rows = F.pad(flat, (0, -len(flat) % size)).view(-1, size)
    after = _ROUNDING[name](rows) if name in _ROUNDING else signed(rows, int(name[1]))
    return after.flatten()[: len(flat)].view(weight.shape)


_ROUNDING = {"Q8_0": eight, "Q4_1": with_minimum, "Q4_K": with_six_bit_scales, "MXFP4": tiny_floats}


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

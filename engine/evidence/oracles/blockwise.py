"""Weights rounded in blocks once more, by torch: both published code books, nearest levels, torch's own fake quantizer.

Weights are taken from the model's modules; flat, they run along the inputs of one output row after another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from engine.evidence.copies import private_copy
from engine.model.loaded import Loaded

Tensor = torch.Tensor

TIE = 1e-6
"""How much farther than the nearest a level may be, absmax being 1: what single precision makes of half-way."""


def nf4() -> Tensor:
    """NormalFloat: 8 quantiles of a normal distribution below 0 and 9 from 0 on, the outermost ones at -1 and 1.

    Dettmers et al. 2023, "QLoRA", section 3; the outermost probability is that of their code.
    """
    below, above = (
        torch.special.ndtri(torch.linspace(0.9677083, 0.5, n, dtype=torch.float64)) for n in (8, 9)
    )
    found = torch.cat([-below, above[:-1]]).sort().values
    return found / found.max()


def fp4() -> Tensor:
    """A float of a sign, two bits of exponent and one of mantissa, in the order of the bits, the largest one at 1.

    The exponents count downwards from 1, as bitsandbytes writes them; with exponent 0 the numbers are 0 and 1/16.
    """
    normal = [2.0 ** (4 - exponent) * (1 + mantissa / 2) for exponent in (1, 2, 3) for mantissa in (0, 1)]
    magnitudes = torch.tensor([0, 1 / 16, *normal], dtype=torch.float64) / 12
    return torch.cat([magnitudes, -magnitudes])


_BOOKS: dict[str, Callable[[], Tensor]] = {book.__name__: book for book in (nf4, fp4)}


def code_book(name: str) -> Tensor:
    """The 16 levels that bitsandbytes calls so, index by index."""
    return _BOOKS[name]()


def stored(loaded: Loaded, part: str, layer: int) -> Tensor:
    """The floats of a linear layer, (output, input), in float64."""
    return _by_output(loaded.model.get_submodule(loaded.path(part, layer))).double().cpu()


def _by_output(module: Any) -> Tensor:
    """GPT-2's Conv1D keeps its weight as (input, output)."""
    weight: Tensor = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight


@dataclass(frozen=True, eq=False)
class Blocks:
    """Weights (block, size), the last block filled up with zeros; each block's absmax (block, 1); their quotient."""

    weights: Tensor
    absmax: Tensor
    scaled: Tensor


def in_blocks(weights: Tensor, size: int) -> Blocks:
    """Weights in blocks of `size`; a block of zeros stays one."""
    flat = weights.flatten()
    rows = F.pad(flat, (0, -len(flat) % size)).view(-1, size)
    absmax = rows.abs().amax(1, keepdim=True)
    return Blocks(rows, absmax, rows / absmax.masked_fill(absmax == 0, 1))


def nearest(scaled: Tensor, levels: Tensor, asked: Tensor) -> Tensor:
    """Index of the level nearest to each number, all flat; one that is asked for stays where it is as near."""
    away = (scaled.flatten()[:, None] - levels).abs()
    least, found = away.min(1)
    near = away.gather(1, asked.flatten()[:, None])[:, 0] <= least + TIE
    return torch.where(near, asked.flatten(), found)


def rounded(weights: Tensor, levels: Tensor, size: int, given: Tensor | None = None) -> Tensor:
    """absmax · the level nearest to each weight, shaped like them.

    `given` is an outcome whose levels stay where others are as near. Without it any of them will do.
    """
    blocks = in_blocks(weights, size)
    if given is None:
        order = levels.sort().values
        index = torch.bucketize(blocks.scaled, (order[1:] + order[:-1]) / 2)
        after = blocks.absmax * order[index]
    else:
        asked = F.pad(given.double().flatten(), (0, blocks.weights.numel() - given.numel()))
        asked = asked.view_as(blocks.weights) / blocks.absmax.masked_fill(blocks.absmax == 0, 1)
        closest = (asked.flatten()[:, None] - levels).abs().argmin(1)
        after = blocks.absmax * levels[nearest(blocks.scaled, levels, closest)].view_as(blocks.scaled)
    return after.flatten()[: weights.numel()].view(weights.shape)


def peaks(weights: Tensor, size: int) -> Tensor:
    """The largest norm of each whole block over its quadratic mean: how far its largest weight stands out."""
    flat = weights.flatten()
    blocks = flat[: len(flat) // size * size].view(-1, size)
    mean = torch.linalg.vector_norm(blocks, dim=1) / sqrt(size)
    found: Tensor = torch.linalg.vector_norm(blocks, ord=float("inf"), dim=1) / mean.masked_fill(mean == 0, 1)
    return found


@dataclass(frozen=True, eq=False)
class Faked:
    """A private copy with rounded matrices; ‖difference‖ / ‖weights‖ of them all; bits a weight, scales included."""

    model: Any
    error: float
    bits: float


@torch.no_grad()
def fake_quantized(loaded: Loaded, bits: int, size: int) -> Faked:
    """Round every matrix inside the blocks to 2ᵇ - 1 even levels in blocks of `size`.

    By `torch.fake_quantize_per_channel_affine`, a channel for each block. It multiplies by 1/scale, so a weight
    half-way between two levels may go the other way than where it is divided.
    """
    model = private_copy(loaded)
    most = 2 ** (bits - 1) - 1
    before, moved, weights, scales = 0.0, 0.0, 0, 0
    for module in model.get_submodule(loaded.path("blocks")).modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        weight = _by_output(module).float()
        rows = in_blocks(weight, size).weights
        scale = (rows.abs().amax(1) / most).clamp(min=1e-30)
        zero = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
        after = torch.fake_quantize_per_channel_affine(rows, scale, zero, 0, -most, most)
        after = after.flatten()[: weight.numel()].view(weight.shape)
        before += float(weight.double().square().sum())
        moved += float((after - weight).double().square().sum())
        weights, scales = weights + weight.numel(), scales + len(scale)
        turned = after.T.contiguous() if isinstance(module, Conv1D) else after
        module.weight = nn.Parameter(turned.to(module.weight.dtype), requires_grad=False)
    return Faked(model, sqrt(moved / before) if before else 0.0, bits + 32 * scales / max(weights, 1))

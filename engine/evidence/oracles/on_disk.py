"""The blocks of a GGUF file once more: located by transformers' reader, and packed by torch from the model's weights.

A block is a 16-bit scale, in Q4_1 a 16-bit minimum, then whole numbers: a byte each in Q8_0, else two in a byte, the
first sixteen in the low halves. Written after `ggml-common.h` and `ggml-quants.c` of llama.cpp.
"""

from typing import Any

import torch
from gguf import GGMLQuantizationType
from torch.nn import functional as F
from transformers.integrations.gguf.reader import GgufHeader, TensorInfo

from engine.evidence.oracles.blockwise import stored
from engine.model.loaded import Loaded

Tensor = torch.Tensor

WEIGHTS = 32
"""In each block of these formats."""


def model_block(loaded: Loaded, part: str, layer: int, row: int, number: int) -> Tensor:
    """A block of the loaded model's own weights, float32."""
    table = part == "embedding"
    weights = (
        loaded.model.get_input_embeddings().weight.detach() if table else stored(loaded, part, layer)[row]
    )
    line = (weights[row] if table else weights).float().cpu()
    start = number * WEIGHTS
    return F.pad(line[start : start + WEIGHTS], (0, max(0, start + WEIGHTS - len(line))))


def located(path: str, name: str) -> tuple[TensorInfo, int]:
    """A tensor of a file and where in the file it begins, by transformers' own reader."""
    header = GgufHeader.from_file(path)
    found = next(info for info in header.tensors if info.name == name)
    return found, header.data_start + found.offset


def from_file(
    loaded: Loaded, part: str, layer: int, row: int, number: int, path: str, name: str
) -> dict[str, Any]:
    """The bytes at the place that transformers finds; weights as the loaded model has them, and what they are made of.

    The whole numbers come from the model's weights: which multiple of the scale, above the minimum, is each of them?
    """
    info, begin = located(path, name)
    blocks = info.shape[1] // WEIGHTS
    size = info.nbytes // (info.shape[0] * blocks)
    at = begin + (row * blocks + number) * size
    raw = torch.from_file(path, shared=False, size=at + size, dtype=torch.uint8)[at:].clone()
    halves = raw[: 4 if size == 20 else 2].view(torch.float16).float()
    weights = model_block(loaded, part, layer, row, number)
    low = halves[1] if len(halves) == 2 else torch.tensor(0.0)
    steps = (weights - low) / halves[0] if halves[0] else torch.zeros_like(weights)
    found = {"bytes": raw, "scale": halves[0], "whole numbers": steps.round(), "weights": weights}
    return found | ({"minimum": low} if len(halves) == 2 else {})


def packed(block: Tensor, kind: str) -> dict[str, Tensor]:
    """The bytes that a block of weights becomes in a format, and what they stand for."""
    one = block.float()
    low = one.min()
    if kind == "Q4_1":
        scale = (one.max() - low) / 15
        whole = ((one - low) * _inverse(scale) + 0.5).trunc().clamp(0, 15)
    elif kind == "Q4_0":
        scale = one[(one.abs() == one.abs().max()).nonzero()[0, 0]] / -8
        whole = (one * _inverse(scale) + 8.5).trunc().clamp(0, 15)
    else:
        scale = one.abs().max() / 127
        steps = one * _inverse(scale)
        whole = steps.sign() * (steps.abs() + 0.5).floor()
    head = [scale.half(), low.half()] if kind == "Q4_1" else [scale.half()]
    first, second = whole.int()[: WEIGHTS // 2], whole.int()[WEIGHTS // 2 :]
    body = whole.to(torch.int8).view(torch.uint8) if kind == "Q8_0" else (first + 16 * second).to(torch.uint8)
    raw = torch.cat([torch.stack(head).view(torch.uint8), body])
    steps = whole - 8 if kind == "Q4_0" else whole
    after = head[0].float() * steps + (head[1].float() if kind == "Q4_1" else 0.0)
    found = {"bytes": raw, "scale": head[0], "whole numbers": steps, "weights": after, "before": one}
    return found | ({"minimum": head[1]} if kind == "Q4_1" else {})


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0, 1 / scale)


def kinds(path: str) -> dict[str, Any]:
    """How many tensors of a file have each GGML type, and their bytes, by transformers' reader; most bytes first."""
    found = [
        (GGMLQuantizationType(info.ggml_type), info.nbytes) for info in GgufHeader.from_file(path).tensors
    ]
    nbytes = {kind: sum(size for own, size in found if own == kind) for kind, _ in found}
    order = sorted(nbytes, key=lambda kind: -nbytes[kind])
    return {
        "tensors": [sum(own == kind for own, _ in found) for kind in order],
        "bytes": [nbytes[kind] for kind in order],
    }

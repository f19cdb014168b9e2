"""What models weigh once more: their tensors laid out as each precision stores them, on the device without memory."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from engine.model.loaded import Loaded
from engine.model.precisions import Precision


@dataclass(frozen=True)
class Shapes:
    """Of a model: (output, input) of every linear layer inside its blocks, and how many numbers there are beside."""

    matrices: tuple[tuple[int, int], ...]
    rest: int


def shapes(model: Any, blocks: str) -> Shapes:
    """The shapes of a model at any precision, `blocks` being where its blocks are; tied tables count once."""
    inside = [m for m in model.get_submodule(blocks).modules() if isinstance(m, nn.Linear | Conv1D)]
    matrices = tuple(
        (int(m.nf), int(m.nx)) if isinstance(m, Conv1D) else (m.out_features, m.in_features) for m in inside
    )
    weights = {id(m.weight) for m in inside}
    return Shapes(matrices, sum(p.numel() for p in model.parameters() if id(p) not in weights))


def published_shapes(config: PreTrainedConfig, blocks: str) -> Shapes:
    """The shapes of the modules that transformers builds from a config."""
    with torch.device("meta"):
        return shapes(AutoModelForCausalLM.from_config(config), blocks)


def laid_out(model: Shapes, record: Precision) -> int:
    """Bytes of a model's weights at a precision, tensor by tensor."""
    floats = getattr(torch, record.dtype) if record.dtype else torch.float16
    tensors = [t for shape in model.matrices for t in _matrix(shape, record, floats)]
    return sum(t.nbytes for t in [*tensors, _empty(floats, model.rest)])


def _matrix(shape: tuple[int, int], record: Precision, floats: torch.dtype) -> list[torch.Tensor]:
    """A linear layer's weight: floats, or what bitsandbytes keeps of it."""
    count = shape[0] * shape[1]
    if record.code_book:  # two indices a byte, a scale for each 64 weights, 16 levels
        single = (_empty(torch.float32, n) for n in (-(-count // 64), 16))
        return [_empty(torch.uint8, count // 2), *single]
    if record.quantized:  # a whole number for each weight, a scale for each row
        return [_empty(torch.int8, count), _empty(torch.float32, shape[0])]
    return [_empty(floats, count)]


def _empty(kind: torch.dtype, count: int) -> torch.Tensor:
    return torch.empty(count, dtype=kind, device="meta")


def in_memory(loaded: Loaded) -> int:
    """Bytes of the storages behind a loaded model's weights, its buffers left out, scales of blocks taken as 32 bits.

    For a CPU with bfloat16 instructions bitsandbytes stores the scales in 16 bits.
    """
    buffers = {b.untyped_storage().data_ptr(): b.untyped_storage().nbytes() for b in loaded.model.buffers()}
    states = [getattr(getattr(m, "weight", None), "quant_state", None) for m in loaded.model.modules()]
    narrow = [4 * s.absmax.numel() - s.absmax.nbytes for s in states if s is not None]
    return loaded.nbytes - int(sum(buffers.values())) + int(sum(narrow))

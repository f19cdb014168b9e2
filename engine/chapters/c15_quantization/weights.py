"""The weights of a checkpoint, and what bitsandbytes makes of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from engine import ReaderError
from engine.model.loaded import Loaded
from engine.model.precisions import RECORDS, precision
from engine.ops import quantization as ops

SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Block sizes that bitsandbytes knows; the models here are quantized with 64."""

NAMES = {
    "qkv": "attention: q, k and v",
    "q_proj": "attention: query",
    "k_proj": "attention: key",
    "v_proj": "attention: value",
    "o_proj": "attention: output",
    "gate_proj": "MLP: gate",
    "up_proj": "MLP: up",
    "down_proj": "MLP: down",
}


def matrices(loaded: Loaded) -> dict[str, str]:
    """The linear layers of a block: the adapter's name -> a name to read."""
    return {part: name for part, name in NAMES.items() if loaded.adapter.has(part)}


def half_name(loaded: Loaded) -> str:
    """The 16-bit precision whose weights bitsandbytes starts from."""
    return next(name for name, record in RECORDS.items() if f"torch.{record.dtype}" == str(loaded.half))


def path(loaded: Loaded, part: str, layer: int) -> str:
    """The module path of a linear layer."""
    return loaded.path(part, layer)


def weight(loaded: Loaded, part: str, layer: int) -> NDArray[np.float32]:
    """A linear layer's weight as bitsandbytes reads it: float32, a row for each output, inputs along the row.

    GPT-2 stores it the other way round. Raises ReaderError for weights that are quantized already.
    """
    return matrix(loaded.part(part, layer))


def matrix(module: nn.Module) -> NDArray[np.float32]:
    given = module._parameters["weight"]
    if given is None or not given.is_floating_point() or getattr(given, "quant_state", None) is not None:
        floats = " or ".join(name for name, record in RECORDS.items() if not record.quantized)
        raise ReaderError(f"These weights are quantized already; choose {floats}.")
    values: NDArray[np.float32] = given.detach().float().cpu().numpy()
    return np.ascontiguousarray(values.T) if isinstance(module, Conv1D) else values


def linears(loaded: Loaded, model: nn.Module) -> Iterator[nn.Module]:
    """The linear layers inside the blocks of a model built like `loaded.model`: those that bitsandbytes quantizes."""
    for module in model.get_submodule(loaded.path("blocks")).modules():
        given = module._parameters.get("weight")
        if given is not None and given.ndim == 2:
            yield module


@dataclass(frozen=True, eq=False)
class Packed:
    """What bitsandbytes keeps of a weight, and what it reads back from that.

    index   one level for each weight, flat      code     the 16 levels, between −1 and 1
    absmax  one for each block                   values   as bitsandbytes dequantizes, shaped like the weight
    """

    index: ops.Ints
    code: NDArray[np.float32]
    absmax: NDArray[np.float32]
    values: NDArray[np.float32]


def quantize(values: NDArray[np.float32], kind: str, size: int) -> Packed:
    """Quantize with `bitsandbytes.functional.quantize_4bit`, in blocks of `size` along the rows.

    `kind` is one of `engine.model.precisions.CODE_BOOKS`.

    The weights go in flat: for a matrix whose rows are no whole number of blocks, bitsandbytes 0.50 on a CPU reads
    back the wrong absmax from the second row on.
    """
    from bitsandbytes import functional

    levels = precision(kind).code_book
    packed, state = functional.quantize_4bit(
        torch.tensor(values).flatten(), blocksize=size, quant_type=levels
    )
    back = functional.dequantize_4bit(packed, state)
    return Packed(
        ops.unpack(packed.numpy())[: values.size],
        state.code.float().numpy(),
        state.absmax.float().numpy(),
        back.reshape(values.shape).numpy(),
    )


def scale_bytes(values: NDArray[np.float32], kind: str, size: int) -> tuple[int, int]:
    """Bytes of the scales that bitsandbytes keeps of a matrix: as 32-bit floats, and by double quantization.

    The latter rounds the scales, less their mean, to 8 bits, in blocks of 256 that share a 32-bit scale (Dettmers et
    al. 2023, "QLoRA", section 3); all three are counted, and the table of its 256 levels, the same everywhere, is not.
    """
    from bitsandbytes import functional

    flat, levels = torch.tensor(values).flatten(), precision(kind).code_book
    _, once = functional.quantize_4bit(flat, blocksize=size, quant_type=levels)
    _, twice = functional.quantize_4bit(flat, blocksize=size, quant_type=levels, compress_statistics=True)
    kept = (twice.absmax, twice.state2.absmax, twice.offset)
    return once.absmax.nbytes, sum(tensor.nbytes for tensor in kept)

"""The model's own weights and modules, seen as arrays, whatever precision they are stored in."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from transformers.pytorch_utils import Conv1D

from engine.model.trace import Array


@torch.no_grad()
def matrix(module: nn.Module, half: torch.dtype) -> tuple[Array, Array]:
    """(W, b) of a projection x·W + b: shapes (inputs, outputs) and outputs; b is zero where there is none.

    GPT-2's Conv1D stores W so, a linear layer stores it transposed. A quantized layer stores codes: its W is what
    it answers to the unit vectors, in `half`, the 16-bit type it computes in.
    """
    stored: Any = module.weight
    if isinstance(module, Conv1D):
        weight = _array(stored)
    elif stored.is_floating_point():
        weight = _array(stored).T
    else:
        weight = _answers(module, half)
    return weight, _bias(module, weight.shape[1])


def _answers(module: Any, half: torch.dtype) -> Array:
    units = torch.eye(module.in_features, dtype=half, device=module.weight.device)
    return _array(module(units)) - _bias(module, module.out_features)


def _bias(module: nn.Module, width: int) -> Array:
    bias = module.bias
    return _array(bias) if isinstance(bias, torch.Tensor) else np.zeros(width, np.float32)


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().to("cpu", torch.float32).numpy()
    return array


@torch.no_grad()
def apply(module: nn.Module, values: ArrayLike) -> Array:
    """One of the model's unquantized modules (a norm, the unembedding), in its own precision, on an array."""
    weight = next(module.parameters())
    return _array(module(torch.tensor(np.asarray(values, np.float32)).to(weight.device, weight.dtype)))

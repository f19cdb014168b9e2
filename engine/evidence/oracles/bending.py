"""Small networks with given weights once more, by torch.nn in float64."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import nn

Tensor = torch.Tensor

BENT: Mapping[str, type[nn.Module]] = {
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
"""Non-linearities by the names that readers see."""


def bent(values: ArrayLike) -> dict[str, Tensor]:
    """Name -> the non-linearity of every value."""
    given = torch.as_tensor(values, dtype=torch.float64)
    return {name: module()(given) for name, module in BENT.items()}


def linear(weights: ArrayLike, bias: ArrayLike) -> nn.Linear:
    """x·W + b as a module, from W (inputs, outputs) and b (outputs)."""
    matrix = torch.as_tensor(weights, dtype=torch.float64)
    layer = nn.Linear(len(matrix), matrix.shape[1]).double().requires_grad_(False)
    layer.weight.copy_(matrix.T)
    layer.bias.copy_(torch.as_tensor(bias, dtype=torch.float64))
    return layer


def layers(x: Sequence[float], first: nn.Linear, name: str, second: nn.Linear) -> list[Any]:
    """What leaves each module of linear, non-linearity, linear."""
    found, values = [], torch.tensor(x, dtype=torch.float64)
    for module in nn.Sequential(first, BENT[name](), second):
        values = module(values)
        found.append(values)
    return found

"""A product as LLM.int8 makes it (Dettmers et al. 2022, §3), by torch in whole numbers and without bitsandbytes."""

from typing import cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

Tensor = torch.Tensor

STEPS = 127
"""The largest whole number that a row's largest magnitude becomes."""


def outputs_first(module: nn.Module) -> Tensor:
    """The weight of a linear layer, (outputs, inputs); GPT-2 stores it the other way round."""
    stored = cast("Tensor", module.weight).detach().cpu()
    return stored.T if isinstance(module, Conv1D) else stored


def product(inputs: Tensor, weight: Tensor, limit: float) -> Tensor:
    """(seq, outputs) of inputs (seq, inputs) and a weight (outputs, inputs), float64.

    Columns of inputs that reach `limit` in any row are multiplied as they are, with weights read back from 8 bits; of
    the others, and of all weights, each row becomes whole numbers up to 127 times its largest magnitude. Numbers below
    the limit in a column that is apart count for the scale of their row, as in bitsandbytes.
    """
    large = inputs.abs() >= limit
    apart = large.any(0)
    small = inputs.masked_fill(large, 0)
    row, output = small.abs().amax(1, keepdim=True), weight.abs().amax(1, keepdim=True)
    whole = (small * (STEPS / row)).round().masked_fill(apart, 0)
    codes = (weight * (STEPS / output)).round()
    eight = (whole @ codes.T) * row * output.T / STEPS**2
    return eight + inputs[:, apart] @ (codes[:, apart] * output / STEPS).T

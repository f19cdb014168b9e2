"""The bits of a weight once more: torch rounds to each format, and the pattern is read as a whole number."""

from typing import Any

import torch

from engine.evidence.oracles import blockwise
from engine.model.loaded import Loaded
from engine.model.precisions import precision

Tensor = torch.Tensor

FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def one_weight(
    loaded: Loaded, part: str, layer: int, kind: str, place: int, size: int = 64
) -> dict[str, Any]:
    """Bits, numbers and relative errors of a weight of the first output row's first block, format by format."""
    row = blockwise.stored(loaded, part, layer)[0].float()
    found, numbers = {}, []
    for name, type_ in FLOATS.items():
        value = row[place].to(type_)
        found[name] = pattern(value)
        numbers.append(float(value))
    half = row.half().double()
    whole = torch.round(127 * half[place] / half.abs().max())
    found["int8"] = _whole(int(whole), 8)
    numbers.append(float(whole * half.abs().max() / 127))
    block, levels = row[:size].to(loaded.half).double(), blockwise.code_book(precision(kind).code_book)
    most = block.abs().max()
    index = int((block[place] / most - levels).abs().argmin())
    found[kind] = _whole(index, 4)
    numbers.append(float(most * levels[index]))
    exact = float(row[place])
    errors = [abs(number - exact) / abs(exact) if exact else 0.0 for number in numbers]
    return {**found, "numbers": numbers, "errors": errors}


def pattern(value: Tensor) -> list[int]:
    """The bits of a float, the sign first."""
    size = 8 * value.element_size()
    whole = value[None].view({16: torch.int16, 32: torch.int32}[size])
    return _whole(int(whole), size)


def _whole(number: int, count: int) -> list[int]:
    return [(number >> place) & 1 for place in reversed(range(count))]

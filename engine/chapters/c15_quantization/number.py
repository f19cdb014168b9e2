"""One weight as the bits that each format keeps of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.chapters.c15_quantization.pair import OfModel, code
from engine.chapters.c15_quantization.weights import NAMES, path, quantize, weight
from engine.evidence import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import bits as again
from engine.figures.quantization import bit_rows
from engine.model.loaded import Loaded
from engine.model.trace import Array

SIZE = 64
"""Weights in a block."""

LAYOUT = {"fp32": (8, 23), "bf16": (8, 7), "fp16": (5, 10)}
"""Of each float format, after the sign: bits of the exponent and of the fraction."""


@dataclass(frozen=True)
class Weight(OfModel):
    """One weight: `place` in the first block of a linear layer's first output row; `loaded` is at 32 bits."""

    part: str
    layer: int
    kind: str
    place: int

    @property
    def row(self) -> Array:
        """The whole output row, (input)."""
        row: Array = weight(self.loaded, self.part, self.layer)[0]
        return row

    @property
    def name(self) -> str:
        return f"{NAMES[self.part]}, layer {self.layer}"


def middle(loaded: Loaded, part: str, layer: int) -> int:
    """The place of the weight of middle size in the first block: one that no format is made for."""
    block = np.abs(weight(loaded, part, layer)[0][:SIZE])
    return int(np.argsort(block, kind="stable")[len(block) // 2])


def number(chosen: Weight) -> Card:
    """The bits of one weight in five formats, what they stand for, and how far that is from the weight."""
    kept = _kept(chosen)
    value = float(chosen.row[chosen.place])
    values = np.array([stands for _, stands in kept.values()])
    errors = np.abs(values - value) / abs(value) if value else np.zeros(len(values))
    names = list(kept)
    return Card(
        key="number",
        title=_title(value, names, errors),
        alt="Rows of bits: "
        + "; ".join(
            f"{name}: {''.join(map(str, row))}, {stands:.6g}" for name, (row, stands) in kept.items()
        ),
        badge=Badge.LIVE,
        figure=bit_rows(
            {name: (row.tolist(), _fields(name)) for name, (row, _) in kept.items()},
            [
                f"{stands:.7g}, off by {error:.2%}"
                for (_, stands), error in zip(kept.values(), errors, strict=True)
            ],
        ),
        table={
            "format": names,
            "bits": ["".join(map(str, row)) for row, _ in kept.values()],
            "number": values.tolist(),
            "relative error": errors.tolist(),
        },
        shown={**{name: row for name, (row, _) in kept.items()}, "numbers": values, "errors": errors},
        oracle=Oracle(
            "The floats' bits by torch's own rounding, read as whole numbers; the int8 number from the largest "
            "magnitude of its row; the 4-bit index as the nearest of the published levels, without bitsandbytes.",
            lambda: again.one_weight(chosen.loaded, chosen.part, chosen.layer, chosen.kind, chosen.place),
            {**dict.fromkeys(names, 0.0), "numbers": 1e-6 * abs(value) + 1e-12, "errors": 1e-5},
        ),
        code=_script(chosen),
        numbers={name: kept[name][0] for name in LAYOUT},
        atol=0,
        note=_origin(chosen.row) + f"Weight {chosen.place} of the first block of {chosen.name}. "
        "int8 keeps a whole number from −127 to 127 "
        f"and a scale for each row; {chosen.kind} an index into its code book and a scale for each {SIZE} weights.",
    )


def _title(value: float, names: Sequence[str], errors: NDArray[np.float64]) -> str:
    """Which formats keep a weight exactly, and how far off the others are."""
    exact = [name for name, error in zip(names[1:], errors[1:], strict=True) if error == 0]
    off = [f"{error:.2%} in {name}" for name, error in zip(names[1:], errors[1:], strict=True) if error]
    said = [f"is exact in {' and '.join(exact)}"] if exact else []
    said += [f"is off by {', '.join(off)}"] if off else []
    return f"The weight {value:.6g} {', and '.join(said)}"


def _origin(row: Array) -> str:
    """In which 16 bits a row was stored, as a sentence; empty where it needs more."""
    plain = torch.tensor(row)
    for name, kind in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if bool((plain.to(kind).float() == plain).all()):
            return f"This row was stored as {name}, so {name} loses nothing, and the fraction of fp32 ends in zeros. "
    return ""


def _kept(chosen: Weight) -> dict[str, tuple[NDArray[np.int64], float]]:
    """Format -> (bits from the highest to the lowest, the number that they stand for)."""
    plain = np.float32(chosen.row[chosen.place])
    single = int(plain.view(np.uint32))
    half = np.float16(plain)
    brain = (single + 0x7FFF + ((single >> 16) & 1)) >> 16  # to nearest, half-way to even
    found = {
        "fp32": (_bits(single, 32), float(plain)),
        "bf16": (_bits(brain, 16), float(np.uint32(brain << 16).view(np.float32))),
        "fp16": (_bits(int(half.view(np.uint16)), 16), float(half)),
    }
    return found | {"int8": _int8(chosen), chosen.kind: _index(chosen)}


def _bits(pattern: int, count: int) -> NDArray[np.int64]:
    return np.array([(pattern >> place) & 1 for place in reversed(range(count))], dtype=np.int64)


def _int8(chosen: Weight) -> tuple[NDArray[np.int64], float]:
    """As bitsandbytes rounds a row for int8."""
    from bitsandbytes import functional

    whole, scale, _ = functional.int8_vectorwise_quant(torch.tensor(chosen.row)[None].half())
    found = int(whole[0, chosen.place])
    return _bits(found & 0xFF, 8), found * float(scale[0]) / 127


def _index(chosen: Weight) -> tuple[NDArray[np.int64], float]:
    """As bitsandbytes rounds a block to a code book, from the checkpoint's own 16 bits."""
    start = torch.tensor(chosen.row[:SIZE]).to(chosen.loaded.half).float().numpy()
    packed = quantize(start[None], chosen.kind, SIZE)
    return _bits(int(packed.index[chosen.place]), 4), float(packed.values[0, chosen.place])


def _fields(name: str) -> list[str]:
    """What each bit of a format belongs to."""
    if name in LAYOUT:
        exponent, fraction = LAYOUT[name]
        return ["sign", *["exponent"] * exponent, *["fraction"] * fraction]
    return ["whole number"] * 8 if name == "int8" else ["index"] * 4


def _script(chosen: Weight) -> str:
    start = script.preamble(chosen.loaded)
    return code(start, _CODE, module=path(chosen.loaded, chosen.part, chosen.layer), place=chosen.place)


_CODE = """
    module = model.get_submodule("{module}")
    weight = module.weight.detach().float()
    if type(module).__name__ == "Conv1D":  # GPT-2 stores (input, output)
        weight = weight.T
    one = weight[0, {place}]


    def bits(value, whole, count):
        pattern = int(value[None].view(whole))
        return [(pattern >> place) & 1 for place in reversed(range(count))]


    result = {{
        "fp32": bits(one, torch.int32, 32),
        "bf16": bits(one.bfloat16(), torch.int16, 16),
        "fp16": bits(one.half(), torch.int16, 16),
    }}
    print(float(one), result)
"""

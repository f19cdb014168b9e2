"""How long a block is, and what one large weight does to the others in it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.chapters.c15_quantization.pair import OfModel, code
from engine.chapters.c15_quantization.weights import (
    NAMES,
    SIZES,
    half_name,
    path,
    quantize,
    scale_bytes,
    weight,
)
from engine.evidence import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import blockwise
from engine.evidence.oracles.order import at_ranks
from engine.evidence.rounding import EXACT
from engine.figures import lines
from engine.figures.quantization import staircase
from engine.model.cache import ByteLRU
from engine.model.precisions import precision
from engine.model.trace import Array
from engine.ops import quantization as ops

SINGLE = 1e-6
"""How exactly bitsandbytes' single-precision numbers are known, the largest of them being 1."""


@dataclass(frozen=True)
class Matrix(OfModel):
    """One linear layer of a checkpoint at 16 bits, and the precision whose code book it is quantized with."""

    part: str
    layer: int
    kind: str

    @property
    def values(self) -> Array:
        return weight(self.loaded, self.part, self.layer)

    @property
    def name(self) -> str:
        return f"{NAMES[self.part]}, layer {self.layer}"


@dataclass(frozen=True)
class Errors:
    """Relative error at each of `SIZES`."""

    values: tuple[float, ...]

    @property
    def nbytes(self) -> int:
        return 8 * len(self.values)


_kept: ByteLRU[Errors] = ByteLRU(64 * 1024)


def _errors(chosen: Matrix) -> Errors:
    """Kept for the process: eight quantizations of a whole matrix take longer than a slider may."""
    loaded = chosen.loaded
    key = (loaded.name, loaded.revision, loaded.precision, chosen.part, chosen.layer, chosen.kind)

    def make() -> Errors:
        values = chosen.values
        rounded = (quantize(values, chosen.kind, size).values for size in SIZES)
        return Errors(tuple(ops.relative_error(values, after) for after in rounded))

    return _kept.get(key, make)


def block_sizes(chosen: Matrix, size: int) -> Card:
    """The error of the whole matrix at every block size that bitsandbytes knows."""
    values, errors = chosen.values, list(_errors(chosen).values)
    bits = [ops.bits_per_weight(4, s) for s in SIZES]
    here = SIZES.index(size)
    once, twice = scale_bytes(values, chosen.kind, size)
    return Card(
        key="blocks",
        title=f"Blocks of {size}: an error of {errors[here]:.1%}, {bits[here]:.3g} bits a weight with the scales",
        alt=f"Line: relative error of {chosen.name} at {chosen.kind} over block sizes from {SIZES[0]} to {SIZES[-1]}: "
        + ", ".join(f"{s}: {e:.1%}" for s, e in zip(SIZES, errors, strict=True)),
        badge=Badge.LIVE,
        figure=lines(
            list(SIZES),
            {chosen.kind: [100 * error for error in errors]},
            colors={chosen.kind: "quantization_error"},
            x_name="weights in a block",
            y_name="‖difference‖ / ‖weights‖, %",
            log_x=True,
            mark_x=size,
            zero=True,
            height=280,
        ).update_xaxes(tickmode="array", tickvals=SIZES, ticktext=[str(s) for s in SIZES]),
        table={"block size": list(SIZES), "relative error": errors, "bits per weight": bits},
        shown={"errors": errors, "bits": bits, "bytes of scales": [once, twice]},
        oracle=Oracle(
            f"The error at every block size, with the nearest of the published levels of {chosen.kind} times the "
            "largest magnitude of each block, by torch and without bitsandbytes; the bits, and the bytes of the "
            "scales, from how many blocks there are.",
            lambda: _blocks_again(chosen, size),
            {
                "errors": 1e-5,
                "bits": 32 / values.size,
                "bytes of scales": 0,
            },  # of a last block that is not full
        ),
        code=code(_start(chosen), _BLOCKS, sizes=SIZES, size=size, kind=precision(chosen.kind).code_book),
        note=f"{chosen.name}: {values.size:,} weights. Each block stores one 32-bit scale: 4 + 32 / {size} bits. "
        f"All scales take {once:,} bytes; by double quantization {twice:,}, for {4 + 8 * twice / values.size:.3g} bits "
        "a weight.",
    )


def _blocks_again(chosen: Matrix, shown: int) -> dict[str, Any]:
    weights, levels = _again(chosen)
    errors, bits = [], []
    for size in SIZES:
        away = blockwise.rounded(weights, levels, size) - weights
        errors.append(float(torch.linalg.vector_norm(away) / torch.linalg.vector_norm(weights)))
        bits.append(4 + 32 * len(blockwise.in_blocks(weights, size).absmax) / weights.numel())
    count = -(
        -weights.numel() // shown
    )  # scales; doubly quantized, a byte each, a float for 256, and their mean
    scales = [4 * count, count + 4 * -(-count // 256) + 4]
    return {"errors": errors, "bits": bits, "bytes of scales": scales}


def _again(chosen: Matrix) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix and the published levels, in double precision."""
    weights = blockwise.stored(chosen.loaded, chosen.part, chosen.layer)
    return weights, blockwise.code_book(precision(chosen.kind).code_book)


@dataclass(frozen=True, eq=False)
class Outlier:
    """The block of a matrix whose largest weight stands out most.

    block     size: its weights          place    where in it the largest one is      number  which block it is
    stands    absmax / root mean square  with_it, without  the block after quantization; `without` it, its place is 0
    """

    block: Array
    place: int
    number: int
    stands: float
    with_it: Array
    without: Array

    @property
    def others(self) -> NDArray[np.bool_]:
        result: NDArray[np.bool_] = np.arange(self.block.size) != self.place
        return result

    @property
    def errors(self) -> tuple[float, float]:
        """Root mean square error of the other weights, with the outlier in the block and without."""
        kept = self.others
        first, second = (after[kept] - self.block[kept] for after in (self.with_it, self.without))
        return float(np.sqrt((first**2).mean())), float(np.sqrt((second**2).mean()))


def find(chosen: Matrix, size: int) -> Outlier:
    """The most peaked block of a matrix, quantized by bitsandbytes as it is and with its largest weight at 0."""
    values = chosen.values.ravel()
    whole = values[: values.size // size * size] if values.size >= size else values
    stands = ops.peakiness(whole, size)
    number = int(stands.argmax())
    block = np.array(whole[number * size : (number + 1) * size])
    place = int(np.abs(block).argmax())
    emptied = block.copy()
    emptied[place] = 0
    after = [quantize(x[None], chosen.kind, size).values[0] for x in (block, emptied)]
    return Outlier(block, place, number, float(stands[number]), *after)


def outlier(chosen: Matrix, size: int) -> Card:
    """The other weights of the most peaked block, before and after, with the outlier and without it."""
    found = find(chosen, size)
    others, (bad, good) = found.others, found.errors
    ratio = bad / good if good else float("inf")
    names = ("with the outlier", "without it")
    rest = found.block[others]
    return Card(
        key="outlier",
        title=f"One weight, {found.stands:.1f} times its block's RMS, makes the error of the other {len(rest)} "
        f"{ratio:.2g} times as large",
        alt=f"Points: {len(rest)} weights before and after {chosen.kind}. With the outlier in the block the steps are "
        f"wide, without it narrow; root mean square errors {bad:.3g} and {good:.3g}.",
        badge=Badge.LIVE,
        figure=staircase(
            rest,
            dict(zip(names, (found.with_it[others], found.without[others]), strict=True)),
            colors=dict(zip(names, ("key", "query"), strict=True)),
            x_name="weight before",
            y_name=f"after {chosen.kind}",
        ),
        table={
            "place in the block": [int(i) for i in np.flatnonzero(others)],
            "weight": [float(x) for x in rest],
            f"after, {names[0]}": [float(x) for x in found.with_it[others]],
            f"after, {names[1]}": [float(x) for x in found.without[others]],
        },
        shown={
            "block": found.number,
            "outlier": found.block[found.place],
            "places": np.flatnonzero(others),
            "weights": rest,
            "with": found.with_it[others],
            "without": found.without[others],
        },
        oracle=Oracle(
            "The block whose largest norm is most times its quadratic mean, by torch; both versions of it as absmax · "
            f"the nearest of the published levels of {chosen.kind}, without bitsandbytes.",
            lambda: _outlier_again(chosen, size, found),
            {
                **dict.fromkeys(("block", "outlier", "places", "weights"), 0.0),
                "with": SINGLE * float(np.abs(found.block).max()),
                "without": SINGLE * float(np.abs(rest).max(initial=0)),
            },
        ),
        code=code(_start(chosen), _OUTLIER, size=size),
        atol=min(1e-4, 0.01 * float(np.abs(rest).max(initial=0)) + EXACT),
        note=f"Block {found.number} of {chosen.name}. The outlier, {found.block[found.place]:.4g}, is not drawn; "
        f"root mean square error of the others: {bad:.3g} with it, {good:.3g} without.",
    )


def _outlier_again(chosen: Matrix, size: int, given: Outlier) -> dict[str, Any]:
    weights, levels = _again(chosen)
    number = int(at_ranks([given.number], blockwise.peaks(weights, size), EXACT)[0])
    block = weights.flatten()[number * size : (number + 1) * size]
    place = int(block.abs().argmax())
    others = torch.arange(len(block)) != place
    both = ((block, given.with_it), (block * others, given.without))
    after = [blockwise.rounded(x, levels, size, torch.tensor(shown))[others] for x, shown in both]
    return {
        "block": number,
        "outlier": block[place],
        "places": others.nonzero()[:, 0],
        "weights": block[others],
        "with": after[0],
        "without": after[1],
    }


def _start(chosen: Matrix) -> str:
    """The weight as (output, input) in `weight`, and a function that quantizes with the levels bitsandbytes uses."""
    loaded = chosen.loaded
    lines_ = script.preamble(loaded, precision=half_name(loaded))
    lines_ += "\n".join(script.model_lines(loaded, chosen.kind, "quantized")) + "\n"
    return code(lines_, _HEAD, module=path(loaded, chosen.part, chosen.layer))


_HEAD = """
    module = model.get_submodule("{module}")
    weight = module.weight.detach().float()
    if type(module).__name__ == "Conv1D":  # GPT-2 stores (input, output)
        weight = weight.T
    flat = weight.flatten()
    levels = quantized.get_submodule("{module}").weight.quant_state.code.cpu().sort().values
    middles = (levels[1:] + levels[:-1]) / 2


    def rounded(values, size):
        '''Each value as absmax of its block times the level nearest to it.'''
        padded = torch.nn.functional.pad(values, (0, -len(values) % size)).view(-1, size)
        absmax = padded.abs().amax(1, keepdim=True).clamp(min=1e-30)
        return (absmax * levels[torch.bucketize(padded * (1 / absmax), middles)]).flatten()[: len(values)]
"""

_BLOCKS = """
    from bitsandbytes import functional

    errors = [float((rounded(flat, size) - flat).norm() / flat.norm()) for size in {sizes}]
    _, twice = functional.quantize_4bit(flat, blocksize={size}, quant_type="{kind}", compress_statistics=True)
    scales = twice.absmax, twice.state2.absmax, twice.offset
    nbytes = [4 * len(twice.absmax), sum(tensor.nbytes for tensor in scales)]
    result = {{"errors": errors, "bits": [4 + 32 / size for size in {sizes}], "bytes of scales": nbytes}}
    print(result)
"""

_OUTLIER = """
    size = {size}
    blocks = flat[: len(flat) // size * size].view(-1, size)
    number = int((blocks.abs().amax(1) / blocks.square().mean(1).sqrt()).argmax())
    block = blocks[number]
    place = block.abs().argmax()
    others = torch.arange(size) != place
    result = {{"block": number, "outlier": block[place], "places": others.nonzero()[:, 0], "weights": block[others],
              "with": rounded(block, size)[others], "without": rounded(block * others, size)[others]}}
    print([(result[which] - block[others]).square().mean().sqrt() for which in ("with", "without")])
"""

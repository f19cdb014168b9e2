"""A piece of a real weight matrix before and after 4-bit quantization, and the code book behind it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.chapters.c15_quantization.pair import OfModel, code
from engine.chapters.c15_quantization.weights import NAMES, Packed, half_name, path, quantize, weight
from engine.evidence import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import blockwise
from engine.evidence.rounding import counted
from engine.figures import histogram
from engine.figures.quantization import tiles
from engine.figures.theme import NEUTRAL
from engine.model.loaded import Loaded
from engine.model.precisions import precision
from engine.model.trace import Array
from engine.ops import quantization as ops

ROWS, COLUMNS, SIZE = 16, 64, 64

BINS = 101
"""Of the histogram, from -1 to 1."""

SINGLE = 1e-6
"""How exactly bitsandbytes' single-precision numbers are known, the largest of them being 1."""


@dataclass(frozen=True)
class Where(OfModel):
    """A tile: `ROWS` output rows from `row`, `COLUMNS` inputs from `column`, of one linear layer at one code book.

    `loaded` holds the 16-bit weights that bitsandbytes starts from; `kind` is a precision with a code book.
    """

    part: str
    layer: int
    kind: str
    row: int = 0
    column: int = 0

    @property
    def name(self) -> str:
        return f"{NAMES[self.part]}, layer {self.layer}"

    @property
    def rows(self) -> Array:
        """The whole rows that the tile lies in, (output row, input)."""
        return weight(self.loaded, self.part, self.layer)[self.row : self.row + ROWS]

    @property
    def view(self) -> tuple[slice, slice]:
        return slice(None), slice(self.column, self.column + COLUMNS)


def steps(loaded: Loaded, part: str, layer: int) -> tuple[int, int]:
    """How many tiles fit a matrix downwards and across; a last narrow one counts."""
    outputs, inputs = weight(loaded, part, layer).shape
    return -(-outputs // ROWS), -(-inputs // COLUMNS)


def tile(where: Where) -> Card:
    """Weights, what 4 bits made of them, and the difference."""
    before = where.rows
    packed = quantize(before, where.kind, SIZE)
    old, new = before[where.view], packed.values[where.view]
    error = new - old
    lost = ops.relative_error(old, new)
    shown = {"before": old, "after": new, "difference": error} | _behind(where, packed)
    most = SINGLE * float(shown["absmax"].max(initial=0))
    return Card(
        key="tile",
        title=f"{where.name}: {where.kind} moves these weights by {lost:.1%} of their size",
        alt=f"Three heat maps of {old.shape[0]} by {old.shape[1]} weights: before, after {where.kind}, and the "
        f"difference, at most {np.abs(error).max():.3g}.",
        badge=Badge.LIVE,
        figure=tiles(
            {"weights in the checkpoint": old, f"after {where.kind}": new, "difference": error},
            first_row=where.row,
            first_column=where.column,
            x_name="input",
            y_name="output",
        ),
        table=_table(where, shown),
        shown=shown,
        oracle=Oracle(
            f"The checkpoint's own numbers, and for each of them the nearest of the published levels of {where.kind} "
            "times the largest magnitude of its block, by torch and without bitsandbytes.",
            lambda: _tile_again(where, torch.tensor(shown["index"])),
            {"before": 0, "after": most, "difference": most, "index": 0, "level": SINGLE, "absmax": 0},
        ),
        code=_script(where, _TILE, column=where.column, width=COLUMNS),
        note=f"The difference has a colour scale of its own. Each row of {COLUMNS} is one block with one scale."
        if before.shape[1] % SIZE == 0
        else "The difference has a colour scale of its own.",
    )


def _behind(where: Where, packed: Packed) -> dict[str, np.ndarray]:
    """Index, level and absmax of every weight of the tile, shaped like it."""
    shape = packed.values.shape
    absmax = np.repeat(packed.absmax, SIZE)[: packed.index.size].reshape(shape)[where.view]
    index = packed.index.reshape(shape)[where.view]
    return {"index": index, "level": packed.code[index], "absmax": absmax}


def _table(where: Where, shown: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    row, column = np.indices(shown["before"].shape)
    columns = {
        "weight": shown["before"],
        "index": shown["index"],
        "level": shown["level"],
        "absmax of its block": shown["absmax"],
        "after": shown["after"],
    }
    return {
        "output": [int(x) + where.row for x in row.ravel()],
        "input": [int(x) + where.column for x in column.ravel()],
    } | {name: values.ravel().tolist() for name, values in columns.items()}


def _tile_again(where: Where, asked: torch.Tensor) -> dict[str, Any]:
    rows = blockwise.stored(where.loaded, where.part, where.layer)[where.row : where.row + ROWS]
    blocks = blockwise.in_blocks(rows, SIZE)
    levels = blockwise.code_book(precision(where.kind).code_book)

    def cut(values: torch.Tensor) -> torch.Tensor:
        return values.flatten()[: rows.numel()].view(rows.shape)[where.view]

    before, absmax = rows[where.view], cut(blocks.absmax.expand_as(blocks.weights))
    index = blockwise.nearest(cut(blocks.scaled), levels, asked).view(before.shape)
    after = absmax * levels[index]
    return {
        "before": before,
        "after": after,
        "difference": after - before,
        "index": index,
        "level": levels[index],
        "absmax": absmax,
    }


def code_book(where: Where) -> Card:
    """The 16 levels over the weights they stand for, each weight divided by its block's absmax."""
    before = where.rows
    packed = quantize(before, where.kind, SIZE)
    cut = ops.blocks(before.astype(np.float64), SIZE)
    largest = np.abs(cut).max(axis=1, keepdims=True)
    scaled = (cut / np.where(largest > 0, largest, 1)).ravel()[: before.size]
    share = np.bincount(packed.index, minlength=16) / packed.index.size
    used = share[share > 0]
    information = float(-(used * np.log2(used)).sum())
    figure = histogram(
        {"weights / absmax": scaled},
        bins=BINS,
        span=(-1.0, 1.0),
        colors={"weights / absmax": "query"},
        x_name="weight / absmax of its block",
        y_name="weights",
    )
    for level in packed.code:
        figure.add_vline(x=float(level), line={"color": NEUTRAL, "width": 1.5, "dash": "dot"})
    return Card(
        key="code",
        title=f"The {_different(packed.code)} levels of {where.kind} over the weights they replace: {information:.2f} "
        "of 4 bits are used",
        alt=f"Histogram of {before.size:,} weights divided by their block's largest magnitude, with a dotted line at "
        f"each level of the {where.kind} code book.",
        badge=Badge.LIVE,
        figure=figure,
        table={
            "index": list(range(16)),
            "level": [float(x) for x in packed.code],
            "share of weights": [float(x) for x in share],
        },
        shown={
            "bins": np.histogram(scaled, np.linspace(-1, 1, BINS + 1))[0],
            "levels": packed.code,
            "share": share,
        },
        oracle=Oracle(
            f"The published levels of {where.kind}, how many weights lie in each bin, and how many are nearest to "
            "each level: counted by torch in double precision. (Of weights half-way between two levels, bitsandbytes "
            "is asked where it puts them.)",
            lambda: _code_again(where),
            {"bins": 0, "levels": SINGLE, "share": counted(before.size)},
        ),
        code=_script(where, _CODE_BOOK, bins=BINS),
        note=f"All inputs of output rows {where.row} to {where.row + len(before) - 1}. Bits used: the entropy of the "
        "indices; 4 would mean that every level is taken equally often.",
    )


def _different(levels: np.ndarray) -> int:
    """How many of the levels differ: FP4 has a 0 with either sign."""
    return len({float(level) for level in levels})


def _code_again(where: Where) -> dict[str, Any]:
    rows = blockwise.stored(where.loaded, where.part, where.layer)[where.row : where.row + ROWS]
    levels = blockwise.code_book(precision(where.kind).code_book)
    scaled = blockwise.in_blocks(rows, SIZE).scaled.flatten()[: rows.numel()]
    asked = torch.tensor(quantize(rows.float().numpy(), where.kind, SIZE).index)
    index = blockwise.nearest(scaled, levels, asked)
    edges = torch.arange(1, BINS, dtype=torch.float64) * (2 / BINS) - 1  # between the bins
    return {
        "bins": torch.bucketize(scaled, edges, right=True).bincount(minlength=BINS),
        "levels": levels,
        "share": index.bincount(minlength=16).double() / len(index),
    }


def _script(where: Where, body: str, **values: object) -> str:
    loaded = where.loaded
    start = script.preamble(loaded, precision=half_name(loaded))
    start += "\n".join(script.model_lines(loaded, where.kind, "quantized")) + "\n"
    module = path(loaded, where.part, where.layer)
    return code(start, _UNPACK, module=module, row=where.row, rows=ROWS) + code("", body, **values)


_UNPACK = """
    module = model.get_submodule("{module}")
    weight = module.weight.detach().double()
    if type(module).__name__ == "Conv1D":  # GPT-2 stores (input, output)
        weight = weight.T
    # Before its first pass a 4-bit layer holds two indices in each byte and one absmax for each 64 weights.
    packed = quantized.get_submodule("{module}").weight
    halves = packed.data.cpu().flatten()
    index = torch.stack([halves >> 4, halves & 15], dim=1).flatten().long()[: weight.numel()].view(weight.shape)
    levels, absmax = packed.quant_state.code.cpu(), packed.quant_state.absmax.cpu()
    absmax = absmax.repeat_interleave(64)[: weight.numel()].view(weight.shape)
    rows = slice({row}, {row} + {rows})
"""

_TILE = """
    columns = slice({column}, {column} + {width})
    before, index, absmax = (x[rows, columns] for x in (weight, index, absmax))
    after = levels[index] * absmax
    result = {{"before": before, "after": after, "difference": after - before,
              "index": index, "level": levels[index], "absmax": absmax}}
    print(result["after"])
"""

_CODE_BOOK = """
    scaled = (weight / absmax)[rows].flatten()
    edges = torch.arange(1, {bins}).double() * (2 / {bins}) - 1
    share = index[rows].flatten().bincount(minlength=16) / scaled.numel()
    result = {{"bins": torch.bucketize(scaled, edges, right=True).bincount(minlength={bins}),
              "levels": levels, "share": share}}
    print(result)
"""

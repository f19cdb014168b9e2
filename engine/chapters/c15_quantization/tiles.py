"""A piece of a real weight matrix before and after 4-bit quantization, and the code book behind it."""

from dataclasses import dataclass

import numpy as np

from engine.chapters.c15_quantization.pair import code
from engine.chapters.c15_quantization.weights import NAMES, Packed, by_hand, path, quantize, weight
from engine.evidence import script
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.comparing import max_difference
from engine.figures import histogram
from engine.figures.quantization import tiles
from engine.figures.theme import NEUTRAL
from engine.model.loaded import Loaded
from engine.model.trace import Array
from engine.ops import quantization as ops

ROWS, COLUMNS, SIZE = 16, 64, 64


@dataclass(frozen=True)
class Where:
    """A tile: `ROWS` output rows from `row`, `COLUMNS` inputs from `column`, of one linear layer at one code book.

    `loaded` holds the 16-bit weights that bitsandbytes starts from; `kind` is a precision with a code book.
    """

    loaded: Loaded
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
        table=_table(where, packed, old, new),
        prove=lambda: _prove_tile(where, packed, new),
        code=_script(where, _TILE, column=where.column, width=COLUMNS),
        numbers={"after": new},
        atol=1e-6,
        note=f"The difference has a colour scale of its own. Each row of {COLUMNS} is one block with one scale."
        if before.shape[1] % SIZE == 0
        else "The difference has a colour scale of its own.",
    )


def _table(where: Where, packed: Packed, old: Array, new: Array) -> dict[str, list[float]]:
    index = packed.index.reshape(packed.values.shape)[where.view].ravel()
    row, column = np.indices(old.shape)
    width = packed.values.shape[1]
    place = ((row + 0) * width + column + where.column).ravel() // SIZE
    return {
        "output": [int(x) + where.row for x in row.ravel()],
        "input": [int(x) + where.column for x in column.ravel()],
        "weight": [float(x) for x in old.ravel()],
        "index": [int(x) for x in index],
        "level": [float(x) for x in packed.code[index]],
        "absmax of its block": [float(x) for x in packed.absmax[place]],
        "after": [float(x) for x in new.ravel()],
    }


def _prove_tile(where: Where, packed: Packed, shown: Array) -> Proof:
    again = ops.dequantize(packed.index, packed.code, packed.absmax, SIZE).reshape(packed.values.shape)
    return Proof(
        "What bitsandbytes dequantizes against absmax · code[index], multiplied out from the packed bytes.",
        max_difference(again[where.view], shown),
        1e-6,
    )


def code_book(where: Where) -> Card:
    """The 16 levels over the weights they stand for, each weight divided by its block's absmax."""
    before = where.rows
    packed = quantize(before, where.kind, SIZE)
    cut = ops.blocks(before, SIZE)
    scaled = (cut / np.maximum(np.abs(cut).max(axis=1, keepdims=True), 1e-30)).ravel()[: before.size]
    share = np.bincount(packed.index, minlength=16) / packed.index.size
    used = share[share > 0]
    information = float(-(used * np.log2(used)).sum())
    figure = histogram(
        {"weights / absmax": scaled},
        bins=101,
        span=(-1.0, 1.0),
        colors={"weights / absmax": "query"},
        x_name="weight / absmax of its block",
        y_name="weights",
    )
    for level in packed.code:
        figure.add_vline(x=float(level), line={"color": NEUTRAL, "width": 1.5, "dash": "dot"})
    return Card(
        key="code",
        title=f"The 16 levels of {where.kind} over the weights they replace: {information:.2f} of 4 bits are used",
        alt=f"Histogram of {before.size:,} weights divided by their block's largest magnitude, with a dotted line at "
        f"each level of the {where.kind} code book.",
        badge=Badge.LIVE,
        figure=figure,
        table={
            "index": list(range(16)),
            "level": [float(x) for x in packed.code],
            "share of weights": [float(x) for x in share],
        },
        prove=lambda: _prove_code(before, packed),
        code=_script(where, _CODE_BOOK),
        numbers={"levels": packed.code, "share": share},
        atol=1e-4,
        note=f"All inputs of output rows {where.row} to {where.row + len(before) - 1}. Bits used: the entropy of the "
        "indices; 4 would mean that every level is taken equally often.",
    )


def _prove_code(before: Array, packed: Packed) -> Proof:
    away = np.abs(by_hand(before, packed.code, SIZE) - before)  # a weight half-way may go to either side
    return Proof(
        "How far bitsandbytes moves every weight, against the way to the level nearest to it, found without it.",
        max_difference(away, np.abs(packed.values - before)),
        1e-3 * float(np.abs(before).max()),
    )


def _script(where: Where, body: str, **values: object) -> str:
    start = script.preamble(where.loaded, precision=where.kind)
    module = path(where.loaded, where.part, where.layer)
    return code(start, _UNPACK, module=module, row=where.row, rows=ROWS) + code("", body, **values)


_UNPACK = """
    # Before its first pass a 4-bit layer holds two indices in each byte and one absmax for each 64 weights.
    weight = model.get_submodule("{module}").weight
    state = weight.quant_state
    packed = weight.data.cpu().flatten()
    index = torch.stack([packed >> 4, packed & 15], dim=1).flatten().long()
    levels, absmax = state.code.cpu(), state.absmax.cpu()
    first, last = {row} * state.shape[1], ({row} + {rows}) * state.shape[1]
"""

_TILE = """
    after = levels[index] * absmax.repeat_interleave(64)[: len(index)]
    result = {{"after": after.view(state.shape)[first // state.shape[1] : last // state.shape[1],
                                               {column} : {column} + {width}]}}
    print(result["after"])
"""

_CODE_BOOK = """
    counts = index[first:last].bincount(minlength=16)
    result = {"levels": levels, "share": counts / counts.sum()}
    print(result)
"""

"""Cards of the chapter on quantization: two precisions of one checkpoint, and what rounding does to its weights."""

from engine.cards.quantization.blocks import Matrix, block_sizes, outlier
from engine.cards.quantization.clock import Timings, measure, measured, time
from engine.cards.quantization.compare import DRIFTS, drift, kl, next_token
from engine.cards.quantization.cost import inventory, size
from engine.cards.quantization.large import scale
from engine.cards.quantization.pair import BITSANDBYTES, Pair, repacked
from engine.cards.quantization.passage import Reading, cut, perplexity, read
from engine.cards.quantization.simulate import curve, simulated, sweep
from engine.cards.quantization.tiles import Where, code_book, steps, tile
from engine.cards.quantization.weights import SIZES, half_name, matrices
from engine.cards.quantization.writing import Choices, Writing, segments, text, write, written

__all__ = [
    "BITSANDBYTES",
    "DRIFTS",
    "SIZES",
    "Choices",
    "Matrix",
    "Pair",
    "Reading",
    "Timings",
    "Where",
    "Writing",
    "block_sizes",
    "code_book",
    "curve",
    "cut",
    "drift",
    "half_name",
    "inventory",
    "kl",
    "matrices",
    "measure",
    "measured",
    "next_token",
    "outlier",
    "perplexity",
    "read",
    "repacked",
    "scale",
    "segments",
    "simulated",
    "size",
    "steps",
    "sweep",
    "text",
    "tile",
    "time",
    "write",
    "written",
]

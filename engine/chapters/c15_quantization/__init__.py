"""Cards of the chapter on quantization: two precisions of one checkpoint, and what rounding does to its weights."""

from engine.chapters.c15_quantization.blocks import Matrix, block_sizes, outlier
from engine.chapters.c15_quantization.clock import Timings, measure, time
from engine.chapters.c15_quantization.columns import Entering, decomposed, most, outlier_columns, threshold
from engine.chapters.c15_quantization.compare import DRIFTS, drift, kl, next_token
from engine.chapters.c15_quantization.cost import inventory, size
from engine.chapters.c15_quantization.disk import KINDS, Place, disk, fullest, in_file, types
from engine.chapters.c15_quantization.formats import formats, one_matrix, try_all
from engine.chapters.c15_quantization.large import scale
from engine.chapters.c15_quantization.number import SIZE, Weight, middle, number
from engine.chapters.c15_quantization.overview import Point, overview, points
from engine.chapters.c15_quantization.pair import Get, Pair, repacked
from engine.chapters.c15_quantization.passage import Reading, Window, cut, perplexity, read, small
from engine.chapters.c15_quantization.simulate import curve, simulated, sweep
from engine.chapters.c15_quantization.tiles import Where, code_book, steps, tile
from engine.chapters.c15_quantization.weights import SIZES, half_name, matrices
from engine.chapters.c15_quantization.writing import Choices, Writing, segments, text, write, written

__all__ = [
    "DRIFTS",
    "KINDS",
    "SIZE",
    "SIZES",
    "Choices",
    "Entering",
    "Get",
    "Matrix",
    "Pair",
    "Place",
    "Point",
    "Reading",
    "Timings",
    "Weight",
    "Where",
    "Window",
    "Writing",
    "block_sizes",
    "code_book",
    "curve",
    "cut",
    "decomposed",
    "disk",
    "drift",
    "formats",
    "fullest",
    "half_name",
    "in_file",
    "inventory",
    "kl",
    "matrices",
    "measure",
    "middle",
    "most",
    "next_token",
    "number",
    "one_matrix",
    "outlier",
    "outlier_columns",
    "overview",
    "perplexity",
    "points",
    "read",
    "repacked",
    "scale",
    "segments",
    "simulated",
    "size",
    "small",
    "steps",
    "sweep",
    "text",
    "threshold",
    "tile",
    "time",
    "try_all",
    "types",
    "write",
    "written",
]

"""Chapter 7: optimizers on surfaces, in a plane of the real loss, and on the whole model."""

from engine.chapters.c07_optimizers.matrix import matrix
from engine.chapters.c07_optimizers.one_text import RATES, changed, curves, trained, writing
from engine.chapters.c07_optimizers.plane import REACH, cuts, plane, survey
from engine.chapters.c07_optimizers.toy import curvature, noisy, surface

__all__ = [
    "RATES",
    "REACH",
    "changed",
    "curvature",
    "curves",
    "cuts",
    "matrix",
    "noisy",
    "plane",
    "surface",
    "survey",
    "trained",
    "writing",
]

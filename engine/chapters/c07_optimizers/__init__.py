"""Chapter 7: optimizers on surfaces, in a plane of the real loss, and on the whole model."""

from engine.chapters.c07_optimizers.matrix import matrix
from engine.chapters.c07_optimizers.momentum import BETAS, momentum
from engine.chapters.c07_optimizers.momentum import RATES as MOMENTUM_RATES
from engine.chapters.c07_optimizers.one_text import RATES, changed, curves, trained, writing
from engine.chapters.c07_optimizers.plane import REACH, cuts, plane, survey
from engine.chapters.c07_optimizers.toy import curvature, noisy, surface
from engine.chapters.c07_optimizers.turned import ANGLES, TURNABLE, turned

__all__ = [
    "ANGLES",
    "BETAS",
    "MOMENTUM_RATES",
    "RATES",
    "REACH",
    "TURNABLE",
    "changed",
    "curvature",
    "curves",
    "cuts",
    "matrix",
    "momentum",
    "noisy",
    "plane",
    "surface",
    "survey",
    "trained",
    "turned",
    "writing",
]

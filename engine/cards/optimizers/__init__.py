"""Chapter 7: optimizers on surfaces, in a plane of the real loss, and on the whole model."""

from engine.cards.optimizers.matrix import matrix
from engine.cards.optimizers.plane import REACH, cuts, plane, survey
from engine.cards.optimizers.toy import curvature, noisy, surface
from engine.cards.optimizers.tune import RATES, before, changed, curves, tuned, writing

__all__ = [
    "RATES",
    "REACH",
    "before",
    "changed",
    "curvature",
    "curves",
    "cuts",
    "matrix",
    "noisy",
    "plane",
    "surface",
    "survey",
    "tuned",
    "writing",
]

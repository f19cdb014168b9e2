"""Chapter 6: a graph of derivatives, and the gradients of the loaded model."""

from engine.chapters.c06_backprop.blame import ORDERS, blame
from engine.chapters.c06_backprop.loss import loss
from engine.chapters.c06_backprop.loss_example import example, favourites
from engine.chapters.c06_backprop.norms import MEASURES, norms
from engine.chapters.c06_backprop.outer import outer
from engine.chapters.c06_backprop.step import RATES, small_rate, step
from engine.chapters.c06_backprop.toy import STEPS, toy
from engine.chapters.c06_backprop.weight import matrices, shape, steepest, weight

__all__ = [
    "MEASURES",
    "ORDERS",
    "RATES",
    "STEPS",
    "blame",
    "example",
    "favourites",
    "loss",
    "matrices",
    "norms",
    "outer",
    "shape",
    "small_rate",
    "steepest",
    "step",
    "toy",
    "weight",
]

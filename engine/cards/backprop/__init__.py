"""Chapter 6: a graph of derivatives, and the gradients of the loaded model."""

from engine.cards.backprop.blame import ORDERS, blame
from engine.cards.backprop.common import example
from engine.cards.backprop.loss import loss
from engine.cards.backprop.norms import MEASURES, norms
from engine.cards.backprop.step import RATES, step
from engine.cards.backprop.toy import STEPS, toy
from engine.cards.backprop.weight import matrices, shape, weight

__all__ = [
    "MEASURES",
    "ORDERS",
    "RATES",
    "STEPS",
    "blame",
    "example",
    "loss",
    "matrices",
    "norms",
    "shape",
    "step",
    "toy",
    "weight",
]

"""Chapter 8: one attention head, from the residual stream to the logits."""

from engine.cards.attention.head import PARTS
from engine.cards.attention.outputs import output_projection, promoted, values
from engine.cards.attention.scores import STAGES, head_map, product, row
from engine.cards.attention.vectors import projection, vectors
from engine.cards.attention.walk import STEPS, walk

__all__ = [
    "PARTS",
    "STAGES",
    "STEPS",
    "head_map",
    "output_projection",
    "product",
    "projection",
    "promoted",
    "row",
    "values",
    "vectors",
    "walk",
]

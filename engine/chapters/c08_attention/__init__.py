"""Chapter 8: one attention head, from the residual stream to the logits."""

from engine.chapters.c08_attention.outputs import output_projection, promoted, values
from engine.chapters.c08_attention.scores import STAGES, head_map, product, row
from engine.chapters.c08_attention.vectors import projection, vectors
from engine.chapters.c08_attention.walk import STEPS, walk
from engine.model.head import PARTS

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

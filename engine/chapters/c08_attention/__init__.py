"""Chapter 8: one attention head, from the residual stream to the logits."""

from engine.chapters.c08_attention.examples import Instance, loudest, previous_token, unlike, voter
from engine.chapters.c08_attention.outputs import output_projection, promoted, values
from engine.chapters.c08_attention.scores import STAGES, head_map, product, row
from engine.chapters.c08_attention.vectors import has_bias, projection, vectors
from engine.chapters.c08_attention.walk import STEPS, walk
from engine.model.head import PARTS

__all__ = [
    "PARTS",
    "STAGES",
    "STEPS",
    "Instance",
    "has_bias",
    "head_map",
    "loudest",
    "output_projection",
    "previous_token",
    "product",
    "projection",
    "promoted",
    "row",
    "unlike",
    "values",
    "vectors",
    "voter",
    "walk",
]

"""Chapter 2: rows of the embedding matrix, what their directions tell, and what context does to them."""

from engine.chapters.c02_embeddings.analogies import categories, one, usable
from engine.chapters.c02_embeddings.map import token_map
from engine.chapters.c02_embeddings.matrix import pieces, table
from engine.chapters.c02_embeddings.nearest import against_all, closest, forms, neighbours
from engine.chapters.c02_embeddings.positions import added, curve, similarity
from engine.chapters.c02_embeddings.rows import row
from engine.chapters.c02_embeddings.scoring import failures, score
from engine.chapters.c02_embeddings.sentences import MOST, drift, senses

__all__ = [
    "MOST",
    "added",
    "against_all",
    "categories",
    "closest",
    "curve",
    "drift",
    "failures",
    "forms",
    "neighbours",
    "one",
    "pieces",
    "row",
    "score",
    "senses",
    "similarity",
    "table",
    "token_map",
    "usable",
]

"""Chapter 2: rows of the embedding matrix, what their directions tell, and what context does to them."""

from engine.cards.embeddings.analogies import categories, one, usable
from engine.cards.embeddings.map import token_map
from engine.cards.embeddings.matrix import pieces, table
from engine.cards.embeddings.nearest import forms, neighbours
from engine.cards.embeddings.positions import added, curve, similarity
from engine.cards.embeddings.rows import lengths, row
from engine.cards.embeddings.scoring import failures, score
from engine.cards.embeddings.sentences import drift

__all__ = [
    "added",
    "categories",
    "curve",
    "drift",
    "failures",
    "forms",
    "lengths",
    "neighbours",
    "one",
    "pieces",
    "row",
    "score",
    "similarity",
    "table",
    "token_map",
    "usable",
]

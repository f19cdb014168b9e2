"""Chapter 2: rows of the embedding matrix, what their directions tell, and what context does to them."""

from engine.cards.embeddings.analogies import failures, fixed_list, one, score
from engine.cards.embeddings.drift import drift
from engine.cards.embeddings.map import token_map
from engine.cards.embeddings.neighbours import forms, neighbours
from engine.cards.embeddings.positions import added, curve, similarity
from engine.cards.embeddings.row import lengths, row
from engine.cards.embeddings.table import pieces, table

__all__ = [
    "added",
    "curve",
    "drift",
    "failures",
    "fixed_list",
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
]

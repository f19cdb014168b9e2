"""Cards of chapter 11: the block, its parameters, its ledger, and what is left when a part is taken out."""

from engine.chapters.c11_block.apart import apart, told
from engine.chapters.c11_block.ledger import about_norms, foldable, residual_ledger, stream_norms
from engine.chapters.c11_block.parts import diagram, parameters, scale, two_designs, unlike

__all__ = [
    "about_norms",
    "apart",
    "diagram",
    "foldable",
    "parameters",
    "residual_ledger",
    "scale",
    "stream_norms",
    "told",
    "two_designs",
    "unlike",
]

"""Chapter 1: text becomes tokens, and what the cuts do to the model."""

from engine.chapters.c01_tokenization.chips import chips
from engine.chapters.c01_tokenization.learning import learnable, training
from engine.chapters.c01_tokenization.merging import merging, pieces, sources, steps
from engine.chapters.c01_tokenization.own import own
from engine.chapters.c01_tokenization.price import MEASURES, price
from engine.chapters.c01_tokenization.roundtrip import roundtrip
from engine.chapters.c01_tokenization.space import space

__all__ = [
    "MEASURES",
    "chips",
    "learnable",
    "merging",
    "own",
    "pieces",
    "price",
    "roundtrip",
    "sources",
    "space",
    "steps",
    "training",
]

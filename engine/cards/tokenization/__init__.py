"""Chapter 1: text becomes tokens, and what the cuts do to the model."""

from engine.cards.tokenization.chips import chips
from engine.cards.tokenization.merging import merging, pieces, sources, steps
from engine.cards.tokenization.own import own
from engine.cards.tokenization.price import MEASURES, price
from engine.cards.tokenization.roundtrip import roundtrip
from engine.cards.tokenization.space import space

__all__ = ["MEASURES", "chips", "merging", "own", "pieces", "price", "roundtrip", "sources", "space", "steps"]

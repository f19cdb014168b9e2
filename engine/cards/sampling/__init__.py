"""Chapter 5: logits, what is done to them before a token is drawn, and what the draws look like."""

from engine.cards.sampling.common import display
from engine.cards.sampling.draws import draws
from engine.cards.sampling.filters import filters
from engine.cards.sampling.lens import favourites, layers
from engine.cards.sampling.logits import logits, probabilities
from engine.cards.sampling.surprisal import prompt
from engine.cards.sampling.texts import name, texts
from engine.cards.sampling.tree import ROADS, tree, turn
from engine.cards.sampling.writing import Choice, Request, complete, so_far, text, write, written

__all__ = [
    "ROADS",
    "Choice",
    "Request",
    "complete",
    "display",
    "draws",
    "favourites",
    "filters",
    "layers",
    "logits",
    "name",
    "probabilities",
    "prompt",
    "so_far",
    "text",
    "texts",
    "tree",
    "turn",
    "write",
    "written",
]

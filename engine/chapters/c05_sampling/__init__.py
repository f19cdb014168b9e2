"""Chapter 5: logits, what is done to them before a token is drawn, and what the draws look like."""

from engine.chapters.c05_sampling.beams import beams, search
from engine.chapters.c05_sampling.draws import draws
from engine.chapters.c05_sampling.filters import SURE, entropies, filters
from engine.chapters.c05_sampling.lens import ROWS, favourites, layers
from engine.chapters.c05_sampling.logits import logits, probabilities
from engine.chapters.c05_sampling.surprisal import prompt
from engine.chapters.c05_sampling.texts import name, texts
from engine.chapters.c05_sampling.tree import ROADS, tree, turn
from engine.model.capturing import display
from engine.model.writing import Choice, Request, complete, so_far, text, write, written

__all__ = [
    "ROADS",
    "ROWS",
    "SURE",
    "Choice",
    "Request",
    "beams",
    "complete",
    "display",
    "draws",
    "entropies",
    "favourites",
    "filters",
    "layers",
    "logits",
    "name",
    "probabilities",
    "prompt",
    "search",
    "so_far",
    "text",
    "texts",
    "tree",
    "turn",
    "write",
    "written",
]

"""The landing page: the whole model in one drawing, and a small figure for each station of the prompt's way."""

from engine.chapters.home.machine import machine
from engine.chapters.home.stations import blocks, logits, next_token, settled, text, tokens, vectors

__all__ = ["blocks", "logits", "machine", "next_token", "settled", "text", "tokens", "vectors"]

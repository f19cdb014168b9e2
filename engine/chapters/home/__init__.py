"""The landing page: one small figure for each station of the prompt's way through the model."""

from engine.chapters.home.stations import blocks, logits, next_token, text, tokens, vectors

__all__ = ["blocks", "logits", "next_token", "text", "tokens", "vectors"]

"""Passages that several chapters read, written for this project."""

import json
from dataclasses import dataclass
from functools import cache

from engine.tokens import ASSETS

_FOLDER = ASSETS / "texts"


@dataclass(frozen=True)
class Sentence:
    """A text and what it is: a language, or "Python", "Digits", "Emoji". The languages all say the same."""

    name: str
    text: str


@cache
def passage() -> str:
    """A short tale, about 700 words, that no checkpoint was trained on: for perplexity."""
    return (_FOLDER / "passage.txt").read_text(encoding="utf-8")


@cache
def sample() -> str:
    """A longer tale of about 1 600 words with dialogue, description, names and numbers: for neurons' top tokens."""
    return (_FOLDER / "sample.txt").read_text(encoding="utf-8")


@cache
def control_prompts() -> tuple[str, ...]:
    """Beginnings of sentences, to see what else a change to a model has changed."""
    return tuple(json.loads((_FOLDER / "control_prompts.json").read_text(encoding="utf-8")))


@cache
def sentences() -> tuple[Sentence, ...]:
    """One sentence in several languages and scripts, and some code, digits and emoji."""
    entries = json.loads((_FOLDER / "sentences.json").read_text(encoding="utf-8"))
    return tuple(Sentence(**entry) for entry in entries)

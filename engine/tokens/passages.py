"""Passages that several chapters read, written for this project."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from engine import ReaderError
from engine.tokens import ASSETS

_FOLDER = ASSETS / "texts"

Read = TypeVar("Read")


@dataclass(frozen=True)
class Sentence:
    """A text and what it is: a language, or "Python", "Digits", "Emoji". The languages all say the same."""

    name: str
    text: str


def bundled(file: Path, read: Callable[[str], Read]) -> Read:
    """What `read` makes of a bundled file's text. Raises ReaderError when it is not there, or not what it was."""
    try:
        text = file.read_text(encoding="utf-8")
        if not text.strip():
            raise ValueError("empty")
        return read(text)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ReaderError(
            f"The file {file.name} of this app is missing or damaged; install the app again."
        ) from error


@cache
def passage() -> str:
    """A short tale, about 700 words, that no checkpoint was trained on: for perplexity."""
    return bundled(_FOLDER / "passage.txt", str)


@cache
def sample() -> str:
    """A longer tale of about 1 600 words with dialogue, description, names and numbers: for neurons' top tokens."""
    return bundled(_FOLDER / "sample.txt", str)


@cache
def control_prompts() -> tuple[str, ...]:
    """Beginnings of sentences, to see what else a change to a model has changed."""
    return bundled(_FOLDER / "control_prompts.json", lambda text: tuple(map(str, json.loads(text))))


@cache
def sentences() -> tuple[Sentence, ...]:
    """One sentence in several languages and scripts, and some code, digits and emoji."""
    return bundled(
        _FOLDER / "sentences.json", lambda text: tuple(Sentence(**entry) for entry in json.loads(text))
    )

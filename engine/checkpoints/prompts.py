"""Prompts that show something on a checkpoint: the one a fresh page begins with, and examples to choose from."""

import re
from dataclasses import dataclass
from functools import cache

from engine.checkpoints.naming import short


@dataclass(frozen=True)
class Example:
    """A prompt, and the few words that say in a menu what it is."""

    label: str
    text: str


@dataclass(frozen=True)
class Prompts:
    """The prompts of one checkpoint. `default` is the text of one of the examples; labels and texts are unique."""

    default: str
    examples: tuple[Example, ...]

    def example(self, prompt: str) -> Example | None:
        """The example that has exactly this text."""
        return next((example for example in self.examples if example.text == prompt), None)


_CASTLE = Example("A king and a queen", "The king and the queen lived in a castle. The king")
_GRUBB = Example("A name nobody has heard", "There was a tailor named Grubb. One day Gr")
_TWICE = Example("A sentence said twice", "The fox met the hare in the wood. The fox met the hare in the")
_NAME = Example("A name it must remember", "When Mary and John went to the store, John gave a drink to")
_CAPITAL = Example("A capital", "The capital of France is")
_RHYME = Example("A rhyme", "The sun is bright,\nThe moon is white,\nThe stars come out at")
_PYTHON = Example("A line of Python", "def area(width, height):\n    return width *")
_PATTERN = Example("A pattern", "hot -> cold, big -> small, up ->")
_CHAT = Example("A chat", "user\nWhat is the capital of Japan?\nassistant\nThe capital of Japan is")

_BOOKS = (
    _CASTLE,
    _GRUBB,
    _TWICE,
    Example("Friends from a book", "Dorothy and the Tin"),
    Example("A set phrase", "She was the most beautiful girl in the"),
)
"""For checkpoints that were trained on children's and adventure books: the bundled ones."""

_STORIES = (
    Example("Once upon a time", "Once upon a time, there was a little girl named Lily. One day, Lily"),
    _GRUBB,
    _TWICE,
    Example("Whose ball it is", "Tom has a red ball. Sam has a blue car. Tom likes to play with his red"),
)
"""For TinyStories, which was trained on stories for small children."""

_GENERAL = (_NAME, _CAPITAL, _RHYME, _PYTHON, _PATTERN)
"""For checkpoints that were trained on the web."""

_TALKING = (*_GENERAL, _CHAT)
"""For those that were tuned to answer. The chat is a template's text without its special tokens: in a prompt, all
text is ordinary text."""

_TUNED = re.compile(r"instruct|chat|qwen3|-it$")
"""What the names of checkpoints that were tuned to answer have in common. Qwen3's speak of roles like SmolLM2's."""


def prompts_for(name: str) -> Prompts:
    """The prompts of a listed checkpoint, and what suits any other, a folder or a Hub id, by its name."""
    examples = _examples(short(name).lower())
    return Prompts(examples[0].text, examples)


def is_offered(prompt: str) -> bool:
    """Whether a prompt is one that this module offers for some checkpoint, so not a reader's own."""
    return prompt in _offered()


@cache
def _offered() -> frozenset[str]:
    every = (_BOOKS, _STORIES, _GENERAL, _TALKING)
    return frozenset(example.text for examples in every for example in examples)


def _examples(name: str) -> tuple[Example, ...]:
    if name.startswith("pocket-"):
        return _BOOKS
    if "tinystories" in name:
        return _STORIES
    return _TALKING if _TUNED.search(name) else _GENERAL

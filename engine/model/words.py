"""A word typed by the reader, as the one token that is looked up for it."""

from dataclasses import dataclass

from engine import ReaderError
from engine.model.capturing import typed
from engine.model.loaded import Loaded
from engine.tokens.encoder import encoder
from engine.tokens.text import clean_prompt, display, shorten
from engine.tokens.token import Token

LONGEST = 60
"""Characters of a word that are read."""


@dataclass(frozen=True)
class Word:
    """What a typed word became.

    text    as the reader typed it
    token   what is looked up
    spaced  whether the token begins with a space that the reader did not type
    count   tokens that the word takes in the form that was looked up; the token is the first of them
    """

    text: str
    token: Token
    spaced: bool
    count: int

    @property
    def sentence(self) -> str:
        """Which token the word became, as plain text that still needs the escaper of its sink."""
        asked, found = _quoted(display(self.text)), f"{_quoted(self.token.display)} (id {self.token.id:,})"
        if self.count > 1:
            space = " with a space before it" if self.spaced else ""
            return f"{asked}{space} is {self.count} tokens here; only the first is looked up, {found}."
        space = " with a space before it," if self.spaced else ""
        return f"{asked} is looked up{space} as the token {found}."


def word(loaded: Loaded, text: str) -> Word:
    """The token that a typed word is looked up as: never one that the tokenizer puts before every text.

    Inside a sentence a word begins with a space, so a space is tried in front of it first; where that is several
    tokens and the bare word is one, the bare word is taken. A text that begins with a space of its own, or that has no
    letter and no digit, is taken as it stands. Raises ReaderError for an empty text, and where there is no token.
    """
    asked = clean_prompt(text[:LONGEST])
    if not asked:
        raise ReaderError("There is no word to look up; please type one.")
    found = [tokens for form in _forms(loaded, asked) if (tokens := _of_word(asked, typed(loaded, form)))]
    if not found:
        raise ReaderError(f"This tokenizer has no token for {_quoted(display(asked))}.")
    tokens = next((tokens for tokens in found if len(tokens) == 1), found[0])
    spaced = tokens[0].bytes.startswith(b" ") and not asked.startswith(" ")
    return Word(asked, tokens[0], spaced, len(tokens))


def _forms(loaded: Loaded, asked: str) -> list[str]:
    """Texts to encode, in the order in which they are tried."""
    if encoder(loaded.tokenizer).leading_space:  # the tokenizer itself puts one before every text
        return [asked.removeprefix(" ") or asked]
    if asked[0].isspace() or not any(char.isalnum() for char in asked):
        return [asked]
    return [f" {asked}", asked]


def _of_word(asked: str, tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """The tokens from the first one on that holds more than the space in front, where the word is more than that."""
    if not asked.strip():
        return tokens
    first = next((i for i, token in enumerate(tokens) if token.bytes.strip()), len(tokens))
    return tokens[first:]


def _quoted(text: str) -> str:
    return f"“{shorten(text, 24)}”"

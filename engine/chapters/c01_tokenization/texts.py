"""Texts and tokens as the cards of this chapter take and name them."""

from engine import ReaderError
from engine.model.capturing import start_tokens, typed
from engine.model.loaded import Loaded
from engine.tokens.text import clean_prompt
from engine.tokens.token import Token

PLAIN = {"r50k_base": "r50k", "cl100k_base": "cl100k", "o200k_base": "o200k"}
"""Short names for the axes of figures."""


def checked(text: str) -> str:
    """A text with something in it, as tokenizers will see it. Raises ReaderError for an empty or a too long one."""
    cleaned = clean_prompt(text)
    if not cleaned:
        raise ReaderError("An empty text has no tokens; please type something.")
    return cleaned


def of_text(loaded: Loaded, text: str) -> tuple[Token, ...]:
    """The tokens of a text alone, without a start token. Raises ReaderError where the tokenizer has none for it."""
    tokens = typed(loaded, text)
    if not tokens:
        raise ReaderError(f"{loaded.name} has no token for any character of this text.")
    return tokens


def start_note(loaded: Loaded) -> str:
    """A sentence about the tokens that stand before every text and that nobody typed; nothing where there are none."""
    start = start_tokens(loaded)
    if not start:
        return ""
    names = " ".join(f"{token.display} (id {token.id})" for token in start)
    return f" Before every text {loaded.name} reads {names}, which is not typed and not counted here."


def in_bytes(token: Token) -> str:
    return token.bytes.hex(" ").upper()


def is_text(token: Token) -> bool:
    """Whether a token's bytes are whole characters of UTF-8."""
    try:
        token.bytes.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def printed(token: Token) -> str:
    """A token's text for a narrow box; bytes that are no text as hexadecimal digits alone."""
    return token.display if is_text(token) else token.bytes.hex().upper()

"""tiktoken's encodings from bundled rank files: no network, no file outside the project."""

import base64
import threading
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import tiktoken
import tiktoken_ext.openai_public as published
from tiktoken.load import check_hash

from engine import ReaderError
from engine.tokens import ASSETS
from engine.tokens.text import display_bytes
from engine.tokens.token import Token

ENCODINGS = ("r50k_base", "cl100k_base", "o200k_base")

_LOCK = threading.Lock()


def encoding(name: str) -> tiktoken.Encoding:
    """One of `ENCODINGS`, built once for the process. Raises ReaderError for a rank file that was changed."""
    with _LOCK:  # a cache alone would let two readers build the same megabytes at once
        return _encoding(name)


def rank_file(name: str) -> Path:
    """The bundled rank file of an encoding: a line for each token, its bytes in base64 and its rank."""
    return ASSETS / "tokenizers" / f"{name}.tiktoken"


def encode(name: str, text: str) -> list[int]:
    """Token ids of a text in which nothing is special: a typed "<|endoftext|>" is thirteen ordinary characters."""
    return encoding(name).encode_ordinary(text)


def tokens(name: str, text: str) -> tuple[Token, ...]:
    """A text as Token values; tiktoken has no pieces besides the bytes, so `piece` is the displayed text."""
    pieces = encoding(name)
    return tuple(_token(id, pieces.decode_single_token_bytes(id)) for id in encode(name, text))


@cache
def definition(name: str) -> dict[str, Any]:
    """tiktoken's own arguments for an encoding: split pattern, special tokens, and ranks from the bundled file.

    tiktoken's constructor runs as it is, with one name replaced: the function that would download the ranks.
    The SHA-256 that it passes along is the one tiktoken pins.
    """
    constructor = published.ENCODING_CONSTRUCTORS[name]
    offline = dict(constructor.__globals__, load_tiktoken_bpe=_read_ranks)
    arguments: dict[str, Any] = FunctionType(constructor.__code__, offline)()
    return arguments


@cache
def _encoding(name: str) -> tiktoken.Encoding:
    return tiktoken.Encoding(**definition(name))


def _read_ranks(address: str, expected_hash: str) -> dict[bytes, int]:
    path = rank_file(Path(address).stem)
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    if not check_hash(content, expected_hash):
        raise ReaderError(
            f"The file {path.name} of this app is missing, or not the one that tiktoken expects; install the app again."
        )
    lines = (line.split() for line in content.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def _token(id: int, raw: bytes) -> Token:
    shown = display_bytes(raw)
    return Token(id, shown, raw, shown)

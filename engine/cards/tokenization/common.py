"""What the cards of this chapter share: checks on texts, comparisons of ids, and lines of *Code* scripts."""

import hashlib
from collections.abc import Sequence
from functools import cache

from engine import ReaderError
from engine.evidence.script import home_lines, place
from engine.model.capturing import start_tokens, typed
from engine.model.loading import Loaded
from engine.model.trace import Token
from engine.tokens import encodings
from engine.tokens.text import clean_prompt

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


def mismatch(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """How many places differ between two lists of ids; those that only one list has count as well."""
    places = sum(a != b for a, b in zip(ours, theirs, strict=False))
    return float(places + abs(len(ours) - len(theirs)))


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


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


@cache
def fingerprint(name: str) -> str:
    """SHA-256 of a bundled rank file, so that a script refuses any other."""
    return hashlib.sha256(encodings.rank_file(name).read_bytes()).hexdigest()


ENCODE = "tokenizer({text}, split_special_tokens=True, add_special_tokens=False).input_ids"
"""Python source of the ids of a text alone: nothing in it is special, and no start token is put before it."""


def tiktoken_lines(name: str, variable: str = "encoding") -> str:
    """Lines of a script that build one of tiktoken's encodings from the bundled rank file."""
    pattern = encodings.definition(name)["pat_str"]
    return (
        "import tiktoken\n"
        "from tiktoken.load import load_tiktoken_bpe\n\n"
        f"path = {str(encodings.rank_file(name))!r}\n"
        f"{variable} = tiktoken.Encoding(\n"
        f"    {name!r},\n"
        f"    pat_str={pattern!r},\n"
        f"    mergeable_ranks=load_tiktoken_bpe(path, {fingerprint(name)!r}),\n"
        "    special_tokens={},\n"
        ")\n"
    )


def tokenizer_lines(loaded: Loaded) -> str:
    """Lines of a script that load the checkpoint's own tokenizer."""
    return "".join(
        f"{line}\n"
        for line in (
            *home_lines(loaded.source),
            "from transformers import AutoTokenizer",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({place(loaded.source)})",
        )
    )

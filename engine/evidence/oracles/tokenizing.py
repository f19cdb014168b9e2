"""Texts cut into tokens once more: merges replayed in Python where figures show a library's ids, and the other way."""

import json
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate, pairwise
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from engine.model.loaded import Loaded
from engine.ops import bpe
from engine.tokens import encodings, merges
from engine.tokens.encoder import encode, encoder
from engine.tokens.text import clean_prompt

Spelled = tuple[int, bytes]
"""A token: its id, and the bytes that it stands for."""


def columns(tokens: Sequence[Spelled]) -> dict[str, list[int]]:
    """Tokens as arrays: their ids, how many bytes each has, and all their bytes in one row."""
    return {
        "ids": [id for id, _ in tokens],
        "lengths": [len(raw) for _, raw in tokens],
        "bytes": [byte for _, raw in tokens for byte in raw],
    }


def reader(loaded: Loaded, name: str) -> Callable[[str], list[Spelled]]:
    """Text -> tokens of a tokenizer, by every merge replayed in Python, or what `how` says of it."""
    if name in encodings.ENCODINGS:
        return partial(from_ranks, name)
    tokenizer = loaded.tokenizer
    ids = merges.replayer(tokenizer) or partial(_by_model, tokenizer)
    return lambda text: [(id, spelled(tokenizer, id)) for id in ids(text)]


def how(loaded: Loaded) -> str:
    """What `reader` does for a checkpoint's own tokenizer and tiktoken's three: the beginning of a claim."""
    if _replayed(loaded.tokenizer):
        return "Every merge replayed in Python"
    return (
        f"Every merge of tiktoken’s three replayed in Python; {loaded.name} is no byte-pair encoder, so its model was "
        "asked for each piece by itself"
    )


_REPLAYED: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()


def _replayed(tokenizer: Any) -> bool:
    """Whether its merges can be replayed; found once, because a whole tokenizer.json is read for it."""
    if tokenizer not in _REPLAYED:
        _REPLAYED[tokenizer] = merges.replayer(tokenizer) is not None
    return _REPLAYED[tokenizer]


def from_ranks(name: str, text: str) -> list[Spelled]:
    """Tokens of a tiktoken encoding, by every merge replayed in Python from its rank file."""
    merger = merges.of_encoding(name)
    tokens = (token for piece in merger.split(text) for token in bpe.tokens(piece, merger.rank))
    return [(merger.ids[token], token) for token in tokens]


def _by_model(tokenizer: Any, text: str) -> list[int]:
    """Ids from the model of a tokenizer alone, on pieces that are cut here; without one, from the tokens' names."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        names = tokenizer.tokenize(text, split_special_tokens=True)
        return list(tokenizer.convert_tokens_to_ids(names))
    added = json.loads(backend.to_str())["added_tokens"]
    return [
        id
        for part in merges.cuts(backend, added, text)
        for id in ([part] if isinstance(part, int) else [token.id for token in backend.model.tokenize(part)])
    ]


def spelled(tokenizer: Any, id: int) -> bytes:
    """The bytes that a vocabulary entry stands for, by transformers' own table; an added token is literal text."""
    if id in tokenizer.added_tokens_decoder:
        return str(tokenizer.added_tokens_decoder[id].content).encode("utf-8", "replace")
    piece, kind = tokenizer.convert_ids_to_tokens(id), encoder(tokenizer).kind
    if kind == "bytes":
        return _raw(piece)
    if single := re.fullmatch("<0x([0-9A-F]{2})>", piece):
        return bytes([int(single[1], 16)])
    text = piece.replace("▁", " ") if kind == "metaspace" else tokenizer.decode([id])
    return str(text).encode("utf-8", "replace")


@dataclass(frozen=True)
class Laid:
    """Where tokens lie in a text: the byte at which each ends, and the (place, byte) of those that none of them has."""

    ends: list[int]
    lost: list[tuple[int, int]]


def laid_out(text: bytes, parts: Sequence[bytes]) -> Laid | None:
    """Walk through a text; each byte is the next one of the tokens or lost. None where tokens have bytes left over."""
    due = [(byte, part) for part, raw in enumerate(parts) for byte in raw]
    ends, lost, place = [0] * len(parts), [], 0
    for end, byte in enumerate(text, 1):
        if place < len(due) and due[place][0] == byte:
            ends[due[place][1]] = end
            place += 1
        else:
            lost.append((end - 1, byte))
    if place < len(due):
        return None
    last = [*ends[:-1], len(text)] if ends else []
    return Laid(list(accumulate(last, max)), lost)


def without_put(tokenizer: Any, parts: Sequence[bytes]) -> list[bytes]:
    """Tokens' bytes without the space that some tokenizers put before every text."""
    put = b" " if encoder(tokenizer).leading_space else b""
    return [part.removeprefix(put) if i == 0 else part for i, part in enumerate(parts)]


def begins_with_space(loaded: Loaded, vocab: int) -> list[int]:
    """Ids whose text begins with a space, as the tokenizer decodes it behind a letter; rows of padding left out."""
    tokenizer = loaded.tokenizer
    letter = encode(tokenizer, "a", special=False)
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    start = tokenizer.decode(letter, **options) + " "
    known = range(min(vocab, len(tokenizer)))
    return [id for id in known if tokenizer.decode([*letter, id], **options).startswith(start)]


def library_ids(loaded: Loaded, source: str, text: str) -> list[int]:
    """The ids that a tokenizer itself returns for a text: tiktoken's encodings, or a checkpoint's own."""
    if source in encodings.ENCODINGS:
        return encodings.encode(source, text)
    return encode(loaded.tokenizer, clean_prompt(text), special=False)


def joined_pairs(loaded: Loaded, source: str, piece: bytes) -> Iterator[tuple[int, list[int]]]:
    """(rank, bytes of each part) after every merge in a piece, as Sennrich et al. 2016 publish it (algorithm 1).

    A word is its symbols with spaces between them, and a pair is joined by a substitution in that text. Ranks are read
    from tokenizer.json, or are those of the joined bytes in tiktoken's file.
    """
    char_of, rank = bytes_to_unicode(), _ranks(loaded, source)
    word = " ".join(char_of[byte] for byte in piece)
    while known := [
        (number, *pair) for pair in pairwise(word.split(" ")) if (number := rank(*pair)) is not None
    ]:
        number, left, right = min(known, key=lambda found: (found[0], _raw(found[1]), _raw(found[2])))
        joined = left + right
        word = re.sub(rf"(?<!\S){re.escape(f'{left} {right}')}(?!\S)", _always(joined), word)
        yield number, [len(symbol) for symbol in word.split(" ")]


def _always(text: str) -> Callable[[object], str]:
    """What `re.sub` puts in as it is, whatever backslashes it has."""
    return lambda _: text


def _ranks(loaded: Loaded, source: str) -> Callable[[str, str], int | None]:
    if source in encodings.ENCODINGS:
        ranks: Mapping[bytes, int] = encodings.definition(source)["mergeable_ranks"]
        return lambda left, right: ranks.get(_raw(left + right))
    written = json.loads(loaded.tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in written)
    order = {(left, right): place for place, (left, right) in enumerate(pairs)}
    return lambda left, right: order.get((left, right))


def _raw(symbol: str) -> bytes:
    """The bytes that a byte-level tokenizer writes as these characters. KeyError for a character that is none."""
    return bytes(_byte_of_char()[char] for char in symbol)


@cache
def _byte_of_char() -> dict[str, int]:
    return {char: byte for byte, char in bytes_to_unicode().items()}

"""Where the merges come from: a loaded checkpoint's own tokenizer, or one of tiktoken's encodings."""

import json
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import regex

from engine.ops import bpe
from engine.tokens import encodings
from engine.tokens.pieces import byte_of_char, is_byte_level


@dataclass(frozen=True, eq=False)
class Merger:
    """A byte-pair encoder that can be replayed: `split` cuts a text into pieces, `rank` orders the merges."""

    name: str
    rank: bpe.Rank
    ids: dict[bytes, int]
    cut: Any

    def split(self, text: str) -> list[bytes]:
        """The pieces of a text, in order; together they are the whole text in UTF-8."""
        pieces: list[bytes] = self.cut(text)
        return pieces

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, by replaying every merge in every piece."""
        return [self.ids[part] for piece in self.split(text) for part in bpe.tokens(piece, self.rank)]


_KNOWN: "weakref.WeakKeyDictionary[Any, Merger | None]" = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def of_encoding(name: str) -> Merger:
    """The merges of a tiktoken encoding: there the rank of a token is also its id."""
    parts = encodings.definition(name)
    ranks, pattern = parts["mergeable_ranks"], regex.compile(parts["pat_str"])
    return Merger(name, bpe.by_vocabulary(ranks), ranks, lambda text: _matches(pattern, text))


def of_loaded(loaded: Any) -> Merger | None:
    """The merges of a loaded checkpoint's tokenizer, or None where it is no plain byte-level BPE."""
    with _LOCK:
        if loaded not in _KNOWN:
            _KNOWN[loaded] = _read(loaded.name, loaded.tokenizer)
        return _KNOWN[loaded]


def _matches(pattern: Any, text: str) -> list[bytes]:
    return [match.group().encode("utf-8") for match in pattern.finditer(text)]


def _read(name: str, tokenizer: Any) -> Merger | None:
    if not is_byte_level(tokenizer):
        return None
    backend = tokenizer.backend_tokenizer
    model = json.loads(backend.to_str())["model"]
    if model["type"] != "BPE" or model.get("ignore_merges") or backend.pre_tokenizer is None:
        return None
    table = byte_of_char()

    def raw(piece: str) -> bytes:
        return bytes(table[char] for char in piece)

    def cut(text: str) -> list[bytes]:
        plain = backend.normalizer.normalize_str(text) if backend.normalizer else text
        return [raw(piece) for piece, _ in backend.pre_tokenizer.pre_tokenize_str(plain)]

    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    places = {(raw(left), raw(right)): place for place, (left, right) in enumerate(pairs)}
    ids = {raw(piece): id for piece, id in model["vocab"].items() if all(char in table for char in piece)}
    return Merger(name, bpe.by_merges(places), ids, cut)

"""Where the merges come from: a loaded checkpoint's own tokenizer, or one of tiktoken's encodings."""

import json
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from engine.ops import bpe
from engine.tokens import encodings
from engine.tokens.pieces import is_byte_level


@dataclass(frozen=True, eq=False)
class Merger:
    """A byte-pair encoder that can be replayed: a text is cut into pieces, `rank` orders the merges inside a piece.

    cut      text -> pieces in UTF-8, and the id of an added token where the text spells one
    lacking  single bytes that have no token: they are left out before anything is merged
    """

    name: str
    rank: bpe.Rank
    ids: Mapping[bytes, int]
    cut: Callable[[str], Sequence[bytes | int]]
    lacking: bytes = b""

    def split(self, text: str) -> list[bytes]:
        """The pieces of a text that are merged, in order, without added tokens and without the bytes left out."""
        kept = (part.translate(None, self.lacking) for part in self.cut(text) if isinstance(part, bytes))
        return [piece for piece in kept if piece]

    def left_out(self, text: str) -> bytes:
        """The bytes of a text's pieces for which there is no token, in order."""
        whole = b"".join(part for part in self.cut(text) if isinstance(part, bytes))
        return bytes(byte for byte in whole if byte in self.lacking)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, by replaying every merge in every piece."""
        return [id for part in self.cut(text) for id in self._ids(part)]

    def _ids(self, part: bytes | int) -> list[int]:
        if isinstance(part, int):
            return [part]
        return [self.ids[token] for token in bpe.tokens(part.translate(None, self.lacking), self.rank)]


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


def replayer(tokenizer: Any) -> Callable[[str], list[int]] | None:
    """Text -> token ids by replaying merges between characters, as the `tokenizers` library defines them.

    Covers byte-level BPE and BPE over characters with a fallback to bytes (Llama 2); None for any other tokenizer.
    Nothing of it is kept: the vocabulary of a large tokenizer, as Python objects, takes tens of megabytes.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    written: dict[str, Any] = json.loads(backend.to_str())
    model, extra = written["model"], written["added_tokens"]
    if model["type"] != "BPE" or not _plain(model) or not _literal(extra):
        return None
    places, vocab = {pair: place for place, pair in enumerate(_pairs(model))}, model["vocab"]

    def ids(part: str | int) -> list[int]:
        if isinstance(part, int):
            return [part]
        if model.get("ignore_merges") and part in vocab:
            return [vocab[part]]
        symbols = bpe.merged(_symbols(part, model), lambda left, right: places.get((left, right)))
        return [vocab[symbol] for symbol in symbols]

    return lambda text: [id for part in cuts(backend, extra, text) for id in ids(part)]


def cuts(backend: Any, added: Sequence[Mapping[str, Any]], text: str) -> list[str | int]:
    """A text as `tokenizers` cuts it: added tokens out first, then the rest normalized and split into pieces.

    `added` is the list in a tokenizer.json. Those that are matched in the normalized text come out of it second.
    """
    normalize = backend.normalizer.normalize_str if backend.normalizer else str
    found: list[str | int] = []
    for part in _without(text, [token for token in added if not token["normalized"]], str):
        if isinstance(part, int):
            found.append(part)
            continue
        for rest in _without(normalize(part), [token for token in added if token["normalized"]], normalize):
            found += [rest] if isinstance(rest, int) else _pieces(backend, rest)
    return found


def _without(
    text: str, added: Sequence[Mapping[str, Any]], spelled: Callable[[str], str]
) -> Iterator[str | int]:
    """Stretches of a text and the ids of added tokens between them; a special token that is spelled out is text."""
    ids = {spelled(token["content"]): (token["id"], token["special"]) for token in added}
    if not ids:
        yield text
        return
    start = 0
    for match in re.finditer("|".join(map(re.escape, sorted(ids, key=len, reverse=True))), text):
        id, special = ids[match.group()]
        if not special:
            if match.start() > start:
                yield text[start : match.start()]
            yield id
            start = match.end()
    if start < len(text):
        yield text[start:]


def _pieces(backend: Any, text: str) -> list[str]:
    if backend.pre_tokenizer is None:
        return [text]
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def _plain(model: Mapping[str, Any]) -> bool:
    """Whether merging depends on nothing but the merges: no mark at the ends of words, nothing at random."""
    return not (
        model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("dropout")
    )


def _literal(added: Sequence[Mapping[str, Any]]) -> bool:
    """Whether added tokens are matched as they are spelled, with nothing asked of what stands around them."""
    typed = [token for token in added if not token["special"]]
    return not any(token[name] for token in typed for name in ("single_word", "lstrip", "rstrip"))


def _pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    return [(left, right) for left, right in pairs]


def _symbols(piece: str, model: Mapping[str, Any]) -> list[str]:
    """The symbols that merging starts from: characters, their bytes where there is a fallback, else the unknown."""
    vocab, unknown = model["vocab"], model.get("unk_token")
    symbols: list[str] = []
    for char in piece:
        spelled = [f"<0x{byte:02X}>" for byte in char.encode("utf-8")]
        if char in vocab:
            symbols.append(char)
        elif model.get("byte_fallback") and all(byte in vocab for byte in spelled):
            symbols += spelled
        elif unknown is not None and not (model.get("fuse_unk") and symbols[-1:] == [unknown]):
            symbols.append(unknown)
    return symbols


def _matches(pattern: Any, text: str) -> list[bytes]:
    return [match.group().encode("utf-8") for match in pattern.finditer(text)]


def _read(name: str, tokenizer: Any) -> Merger | None:
    if not is_byte_level(tokenizer):
        return None
    backend = tokenizer.backend_tokenizer
    written = json.loads(backend.to_str())
    model, added = written["model"], written["added_tokens"]
    if model["type"] != "BPE" or model.get("ignore_merges") or backend.pre_tokenizer is None:
        return None
    table = bpe.byte_of_char()
    lacking = bytes(byte for char, byte in table.items() if char not in model["vocab"])
    if not _plain(model) or not _literal(added) or (lacking and model.get("unk_token") is not None):
        return None

    def raw(piece: str) -> bytes:
        return bytes(table[char] for char in piece)

    def cut(text: str) -> list[bytes | int]:
        return [part if isinstance(part, int) else raw(part) for part in cuts(backend, added, text)]

    places = {(raw(left), raw(right)): place for place, (left, right) in enumerate(_pairs(model))}
    ids = {raw(piece): id for piece, id in model["vocab"].items() if all(char in table for char in piece)}
    return Merger(name, bpe.by_merges(places), ids, cut, lacking)

"""From a text to token ids, through a private copy of a tokenizer whose settings never change.

`transformers` writes `split_special_tokens`, truncation and padding into the tokenizer that all readers share, for one
call at a time. Two threads then see each other's settings, or the Rust library refuses one of them ("Already
borrowed"). Here every text is encoded by a copy that was set once, and the shared tokenizer is only read.
"""

import json
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from tokenizers import Tokenizer

from engine.ops.bpe import byte_of_char
from engine.tokens.guarding import one_sentence

Kind = Literal["bytes", "metaspace", "other"]


@dataclass(frozen=True, eq=False)
class Encoder:
    """What is fixed about a tokenizer.

    backend        the private copy; None for a tokenizer written in Python alone
    kind           "bytes": a piece writes each byte as a character (GPT-2); "metaspace": a piece writes a space as ▁
    added          id -> content of every added token: literal text, matched before anything else is done
    special        ids that no typed text is encoded to, such as a start token; the unknown token is not among them
    start          ids put before every text
    leading_space  whether a space is put before the first word of every text
    lacking        single bytes that no token stands for; None where pieces are not built from bytes at all
    """

    backend: Tokenizer | None
    kind: Kind
    added: Mapping[int, str]
    special: frozenset[int]
    start: tuple[int, ...]
    leading_space: bool
    lacking: tuple[int, ...] | None


_KNOWN: "weakref.WeakKeyDictionary[Any, Encoder]" = weakref.WeakKeyDictionary()
_LOCK = threading.RLock()


def encoder(tokenizer: Any) -> Encoder:
    """The fixed facts of a tokenizer with its private copy, made once for as long as the tokenizer is in memory."""
    with _LOCK:
        if tokenizer not in _KNOWN:
            _KNOWN[tokenizer] = _read(tokenizer)
        return _KNOWN[tokenizer]


def encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """Token ids of a text in which nothing is special: a typed "<|endoftext|>" is ordinary characters.

    `special` says whether the tokens that the tokenizer puts around a text, such as a start token, are wanted.
    """
    facts = encoder(tokenizer)
    with one_sentence("This checkpoint's tokenizer cannot cut this text"):
        return _encode(tokenizer, facts.backend, text, special)


def prepare(tokenizer: Any) -> None:
    """Make a tokenizer that nobody shares yet ready to be shared: no truncation, no padding, and its private copy.

    A tokenizer.json may ask for both; transformers would take them off in the middle of some reader's first call.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = bool(tokenizer.split_special_tokens)
    encoder(tokenizer)


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text that transformers decodes from ids, special tokens and spaces left as they are.

    An added token is literal text: a decoder of bytes would read an added "é" as the byte that is written that way.
    """
    runs, added = literal_runs(tokenizer, ids), encoder(tokenizer).added
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return "".join(added[run] if isinstance(run, int) else tokenizer.decode(run, **options) for run in runs)


def literal_runs(tokenizer: Any, ids: Sequence[int]) -> list[list[int] | int]:
    """Ids in lists to decode, and between them those of added tokens where the decoder is one of bytes."""
    facts = encoder(tokenizer)
    if facts.kind != "bytes":
        return [list(ids)]
    found: list[list[int] | int] = []
    for literal, run in groupby(ids, facts.added.__contains__):
        kept = list(run)
        found += kept if literal else [kept]
    return found


def _read(tokenizer: Any) -> Encoder:
    shared = getattr(tokenizer, "backend_tokenizer", None)
    written = shared.to_str() if shared is not None else None
    backend, kind = _private(written), _kind(shared)
    model = json.loads(written)["model"] if written else {"unk_token": tokenizer.unk_token}
    bare, whole = (_encode(tokenizer, backend, "a", special) for special in (False, True))
    first = tokenizer.convert_ids_to_tokens(bare[0]) if bare else ""
    return Encoder(
        backend=backend,
        kind=kind,
        added={id: token.content for id, token in tokenizer.added_tokens_decoder.items()},
        special=frozenset(_untypable(tokenizer, backend, model)) | (frozenset(whole) - frozenset(bare)),
        start=_before(whole, bare),
        leading_space=first.startswith({"bytes": "Ġ", "metaspace": "▁", "other": " "}[kind]),
        lacking=_lacking(model, kind),
    )


def _private(written: str | None) -> Tokenizer | None:
    if written is None:
        return None
    copy = Tokenizer.from_str(written)
    copy.encode_special_tokens = True
    copy.no_truncation()
    copy.no_padding()
    return copy


def _kind(backend: Any) -> Kind:
    decoder = repr(getattr(backend, "decoder", None))
    return "bytes" if "ByteLevel" in decoder else "metaspace" if "▁" in decoder else "other"


def _encode(tokenizer: Any, backend: Tokenizer | None, text: str, special: bool) -> list[int]:
    if backend is not None:
        ids: list[int] = backend.encode(text, add_special_tokens=special).ids
        return ids
    with _LOCK:
        called = tokenizer(text, split_special_tokens=True, add_special_tokens=special, verbose=False)
    return list(called["input_ids"])


def _untypable(tokenizer: Any, backend: Tokenizer | None, model: Mapping[str, Any]) -> Iterator[int]:
    """Special tokens that cannot come out of a text: neither spelled out in it, nor in place of unknown characters."""
    for id, token in tokenizer.added_tokens_decoder.items():
        unknown = token.content == model.get("unk_token")
        if token.special and not unknown and _encode(tokenizer, backend, token.content, False) != [id]:
            yield id


def _before(whole: list[int], bare: list[int]) -> tuple[int, ...]:
    """The ids in front of `bare` in `whole`."""
    for place in range(len(whole) - len(bare) + 1):
        if whole[place : place + len(bare)] == bare:
            return tuple(whole[:place])
    return ()


def _lacking(model: Mapping[str, Any], kind: Kind) -> tuple[int, ...] | None:
    vocab = model.get("vocab", ())
    if kind == "bytes":
        return tuple(sorted(byte for char, byte in byte_of_char().items() if char not in vocab))
    if model.get("byte_fallback"):
        return tuple(byte for byte in range(256) if f"<0x{byte:02X}>" not in vocab)
    return None

"""From a vocabulary piece back to the bytes it stands for, and from tokens back to the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.ops.bpe import byte_of_char
from engine.tokens.encoder import Encoder, encoder

IN_NO_TEXT = frozenset({0xC0, 0xC1, *range(0xF5, 0x100)})
"""Bytes that UTF-8 never uses."""


def piece_bytes(tokenizer: Any, id: int, piece: str) -> bytes:
    """Bytes of text that one vocabulary entry stands for; none for a special token, which stands for no text.

    An added token is literal text: "é" is two bytes of UTF-8, though byte-level BPE writes the byte E9 that way.
    """
    facts = encoder(tokenizer)
    if id in facts.special:
        return b""
    if id in facts.added:
        return facts.added[id].encode("utf-8", "replace")
    return _learned(tokenizer, facts, id, piece)


def _learned(tokenizer: Any, facts: Encoder, id: int, piece: str) -> bytes:
    """Bytes of an entry that training put into the vocabulary, by the way in which such entries are written."""
    table = byte_of_char()
    if facts.kind == "bytes" and all(c in table for c in piece):
        return bytes(table[c] for c in piece)
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    if facts.kind == "metaspace" or "▁" in piece:
        return piece.replace("▁", " ").encode("utf-8", "replace")
    text: str = tokenizer.decode([id])
    return text.encode("utf-8", "replace")


def is_byte_level(tokenizer: Any) -> bool:
    """Whether the tokenizer is a byte-level BPE (GPT-2's kind): its decoder is `ByteLevel`."""
    return getattr(tokenizer, "backend_tokenizer", None) is not None and encoder(tokenizer).kind == "bytes"


@dataclass(frozen=True)
class Cover:
    """How the bytes of tokens lie in a text.

    ends  part      where each part's stretch of the text ends, in bytes; the first begins at 0, the last ends with it
    lost            places in the text whose bytes no part holds
    """

    ends: tuple[int, ...]
    lost: tuple[int, ...]


def cover(text: bytes, parts: Sequence[bytes]) -> Cover | None:
    """Where parts lie in a text that they are in order, but for bytes left out; None where they hold anything else."""
    ends: list[int] = []
    lost: list[int] = []
    place = 0
    for part in parts:
        for byte in part:
            found = text.find(byte, place)
            if found < 0:
                return None
            lost += range(place, found)
            place = found + 1
        ends.append(place)
    lost += range(place, len(text))
    if ends:
        ends[-1] = len(text)
    return Cover(tuple(ends), tuple(lost))


def restored(parts: Sequence[bytes], lost: Sequence[tuple[int, int]]) -> bytes:
    """Parts laid end to end, with lost bytes (place in the text, byte) put back in the order of their places."""
    whole = bytearray(b"".join(parts))
    for place, byte in lost:
        whole.insert(place, byte)
    return bytes(whole)

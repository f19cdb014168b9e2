"""From a vocabulary piece back to the bytes it stands for."""

from functools import cache
from typing import Any


@cache
def byte_of_char() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def piece_bytes(tokenizer: Any, id: int, piece: str) -> bytes:
    """Bytes of one vocabulary entry: exact for byte-level BPE, else the decoded text in UTF-8."""
    if id in getattr(tokenizer, "all_special_ids", ()):
        return piece.encode("utf-8", "replace")
    table = byte_of_char()
    if is_byte_level(tokenizer) and all(c in table for c in piece):
        return bytes(table[c] for c in piece)
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    if "▁" in piece:
        return piece.replace("▁", " ").encode("utf-8", "replace")
    text: str = tokenizer.decode([id])
    return text.encode("utf-8", "replace")


def is_byte_level(tokenizer: Any) -> bool:
    """Whether the tokenizer is a byte-level BPE (GPT-2's kind): its decoder is `ByteLevel`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in repr(backend.decoder)

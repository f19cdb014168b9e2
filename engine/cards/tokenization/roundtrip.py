"""Characters, bytes, tokens, and the same text back."""

import unicodedata
from itertools import pairwise

from engine.cards.tokenization.common import checked, in_bytes, is_text, plural, printed, tokenizer_lines
from engine.cards.tokenization.own import LINES, _between, _breaks
from engine.evidence.card import Badge, Card, Proof
from engine.figures.tokenization import Part, Strip, strips
from engine.model.capturing import tokenize
from engine.model.loading import Loaded
from engine.model.trace import Token
from engine.tokens.text import display

LINE = 14
"""Bytes on a line of the figure."""


def roundtrip(loaded: Loaded, text: str) -> Card:
    """A text as characters, as bytes and as tokens of the checkpoint's tokenizer, and whether it comes back whole."""
    text = checked(text)
    tokens = tokenize(loaded, text)
    back = b"".join(token.bytes for token in tokens)
    raw = text.encode("utf-8")
    whole = back == raw
    torn = sum(not is_text(token) for token in tokens)

    def prove() -> Proof:
        ids = [token.id for token in tokens]
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        theirs = loaded.tokenizer.decode(ids, **options).encode("utf-8")
        return Proof(
            "The tokens' bytes laid end to end, against the text that transformers decodes from the ids: "
            "bytes that differ.",
            float(sum(a != b for a, b in zip(theirs, back, strict=False)) + abs(len(theirs) - len(back))),
            0.0,
        )

    end = "the tokens' bytes are the text's bytes" if whole else "this tokenizer changes the text on the way"
    return Card(
        key="roundtrip",
        title=f"{plural(len(text), 'character')}, {plural(len(raw), 'byte')}, {plural(len(tokens), 'token')}: {end}",
        alt=f"Three strips: the text's characters, its bytes, and {plural(len(tokens), 'token')} of {loaded.name}; "
        f"{plural(torn, 'token')} of them hold only a part of a character.",
        badge=Badge.LIVE,
        figure=strips(_lines(text, tokens) if whole else [[_of_tokens(tokens)]]),
        table={
            "token": [token.display for token in tokens],
            "id": [token.id for token in tokens],
            "bytes": [in_bytes(token) for token in tokens],
            "whole characters": ["yes" if is_text(token) else "no" for token in tokens],
        },
        prove=prove,
        code=(
            f"{tokenizer_lines(loaded)}text = {text!a}\n"
            "ids = tokenizer(text, split_special_tokens=True).input_ids\n"
            "back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)\n"
            'result = {"ids": ids, "lossless": int(back == text)}\n'
        ),
        numbers={"ids": [token.id for token in tokens], "lossless": int(whole)},
        atol=0.0,
        note=f"{plural(torn, 'token')} of {len(tokens):,} hold only a part of a character (filled). "
        "The figure shows the beginning of the text, the table all.",
    )


def _lines(text: str, tokens: tuple[Token, ...]) -> list[list[Strip]]:
    characters = [Token(ord(char), char, char.encode("utf-8"), display(char)) for char in text]
    singles = [Token(byte, "", bytes([byte]), f"{byte:02X}") for char in characters for byte in char.bytes]
    breaks = [0, *_breaks([characters, tokens], LINE)]
    return [
        [
            Strip(
                "characters",
                tuple(_character(char) for char in _within(characters, start, stop)),
                "embedding",
            ),
            Strip("bytes", _between(singles, start, stop), "residual"),
            Strip("tokens", tuple(_torn(token) for token in _within(tokens, start, stop)), "token"),
        ]
        for start, stop in list(pairwise(breaks))[:LINES]
    ]


def _within(tokens: "list[Token] | tuple[Token, ...]", start: int, stop: int) -> list[Token]:
    total, found = 0, []
    for token in tokens:
        total += len(token.bytes)
        if start < total <= stop and token.bytes:
            found.append(token)
    return found


def _character(char: Token) -> Part:
    name = unicodedata.name(char.piece, "no name")
    return Part(char.display, len(char.bytes), f"U+{char.id:04X} {name}, {plural(len(char.bytes), 'byte')}")


def _torn(token: Token) -> Part:
    return Part(
        printed(token), len(token.bytes), f"id {token.id}, bytes {in_bytes(token)}", not is_text(token)
    )


def _of_tokens(tokens: tuple[Token, ...]) -> Strip:
    return Strip("tokens", tuple(_torn(token) for token in tokens[:12] if token.bytes))

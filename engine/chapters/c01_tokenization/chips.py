"""A text as the tokens of o200k_base."""

from engine.chapters.c01_tokenization.scripts import tiktoken_lines
from engine.chapters.c01_tokenization.texts import checked, in_bytes
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.tokenizing import columns, from_ranks
from engine.figures.text import chips as draw
from engine.tokens import encodings
from engine.tokens.text import LINE_BREAK, SPACE, TAB, plural

NAME = "o200k_base"
SHOWN = 72
"""Chips drawn at most; the table has all of them."""


def chips(text: str) -> Card:
    """Every token of a text with its id; bytes in the table and under the pointer."""
    text = checked(text)
    tokens = encodings.tokens(NAME, text)
    shown = columns([(token.id, token.bytes) for token in tokens])
    ids, first = shown["ids"], tokens[:SHOWN]

    return Card(
        key="chips",
        title=f"{plural(len(text), 'character')}, {plural(len(shown['bytes']), 'byte')} of UTF-8, "
        f"{plural(len(ids), 'token')} of {NAME}",
        alt=f"The text as {len(ids)} chips in reading order, each with the token's text and its id in {NAME}.",
        badge=Badge.LIVE,
        figure=draw(
            [token.display for token in first],
            [str(token.id) for token in first],
            details=[f"{token.display}  id {token.id}  bytes {in_bytes(token)}" for token in first],
        ),
        table={
            "position": list(range(len(ids))),
            "token": [token.display for token in tokens],
            "id": ids,
            "bytes": [in_bytes(token) for token in tokens],
            "length": shown["lengths"],
        },
        shown=shown,
        oracle=Oracle(
            "tiktoken's ids and bytes, against every merge replayed in Python from the rank file.",
            lambda: columns(from_ranks(NAME, text)),
        ),
        code=(
            f"{tiktoken_lines(NAME)}\n"
            f"ids = encoding.encode_ordinary({text!a})\n"
            "parts = [encoding.decode_single_token_bytes(id) for id in ids]\n"
            'result = {"ids": ids, "lengths": [len(part) for part in parts], "bytes": [*b"".join(parts)]}\n'
        ),
        atol=0.0,
        note=_note(len(ids)),
    )


def _note(count: int) -> str:
    marks = (
        f"{SPACE} is a space, {LINE_BREAK} a line break, {TAB} a tab; ‹E2 80› are bytes that are no whole character by "
        "themselves; ‹U+200B› is the number of a character that is invisible, or whose sign has another use here."
    )
    return marks + (
        f" The figure shows the first {SHOWN} tokens, the table all {count:,}." if count > SHOWN else ""
    )

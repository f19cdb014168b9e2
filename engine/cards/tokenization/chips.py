"""A text as the tokens of o200k_base."""

from engine.cards.tokenization.common import checked, in_bytes, mismatch, plural, tiktoken_lines
from engine.evidence.card import Badge, Card, Proof
from engine.figures.text import chips as draw
from engine.tokens import encodings, merges

NAME = "o200k_base"
SHOWN = 72
"""Chips drawn at most; the table has all of them."""


def chips(text: str) -> Card:
    """Every token of a text with its id; bytes in the table and under the pointer."""
    text = checked(text)
    tokens = encodings.tokens(NAME, text)
    ids = [token.id for token in tokens]
    first = tokens[:SHOWN]
    size = len(text.encode("utf-8"))

    def prove() -> Proof:
        return Proof(
            "Every merge replayed in Python from the rank file, against tiktoken's own encoder: ids that differ.",
            mismatch(merges.of_encoding(NAME).encode(text), ids),
            0.0,
        )

    return Card(
        key="chips",
        title=f"{plural(len(text), 'character')}, {plural(size, 'byte')} of UTF-8, "
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
            "length": [len(token.bytes) for token in tokens],
        },
        prove=prove,
        code=(
            f"{tiktoken_lines(NAME)}\n"
            f"ids = encoding.encode_ordinary({text!a})\n"
            "lengths = [len(encoding.decode_single_token_bytes(id)) for id in ids]\n"
            'result = {"ids": ids, "lengths": lengths}\n'
        ),
        numbers={"ids": ids, "lengths": [len(token.bytes) for token in tokens]},
        atol=0.0,
        note=_note(len(ids)),
    )


def _note(count: int) -> str:
    marks = (
        "· is a space, ⏎ a line break, ⇥ a tab; ‹E2 80› are bytes that are no whole character by themselves."
    )
    return marks + (
        f" The figure shows the first {SHOWN} tokens, the table all {count:,}." if count > SHOWN else ""
    )

"""Characters, bytes, tokens, and the same text back."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import dedent

from numpy.typing import ArrayLike

from engine.chapters.c01_tokenization.own import LINES, Cut, between, breaks_of
from engine.chapters.c01_tokenization.scripts import ENCODE, tokenizer_lines
from engine.chapters.c01_tokenization.texts import checked, in_bytes, is_text, of_text, printed, start_note
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.tokenizing import Spelled, columns, how, laid_out, reader, without_put
from engine.figures.tokenization import Part, Strip, strips
from engine.model.loaded import Loaded
from engine.tokens.encoder import encoder
from engine.tokens.pieces import cover
from engine.tokens.text import display, plural
from engine.tokens.token import Token

LINE = 14
"""Bytes on a line of the figure."""


@dataclass(frozen=True)
class Return:
    """What comes back of a text.

    text  what the tokens spell, before anything is lost: the reader's text, or what normalization made of it
    put   the space that the tokenizer puts before every text, in bytes; nothing where it puts none
    ends  token    where each token ends in `text`, in bytes
    lost  (place in `text`, byte) of every byte that no token holds
    """

    text: str
    put: bytes
    ends: tuple[int, ...]
    lost: tuple[tuple[int, int], ...]


def returned(loaded: Loaded, text: str, tokens: Sequence[Token]) -> Return | None:
    """What the tokens spell; None where that is neither the text nor its normalized form with bytes left out."""
    put = b" " if encoder(loaded.tokenizer).leading_space else b""
    parts = [token.bytes for token in tokens]
    parts[0] = parts[0].removeprefix(put)
    found = []
    for spelled in dict.fromkeys((text, normalized(loaded, text))):
        raw = spelled.encode("utf-8")
        covered = cover(raw, parts)
        if covered is not None:
            lost = tuple((place, raw[place]) for place in covered.lost)
            found.append(Return(spelled, put, covered.ends, lost))
    return min(found, key=lambda one: len(one.lost), default=None)


def normalized(loaded: Loaded, text: str) -> str:
    """A text as the tokenizer rewrites it before it cuts, without the space that it may put in front."""
    facts = encoder(loaded.tokenizer)
    normalizer = facts.backend.normalizer if facts.backend else None
    if normalizer is None:
        return text
    written: str = normalizer.normalize_str(text)
    if facts.kind == "metaspace":
        written = written.replace("▁", " ")
    return written.removeprefix(" ") if facts.leading_space else written


def roundtrip(loaded: Loaded, text: str) -> Card:
    """A text as characters, as bytes and as tokens of the checkpoint's tokenizer, and whether it comes back whole."""
    text = checked(text)
    tokens = of_text(loaded, text)
    back = returned(loaded, text, tokens)
    raw = text.encode("utf-8")
    whole = back is not None and back.text == text and not back.lost
    torn = sum(not is_text(token) for token in tokens)
    return Card(
        key="roundtrip",
        title=f"{plural(len(text), 'character')}, {plural(len(raw), 'byte')}, {plural(len(tokens), 'token')}: "
        f"{_end(text, back)}",
        alt=f"Three strips: the text's characters, its bytes, and {plural(len(tokens), 'token')} of {loaded.name}; "
        f"{plural(torn, 'token')} of them hold only a part of a character.",
        badge=Badge.LIVE,
        figure=strips(_lines(back, tokens) if back else [[_of_tokens(tokens)]]),
        table={
            "token": [token.display for token in tokens],
            "id": [token.id for token in tokens],
            "bytes": [in_bytes(token) for token in tokens],
            "whole characters": ["yes" if is_text(token) else "no" for token in tokens],
        },
        shown=_numbers(tokens, back, whole),
        oracle=Oracle(
            f"{how(loaded)}; the bytes of {loaded.name}’s tokens by transformers’ own table, and the text walked "
            "through byte by byte to see where each token ends and what is lost.",
            lambda: _again(loaded, text),
        ),
        code=_code(loaded, text),
        numbers={**columns(_spelled(tokens)), "lossless": int(whole)},
        atol=0.0,
        note=f"{plural(torn, 'token')} of {len(tokens):,} hold only a part of a character (filled). "
        f"The figure shows the beginning of the text, the table all.{_missing(loaded, back)}{_put(loaded)}"
        f"{start_note(loaded)}",
    )


def _end(text: str, back: Return | None) -> str:
    if back is None or (back.text != text and back.lost):
        return "this tokenizer changes the text on the way"
    if back.lost:
        return f"{plural(len(back.lost), 'byte')} of the text {'is' if len(back.lost) == 1 else 'are'} lost on the way"
    if back.text != text:
        return (
            "this tokenizer normalizes the text first, and the tokens' bytes are those of the normalized text"
        )
    return "the tokens' bytes are the text's bytes"


def _missing(loaded: Loaded, back: Return | None) -> str:
    if back is None or not back.lost:
        return ""
    places = [f"{byte:02X} at byte {place}" for place, byte in back.lost]
    more = f" and {len(places) - 6} more" if len(places) > 6 else ""
    lacking = encoder(loaded.tokenizer).lacking or ()
    them = "it" if len(places) == 1 else "them"
    why = f"has no token for {them} and leaves" if {byte for _, byte in back.lost} <= {*lacking} else "leaves"
    return f" Lost: {', '.join(places[:6])}{more}; {loaded.name} {why} {them} out."


def _put(loaded: Loaded) -> str:
    if not encoder(loaded.tokenizer).leading_space:
        return ""
    return " This tokenizer puts a space in front of every text; it is part of the first token and not of the text."


def _spelled(tokens: Sequence[Token]) -> list[Spelled]:
    return [(token.id, token.bytes) for token in tokens]


def _numbers(tokens: Sequence[Token], back: Return | None, whole: bool) -> dict[str, ArrayLike]:
    """Everything that is drawn or listed: the tokens, and beside what they spell where that can be drawn."""
    alone: dict[str, ArrayLike] = {
        **columns(_spelled(tokens)),
        "whole characters": [int(is_text(token)) for token in tokens],
        "lossless": int(whole),
    }
    return alone if back is None else alone | _beside(back.text, back.ends, back.lost)


def _beside(text: str, ends: Sequence[int], lost: Sequence[tuple[int, int]]) -> dict[str, ArrayLike]:
    return {
        "characters": [ord(char) for char in text],
        "text": [*text.encode("utf-8")],
        "ends": list(ends),
        "lost": [part for place in lost for part in place],
    }


def _again(loaded: Loaded, text: str) -> dict[str, ArrayLike]:
    tokens = reader(loaded, loaded.name)(text)
    parts = without_put(loaded.tokenizer, [raw for _, raw in tokens])
    candidates = dict.fromkeys((text, normalized(loaded, text)))
    found = [(laid, spelled) for spelled in candidates if (laid := laid_out(spelled.encode(), parts))]
    laid, spelled = min(found, key=lambda one: len(one[0].lost), default=(None, ""))
    alone: dict[str, ArrayLike] = {
        **columns(tokens),
        "whole characters": [int("\ufffd" not in raw.decode("utf-8", "replace")) for _, raw in tokens],
        "lossless": int(b"".join(parts) == text.encode("utf-8")),
    }
    return alone if laid is None else alone | _beside(spelled, laid.ends, laid.lost)


def _lines(back: Return, tokens: Sequence[Token]) -> list[list[Strip]]:
    characters = [Token(ord(char), char, char.encode("utf-8"), display(char)) for char in back.text]
    singles = [Token(byte, "", bytes([byte]), f"{byte:02X}") for char in characters for byte in char.bytes]
    cuts = {
        "characters": Cut(tuple(characters), _ends(characters)),
        "bytes": Cut(tuple(singles), _ends(singles)),
        "tokens": Cut(tuple(tokens), back.ends),
    }
    breaks = [0, *breaks_of([cuts["characters"].ends, back.ends], LINE, LINES)]
    return [
        [
            Strip("characters", between(cuts["characters"], start, stop, _character), "embedding"),
            Strip("bytes", between(cuts["bytes"], start, stop), "residual"),
            Strip("tokens", between(cuts["tokens"], start, stop, _torn), "token"),
        ]
        for start, stop in pairwise(breaks)
    ]


def _ends(tokens: Sequence[Token]) -> tuple[int, ...]:
    total, ends = 0, []
    for token in tokens:
        total += len(token.bytes)
        ends.append(total)
    return tuple(ends)


def _character(char: Token, width: int) -> Part:
    name = unicodedata.name(char.piece, "no name")
    return Part(char.display, width, f"U+{char.id:04X} {name}, {plural(len(char.bytes), 'byte')}")


def _torn(token: Token, width: int) -> Part:
    return Part(printed(token), width, f"id {token.id}, bytes {in_bytes(token)}", not is_text(token))


def _of_tokens(tokens: Sequence[Token]) -> Strip:
    return Strip("tokens", tuple(_torn(token, len(token.bytes)) for token in tokens[:12] if token.bytes))


_BYTES = """
    added = {id: token.content for id, token in tokenizer.added_tokens_decoder.items()}


    def in_bytes(id):
        \"\"\"The bytes that a token stands for; an added token is literal text.\"\"\"
        piece = tokenizer.convert_ids_to_tokens(id)
        if id in added:
            return added[id].encode()
        SPELLED


    parts = [in_bytes(id) for id in ids]
    back = b"".join(parts)
"""
_SPELLED = {
    "bytes": "return bytes(byte_of_char[char] for char in piece)",
    "metaspace": """if len(piece) == 6 and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()""",
    "other": "return tokenizer.decode([id]).encode()",
}


def _code(loaded: Loaded, text: str) -> str:
    facts = encoder(loaded.tokenizer)
    table = (
        "from transformers.convert_slow_tokenizer import bytes_to_unicode\n\n"
        "byte_of_char = {char: byte for byte, char in bytes_to_unicode().items()}\n"
    )
    space = 'back = back.removeprefix(b" ")  # the tokenizer puts it there\n' if facts.leading_space else ""
    return (
        f"{tokenizer_lines(loaded)}{table if facts.kind == 'bytes' else ''}text = {text!a}\n"
        f"ids = {ENCODE.format(text='text')}\n"
        f"{dedent(_BYTES.replace('SPELLED', _SPELLED[facts.kind]))}{space}"
        'result = {"ids": ids, "lengths": [len(part) for part in parts], "bytes": [*b"".join(parts)],\n'
        '          "lossless": int(back == text.encode())}\n'
    )

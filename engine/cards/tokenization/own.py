"""The loaded checkpoint's own tokenizer beside tiktoken's three."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from engine.cards.tokenization.common import (
    PLAIN,
    checked,
    in_bytes,
    mismatch,
    plural,
    printed,
    tiktoken_lines,
    tokenizer_lines,
)
from engine.evidence.card import Badge, Card, Proof
from engine.figures.bars import bars
from engine.figures.tokenization import Part, Strip, strips
from engine.model.capturing import tokenize
from engine.model.loading import Loaded
from engine.model.trace import Token
from engine.tokens import encodings, merges

LINE, LINES = 34, 3
"""Bytes on a line of the figure, and lines."""


def own(loaded: Loaded, text: str) -> list[Card]:
    """Where four tokenizers cut a text, and how many tokens each makes of the whole."""
    text = checked(text)
    cuts = segmented(loaded, text)
    ids = {name: [token.id for token in tokens] for name, tokens in cuts.items()}
    counts = {name: len(found) for name, found in ids.items()}
    fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    code, size = _code(loaded, text), len(text.encode("utf-8"))

    def prove() -> Proof:
        return Proof(
            "Every merge replayed in Python for all four tokenizers, against what transformers and tiktoken "
            "return: ids that differ.",
            sum(mismatch(_replayed(loaded, name, text), found) for name, found in ids.items()),
            0.0,
        )

    title = (
        f"The same text is {plural(counts[most], 'token')} for {most} and {counts[fewest]:,} for {fewest}"
        if counts[most] > counts[fewest]
        else f"All four tokenizers make {plural(counts[most], 'token')} of this text"
    )
    columns: dict[str, Sequence[Any]] = {
        "tokenizer": [name for name, tokens in cuts.items() for _ in tokens],
        "token": [token.display for tokens in cuts.values() for token in tokens],
        "id": [token.id for tokens in cuts.values() for token in tokens],
        "bytes": [in_bytes(token) for tokens in cuts.values() for token in tokens],
    }
    cut = Card(
        key="own",
        title=title,
        alt=f"Four strips of the same text, cut into tokens by {', '.join(cuts)}, drawn to one scale of bytes.",
        badge=Badge.LIVE,
        figure=strips(wrapped(cuts)),
        table=columns,
        prove=prove,
        code=code + 'result = {f"{name} ids": found for name, found in ids.items()}\n',
        numbers={f"{name} ids": found for name, found in ids.items()},
        atol=0.0,
        note="A box is a token, as wide as it has bytes. The figure shows the beginning of the text, the table all.",
    )
    sizes = [vocabulary(loaded, name) for name in cuts]
    counted = Card(
        key="own-counts",
        title=_counted(counts, size),
        alt="Bars: "
        + "; ".join(f"{name} makes {plural(n, 'token')} of this text" for name, n in counts.items()),
        badge=Badge.LIVE,
        figure=bars(
            [PLAIN.get(name, name) for name in cuts],
            list(counts.values()),
            concept="token",
            value_name="tokens in the whole text",
        ),
        table={
            "tokenizer": list(cuts),
            "vocabulary": sizes,
            "tokens": list(counts.values()),
            "bytes per token": [size / count for count in counts.values()],
        },
        prove=prove,
        code=code + "result = {name: len(found) for name, found in ids.items()}\n",
        numbers=counts,
        atol=0.0,
        note="Vocabularies, special tokens included: "
        + ", ".join(f"{PLAIN.get(n, n)} {size:,}" for n, size in zip(cuts, sizes, strict=True))
        + ".",
    )
    return [cut, counted]


def _counted(counts: dict[str, int], size: int) -> str:
    few = min(counts.values())
    names = " and ".join(name for name, count in counts.items() if count == few)
    if few == max(counts.values()):
        return f"Here all four need the same: {size / few:.1f} bytes in a token on average"
    return f"Fewest tokens for this text: {names} with {size / few:.1f} bytes in a token on average"


def segmented(loaded: Loaded, text: str) -> dict[str, tuple[Token, ...]]:
    """Tokenizer -> the tokens it makes of a text; the checkpoint's own comes first."""
    return {
        loaded.name: tokenize(loaded, text),
        **{name: encodings.tokens(name, text) for name in encodings.ENCODINGS},
    }


def vocabulary(loaded: Loaded, name: str) -> int:
    """Entries of a tokenizer's vocabulary."""
    return len(loaded.tokenizer) if name == loaded.name else encodings.encoding(name).n_vocab


def wrapped(cuts: dict[str, tuple[Token, ...]], line: int = LINE, lines: int = LINES) -> list[list[Strip]]:
    """Strips of at most about `line` bytes, broken only where every tokenizer has a cut."""
    breaks = [0, *_breaks(list(cuts.values()), line)]
    found = []
    for start, stop in list(pairwise(breaks))[:lines]:
        found.append(
            [Strip(PLAIN.get(name, name), _between(tokens, start, stop)) for name, tokens in cuts.items()]
        )
    return found


def _breaks(cuts: Sequence[Sequence[Token]], line: int) -> list[int]:
    """Ends of lines, in bytes: the last common cut within `line` bytes of the line's start, else the next one."""
    ends = [set(_ends(tokens)) for tokens in cuts]
    common = sorted(set.intersection(*ends))
    chosen: list[int] = []
    start = 0
    while common and start < common[-1]:
        ahead = [end for end in common if end > start]
        within = [end for end in ahead if end - start <= line]
        start = within[-1] if within else ahead[0]
        chosen.append(start)
    return chosen


def _ends(tokens: Sequence[Token]) -> list[int]:
    total, ends = 0, []
    for token in tokens:
        total += len(token.bytes)
        ends.append(total)
    return ends


def _between(tokens: Sequence[Token], start: int, stop: int) -> tuple[Part, ...]:
    return tuple(
        Part(printed(token), len(token.bytes), f"{token.display}  id {token.id}  bytes {in_bytes(token)}")
        for token, end in zip(tokens, _ends(tokens), strict=True)
        if start < end <= stop and token.bytes
    )


def _replayed(loaded: Loaded, name: str, text: str) -> list[int]:
    if name != loaded.name:
        return merges.of_encoding(name).encode(text)
    merger = merges.of_loaded(loaded)
    if merger is not None:
        return merger.encode(text)
    pieces = loaded.tokenizer.tokenize(text, split_special_tokens=True)
    found: list[int] = loaded.tokenizer.convert_tokens_to_ids(pieces)
    return found


def _code(loaded: Loaded, text: str) -> str:
    parts = [f"text = {text!a}\n", tokenizer_lines(loaded)]
    parts.append(f"ids = {{{loaded.name!r}: tokenizer(text, split_special_tokens=True).input_ids}}\n\n")
    for name in encodings.ENCODINGS:
        parts.append(f"{tiktoken_lines(name)}ids[{name!r}] = encoding.encode_ordinary(text)\n\n")
    return "".join(parts)

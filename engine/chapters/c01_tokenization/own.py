"""The loaded checkpoint's own tokenizer beside tiktoken's three."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from engine.chapters.c01_tokenization.scripts import ENCODE, tiktoken_lines, tokenizer_lines
from engine.chapters.c01_tokenization.texts import (
    PLAIN,
    checked,
    in_bytes,
    of_text,
    printed,
    start_note,
)
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.tokenizing import columns, how, laid_out, reader, without_put
from engine.evidence.rounding import EXACT
from engine.figures.bars import bars
from engine.figures.tokenization import Part, Strip, strips
from engine.model.loaded import Loaded
from engine.tokens import encodings
from engine.tokens.encoder import encoder
from engine.tokens.pieces import cover
from engine.tokens.text import plural
from engine.tokens.token import Token

LINE, LINES = 34, 3
"""Bytes on a line of the figure, and lines."""


def own(loaded: Loaded, text: str) -> list[Card]:
    """Where four tokenizers cut a text, and how many tokens each makes of the whole."""
    text = checked(text)
    cuts = segmented(loaded, text)
    counts = {name: len(tokens) for name, tokens in cuts.items()}
    fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    code, size = _code(loaded, text), len(text.encode("utf-8"))
    sizes, per_token = [vocabulary(loaded, name) for name in cuts], [size / n for n in counts.values()]
    way = how(loaded)

    placed = {name: laid(loaded, name, text, tokens) for name, tokens in cuts.items()}
    drawn = {name: cut for name, cut in placed.items() if cut is not None}

    title = (
        f"The same text is {plural(counts[most], 'token')} for {most} and {counts[fewest]:,} for {fewest}"
        if counts[most] > counts[fewest]
        else f"All four tokenizers make {plural(counts[most], 'token')} of this text"
    )
    rows: dict[str, Sequence[Any]] = {
        "tokenizer": [name for name, tokens in cuts.items() for _ in tokens],
        "token": [token.display for tokens in cuts.values() for token in tokens],
        "id": [token.id for tokens in cuts.values() for token in tokens],
        "bytes": [in_bytes(token) for tokens in cuts.values() for token in tokens],
    }
    shown = Card(
        key="own",
        title=title,
        alt=f"Strips of the same text, cut into tokens by {', '.join(drawn)}, drawn to one scale of bytes.",
        badge=Badge.LIVE,
        figure=strips(wrapped(drawn)),
        table=rows,
        shown=_cut_up({name: [(t.id, t.bytes) for t in tokens] for name, tokens in cuts.items()})
        | {f"{name} ends": cut.ends for name, cut in drawn.items()},
        oracle=Oracle(
            f"{way} for all four tokenizers; the bytes of {loaded.name}’s tokens by transformers’ own table; and where "
            "each token ends by a walk through the text.",
            lambda: _again(loaded, text),
        ),
        code=code + 'result = {f"{name} ids": found for name, found in ids.items()}\n',
        numbers={f"{name} ids": [token.id for token in tokens] for name, tokens in cuts.items()},
        atol=0.0,
        note="Each box is one token; its width is its number of bytes. The figure shows the beginning of the text, the "
        f"table all.{_not_drawn(loaded, drawn)}{start_note(loaded)}",
    )
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
            "bytes per token": per_token,
        },
        shown={"vocabulary": sizes, "tokens": list(counts.values()), "bytes per token": per_token},
        oracle=Oracle(
            f"{way} for all four tokenizers, and the ids counted; the entries of the vocabularies one by one.",
            lambda: _counted_again(loaded, text),
            {"vocabulary": 0.0, "tokens": 0.0, "bytes per token": EXACT},
        ),
        code=code + _COUNTS,
        atol=0.0,
        note="Vocabularies, special tokens included: "
        + ", ".join(f"{PLAIN.get(n, n)} {size:,}" for n, size in zip(cuts, sizes, strict=True))
        + f".{start_note(loaded)}",
    )
    return [shown, counted]


def _counted(counts: dict[str, int], size: int) -> str:
    few = min(counts.values())
    names = " and ".join(name for name, count in counts.items() if count == few)
    if few == max(counts.values()):
        return f"Here all four need the same: {size / few:.1f} bytes in a token on average"
    return f"Fewest tokens for this text: {names} with {size / few:.1f} bytes in a token on average"


def segmented(loaded: Loaded, text: str) -> dict[str, tuple[Token, ...]]:
    """Tokenizer -> the tokens it makes of a text; the checkpoint's own comes first."""
    return {
        loaded.name: of_text(loaded, text),
        **{name: encodings.tokens(name, text) for name in encodings.ENCODINGS},
    }


def vocabulary(loaded: Loaded, name: str) -> int:
    """Entries of a tokenizer's vocabulary."""
    if name == loaded.name:
        return len(loaded.tokenizer)
    parts = encodings.definition(name)  # `n_vocab` would count the ids that no token has, too
    return len(parts["mergeable_ranks"]) + len(parts["special_tokens"])


@dataclass(frozen=True)
class Cut:
    """A text cut into tokens, and where in the text each token ends, in bytes: the last ends with the text."""

    tokens: tuple[Token, ...]
    ends: tuple[int, ...]


def laid(loaded: Loaded, name: str, text: str, tokens: tuple[Token, ...]) -> Cut | None:
    """Where tokens lie in their text; None where the tokenizer writes something else than the text."""
    parts = [token.bytes for token in tokens]
    if name == loaded.name and encoder(loaded.tokenizer).leading_space:
        parts[0] = parts[0].removeprefix(b" ")  # put there by the tokenizer
    covered = cover(text.encode("utf-8"), parts)
    return Cut(tokens, covered.ends) if covered else None


def wrapped(cuts: dict[str, Cut], line: int = LINE, lines: int = LINES) -> list[list[Strip]]:
    """Strips of at most about `line` bytes, broken only where every tokenizer has a cut."""
    breaks = [0, *breaks_of([cut.ends for cut in cuts.values()], line, lines)]
    found = []
    for start, stop in pairwise(breaks):
        found.append([Strip(PLAIN.get(name, name), between(cut, start, stop)) for name, cut in cuts.items()])
    return found


def breaks_of(ends: Sequence[Sequence[int]], line: int, lines: int) -> list[int]:
    """Ends of `lines` lines, in bytes: the last common cut within `line` bytes of a line's start, else the next one."""
    common = sorted(set.intersection(*map(set, ends)))
    chosen: list[int] = []
    start = 0
    while common and start < common[-1] and len(chosen) < lines:
        first = bisect_right(common, start)
        start = common[max(bisect_right(common, start + line) - 1, first)]
        chosen.append(start)
    return chosen


def between(
    cut: Cut, start: int, stop: int, part: "Callable[[Token, int], Part] | None" = None
) -> tuple[Part, ...]:
    """The tokens of a stretch of the text, each made into a part as wide as its bytes of the text."""
    make = part or _part
    return tuple(
        make(token, end - before)
        for token, before, end in zip(cut.tokens, (0, *cut.ends), cut.ends, strict=False)
        if start < end <= stop and end > before
    )


def _part(token: Token, width: int) -> Part:
    return Part(printed(token), width, f"{token.display}  id {token.id}  bytes {in_bytes(token)}")


def _not_drawn(loaded: Loaded, drawn: dict[str, Cut]) -> str:
    if loaded.name in drawn:
        return ""
    return f" {loaded.name} rewrites this text before it cuts it, so its tokens are in the table only."


def _cut_up(tokens: Mapping[str, Sequence[tuple[int, bytes]]]) -> dict[str, ArrayLike]:
    """Ids, lengths and bytes of the tokens of every tokenizer."""
    return {f"{name} {what}": row for name, found in tokens.items() for what, row in columns(found).items()}


def _again(loaded: Loaded, text: str) -> dict[str, ArrayLike]:
    tokens = {name: reader(loaded, name)(text) for name in (loaded.name, *encodings.ENCODINGS)}
    found = _cut_up(tokens)
    for name, pairs in tokens.items():
        parts = [raw for _, raw in pairs]
        place = laid_out(
            text.encode("utf-8"), without_put(loaded.tokenizer, parts) if name == loaded.name else parts
        )
        if place is not None:
            found[f"{name} ends"] = place.ends
    return found


def _counted_again(loaded: Loaded, text: str) -> dict[str, ArrayLike]:
    counts = [len(reader(loaded, name)(text)) for name in (loaded.name, *encodings.ENCODINGS)]
    listed = [encodings.encoding(name) for name in encodings.ENCODINGS]
    return {
        "vocabulary": [
            len(loaded.tokenizer.get_vocab()),
            *(len(one.token_byte_values()) + len(one.special_tokens_set) for one in listed),
        ],
        "tokens": counts,
        "bytes per token": np.frombuffer(text.encode("utf-8"), np.uint8).size / np.array(counts),
    }


def _code(loaded: Loaded, text: str) -> str:
    parts = [f"text = {text!a}\n", tokenizer_lines(loaded)]
    parts.append(f"ids = {{{loaded.name!r}: {ENCODE.format(text='text')}}}\nsizes = [len(tokenizer)]\n\n")
    for name in encodings.ENCODINGS:
        parts.append(f"{tiktoken_lines(name)}ids[{name!r}] = encoding.encode_ordinary(text)\n")
        parts.append("sizes.append(len(encoding.token_byte_values()) + len(encoding.special_tokens_set))\n\n")
    return "".join(parts)


_COUNTS = """
counts = [len(found) for found in ids.values()]
result = {
    "vocabulary": sizes,
    "tokens": counts,
    "bytes per token": [len(text.encode()) / count for count in counts],
}
"""

"""The loaded checkpoint's own tokenizer beside tiktoken's three."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from engine.cards.tokenization.common import (
    ENCODE,
    PLAIN,
    checked,
    in_bytes,
    mismatch,
    of_text,
    plural,
    printed,
    start_note,
    tiktoken_lines,
    tokenizer_lines,
)
from engine.evidence.card import Badge, Card, Proof
from engine.figures.bars import bars
from engine.figures.tokenization import Part, Strip, strips
from engine.model.loading import Loaded
from engine.model.trace import Token
from engine.tokens import encodings, merges
from engine.tokens.encoder import encoder
from engine.tokens.pieces import cover

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

    placed = {name: laid(loaded, name, text, tokens) for name, tokens in cuts.items()}
    drawn = {name: cut for name, cut in placed.items() if cut is not None}

    def prove() -> Proof:
        replayed, how = again(loaded)
        return Proof(
            f"{how} for all four tokenizers, against the ids shown: ids that differ.",
            sum(mismatch(replayed[name](text), found) for name, found in ids.items()),
            0.0,
        )

    def prove_counts() -> Proof:
        replayed, how = again(loaded)
        return Proof(
            f"{how} for all four tokenizers: how far the counts shown are from the numbers of ids.",
            float(sum(abs(len(replayed[name](text)) - count) for name, count in counts.items())),
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
    shown = Card(
        key="own",
        title=title,
        alt=f"Strips of the same text, cut into tokens by {', '.join(drawn)}, drawn to one scale of bytes.",
        badge=Badge.LIVE,
        figure=strips(wrapped(drawn)),
        table=columns,
        prove=prove,
        code=code + 'result = {f"{name} ids": found for name, found in ids.items()}\n',
        numbers={f"{name} ids": found for name, found in ids.items()},
        atol=0.0,
        note="A box is a token, as wide as its bytes of the text. The figure shows the beginning of the text, the "
        f"table all.{_not_drawn(loaded, drawn)}{start_note(loaded)}",
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
        prove=prove_counts,
        code=code + "result = {name: len(found) for name, found in ids.items()}\n",
        numbers=counts,
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
    return len(loaded.tokenizer) if name == loaded.name else encodings.encoding(name).n_vocab


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
    breaks = [0, *breaks_of([cut.ends for cut in cuts.values()], line)]
    found = []
    for start, stop in list(pairwise(breaks))[:lines]:
        found.append([Strip(PLAIN.get(name, name), between(cut, start, stop)) for name, cut in cuts.items()])
    return found


def breaks_of(ends: Sequence[Sequence[int]], line: int) -> list[int]:
    """Ends of lines, in bytes: the last common cut within `line` bytes of the line's start, else the next one."""
    common = sorted(set.intersection(*map(set, ends)))
    chosen: list[int] = []
    start = 0
    while common and start < common[-1]:
        ahead = [end for end in common if end > start]
        within = [end for end in ahead if end - start <= line]
        start = within[-1] if within else ahead[0]
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


def again(loaded: Loaded) -> tuple[dict[str, Callable[[str], list[int]]], str]:
    """Tokenizer -> another way to the ids of a text, and what that way is: the beginning of a proof's claim."""
    ways: dict[str, Callable[[str], list[int]]] = {
        name: merges.of_encoding(name).encode for name in encodings.ENCODINGS
    }
    own = merges.replayer(loaded.tokenizer)
    if own is not None:
        return ways | {loaded.name: own}, "Every merge replayed in Python"
    how = (
        f"Every merge of tiktoken’s three replayed in Python; {loaded.name} is no byte-pair encoder, so its model "
        "was asked for each piece by itself"
    )
    return ways | {loaded.name: lambda text: _by_model(loaded.tokenizer, text)}, how


def _by_model(tokenizer: Any, text: str) -> list[int]:
    """Ids from the model of a tokenizer alone, on pieces that are cut here; without one, from the tokens' names."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        names = tokenizer.tokenize(text, split_special_tokens=True)
        return list(tokenizer.convert_tokens_to_ids(names))
    added = json.loads(backend.to_str())["added_tokens"]
    return [
        id
        for part in merges.cuts(backend, added, text)
        for id in ([part] if isinstance(part, int) else [token.id for token in backend.model.tokenize(part)])
    ]


def _code(loaded: Loaded, text: str) -> str:
    parts = [f"text = {text!a}\n", tokenizer_lines(loaded)]
    parts.append(f"ids = {{{loaded.name!r}: {ENCODE.format(text='text')}}}\n\n")
    for name in encodings.ENCODINGS:
        parts.append(f"{tiktoken_lines(name)}ids[{name!r}] = encoding.encode_ordinary(text)\n\n")
    return "".join(parts)

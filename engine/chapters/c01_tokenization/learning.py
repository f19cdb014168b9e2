"""Byte-pair encoding trained on a short text: count the pairs, join the most frequent one, and again."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from numpy.typing import ArrayLike

from engine import ReaderError
from engine.chapters.c01_tokenization.texts import checked
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.pairing import Pair, learned_again
from engine.figures.bars import bars
from engine.figures.tokenization import Part, Strip, strips
from engine.tokens import merges
from engine.tokens.text import display_bytes, plural, shorten

SPLITTER = "r50k_base"
"""Whose rules split the text before anything is joined."""

PAIRS = 8
"""Pairs whose counts are drawn."""

LINE, LINES = 34, 4
"""Bytes on a line of the figure, and lines."""

MOST = 60
"""Merges that are learned at most."""

Pieces = tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True)
class Learned:
    """What training has done to a text, and what it would do next.

    merges  the pairs that were joined, in their order, each with how often it stood in the text
    pieces  the pieces of the text, each cut into its tokens
    counts  the pairs that stand in the text now and how often, the most frequent first, of equals the first in the text
    """

    merges: tuple[tuple[Pair, int], ...]
    pieces: Pieces
    counts: tuple[tuple[Pair, int], ...]


@lru_cache(maxsize=64)
def learned(text: str, most: int) -> Learned:
    """Train on a text until `most` pairs are joined, or no pair stands in it twice (Sennrich et al. 2016)."""
    pieces = tuple(tuple(bytes([byte]) for byte in piece) for piece in _split(text))
    done: list[tuple[Pair, int]] = []
    counts = _counted(pieces)
    while len(done) < most and counts and counts[0][1] > 1:
        done.append(counts[0])
        pieces = tuple(_joined(parts, counts[0][0]) for parts in pieces)
        counts = _counted(pieces)
    return Learned(tuple(done), pieces, counts)


def _split(text: str) -> list[bytes]:
    return list(merges.of_encoding(SPLITTER).split(checked(text)))


def _counted(pieces: Pieces) -> tuple[tuple[Pair, int], ...]:
    counts = Counter(pair for parts in pieces for pair in pairwise(parts))
    return tuple(counts.most_common())  # sorting is stable: of equals the first one seen comes first


def _joined(parts: tuple[bytes, ...], pair: Pair) -> tuple[bytes, ...]:
    """The parts of a piece with every occurrence of the pair joined, from left to right."""
    found: list[bytes] = []
    i = 0
    while i < len(parts):
        here = parts[i : i + 2] == pair
        found.append(b"".join(pair) if here else parts[i])
        i += 2 if here else 1
    return tuple(found)


def learnable(text: str) -> int:
    """How many merges a text has to teach, up to `MOST`."""
    return len(learned(text, MOST).merges)


def training(text: str, done: int) -> list[Card]:
    """How often each pair stands in a text after `done` merges, and the text as it is cut then.

    Raises ReaderError for a text without a pair.
    """
    found = learned(text, done)
    if not found.counts and not found.merges:
        raise ReaderError("This text has no two bytes that could be joined; please type some more.")
    return [_pairs(text, found), _cut(text, found)]


def _pairs(text: str, found: Learned) -> Card:
    first, given = found.counts[:PAIRS], [pair for pair, _ in found.merges]
    names = [" + ".join(map(display_bytes, pair)) for pair, _ in first]
    return Card(
        key="training-pairs",
        title=_next(found),
        alt="Bars: how often the most frequent pairs of neighbouring tokens stand in the text.",
        badge=Badge.TOY,
        figure=bars(
            names or ["no pair"],
            [count for _, count in first] or [0],
            concept="token",
            highlight=[0],
            value_name="times in the text",
        ),
        table={"pair": names or ["no pair"], "times": [count for _, count in first] or [0]},
        shown=_pair_arrays(first),
        oracle=Oracle(
            "The text trained on once more with numbers for tokens, every pair counted by walking through all of it.",
            lambda: _pair_arrays(learned_again(_split(text), given, [pair for pair, _ in first]).counts),
        ),
        note="Pairs inside a piece of the text are counted, never one across two pieces. Of pairs that are equally "
        "frequent the one that stands first in the text is taken.",
    )


def _pair_arrays(pairs: Sequence[tuple[Pair, int]]) -> dict[str, ArrayLike]:
    return {
        "times": [count for _, count in pairs],
        "lengths": [len(part) for pair, _ in pairs for part in pair],
        "bytes": [byte for pair, _ in pairs for part in pair for byte in part],
    }


def _next(found: Learned) -> str:
    if not found.counts or found.counts[0][1] < 2:
        done = plural(len(found.merges), "merge")
        return f"After {done} no pair stands in the text twice, so there is no more to learn"
    (left, right), count = found.counts[0]
    pair = f"“{display_bytes(left)}” and “{display_bytes(right)}”"
    return f"Merge {len(found.merges) + 1} will join {pair}, which stand together {count} times"


def _cut(text: str, found: Learned) -> Card:
    given = [pair for pair, _ in found.merges]
    newest = b"".join(given[-1]) if given else b""
    total = sum(len(parts) for parts in found.pieces)
    size = sum(len(part) for parts in found.pieces for part in parts)
    return Card(
        key="training-text",
        title=f"After {plural(len(given), 'merge')} the text is {plural(total, 'token')}; it was {plural(size, 'byte')}"
        + (f". Newest: “{shorten(display_bytes(newest), 20)}”" if newest else ""),
        alt=f"The text cut into {total} tokens, the newest kind filled.",
        badge=Badge.TOY,
        figure=strips([[Strip("", line)] for line in _lines(found.pieces, newest)]),
        table={
            "merge": list(range(1, len(given) + 1)) or [0],
            "joined": [" + ".join(map(display_bytes, pair)) for pair in given] or ["nothing yet"],
            "times": [count for _, count in found.merges] or [0],
        },
        shown=_cut_arrays(found.merges, found.pieces),
        oracle=Oracle(
            "The text trained on once more with numbers for tokens, every pair counted by walking through all of it.",
            lambda: _cut_again(text, given),
        ),
        note="The beginning of the text. The table has the merges: a tokenizer keeps them in their order, and the "
        "rules by which it splits a text.",
    )


def _cut_arrays(done: Sequence[tuple[Pair, int]], pieces: Sequence[Sequence[bytes]]) -> dict[str, ArrayLike]:
    return {
        "merged": [count for _, count in done],
        "joined": [byte for pair, _ in done for part in pair for byte in part],
        "widths": [len(part) for parts in pieces for part in parts],
    }


def _cut_again(text: str, given: Sequence[Pair]) -> dict[str, ArrayLike]:
    again = learned_again(_split(text), given, [])
    return _cut_arrays(again.merges, again.pieces)


def _lines(pieces: Pieces, newest: bytes) -> list[tuple[Part, ...]]:
    """The first lines of the text, broken between pieces where they are full."""
    lines: list[list[Part]] = [[]]
    for parts in pieces:
        if lines[-1] and sum(part.width for part in lines[-1]) + sum(map(len, parts)) > LINE:
            lines.append([])
        lines[-1] += [Part(display_bytes(raw), len(raw), display_bytes(raw), raw == newest) for raw in parts]
    return [tuple(line) for line in lines[:LINES]]

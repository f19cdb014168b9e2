"""Byte-pair encoding replayed merge by merge (Sennrich et al. 2016; over bytes: Radford et al. 2019, GPT-2).

A text is first split into pieces by a fixed pattern. Inside a piece, which begins as single bytes, the adjacent pair
with the lowest rank is merged, again and again, until no adjacent pair has a rank. Nothing merges across pieces.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import AnyStr

Parts = tuple[bytes, ...]
Rank = Callable[[bytes, bytes], int | None]


@cache
def byte_of_char() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character (Radford et al. 2019); the table of transformers."""
    from transformers.convert_slow_tokenizer import (
        bytes_to_unicode,  # here: most of this module needs no transformers
    )

    return {char: byte for byte, char in bytes_to_unicode().items()}


@dataclass(frozen=True)
class Merge:
    """One rank applied wherever it fits in a piece: what was joined, and the parts that the piece has afterwards."""

    rank: int
    left: bytes
    right: bytes
    parts: Parts


def replay(piece: bytes, rank: Rank) -> list[Merge]:
    """The merges that turn the bytes of one piece into its tokens, in the order in which they happen."""
    parts: Parts = tuple(bytes([byte]) for byte in piece)
    steps: list[Merge] = []
    while (best := lowest(parts, rank)) is not None:
        number, left, right = best
        parts = join(parts, left, right)
        steps.append(Merge(number, left, right, parts))
    return steps


def tokens(piece: bytes, rank: Rank) -> Parts:
    """What is left of a piece when no merge applies any more."""
    return merged([bytes([byte]) for byte in piece], rank)


def merged(parts: Sequence[AnyStr], rank: Callable[[AnyStr, AnyStr], int | None]) -> tuple[AnyStr, ...]:
    """What is left of symbols, bytes or characters, when no merge applies any more."""
    left = tuple(parts)
    while (best := lowest(left, rank)) is not None:
        left = join(left, best[1], best[2])
    return left


def lowest(
    parts: Sequence[AnyStr], rank: Callable[[AnyStr, AnyStr], int | None]
) -> tuple[int, AnyStr, AnyStr] | None:
    """The adjacent pair with the lowest rank, or None when no pair has one."""
    ranked = ((rank(a, b), a, b) for a, b in pairwise(parts))
    known = [(number, a, b) for number, a, b in ranked if number is not None]
    return min(known, default=None)


def join(parts: Sequence[AnyStr], left: AnyStr, right: AnyStr) -> tuple[AnyStr, ...]:
    """`parts` with every occurrence of the pair joined, from left to right."""
    joined: list[AnyStr] = []
    i = 0
    while i < len(parts):
        fits = parts[i] == left and i + 1 < len(parts) and parts[i + 1] == right
        joined.append(left + right if fits else parts[i])
        i += 2 if fits else 1
    return tuple(joined)


def by_vocabulary(ranks: Mapping[bytes, int]) -> Rank:
    """tiktoken's rule: a pair has the rank of the token that it would become."""
    return lambda left, right: ranks.get(left + right)


def by_merges(merges: Mapping[tuple[bytes, bytes], int]) -> Rank:
    """The rule of a `tokenizer.json`: a pair has the place that it holds in the list of merges."""
    return lambda left, right: merges.get((left, right))

"""Byte-pair encoding replayed merge by merge (Sennrich et al. 2016; over bytes: Radford et al. 2019, GPT-2).

A text is first split into pieces by a fixed pattern. Inside a piece, which begins as single bytes, the adjacent pair
with the lowest rank is merged, again and again, until no adjacent pair has a rank. Nothing merges across pieces.
"""

import heapq
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
    """What is left of symbols, bytes or characters, when no merge applies any more.

    The same as `lowest` and `join` in turn, in time n log n: pairs wait in a heap, the lowest of one kind first and
    those from left to right, and a pair is out of date when one of its two has been joined to something else.
    """
    left: list[AnyStr | None] = list(parts)
    after, before = list(range(1, len(left) + 1)), list(range(-1, len(left) - 1))
    heap: list[tuple[int, AnyStr, AnyStr, int]] = []

    def wait(place: int) -> None:
        if place < 0 or after[place] >= len(left):
            return
        first, second = left[place], left[after[place]]
        assert first is not None
        assert second is not None
        number = rank(first, second)
        if number is not None:
            heapq.heappush(heap, (number, first, second, place))

    for place in range(len(left) - 1):
        wait(place)
    while heap:
        kind, places = heap[0][:3], []
        while heap and heap[0][:3] == kind:  # all of one kind before any pair that they become
            places.append(heapq.heappop(heap)[3])
        changed = []
        for place in places:
            other = after[place]
            if left[place] != kind[1] or other >= len(left) or left[other] != kind[2]:
                continue
            left[place], left[other] = kind[1] + kind[2], None
            after[place] = after[other]
            if after[place] < len(left):
                before[after[place]] = place
            changed.append(place)
        for place in sorted({one for at in changed for one in (before[at], at)}):
            wait(place)
    return tuple(part for part in left if part is not None)


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

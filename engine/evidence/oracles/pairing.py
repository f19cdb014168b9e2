"""Byte-pair encoding trained once more: tokens are numbers, and a pair is counted by walking through the text."""

from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[bytes, bytes]


@dataclass(frozen=True)
class LearnedAgain:
    """The pairs joined with how often each stood, the pieces cut into tokens, and the asked pairs' counts now."""

    merges: list[tuple[Pair, int]]
    pieces: list[list[bytes]]
    counts: list[tuple[Pair, int]]


def learned_again(words: Sequence[bytes], given: Sequence[Pair], asked: Sequence[Pair]) -> LearnedAgain:
    """Train on words until as many pairs are joined as were `given`.

    A given pair is joined where no other stands more often; else the first of those that do. `asked` are the most
    frequent pairs of the trained text, in order; one that others exceed gives way to the first of them.
    """
    spelled = {number: bytes([number]) for number in range(256)}
    texts, merges = [list(word) for word in words], list[tuple[Pair, int]]()
    for pair in given:
        counts = _walk(texts)
        if not counts:
            break
        wanted = next((key for key in counts if (spelled[key[0]], spelled[key[1]]) == pair), None)
        most = max(counts.values())
        best = (
            wanted if wanted is not None and counts[wanted] == most else max(counts, key=counts.__getitem__)
        )
        number = 256 + len(merges)
        spelled[number] = spelled[best[0]] + spelled[best[1]]
        merges.append(((spelled[best[0]], spelled[best[1]]), counts[best]))
        texts = [_replaced(text, best, number) for text in texts]
    left = _walk(texts)
    ranked: list[tuple[Pair, int]] = []
    for pair in asked[: len(left)]:
        most = max(left.values())
        key = next((k for k in left if (spelled[k[0]], spelled[k[1]]) == pair and left[k] == most), None)
        key = max(left, key=left.__getitem__) if key is None else key
        ranked.append(((spelled[key[0]], spelled[key[1]]), left.pop(key)))
    return LearnedAgain(merges, [[spelled[number] for number in text] for text in texts], ranked)


def _walk(texts: Sequence[Sequence[int]]) -> dict[tuple[int, int], int]:
    counts: dict[tuple[int, int], int] = {}
    for text in texts:
        for i in range(len(text) - 1):
            key = (text[i], text[i + 1])
            counts[key] = counts.get(key, 0) + 1
    return counts


def _replaced(text: list[int], pair: tuple[int, int], number: int) -> list[int]:
    text, i = list(text), 0
    while i < len(text) - 1:
        if (text[i], text[i + 1]) == pair:
            text[i : i + 2] = [number]
        i += 1
    return text

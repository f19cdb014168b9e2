"""The fixed list of analogies scored: by arithmetic, and by what is near without any."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from engine import ReaderError
from engine.chapters.c02_embeddings.analogies import (
    Analogy,
    fixed_list,
    ordinal,
    token_again,
    usable,
    word_ids,
)
from engine.chapters.c02_embeddings.matrix import Table, code, name, quoted, table
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import embedding as again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.rounding import EXACT
from engine.figures import lines
from engine.figures.embeddings import ranked
from engine.model.loaded import Loaded
from engine.model.stopping import stop_here
from engine.ops.embeddings import nearest_one, rank
from engine.tokens.text import shorten

ARITHMETIC, ALLOWED, FROM_A, FROM_C = "a − b + c", "a − b + c, inputs count", "a alone", "c alone"
WAYS = (ARITHMETIC, ALLOWED, FROM_A, FROM_C)
TOGETHER = 8
"""Analogies whose vectors go through the matrix in one product."""


@dataclass(frozen=True, eq=False)
class Scored:
    """The list on one checkpoint: ids (analogy, 4), ranks of d (way, analogy), the first answer of each."""

    analogies: list[Analogy]
    skipped: list[Analogy]
    ids: np.ndarray
    ranks: np.ndarray
    answers: list[int]


_scored: "WeakKeyDictionary[Loaded, Scored]" = WeakKeyDictionary()
_lock = threading.Lock()


def scored(loaded: Loaded) -> Scored:
    """The list scored on a checkpoint, once for as long as it is in memory. ReaderError if no word is one token."""
    with _lock:
        if loaded not in _scored:
            _scored[loaded] = _score(loaded)
        return _scored[loaded]


def _score(loaded: Loaded) -> Scored:
    kept, skipped = usable(loaded)
    if not kept:
        raise ReaderError("This tokenizer has none of the list’s analogies in single tokens.")
    own = table(loaded)
    ids = np.array([word_ids(loaded, analogy.words) for analogy in kept])
    ranks, answers = [], []
    for one_ids, (sums, from_a, from_c) in zip(ids.tolist(), _cosines(own, ids), strict=True):
        d, inputs = one_ids[3], one_ids[:3]
        ranks.append([rank(sums, d, inputs), rank(sums, d), rank(from_a, d, inputs), rank(from_c, d, inputs)])
        answers.append(nearest_one(sums, inputs))
    return Scored(kept, skipped, ids, np.array(ranks).T, answers)


def _cosines(own: Table, ids: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """Cosines (3, vocab) of a − b + c, of a and of c for ids (analogy, 4); a few go through the matrix together."""
    for start in range(0, len(ids), TOGETHER):
        stop_here()
        a, b, c, _ = (
            own.rows(ids[start : start + TOGETHER].ravel().tolist())
            .reshape(-1, 4, own.d_model)
            .transpose(1, 0, 2)
        )
        together = own.cosines(np.concatenate([a - b + c, a, c]))
        yield from together.reshape(3, len(a), -1).transpose(1, 0, 2)


def score(loaded: Loaded) -> Card:
    """For each k the share of analogies whose expected word is among the k nearest, by arithmetic and without."""
    found, own = scored(loaded), table(loaded)
    limits = np.array(_steps(own.count))
    shares = {way: (row[None] <= limits[:, None]).mean(1) for way, row in zip(WAYS, found.ranks, strict=True)}
    ranks = found.ranks
    hits, total = (found.ranks == 1).sum(1), len(found.analogies)
    figure = lines(
        limits,
        {way: shares[way] for way in WAYS},
        colors=dict(zip(WAYS, ("embedding", "token", "query", "key"), strict=True)),
        x_name="k nearest rows",
        y_name="share with the expected word among them",
        log_x=True,
        zero=True,
    )
    figure.update_xaxes(dtick=1)
    return Card(
        key="score",
        title=f"Right at the first answer, of {total}: {hits[0]} by arithmetic, {hits[1]} if the input words may be "
        f"answers, {hits[2]} by a alone, {hits[3]} by c alone",
        alt=f"Rising lines: the share of {total} analogies whose expected word is among the k nearest rows, "
        "for four ways to look for it.",
        badge=Badge.LIVE,
        figure=figure,
        table={
            "analogy": [analogy.question for analogy in found.analogies],
            "expected": [analogy.words[3] for analogy in found.analogies],
            **{way: row.tolist() for way, row in zip(WAYS, found.ranks, strict=True)},
        },
        shown={"words": found.ids, "ranks": ranks, "k": limits, "shares": np.stack(list(shares.values()))},
        oracle=Oracle(
            f"{_CLAIM}; the shares counted from that.",
            lambda: _score_again(loaded, ranks),
            {"words": 0.0, "ranks": 0.0, "k": 0.0, "shares": EXACT},
        ),
        code=code(
            loaded, _SCORE_CODE.format(ids=found.ids.tolist()) + _SHARES_CODE.format(limits=limits.tolist())
        ),
        note=_said(found),
    )


def _steps(count: int) -> list[int]:
    return [
        k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000) if k < count
    ] + [count]


def _said(found: Scored) -> str:
    if not found.skipped:
        return "No analogy was skipped: all words are single tokens here."
    words = [f"{analogy.question} = {analogy.words[3]}" for analogy in found.skipped]
    return f"Skipped, because a word takes several tokens here: {len(words)} ({'; '.join(words)})."


def failures(loaded: Loaded, category: str) -> Card:
    """The analogies of one category: the first answer, and the rank of the expected word."""
    found, own = scored(loaded), table(loaded)
    chosen = [i for i, analogy in enumerate(found.analogies) if analogy.category == category]
    if not chosen:
        raise ReaderError(f"All analogies about “{category}” have words of several tokens here.")
    shown, first = found.ranks[[0, 2, 3]][:, chosen], [found.answers[i] for i in chosen]
    ranks = shown[0]
    answers = [name(loaded, id) for id in first]
    asked = [found.analogies[i] for i in chosen]
    below = [
        f"= {analogy.words[3]}" if place == 1 else f"“{shorten(answer, 12)}”, not {analogy.words[3]}"
        for analogy, place, answer in zip(asked, ranks, answers, strict=True)
    ]
    misses = int((ranks > 1).sum())
    worst = asked[int(ranks.argmax())]
    return Card(
        key="failures",
        title=f"{category.capitalize()}: {misses} of {len(chosen)} fail"
        + (
            f"; {quoted(worst.words[3])} for {worst.question} is {ordinal(int(ranks.max()))}"
            if misses
            else ""
        ),
        alt="For each analogy the rank of the expected word: "
        + ", ".join(f"{a.question} {place}" for a, place in zip(asked, ranks, strict=True)),
        badge=Badge.LIVE,
        figure=ranked([a.question for a in asked], below, ranks, worst=own.count),
        table={
            "analogy": [a.question for a in asked],
            "expected": [a.words[3] for a in asked],
            "first answer": answers,
            "rank of the expected word": ranks.tolist(),
            "near a alone": shown[1].tolist(),
            "near c alone": shown[2].tolist(),
        },
        shown={"words": found.ids[chosen], "answers": first, "ranks": shown},
        oracle=Oracle(
            f"{_CLAIM}; the first answers by sorting them.",
            lambda: _failures_again(loaded, category, shown, first),
        ),
        code=code(loaded, _SCORE_CODE.format(ids=found.ids[chosen].tolist()) + _ANSWERS_CODE),
        note="A circle is a hit. The three input words are not counted as answers; other spellings of them are.",
    )


_CLAIM = (
    "The words’ tokens by another way to cut them; every rank from counting the larger cosines of rows that torch "
    "normalized"
)


def _listed_again(loaded: Loaded, category: str | None = None) -> list[list[int]]:
    """Ids of a, b, c, d for the analogies of the list whose words are one token each."""
    token = token_again(loaded)
    listed = [one for one in fixed_list() if category in (None, one.category)]
    rows = [[id for word in one.words if (id := token(word)) is not None] for one in listed]
    return [ids for ids in rows if len(ids) == len(listed[0].words)]


def _cosines_again(loaded: Loaded, words: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
    """Cosines (3, vocab) of a − b + c, of a and of c, for every analogy; a few go through the matrix together."""
    for start in range(0, len(words), 8):
        asked = [again.rows(loaded, ids) for ids in words[start : start + 8]]
        vectors = torch.cat([torch.stack([a - b + c, a, c]) for a, b, c, _ in asked])
        yield from again.cosines(loaded, vectors).split(3)


def _score_again(loaded: Loaded, shown: NDArray[np.int64]) -> dict[str, ArrayLike]:
    """`shown`, the ranks (way, analogy), are kept where rounding lets them stand."""
    words, ranks = _listed_again(loaded), []
    for i, (ids, ways) in enumerate(zip(words, _cosines_again(loaded, words), strict=True)):
        total, from_a, from_c = ways
        asked = ((total, ids[:3]), (total, ()), (from_a, ids[:3]), (from_c, ids[:3]))
        ranks.append(
            [again.place(row, ids[3], shown[way, i], without) for way, (row, without) in enumerate(asked)]
        )
    limits = _steps(len(again.matrix(loaded)))
    columns = list(zip(*ranks, strict=True))
    shares = [[sum(rank <= k for rank in row) / len(row) for k in limits] for row in columns]
    return {"words": words, "ranks": columns, "k": limits, "shares": shares}


def _failures_again(
    loaded: Loaded, category: str, shown: NDArray[np.int64], first: Sequence[int]
) -> dict[str, ArrayLike]:
    words, ranks, answers = _listed_again(loaded, category), [], []
    for i, (ids, ways) in enumerate(zip(words, _cosines_again(loaded, words), strict=True)):
        ranks.append([again.place(row, ids[3], shown[way, i], ids[:3]) for way, row in enumerate(ways)])
        ways[0, ids[:3]] = -torch.inf
        answers.append(int(at_ranks(first[i : i + 1], ways[0], EXACT)[0]))
    return {"words": words, "answers": answers, "ranks": list(zip(*ranks, strict=True))}


_SCORE_CODE = """
U = torch.nn.functional.normalize(W)
words, ranks, answers = {ids}, [], []
for a, b, c, d in words:
    def rank(vector, inputs):
        larger = (cosines := U @ vector) > cosines[d]
        larger[inputs] = False
        return int(larger.sum()) + 1
    total = W[a] - W[b] + W[c]
    ranks.append([rank(total, [a, b, c]), rank(total, []), rank(W[a], [a, b, c]), rank(W[c], [a, b, c])])
    cosines = U @ total
    cosines[[a, b, c]] = -torch.inf
    answers.append(int(cosines.argmax()))
ranks = torch.tensor(ranks).T  # way, analogy
"""
_SHARES_CODE = """
limits = torch.tensor({limits})
shares = (ranks[:, None] <= limits[:, None]).double().mean(-1)
result = {{"words": words, "ranks": ranks, "k": limits, "shares": shares}}
"""
_ANSWERS_CODE = """
result = {"words": words, "answers": answers, "ranks": ranks[[0, 2, 3]]}
"""

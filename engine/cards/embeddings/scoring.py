"""The fixed list of analogies scored: by arithmetic, and by what is near without any."""

import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from engine import ReaderError
from engine.cards.attention.evidence import gap
from engine.cards.embeddings.analogies import Analogy, ordinal, usable, word_ids
from engine.cards.embeddings.matrix import code, cosines_by_torch, name, quoted, table
from engine.evidence.card import Badge, Card, Proof
from engine.figures import lines
from engine.figures.embeddings import ranked
from engine.model.loading import Loaded
from engine.ops.embeddings import nearest, rank
from engine.tokens.text import shorten

ARITHMETIC, ALLOWED, FROM_A, FROM_C = "a − b + c", "a − b + c, inputs count", "a alone", "c alone"
WAYS = (ARITHMETIC, ALLOWED, FROM_A, FROM_C)


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
    for one_ids in ids.tolist():
        rows = own.rows(one_ids)
        sums, from_a, from_c = own.cosines([rows[0] - rows[1] + rows[2], rows[0], rows[2]])
        d, inputs = one_ids[3], one_ids[:3]
        ranks.append([rank(sums, d, inputs), rank(sums, d), rank(from_a, d, inputs), rank(from_c, d, inputs)])
        answers.append(int(nearest(sums, 1, inputs)[0]))
    return Scored(kept, skipped, ids, np.array(ranks).T, answers)


def score(loaded: Loaded) -> Card:
    """For each k the share of analogies whose expected word is among the k nearest, by arithmetic and without."""
    found, own = scored(loaded), table(loaded)
    limits = np.array(_steps(own.count))
    shares = {way: (row[None] <= limits[:, None]).mean(1) for way, row in zip(WAYS, found.ranks, strict=True)}
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
        title=f"{hits[0]} of {total} come first by arithmetic; {hits[1]} if the words put in count as answers, "
        f"{hits[2]} near a alone, {hits[3]} near c alone",
        alt=f"Rising lines: the share of {total} analogies whose expected word is among the k nearest rows, "
        "for four ways to look for it.",
        badge=Badge.LIVE,
        figure=figure,
        table={
            "analogy": [analogy.question for analogy in found.analogies],
            "expected": [analogy.words[3] for analogy in found.analogies],
            **{way: row.tolist() for way, row in zip(WAYS, found.ranks, strict=True)},
        },
        prove=lambda: prove_ranks(loaded, found),
        code=code(loaded, _SCORE_CODE.format(ids=found.ids.tolist())),
        numbers={"ranks": found.ranks.tolist()},
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
    ranks = found.ranks[0, chosen]
    answers = [name(loaded, found.answers[i]) for i in chosen]
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
            "near a alone": found.ranks[2, chosen].tolist(),
            "near c alone": found.ranks[3, chosen].tolist(),
        },
        prove=lambda: prove_ranks(loaded, found),
        code=code(loaded, _SCORE_CODE.format(ids=found.ids[chosen].tolist())),
        numbers={"ranks": found.ranks[:, chosen].tolist()},
        note="A circle is a hit. The three words put in are not counted as answers; other spellings of them are.",
    )


def prove_ranks(loaded: Loaded, found: Scored) -> Proof:
    """All ranks from a sorted vocabulary of cosines by another path."""
    own, theirs = table(loaded), []
    for ids in found.ids.tolist():
        rows = own.rows(ids)
        ways = cosines_by_torch(loaded, np.stack([rows[0] - rows[1] + rows[2], rows[0], rows[2]]))
        barred = ways.clone()
        barred[:, ids[:3]] = -2
        places = [*barred, ways[0]]
        order = [int((scores.argsort(descending=True) == ids[3]).nonzero()[0, 0]) + 1 for scores in places]
        theirs.append([order[0], order[3], order[1], order[2]])
    return Proof(
        "Every rank against the place of the expected word in the vocabulary sorted by cosines of rows that torch "
        "normalized.",
        gap(found.ranks.T, theirs),
        0.0,
    )


_SCORE_CODE = """
U = torch.nn.functional.normalize(W)
ranks = []
for a, b, c, d in {ids}:
    def rank(vector, inputs):
        larger = (cosines := U @ vector) > cosines[d]
        larger[inputs] = False
        return int(larger.sum()) + 1
    total = W[a] - W[b] + W[c]
    ranks.append([rank(total, [a, b, c]), rank(total, []), rank(W[a], [a, b, c]), rank(W[c], [a, b, c])])
result = {{"ranks": torch.tensor(ranks).T}}
"""

"""Arithmetic with rows: a − b + c, one at a time and scored over a fixed list, next to doing no arithmetic."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import numpy as np

from engine.card import Badge, Card, Proof
from engine.cards.attention.evidence import gap
from engine.cards.embeddings.matrix import CLOSE, code, cosines_by_torch, name, pieces, quoted, table
from engine.checkpoints import ASSETS
from engine.errors import ReaderError
from engine.figures import bars, lines
from engine.figures.embeddings import ranked
from engine.loading import Loaded
from engine.ops.embeddings import Float, nearest, rank
from engine.text import clean_prompt, shorten

ARITHMETIC, ALLOWED, FROM_A, FROM_C = "a − b + c", "a − b + c, inputs count", "a alone", "c alone"
WAYS = (ARITHMETIC, ALLOWED, FROM_A, FROM_C)


@dataclass(frozen=True)
class Analogy:
    """Words a, b, c and the expected d of a − b + c ≈ d, and what relation they stand for."""

    category: str
    words: tuple[str, ...]

    @property
    def question(self) -> str:
        a, b, c = self.words[:3]
        return f"{a} − {b} + {c}"


@cache
def fixed_list() -> tuple[Analogy, ...]:
    """The list that every checkpoint is scored on."""
    groups = json.loads((ASSETS / "texts" / "analogies.json").read_text(encoding="utf-8"))
    return tuple(Analogy(group["name"], tuple(words)) for group in groups for words in group["words"])


def word_id(loaded: Loaded, word: str) -> int | None:
    """The token of a word with a space before it, None where it takes more than one token."""
    spaced, bare = pieces(loaded, " " + word), pieces(loaded, word)
    if len(spaced) == 1:
        return spaced[0].id
    if len(bare) == 1 and bare[0].bytes.startswith(b" "):  # a tokenizer that puts the space itself
        return bare[0].id
    return None


def word_ids(loaded: Loaded, words: Sequence[str]) -> list[int]:
    """The tokens of words. Raises ReaderError for one that is empty or takes more than one token."""
    found = []
    for given in words:
        word = clean_prompt(given, 60).strip()
        id = word_id(loaded, word) if word else None
        if id is None:
            raise ReaderError(_refused(loaded, word))
        found.append(id)
    return found


def _refused(loaded: Loaded, word: str) -> str:
    if not word:
        return "Please give all four words."
    count = len(pieces(loaded, f" {word}"))
    return f"“{shorten(word, 30)}” is {count} tokens to this tokenizer; please use words that are one token."


def usable(loaded: Loaded) -> tuple[list[Analogy], list[Analogy]]:
    """The analogies of the list whose four words are one token each, and the others."""
    kept: list[Analogy] = []
    skipped: list[Analogy] = []
    for analogy in fixed_list():
        whole = all(word_id(loaded, word) is not None for word in analogy.words)
        (kept if whole else skipped).append(analogy)
    return kept, skipped


def categories(loaded: Loaded) -> list[str]:
    """The categories of the list in which something can be asked."""
    return list(dict.fromkeys(analogy.category for analogy in usable(loaded)[0]))


def one(loaded: Loaded, words: Sequence[str], count: int = 10) -> Card:
    """The rows nearest to a − b + c, the inputs among them marked, and the rank of the expected word."""
    own, ids = table(loaded), word_ids(loaded, words)
    rows = own.rows(ids)
    scores = own.cosines(rows[0] - rows[1] + rows[2])[0]
    best = nearest(scores, count)
    names = [name(loaded, i) for i in best]
    places = [rank(scores, ids[3], without=ids[:3] if drop else ()) for drop in (True, False)]
    first = name(loaded, int(nearest(scores, 1, without=ids[:3])[0]))
    a, b, c, d = (word.strip() for word in words)
    verdict = f"{quoted(first)} comes first, {quoted(d)} {ordinal(places[0])}"
    if places[0] == 1:
        verdict = f"{quoted(d)} comes first"
    return Card(
        key="analogy",
        title=f"{quoted(a)} − {quoted(b)} + {quoted(c)}: {verdict}, not counting the three words put in",
        alt=f"Bars of the cosine with {a} − {b} + {c}: "
        + ", ".join(f"{text} {value:.2f}" for text, value in zip(names, scores[best], strict=True)),
        badge=Badge.LIVE,
        figure=bars(
            names,
            scores[best],
            colors=["token" if i in ids[:3] else "value" if i == ids[3] else "embedding" for i in best],
            value_name=f"cosine with {shorten(a)} − {shorten(b)} + {shorten(c)}",
            label_name="token",
        ),
        table={"token": names, "id": best.tolist(), "cosine": scores[best].tolist()},
        prove=lambda: _prove_one(loaded, rows, ids, best, scores, places),
        code=code(
            loaded,
            f"""
            a, b, c, d = ids[0].tolist()
            cosines = torch.nn.functional.cosine_similarity(W, (W[a] - W[b] + W[c])[None])
            best = cosines.sort(descending=True, stable=True).indices[:{count}]
            larger = cosines > cosines[d]
            result = {{"ids": best, "cosines": cosines[best], "expected": cosines[d]}}
            result["ranks"] = [int(larger.sum()) - sum(bool(larger[i]) for i in {{a, b, c}}) + 1, int(larger.sum()) + 1]
            """,
            ids,
        ),
        numbers={
            "ids": best.tolist(),
            "cosines": scores[best].tolist(),
            "expected": scores[ids[3]],
            "ranks": places,
        },
        note=f"Counting the words put in, {quoted(d)} is {ordinal(places[1])} of {own.count:,}. Colours: the words put "
        "in like tokens, the expected word like values.",
    )


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 1,021st."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def _prove_one(
    loaded: Loaded, rows: Float, ids: list[int], best: np.ndarray, scores: Float, places: list[int]
) -> Proof:
    theirs = cosines_by_torch(loaded, rows[0] - rows[1] + rows[2])[0]
    order = theirs.argsort(descending=True, stable=True).tolist()
    inputs = set(ids[:3])
    ranks = [[i for i in order if i not in inputs or i == ids[3]].index(ids[3]) + 1, order.index(ids[3]) + 1]
    return Proof(
        "Cosines of rows that torch normalized; the ranks from the sorted vocabulary.",
        max(gap(scores[best], theirs[best.tolist()]), gap(places, ranks)),
        CLOSE,
    )


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

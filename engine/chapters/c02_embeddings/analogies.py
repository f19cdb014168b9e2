"""Arithmetic with rows: a − b + c, one at a time, and the fixed list that it is scored on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from numpy.typing import ArrayLike

from engine import ReaderError
from engine.chapters.c02_embeddings.matrix import code, name, pieces, quoted, table
from engine.checkpoints.catalogue import ASSETS
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import embedding as again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.tokenizing import reader
from engine.evidence.rounding import EXACT
from engine.figures import bars
from engine.model.loaded import Loaded
from engine.ops.embeddings import nearest, rank
from engine.tokens.text import clean_prompt, shorten


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
    best = nearest(scores, count).tolist()
    names = [name(loaded, i) for i in best]
    places = [rank(scores, ids[3], without=ids[:3] if drop else ()) for drop in (True, False)]
    first = name(loaded, next(i for i in best if i not in ids[:3]))
    a, b, c, d = (word.strip() for word in words)
    verdict = f"{quoted(first)} comes first, {quoted(d)} {ordinal(places[0])}"
    if places[0] == 1:
        verdict = f"{quoted(d)} comes first"
    return Card(
        key="analogy",
        title=f"{quoted(a)} − {quoted(b)} + {quoted(c)}: {verdict}, not counting the three input words",
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
        table={"token": names, "id": best, "cosine": scores[best].tolist()},
        shown={"words": ids, "ids": best, "cosines": scores[best], "ranks": places},
        oracle=Oracle(
            "The words’ tokens by merges replayed in Python, or by the tokenizer’s model piece by piece; the cosines "
            "of rows that torch normalized; the ranks from counting the larger ones.",
            lambda: _one_again(loaded, words, best, places),
            {"words": 0.0, "ids": 0.0, "cosines": EXACT, "ranks": 0.0},
        ),
        code=code(
            loaded,
            f"""
            a, b, c, d = ids[0].tolist()
            cosines = torch.nn.functional.cosine_similarity(W, (W[a] - W[b] + W[c])[None])
            best = cosines.sort(descending=True, stable=True).indices[:{count}]
            larger = cosines > cosines[d]
            result = {{"words": ids[0], "ids": best, "cosines": cosines[best]}}
            result["ranks"] = [int(larger.sum()) - sum(bool(larger[i]) for i in {{a, b, c}}) + 1, int(larger.sum()) + 1]
            """,
            ids,
        ),
        note=f"Counting the input words, {quoted(d)} is {ordinal(places[1])} of {own.count:,}. Colours: the input "
        "words like tokens, the expected word like values.",
    )


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 1,021st."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def token_again(loaded: Loaded) -> Callable[[str], int | None]:
    """Word -> the token of it with a space before it, by another way to cut a text; None for more than one."""
    read = reader(loaded, loaded.name)

    def token(word: str) -> int | None:
        spaced, bare = read(clean_prompt(" " + word)), read(clean_prompt(word))
        if len(spaced) == 1:
            return spaced[0][0]
        return bare[0][0] if len(bare) == 1 and bare[0][1].startswith(b" ") else None

    return token


def _one_again(
    loaded: Loaded, words: Sequence[str], best: Sequence[int], places: Sequence[int]
) -> dict[str, ArrayLike]:
    """`best` and `places` are kept where rounding lets them stand."""
    token = token_again(loaded)
    ids = [id for word in words if (id := token(clean_prompt(word, 60).strip())) is not None]
    a, b, c, _ = again.rows(loaded, ids)
    found = again.cosines(loaded, a - b + c)[0]
    top = at_ranks(best, found, EXACT)
    return {
        "words": ids,
        "ids": top,
        "cosines": found[top].numpy(),
        "ranks": [
            again.place(found, ids[3], shown, without)
            for shown, without in zip(places, (ids[:3], ()), strict=True)
        ],
    }

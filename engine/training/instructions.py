"""The instruction set, cut from the corpus: ``python -m engine.training.instructions --corpus DIR --out DIR``.

Every answer is one to three whole sentences of one paragraph of a book; the request is made from the answer: some of
its nouns, its number of sentences, or the sentence before it. So nothing is written by hand or by another model.
Questions are left out ("Answer in two sentences: …"): books of fiction hold too few answers to be cut out honestly.

Held-out requests come from the held-out books, in which no other request and no training text has its source.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from engine.training import rule
from engine.training.checkpointing import write_atomically
from engine.training.data import read_books

SHARES = {rule.SCENE: 0.5, rule.ONE: 0.2, rule.TWO: 0.2, rule.CONTINUE: 0.1}
SOURCES = {"children": 0.6, "adventure": 0.4}
SHORTEST, LONGEST = 40, 300  # characters of an answer
MOST_TRIES = 20_000  # paragraphs drawn for one example
NOUN_COUNT, ALONE_SHARE, DETERMINED_SHARE = 40, 0.6, 0.2

_DETERMINED = re.compile(
    r"\b(?:the|a|an|his|her|my|their|its) ([a-z]{3,12})(?= (?:of|was|were|is|had|and|in|to|on|that|which|who|with|at"
    r"|for|as|from|but|or|by|into|when|where|came|said|she|he|they)\b|[.,;:!?]| ([a-z]+))"
)
_ODD = re.compile(r"[\[\]{}()*_<>|#=/\\~^0-9]|[A-Z]{3}|--$|[^\x20-\x7e]")
_SPEECH = ("'", "`")


@dataclass(frozen=True)
class Example:
    """A request and the answer that a book gives it; ``source`` is the corpus file."""

    kind: str
    request: str
    answer: str
    source: str


def nouns(books: Iterable[str]) -> frozenset[str]:
    """Words that often stand after an article or possessive, with no other content word behind them.

    That tells "the rabbit was" from "the old man" and from "out" without a dictionary: an adjective is followed by
    a word that may be anything, a noun by a function word or a stop.
    """
    every: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for book in books:
        every.update(re.findall("[a-z]+", book))
        for word, following in _DETERMINED.findall(book):
            seen[word] += 1
            alone[word] += not following
    return frozenset(
        word
        for word, count in seen.items()
        if count >= NOUN_COUNT
        and alone[word] / count >= ALONE_SHARE
        and count / every[word] >= DETERMINED_SHARE
    )


def paragraphs(book: str) -> list[str]:
    """Paragraphs of running prose, each on one line."""
    blocks = (" ".join(block.split()) for block in book.split("\n\n"))
    return [text for text in blocks if len(text) >= SHORTEST and (text[0].isupper() or text[0] == '"')]


def usable(text: str) -> bool:
    """Whether a span can stand for itself: plain signs, closed quotations, a capital first and a stop last."""
    return (
        SHORTEST <= len(text) <= LONGEST
        and text.count('"') % 2 == 0
        and re.fullmatch(r'"?[A-Z].*[.!?]"?', text) is not None
        and _ODD.search(text) is None
        and not text.startswith(_SPEECH)
    )


def asked_words(answer: str, known: frozenset[str], most: int, rng: np.random.Generator) -> list[str]:
    """The first nouns of the answer, one to ``most`` of them, in the order in which it uses them.

    The first, and not any: a small model then has a rule that it can learn, "the next noun is the next word asked for".
    """
    found = list(dict.fromkeys(word for word in rule.words_of(answer) if word in known))
    return found[: int(rng.integers(1, most + 1))]


def make(
    kind: str, sentences: Sequence[str], source: str, known: frozenset[str], rng: np.random.Generator
) -> Example | None:
    """An example of ``kind`` from one paragraph, at a place drawn at random; None where the paragraph has none."""
    before = int(kind == rule.CONTINUE)
    count = {rule.ONE: 1, rule.TWO: 2}.get(kind) or int(rng.integers(1, 4))
    if len(sentences) < count + before:
        return None
    start = before + int(rng.integers(0, len(sentences) - count - before + 1))
    answer = " ".join(sentences[start : start + count])
    if not usable(answer):
        return None
    if kind == rule.CONTINUE:
        if not usable(sentences[start - 1]) or len(sentences[start - 1]) > LONGEST // 2:
            return None
        return Example(kind, rule.continuation(sentences[start - 1]), answer, source)
    words = asked_words(answer, known, {rule.SCENE: 4, rule.ONE: 1, rule.TWO: 2}[kind], rng)
    if not words:
        return None
    return Example(kind, rule.scene(words) if kind == rule.SCENE else rule.about(kind, words), answer, source)


def examples(
    books: Mapping[str, Sequence[str]],
    shares: Mapping[str, float],
    known: frozenset[str],
    seed: int,
    *,
    barred: Collection[str] = (),
    once: bool = False,
) -> Iterator[Example]:
    """Examples without end, the kinds mixed by :data:`SHARES`; no answer twice.

    ``books``: source → texts; ``shares``: how often a source is drawn. ``barred``: requests not to make; ``once``: no
    request twice either. Only what the rule finds faultless is kept, so what is taught and what is measured agree.
    Raises ValueError when the books are used up.
    """
    rng = np.random.default_rng(seed)
    pools = {source: [p for text in texts for p in paragraphs(text)] for source, texts in books.items()}
    seen: set[str] = set()
    while True:
        source, kind = _draw(shares, rng), _draw(SHARES, rng)
        found, tries = None, 0
        while found is None:  # until there is one of this kind, so that the rare kinds keep their share
            tries += 1
            if tries > MOST_TRIES:
                raise ValueError(f"The books give no further example of the kind {kind!r}.")
            paragraph = rule.sentences_of(pools[source][int(rng.integers(len(pools[source])))])
            example = make(kind, paragraph, source, known, rng)
            if example is not None and _new(example, seen, barred, once):
                found = example
        seen |= {found.request, found.answer}
        yield found


def _new(example: Example, seen: Collection[str], barred: Collection[str], once: bool) -> bool:
    again = example.answer in seen or example.request in barred or (once and example.request in seen)
    return not again and rule.judge(example.request, example.answer, True).score > 0.999


def _draw(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    names = sorted(shares)
    weights = np.array([shares[name] for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def instruction_set(
    corpus: Path, count: int, held_out: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """``count`` examples from the books trained on and ``held_out`` from the held-out ones.

    No request is in both, nor twice among the held-out ones. Asked are words that the children's books use as nouns.
    """
    books = {source: read_books(corpus / f"{source}.txt") for source in SOURCES}
    known = nouns(books["children"])
    apart = {"held_out": read_books(corpus / "held_out.txt")}
    kept = list(islice(examples(apart, {"held_out": 1.0}, known, seed, once=True), held_out))
    barred = {example.request for example in kept}
    return list(islice(examples(books, SOURCES, known, seed, barred=barred), count)), kept


def save_examples(path: Path, rows: Iterable[Example]) -> None:
    """Write one JSON object a line."""
    text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, lambda partial: _write(partial, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def load_examples(path: Path) -> list[Example]:
    """What :func:`save_examples` wrote."""
    return [Example(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def main(arguments: list[str] | None = None) -> None:
    """Write train.jsonl and held_out.jsonl."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.instructions", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40_000, help="training examples")
    parser.add_argument("--held-out", type=int, default=400, help="held-out examples")
    parser.add_argument("--seed", type=int, default=13)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    train, held_out = instruction_set(args.corpus, args.count, args.held_out, args.seed)
    for name, rows in (("train", train), ("held_out", held_out)):
        save_examples(args.out / f"{name}.jsonl", rows)
        print(f"{name}: {len(rows)} examples, for instance:")
        for row in rows[:4]:
            print(f"  {row.request}\n    {row.answer}")


if __name__ == "__main__":
    main()

"""The requests that the tuned models are taught, and the written rule by which their answers are ranked.

The rule is mechanical, so anybody can check it, and every part of it is something that the reader of an answer wants:

words   the share of the asked words that occur in the answer, as whole words
ends    the answer stops by itself, at the end of a sentence, with every quotation closed
length  the answer has as many sentences as were asked for
fresh   no three words in a row occur twice, neither within the answer nor in request and answer

The score is 0.4 · words + 0.2 · ends + 0.2 · length + 0.2 · fresh. Needs neither torch nor transformers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

WEIGHTS = {"words": 0.4, "ends": 0.2, "length": 0.2, "fresh": 0.2}
RUN = 3  # so many words in a row count as a repetition

SCENE, ONE, TWO, CONTINUE = "scene", "one sentence", "two sentences", "continue"
KINDS = (SCENE, ONE, TWO, CONTINUE)
_SENTENCES = {SCENE: (1, 3), ONE: (1, 1), TWO: (2, 2), CONTINUE: (1, 3)}

_ABOUT = re.compile(r"Write (one sentence|two sentences) about the (.+?)\.?")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_ABBREVIATED = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Messrs|Mme|Mlle|Rev|Hon|Esq|Prof|Capt|Col|Gen|Lieut|Sergt|No|vs|etc|viz)"
    r"|\b[A-Z])\.$"
)
_BOUNDARY = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z])")
_END = re.compile(r"[.!?][\"'”’)]*$")


@dataclass(frozen=True)
class Asked:
    """What a request asks for: one of :data:`KINDS`, the words to use, and the number of sentences, least and most."""

    kind: str
    words: tuple[str, ...]
    sentences: tuple[int, int]


@dataclass(frozen=True)
class Judgement:
    """The parts of the rule, each in 0…1, and their weighted sum."""

    words: float
    ends: bool
    length: bool
    fresh: bool

    @property
    def score(self) -> float:
        """The weighted sum of the parts, 0…1."""
        return sum(weight * float(getattr(self, part)) for part, weight in WEIGHTS.items())


def scene(words: Sequence[str]) -> str:
    """``Write a scene with: rabbit, watch, hole``."""
    return f"Write a scene with: {', '.join(words)}"


def about(kind: str, words: Sequence[str]) -> str:
    """``Write one sentence about the rabbit.`` or ``Write two sentences about the rabbit and the watch.``."""
    return f"Write {kind} about the {' and the '.join(words)}."


def continuation(text: str) -> str:
    """``Continue: The rabbit looked at its watch.``"""
    return f"Continue: {text}"


def read_request(request: str) -> Asked | None:
    """What a request asks for, or None when it is of none of the kinds that were taught."""
    text = request.strip()
    if text.startswith("Continue:"):
        return Asked(CONTINUE, (), _SENTENCES[CONTINUE])
    if text.startswith("Write a scene with:"):
        words = text.removeprefix("Write a scene with:").rstrip(" .").split(",")
        return Asked(SCENE, tuple(word.strip() for word in words if word.strip()), _SENTENCES[SCENE])
    match = _ABOUT.fullmatch(text)
    if match is None:
        return None
    return Asked(match[1], tuple(match[2].split(" and the ")), _SENTENCES[match[1]])


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, an apostrophe inside being part of the word."""
    return [word.lower() for word in _WORD.findall(text)]


def sentences_of(text: str) -> list[str]:
    """The sentences of one paragraph, each with its closing quotes: cut where a full stop, question or exclamation
    mark is followed by white space and a capital, unless the stop belongs to a title or an initial.
    """
    found, start = [], 0
    for match in _BOUNDARY.finditer(text):
        closing = len(match.group().rstrip())
        piece = text[start : match.start() + closing]
        if closing == 0 and _ABBREVIATED.search(piece):
            continue
        found.append(piece)
        start = match.end()
    return [*found, text[start:].rstrip()] if text[start:].strip() else found


def repeats(request: str, answer: str) -> bool:
    """Whether three words in a row of the answer occur in it again, or in the request."""
    words = words_of(answer)
    runs = [tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]
    asked = words_of(request)
    given = {tuple(asked[i : i + RUN]) for i in range(len(asked) - RUN + 1)}
    return len(set(runs)) < len(runs) or not given.isdisjoint(runs)


def judge(request: str, answer: str, ended: bool) -> Judgement:
    """The rule on one answer; ``ended``: the model stopped by itself before the limit.

    Raises ValueError for a request of no known kind.
    """
    asked = read_request(request)
    if asked is None:
        raise ValueError(f"The rule does not know what {request!r} asks for.")
    used = set(words_of(answer))
    share = sum(word.lower() in used for word in asked.words) / len(asked.words) if asked.words else 1.0
    least, most = asked.sentences
    closed = answer.count('"') % 2 == 0 and _END.search(answer.strip()) is not None
    length = least <= len(sentences_of(answer.strip())) <= most
    return Judgement(share, ended and closed, length, bool(used) and not repeats(request, answer))

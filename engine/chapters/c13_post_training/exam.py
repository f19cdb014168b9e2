"""Questions that a small model was not made for, asked of every version and marked by a pattern, not by taste."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.chapters.c13_post_training.family import Version
from engine.chapters.c13_post_training.scripts import listed, script
from engine.chapters.c13_post_training.tasks import (
    Task,
    answers,
    meets,
    plain,
    recomputing,
    task,
    words,
    writing,
)
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.generating import call
from engine.figures import heatmap
from engine.model.loaded import Loaded
from engine.model.writing import Choice
from engine.tokens.text import quoted

LENGTH, TEMPERATURE = 32, 0.7
"""Tokens of an answer at most, and the temperature at which it is drawn."""


@dataclass(frozen=True)
class Question:
    """A request and what its answer is searched for, in lower case: `pattern` is a regular expression."""

    kind: str
    request: str
    wanted: str
    pattern: str
    name: str = ""  # at most twelve characters, for an axis

    def passed(self, text: str) -> bool:
        return meets(self.pattern, text)


def _word(choices: str) -> str:
    """A pattern for one of some words, standing alone: the five of “fifty-five” is none."""
    return rf"(?<![\w-])({choices})(?![\w-])"


QUESTIONS = (
    Question("writing", "Write one sentence about the king.", "“king”", _word("king"), name="the king"),
    Question("arithmetic", "What is two and three?", "“five” or “5”", _word("five|5"), name="2 + 3"),
    Question(
        "arithmetic", "What is 17 plus 25?", "“42” or “forty-two”", _word("42|forty.two"), name="17 + 25"
    ),
    Question("fact", "What is the capital of France?", "“Paris”", _word("paris"), name="capital"),
    Question(
        "fact", "How many legs does a spider have?", "“eight” or “8”", _word("eight|8"), name="spider legs"
    ),
    Question(
        "instruction",
        "Write the word lantern three times.",
        "“lantern” three times",
        r"(\blantern\b.*){3}",
        name="lantern × 3",
    ),
    Question(
        "instruction",
        "Write one sentence without the letter e.",
        "four words or more and no “e”",
        r"\A(?=(\W*\w+){4})[^e]+\Z",
        name="no letter e",
    ),
    Question(
        "instruction",
        "Answer with one word: is snow white or black?",
        "“white” and nothing else",
        r"\A\W*white\W*\Z",
        name="one word",
    ),
)


def ask(versions: Sequence[Version], question: Question, seed: int) -> list[Task]:
    """The answers to one question, all from one seed."""
    return [task(version, question.request, LENGTH, seed, TEMPERATURE) for version in versions]


def answered(question: Question, tasks: Sequence[Task], texts: Sequence[tuple[Choice, ...]]) -> Card:
    """The answers to one question and whether each passes."""
    right = [
        one.label
        for one, choices in zip(tasks, texts, strict=True)
        if choices and question.passed(words(one, choices))
    ]
    whose = listed(right) if right else "no version"
    return answers(
        "exam",
        tasks,
        texts,
        verdict=f"Looked for: {question.wanted}. Found in the answer of {whose}",
        note=f"An answer passes when the pattern {question.pattern} is found in it, in lower case. A pattern can be "
        "met by luck: try other seeds.",
        pattern=question.pattern,
    )


@dataclass(frozen=True, eq=False)
class Marks:
    """How often each version passed: question × version, out of `tries` seeds; and all that was written."""

    passed: np.ndarray
    tries: int
    written: tuple[tuple[Task, tuple[Choice, ...]], ...]


def examine(
    versions: Sequence[Version], seed: int, tries: int, progress: Callable[[float, str], None]
) -> Marks:
    """Ask every version all questions, with `tries` seeds each; a version at a time, so that one is in memory."""
    passed = np.zeros((len(QUESTIONS), len(versions)))
    written: list[tuple[Task, tuple[Choice, ...]]] = []
    count = len(versions) * len(QUESTIONS) * tries
    for j, version in enumerate(versions):
        for i, question in enumerate(QUESTIONS):
            for k in range(tries):
                progress(len(written) / count, f"{version.label}: {question.request}")
                one = task(version, question.request, LENGTH, seed + k, TEMPERATURE)
                choices: tuple[Choice, ...] = ()
                for step in writing(one):
                    choices = step
                    progress(len(written) / count, f"{version.label}: {question.request}")
                written.append((one, choices))
                passed[i, j] += question.passed(words(one, choices))
    return Marks(passed, tries, tuple(written))


def marks(versions: Sequence[Version], result: Marks, seed: int) -> Card:
    """The share of passed answers, question by version."""
    labels = [version.label for version in versions]
    totals = result.passed.sum(axis=0).astype(int)
    of = result.tries * len(QUESTIONS)
    names = [question.request for question in QUESTIONS]
    loaded = versions[0].get()
    return Card(
        key="marks",
        title="Answers that pass: "
        + ", ".join(f"{label} {total} of {of}" for label, total in zip(labels, totals, strict=True)),
        alt="Heat map of the share of passed answers, a row for each question, a column for each version.",
        badge=Badge.LIVE,
        figure=heatmap(
            result.passed / result.tries,
            [question.name or question.kind for question in QUESTIONS],
            labels,
            zero_one=True,
            print_values=".0%",
            concept="value",
            column_name="version",
            value_name="answers that pass",
            height=330,
        ),
        table={
            "question": names,
            "looked for": [question.wanted for question in QUESTIONS],
            "answers asked of each": [result.tries] * len(names),
            **{label: result.passed[:, j].astype(int).tolist() for j, label in enumerate(labels)},
        },
        shown={label: result.passed[:, j] for j, label in enumerate(labels)},
        oracle=_oracle(versions, result),
        code=script(versions, _code(loaded, versions, result, seed)),
        atol=0.0,
        note=f"Seeds {seed} to {seed + result.tries - 1}, temperature {TEMPERATURE}, {LENGTH} tokens at most. "
        f"The patterns say nothing about the rest of the answer.",
    )


def _oracle(versions: Sequence[Version], result: Marks) -> Oracle:
    known = [(one.version, recomputing(one, choices)) for one, choices in result.written]
    patterns = [question.pattern for question in QUESTIONS for _ in range(result.tries)]

    def compute() -> dict[str, list[int]]:
        again: dict[str, list[int]] = {}
        for version in versions:
            runs = [run for asked, run in known if asked.label == version.label]
            passed = [
                meets(pattern, plain(version, run())) for pattern, run in zip(patterns, runs, strict=True)
            ]
            again[version.label] = [
                sum(passed[i : i + result.tries]) for i in range(0, len(passed), result.tries)
            ]
        return again

    return Oracle(
        f"Each of the {len(known)} answers drawn anew with its seed by torch.multinomial, every token from one pass of "
        "transformers over the whole text, decoded by transformers, and searched for the patterns once more.",
        compute,
    )


def _code(loaded: Loaded, versions: Sequence[Version], result: Marks, seed: int) -> str:
    """A script that asks again through `model.generate`."""
    prompts = {
        version.label: [list(_first(result, version, i).request.ids) for i in range(len(QUESTIONS))]
        for version in versions
    }
    said = call("seeded", loaded, (result.written[0][0].request,), str(LENGTH))
    ends = said[said.index("eos_token_id=") :].split("]")[0] + "]"
    said = said.replace(ends, "eos_token_id=ends[label]")
    stops = {version.label: _stops(version) for version in versions}
    return f"""
    import re

    prompts = {prompts!r}
    patterns = {[question.pattern for question in QUESTIONS]!r}
    ends = {stops!r}
    result = {{}}
    for label, model in models.items():
        passed = [0] * len(patterns)
        for i, pattern in enumerate(patterns):
            ids = torch.tensor([prompts[label][i]])
            for seed in range({seed}, {seed + result.tries}):
                torch.manual_seed(seed)
                new = {said}[0, ids.shape[1] :].tolist()
                if new[-1] in ends[label]:
                    new = new[:-1]
                passed[i] += re.search(pattern, tokenizers[label].decode(new).lower(), re.DOTALL) is not None
        result[label] = passed
    print(result)
    """


def _first(result: Marks, version: Version, question: int) -> Task:
    """The task of a version's first answer to a question."""
    own = [one for one, _ in result.written if one.version.label == version.label]
    return own[question * result.tries]


def _stops(version: Version) -> list[int]:
    from engine.model.generation import end_of_text

    return sorted(end_of_text(version.get()))


def asked(question: Question) -> str:
    """A question as it stands in a list."""
    return f"{question.kind}: {quoted(question.request)}"

"""One request written out by several versions, each from the same seed, or by one version with and without template."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine import ReaderError
from engine.chapters.c13_post_training.family import Version
from engine.chapters.c13_post_training.requests import prompt_ids
from engine.chapters.c13_post_training.scripts import head
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.generating import call
from engine.evidence.oracles.drawn import DrawnAgain, drawn_again
from engine.evidence.rounding import logit_tolerance, probability_tolerance
from engine.figures.post_training import strips
from engine.model.capturing import display
from engine.model.generation import end_of_text
from engine.model.writing import Choice, Request, complete, so_far, text, write
from engine.ops.sampling import Filters
from engine.tokens.chat import without_system
from engine.training import rule


@dataclass(frozen=True)
class Task:
    """A text to be written: `label` names it in the figure."""

    label: str
    version: Version
    request: Request


def task(
    version: Version,
    asked: str,
    n: int,
    seed: int | None,
    temperature: float,
    template: bool = True,
    label: str = "",
) -> Task:
    """The answer of a version to a request: up to `n` tokens, greedy where there is no seed.

    The base has no template and continues the bare text; so does a tuned version without `template`.
    """
    filters = Filters() if seed is None else Filters(temperature=temperature)
    ids = prompt_ids(version, asked, template)
    return Task(label or version.label, version, Request(ids, n, seed, filters))


def with_and_without(
    version: Version, asked: str, n: int, seed: int | None, temperature: float
) -> list[Task]:
    """The same request to one tuned version, through its template and as bare text.

    Between them, where the template writes a system turn that nobody asked for: the template without that turn.
    """
    whole, bare = (
        task(version, asked, n, seed, temperature, template, label)
        for template, label in ((True, "template"), (False, "no template"))
    )
    ids = without_system(version.get().tokenizer, asked)
    if ids is None:
        return [whole, bare]
    return [whole, Task("no system", version, replace(whole.request, ids=ids)), bare]


def ready(one: Task) -> bool:
    """Whether the whole text is there already."""
    return complete(one.version.get(), one.request)


def begun(one: Task) -> tuple[Choice, ...]:
    """What has been written of it."""
    return so_far(one.version.get(), one.request)


def writing(one: Task) -> Iterator[tuple[Choice, ...]]:
    """The text as it grows, a token at a time."""
    choices: list[Choice] = []
    for choice in write(one.version.get(), one.request):
        choices.append(choice)
        yield tuple(choices)


def words(one: Task, choices: Sequence[Choice]) -> str:
    """Written tokens as plain text without the end mark; it still needs an escaper."""
    kept = choices[:-1] if choices and choices[-1].end else choices
    return text(one.version.get(), kept)


def judgement(asked: str, one: Task, choices: Sequence[Choice]) -> str:
    """What the rule behind the preferences says of a text, as plain text; empty for a request of no kind it knows."""
    kind = rule.read_request(asked)
    if kind is None:
        return ""
    if not words(one, choices).strip():
        return "Nothing was written, so there is nothing for the rule to judge."
    found = rule.judge(asked, words(one, choices), ended(choices))
    used = f"{found.words * len(kind.words):.0f} of {len(kind.words)} words, " if kind.words else ""
    marks = {"ends properly": found.ends, "length kept": found.length, "nothing repeated": found.fresh}
    said = ", ".join(f"{name}: {'yes' if good else 'no'}" for name, good in marks.items())
    return f"{used}{said}. Score {found.score:.2f} of 1."


def ended(choices: Sequence[Choice]) -> bool:
    """Whether a text ends because the version said so."""
    return bool(choices) and choices[-1].end


def answers(
    key: str,
    tasks: Sequence[Task],
    texts: Sequence[tuple[Choice, ...]],
    verdict: str = "",
    note: str = "",
    pattern: str | None = None,
) -> Card:
    """The written texts, the probability of each of their tokens, and where they end.

    verdict  stands in the title instead of where they end
    pattern  what it says is found in the texts, in lower case
    Raises ReaderError when nothing has been written.
    """
    if not texts or not all(texts):
        raise ReaderError("Nothing has been written yet.")
    pairs = list(zip(tasks, texts, strict=True))
    means = [float(np.mean([choice.surprisal for choice in choices])) for choices in texts]
    names = [[display(one.version.get(), choice.id) for choice in choices] for one, choices in pairs]
    chances = [[float(np.exp(-choice.surprisal)) for choice in choices] for choices in texts]
    shown: dict[str, Any] = {"ended": [ended(choices) for choices in texts]}
    for (one, choices), own in zip(pairs, chances, strict=True):
        shown[f"{one.label}, id"] = [choice.id for choice in choices]
        shown[f"{one.label}, in the model"] = own
        shown[f"{one.label}, drawn with"] = [choice.probability for choice in choices]
    if pattern is not None:
        shown["found"] = [meets(pattern, words(one, choices)) for one, choices in pairs]

    return Card(
        key=key,
        title=verdict or _endings(tasks, texts),
        alt="; ".join(f"{one.label} wrote “{words(one, choices)}”" for one, choices in pairs),
        badge=Badge.LIVE,
        figure=strips(
            [
                (one.label, list(zip(row, shares, strict=True)))
                for one, row, shares in zip(tasks, names, chances, strict=True)
            ]
        ),
        table={
            "text": [one.label for one, choices in pairs for _ in choices],
            "token": [name for row in names for name in row],
            "id": [choice.id for choices in texts for choice in choices],
            "probability in the model": [share for row in chances for share in row],
            "probability it was drawn with": [choice.probability for choices in texts for choice in choices],
        },
        shown=shown,
        oracle=_oracle(tasks, texts, pattern),
        code=_code(pairs, pattern),
        note=note
        or "A cell is a token, coloured by its probability in that version's own distribution, before the "
        "temperature. Mean surprisal in nats per token: "
        + ", ".join(f"{one.label} {mean:.2f}" for one, mean in zip(tasks, means, strict=True))
        + ".",
    )


def _endings(tasks: Sequence[Task], texts: Sequence[tuple[Choice, ...]]) -> str:
    pairs = list(zip(tasks, texts, strict=True))
    done = [
        f"{one.label} after {len(choices)} token{'' if len(choices) == 1 else 's'}"
        for one, choices in pairs
        if ended(choices)
    ]
    cut = [f"{one.label} after {len(choices)}" for one, choices in pairs if not ended(choices)]
    said = {"ended by itself": done, "cut off": cut}
    whole = "; ".join(f"{what}: {', '.join(labels)}" for what, labels in said.items() if labels)
    return whole[0].upper() + whole[1:]


def meets(pattern: str, text: str) -> bool:
    """Whether a pattern, a regular expression, is met somewhere in a text in lower case."""
    return re.search(pattern, text.lower(), re.DOTALL) is not None


def recomputing(one: Task, choices: Sequence[Choice]) -> Callable[[], DrawnAgain]:
    """What chooses every token of a text again. It holds ids, and no model."""
    version, request, ids = one.version, one.request, [choice.id for choice in choices]

    def again() -> DrawnAgain:
        loaded = version.get()
        allowed = logit_tolerance(loaded)
        return drawn_again(loaded, request.ids, ids, request.seed, request.filters.temperature, allowed)

    return again


def plain(version: Version, again: DrawnAgain) -> str:
    """A text chosen anew without its end mark, decoded by transformers."""
    kept = again.ids[:-1] if again.ended else again.ids
    decoded: str = version.get().tokenizer.decode(kept, skip_special_tokens=False)
    return decoded


def _oracle(tasks: Sequence[Task], texts: Sequence[tuple[Choice, ...]], pattern: str | None) -> Oracle:
    known = [
        (one.label, one.version, recomputing(one, choices)) for one, choices in zip(tasks, texts, strict=True)
    ]
    share = max(probability_tolerance(one.version.get()) for one in tasks)
    allowed: dict[str, float] = {"ended": 0, "found": 0}
    for one in tasks:
        allowed |= {f"{one.label}, id": 0}
        allowed |= dict.fromkeys((f"{one.label}, in the model", f"{one.label}, drawn with"), share)

    def compute() -> dict[str, Any]:
        result: dict[str, Any] = {"ended": []} if pattern is None else {"ended": [], "found": []}
        for label, version, run in known:
            again = run()
            result["ended"].append(again.ended)
            result[f"{label}, id"] = again.ids
            result[f"{label}, in the model"], result[f"{label}, drawn with"] = again.own, again.drawn_with
            if pattern is not None:
                result["found"].append(meets(pattern, plain(version, again)))
        return result

    return Oracle(
        "Every token, written one step at a time from a KV cache, against the one chosen anew, with the same seed by "
        "torch.multinomial, from one pass of transformers over the whole text; both probabilities against its softmax.",
        compute,
        allowed,
    )


def _code(pairs: Sequence[tuple[Task, tuple[Choice, ...]]], pattern: str | None) -> str:
    """Every text by `model.generate`, each version loaded once."""
    versions = {one.version.label: one.version for one, _ in pairs}
    kept = '{"ended": []}' if pattern is None else '{"ended": [], "found": []}'
    parts = [head(list(versions.values())), f"import re\n\nresult = {kept}\n"]
    for one, choices in pairs:
        request = one.request
        kind = "greedy" if request.seed is None else "seeded"
        said = call(kind, one.version.get(), (request,), str(len(choices)))
        ends = sorted(end_of_text(one.version.get()))
        divided = "" if request.seed is None else f" / {request.filters.temperature!r}"
        parts.append(
            f"\nmodel = models[{one.version.label!r}]\n"
            f"ids = torch.tensor([{list(request.ids)}])\n"
            + (f"torch.manual_seed({request.seed})\n" if request.seed is not None else "")
            + "with torch.no_grad():\n"
            f"    written = {said}\n"
            "    logits = model(written[:, :-1]).logits[0, ids.shape[1] - 1 :].double()\n"
            "new = written[0, ids.shape[1] :]\n"
            "each = torch.arange(len(new))\n"
            f'result["ended"].append(int(new[-1]) in {ends})\n'
            f"result[{one.label + ', id'!r}] = new\n"
            f"result[{one.label + ', in the model'!r}] = logits.softmax(-1)[each, new]\n"
            f"result[{one.label + ', drawn with'!r}] = (logits{divided}).softmax(-1)[each, new]\n"
            f"print({one.label!r}, tokenizers[{one.version.label!r}].decode(new))\n"
            + (_FIND.format(pattern=pattern, label=one.version.label) if pattern is not None else "")
        )
    return "".join(parts)


_FIND = """\
kept = new[:-1] if result["ended"][-1] else new
text = tokenizers[{label!r}].decode(kept)
result["found"].append(re.search({pattern!r}, text.lower(), re.DOTALL) is not None)
"""

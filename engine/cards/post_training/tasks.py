"""One request written out by several versions, each from the same seed, or by one version with and without template."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from engine import ReaderError
from engine.cards.post_training.common import head, prompt_ids
from engine.cards.post_training.family import Version
from engine.cards.sampling.common import difference, display, returned_logits, tolerance
from engine.cards.sampling.texts import call
from engine.cards.sampling.writing import Choice, Request, complete, so_far, text, write
from engine.evidence.card import Badge, Card, Proof
from engine.figures.post_training import strips
from engine.ops.sampling import Filters
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
    """The same request to one tuned version, through its template and as bare text."""
    return [
        task(version, asked, n, seed, temperature, template, label)
        for template, label in ((True, "template"), (False, "no template"))
    ]


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
    found = rule.judge(asked, words(one, choices), ended(choices))
    used = f"{found.words * len(kind.words):.0f} of {len(kind.words)} words, " if kind.words else ""
    marks = {"ends properly": found.ends, "length kept": found.length, "nothing repeated": found.fresh}
    said = ", ".join(f"{name}: {'yes' if good else 'no'}" for name, good in marks.items())
    return f"{used}{said}. Score {found.score:.2f} of 1."


def ended(choices: Sequence[Choice]) -> bool:
    """Whether a text ends because the version said so."""
    return bool(choices) and choices[-1].end


def answers(
    key: str, tasks: Sequence[Task], texts: Sequence[tuple[Choice, ...]], verdict: str = "", note: str = ""
) -> Card:
    """The written texts, the probability of each of their tokens, and where they end.

    verdict  stands in the title instead of where they end
    Raises ReaderError when nothing has been written.
    """
    if not texts or not all(texts):
        raise ReaderError("Nothing has been written yet.")
    pairs = list(zip(tasks, texts, strict=True))
    means = [float(np.mean([choice.surprisal for choice in choices])) for choices in texts]
    names = [[display(one.version.get(), choice.id) for choice in choices] for one, choices in pairs]
    chances = [[float(np.exp(-choice.surprisal)) for choice in choices] for choices in texts]

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
        prove=lambda: _prove(pairs),
        code=_code(pairs),
        numbers={
            **{one.label: [choice.id for choice in choices] for one, choices in pairs},
            "nats per token": means,
        },
        atol=rounding(tasks),
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


def rounding(tasks: Sequence[Task]) -> float:
    """How far a surprisal may differ between two ways through the same weights, nats."""
    return max(tolerance(one.version.get()) for one in tasks)


def reread(pairs: Sequence[tuple[Task, tuple[Choice, ...]]]) -> float:
    """max |Δ| of every written token's surprisal, against one pass of transformers over each whole text; nats."""
    gaps = [0.0]
    for one, choices in pairs:
        ids = [*one.request.ids, *(choice.id for choice in choices)]
        start = len(one.request.ids)
        rows = torch.tensor(returned_logits(one.version.get(), ids[:-1])[start - 1 :])
        each = cross_entropy(rows, torch.tensor(ids[start:]), reduction="none")
        gaps.append(difference([choice.surprisal for choice in choices], each))
    return float(np.max(gaps))  # NaN stays NaN


def _prove(pairs: Sequence[tuple[Task, tuple[Choice, ...]]]) -> Proof:
    return Proof(
        "The surprisal of every written token, taken one step at a time from a KV cache, against one pass of "
        "transformers over the whole text.",
        reread(pairs),
        rounding([one for one, _ in pairs]),
    )


def _code(pairs: Sequence[tuple[Task, tuple[Choice, ...]]]) -> str:
    """Every text by `model.generate`, each version loaded once."""
    versions = {one.version.label: one.version for one, _ in pairs}
    parts = [head(list(versions.values())), 'result = {"nats per token": []}\n']
    for one, choices in pairs:
        request = one.request
        kind = "greedy" if request.seed is None else "seeded"
        said = call(kind, one.version.get(), (request,), str(len(choices)))
        parts.append(
            f"\nmodel = models[{one.version.label!r}]\n"
            f"ids = torch.tensor([{list(request.ids)}])\n"
            + (f"torch.manual_seed({request.seed})\n" if request.seed is not None else "")
            + "with torch.no_grad():\n"
            f"    written = {said}\n"
            "    logits = model(written[:, :-1]).logits[0, ids.shape[1] - 1 :].float()\n"
            "new = written[0, ids.shape[1] :]\n"
            f"result[{one.label!r}] = new.tolist()\n"
            'result["nats per token"].append(float(torch.nn.functional.cross_entropy(logits, new)))\n'
            f"print({one.label!r}, tokenizers[{one.version.label!r}].decode(new))\n"
        )
    return "".join(parts)

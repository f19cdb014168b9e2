"""The most probable token at every step beside tokens drawn with a seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from engine import ReaderError
from engine.chapters.c05_sampling.warpers import filter_lines
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.generating import call
from engine.evidence.oracles.filtering import chosen, probabilities, written_again
from engine.evidence.passes import reading
from engine.evidence.rounding import LOGIT, logit_tolerance, probability_tolerance, rewritten
from engine.evidence.script import script
from engine.figures.sampling import texts as drawn_texts
from engine.model.capturing import display
from engine.model.loaded import Loaded
from engine.model.writing import Choice, Request, written


def name(request: Request) -> str:
    """What a text is called in the figure."""
    return "greedy" if request.seed is None else f"seed {request.seed}"


LOOP = 4
"""Tokens at the end of a text that have to stand before in the same order to be called a repetition."""


def repeated(seen: Sequence[int], new: Sequence[int]) -> int:
    """How many tokens at the end of a new text have stood before in the same order, in it or in those `seen`."""
    whole = [*seen, *new]
    longest = 0
    for end in range(len(whole) - 1):
        length = 0
        while length <= end and length < len(new) and whole[end - length] == whole[-1 - length]:
            length += 1
        longest = max(longest, length)
    return longest


def _again_and_again(name: str, count: int) -> str:
    """A sentence about a text that repeats; nothing about another."""
    return (
        f" The last {count} tokens of “{name}” have stood before in the same order." if count >= LOOP else ""
    )


def texts(loaded: Loaded, requests: tuple[Request, ...], pieces: tuple[tuple[Choice, ...], ...] = ()) -> Card:
    """Texts of several requests after one prompt; `pieces` are what is written of them already."""
    whole = pieces or tuple(written(loaded, request) for request in requests)
    if not all(whole):
        raise ReaderError("Nothing has been written yet.")
    means = [float(np.mean([c.surprisal for c in choices])) for choices in whole]
    rows = [
        (
            f"{name(request)} · {mean:.2f} nats per token",
            [(display(loaded, c.id), float(np.exp(-c.surprisal))) for c in choices],
        )
        for request, choices, mean in zip(requests, whole, means, strict=True)
    ]

    labelled = list(zip(requests, whole, means, strict=True))
    given = [[c.id for c in choices] for choices in whole]
    nats = rewritten(loaded, logit_tolerance(loaded), LOGIT)
    loops = [repeated(request.ids, ids) for request, ids in zip(requests, given, strict=True)]
    largest = [max(c.probability for c in choices) for choices in whole]
    return Card(
        key="texts",
        title="Mean surprisal in nats: " + ", ".join(f"{mean:.2f} ({name(r)})" for r, _, mean in labelled),
        alt="; ".join(
            f"{name(r)} wrote {''.join(display(loaded, c.id) for c in cs)}" for r, cs, _ in labelled
        ),
        badge=Badge.LIVE,
        figure=drawn_texts(rows),
        table={
            "text": [name(r) for r, choices, _ in labelled for _ in choices],
            "token": [display(loaded, c.id) for choices in whole for c in choices],
            "id": [c.id for choices in whole for c in choices],
            "probability after filters": [c.probability for choices in whole for c in choices],
            "surprisal in the model (nats)": [c.surprisal for choices in whole for c in choices],
        },
        shown={
            **{name(r): ids for r, ids in zip(requests, given, strict=True)},
            **{f"{name(r)}: nats": [c.surprisal for c in choices] for r, choices, _ in labelled},
            **{f"{name(r)}: drawn from": [c.probability for c in choices] for r, choices, _ in labelled},
            "nats per token": means,
            "repeated": loops,
        },
        oracle=Oracle(
            f"{reading(loaded)}; surprisals by torch's cross_entropy, transformers' own filters, and at every step "
            "the likeliest token or the one that torch.multinomial draws.",
            lambda: _again(loaded, requests, given, nats),
            {
                **{name(r): 0.0 for r in requests},
                **{f"{name(r)}: nats": nats for r in requests},
                **{
                    f"{name(r)}: drawn from": rewritten(
                        loaded, min(probability_tolerance(loaded), 2 * nats * p)
                    )
                    for r, p in zip(requests, largest, strict=True)
                },
                "nats per token": nats,
                "repeated": 0.0,
            },
        ),
        code=_code(loaded, requests, [len(choices) for choices in whole]),
        note="Number and bar under each token: its probability in the model's own distribution, before any filter."
        + "".join(_again_and_again(name(r), count) for r, count in zip(requests, loops, strict=True)),
    )


def _again(
    loaded: Loaded, requests: Sequence[Request], given: Sequence[list[int]], apart: float
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    means = []
    for request, new in zip(requests, given, strict=True):
        seen = request.ids
        rows = written_again(loaded, seen, new)
        each = cross_entropy(rows, torch.tensor(new), reduction="none")
        means.append(each.mean())
        found[name(request)] = chosen(rows, seen, new, request.filters, request.seed, apart)
        found[f"{name(request)}: nats"] = each
        found[f"{name(request)}: drawn from"] = [
            probabilities(row, [*seen, *new[:i]], request.filters)[id]
            for i, (row, id) in enumerate(zip(rows, new, strict=True))
        ]
    loops = [_tail(request.ids, found[name(request)]) for request in requests]
    return found | {"nats per token": means, "repeated": loops}


def _tail(seen: Sequence[int], new: Sequence[int]) -> int:
    """The length of the longest end of a new text that is found earlier, from the longest down."""
    whole = [*seen, *new]
    ends = (
        n
        for n in range(len(new), 0, -1)
        if any(whole[i : i + n] == whole[-n:] for i in range(len(whole) - n))
    )
    return next(ends, 0)


def _code(loaded: Loaded, requests: tuple[Request, ...], lengths: list[int]) -> str:
    seeded = next((r for r in requests if r.seed is not None), None)
    return script(
        loaded,
        requests[0].ids,
        filter_lines(seeded.filters) if seeded is not None else "filters = []",
        f"""
        texts = {{{", ".join(f"{name(r)!r}: ({r.seed}, {n})" for r, n in zip(requests, lengths, strict=True))}}}
        prompt = ids.shape[1]
        result = {{"nats per token": [], "repeated": []}}
        for name, (seed, n) in texts.items():
            with torch.no_grad():
                if seed is None:
                    text = {call("greedy", loaded, requests, "n")}
                else:
                    torch.manual_seed(seed)
                    text = {call("seeded", loaded, requests, "n")}
                logits = model(text[:, :-1]).logits[0, prompt - 1 :].float()
            new = text[0, prompt:]
            nats = torch.nn.functional.cross_entropy(logits, new, reduction="none")
            for i in range(len(new)):
                for _, processor in filters if seed is not None else []:
                    logits[i] = processor(text[:, : prompt + i], logits[i : i + 1])[0]
            result[name], result[name + ": nats"] = new, nats
            result[name + ": drawn from"] = logits.softmax(-1).gather(1, new[:, None])[:, 0]
            result["nats per token"].append(nats.mean())
            whole = text[0].tolist()
            ends = [n for n in range(1, len(new) + 1)
                    if any(whole[i : i + n] == whole[-n:] for i in range(len(whole) - n))]
            result["repeated"].append(max(ends, default=0))
        """,
    )

"""Greedy decoding beside beam search: the likeliest token at every step is not the likeliest text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from engine import ReaderError
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.beaming import beams_again
from engine.evidence.rounding import logit_tolerance, probability_tolerance
from engine.evidence.script import script
from engine.figures.sampling import texts as drawn_texts
from engine.model.capturing import display
from engine.model.loaded import Loaded
from engine.ops.sampling import finite

GREEDY = "greedy"

_GENERATE = (
    "model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens={n}, do_sample=False, num_beams=beams, "
    "length_penalty=0.0, repetition_penalty=1.0, eos_token_id=None, pad_token_id=0)"
)


@dataclass(frozen=True)
class Road:
    """A text of some tokens, and the natural logarithm of the probability of each."""

    ids: tuple[int, ...] = ()
    logs: tuple[float, ...] = ()


@torch.no_grad()
def search(
    loaded: Loaded,
    ids: Sequence[int],
    n: int,
    width: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Road:
    """The likeliest of the texts of `n` tokens after `ids` that are left when the `width` best are kept at every step.

    With a width of 1 that is greedy decoding. An end-of-text token counts like any other. `progress(share)` is told
    before each step. Raises ReaderError where the context has no room for a token.
    """
    length = min(n, loaded.spec.context - len(ids) + 1)
    if length < 1:
        raise ReaderError("The model's context is full, so no token can follow.")
    cache, roads = DynamicCache(config=loaded.model.config), [Road()]
    unread = torch.tensor([list(ids)], device=loaded.model.device)
    for step in range(length):
        progress(step / length)
        logits = loaded.model(input_ids=unread, cache=cache, use_cache=True).logits[:, -1]
        logs = torch.tensor(finite(logits.to("cpu", torch.float32).numpy())).double().log_softmax(-1)
        so_far = torch.tensor([sum(road.logs) for road in roads], dtype=torch.float64)
        best: Any = (so_far[:, None] + logs).flatten().topk(min(width, logs.numel())).indices
        parents, tokens = best // logs.shape[1], best % logs.shape[1]
        roads = [
            Road((*roads[i].ids, j), (*roads[i].logs, float(logs[i, j])))
            for i, j in zip(parents.tolist(), tokens.tolist(), strict=True)
        ]
        cache.reorder_cache(parents.to(unread.device))
        unread = tokens[:, None].to(unread.device)
    return roads[0]


def beams(
    loaded: Loaded, ids: Sequence[int], n: int, width: int, found: tuple[Road, Road] | None = None
) -> Card:
    """The greedy text and the best of `width` beams, token by token; `found` is both where they are known already."""
    roads = found or (search(loaded, ids, n, 1), search(loaded, ids, n, width))
    names = (GREEDY, f"best of {width} beams")
    p = [float(np.exp(sum(road.logs))) for road in roads]
    read, given = tuple(ids), [list(road.ids) for road in roads]
    rows = [
        (
            f"{name} · probability {whole:.2g}",
            [(display(loaded, id), float(np.exp(log))) for id, log in zip(road.ids, road.logs, strict=True)],
        )
        for name, whole, road in zip(names, p, roads, strict=True)
    ]
    return Card(
        key="beams",
        title=_title(p, width, given[0] == given[1]),
        alt="; ".join(
            f"{name}: {''.join(text for text, _ in tokens)}"
            for name, (_, tokens) in zip(names, rows, strict=True)
        ),
        badge=Badge.LIVE,
        figure=drawn_texts(rows),
        table={
            "text": [name for name, road in zip(names, roads, strict=True) for _ in road.ids],
            "token": [display(loaded, id) for road in roads for id in road.ids],
            "id": [id for road in roads for id in road.ids],
            "probability": [float(np.exp(log)) for road in roads for log in road.logs],
        },
        shown={
            GREEDY: given[0],
            "beams": given[1],
            f"{GREEDY}: each": np.exp(roads[0].logs),
            "beams: each": np.exp(roads[1].logs),
            "logarithms": [sum(road.logs) for road in roads],
        },
        oracle=Oracle(
            "Probabilities from one pass of transformers over each whole text, without a KV cache; the greedy token of "
            "every step; and that no text which transformers’ own beam search finds is likelier than the one shown.",
            lambda: beams_again(loaded, read, given, width, logit_tolerance(loaded)),
            {
                GREEDY: 0.0,
                "beams": 0.0,
                f"{GREEDY}: each": probability_tolerance(loaded),
                "beams: each": probability_tolerance(loaded),
                "logarithms": sqrt(len(given[0])) * logit_tolerance(loaded),  # a step's rounding is its own
            },
        ),
        code=_code(loaded, read, len(given[0]), width),
        note="Number and bar under each token: its probability. Both texts have the same number of tokens, so that "
        "their probabilities can be compared; an end-of-text token counts like any other here.",
    )


def _title(p: Sequence[float], width: int, same: bool) -> str:
    if same:
        return f"Here greedy decoding and {width} beams write the same text, of probability {p[0]:.2g}"
    if p[1] > p[0]:
        return f"{width} beams find a text {p[1] / p[0]:.3g} times as likely as the greedy one"
    return f"Here the greedy text is {p[0] / p[1]:.3g} times as likely as the one that {width} beams find"


def _code(loaded: Loaded, ids: Sequence[int], n: int, width: int) -> str:
    return script(
        loaded,
        ids,
        f"""
        result = {{"logarithms": []}}
        for name, beams in (({GREEDY!r}, 1), ("beams", {width})):
            with torch.no_grad():
                text = {_GENERATE.format(n=n)}
                logs = model(text[:, :-1]).logits[0, ids.shape[1] - 1 :].double().log_softmax(-1)
            new = text[0, ids.shape[1] :]
            each = logs.gather(1, new[:, None])[:, 0]
            result[name], result[name + ": each"] = new, each.exp()
            result["logarithms"].append(float(each.sum()))
        """,
    )

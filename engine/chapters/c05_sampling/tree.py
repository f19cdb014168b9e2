"""Token-by-token generation with the roads it did not take, and one turn-off of the reader's own."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine import ReaderError
from engine.chapters.c05_sampling.warpers import filter_lines
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.generating import call
from engine.evidence.oracles.filtering import chosen, probabilities, written_again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.passes import reading
from engine.evidence.rounding import logit_tolerance, probability_tolerance, rewritten
from engine.evidence.script import script
from engine.figures.text import tree as drawn_tree
from engine.model.capturing import display
from engine.model.loaded import Loaded
from engine.model.writing import Choice, Request, written
from engine.tokens.text import quoted

ROADS = 4


def turn(loaded: Loaded, request: Request, step: int, road: int) -> tuple[Request, tuple[Choice, ...]]:
    """Take road number `road` at a step (both from 0) of a text: the request for the rest, and all up to the turn."""
    base = written(loaded, request)
    if not 0 <= step < len(base):
        raise ReaderError(f"This text has no step {step + 1}; its last one is {len(base)}.")
    roads = base[step].alternatives[:ROADS]
    if not 0 <= road < len(roads):
        raise ReaderError(f"Step {step + 1} offers {len(roads)} roads.")
    id, probability = roads[road]
    taken = Choice(
        id, probability, float("nan"), base[step].alternatives, id == base[step].id and base[step].end
    )
    kept = (*base[:step], taken)
    ids = (*request.ids, *(c.id for c in kept))
    return replace(request, ids=ids, n=max(0, request.n - len(kept))), kept


def tree(
    loaded: Loaded,
    request: Request,
    rest: Request | None = None,
    kept: tuple[Choice, ...] = (),
    known: tuple[Choice, ...] = (),
) -> Card:
    """The candidates of every step and the one taken. With a turn, `kept` goes before the text of `rest`.

    known  the text of `request`, or of `rest`, as far as it is written, where that is so already
    """
    after = known or (written(loaded, request) if rest is None else _after(loaded, kept, rest))
    path = (*kept, *after)
    if not path:
        raise ReaderError("The model's context is full, so no token can follow.")
    roads = [_roads(choice) for choice in path]
    taken = [[id for id, _ in offered].index(choice.id) for offered, choice in zip(roads, path, strict=True)]
    log_p = float(sum(np.log(choice.probability) for choice in path))
    steps = [[(display(loaded, id), p) for id, p in offered] for offered in roads]
    text = "".join(display(loaded, choice.id) for choice in path)

    offers = [[id for id, _ in offered] for offered in roads]
    turned = len(kept) - 1 if kept else None

    return Card(
        key="tree",
        title=f"The road taken, {quoted(text)}, has probability {np.exp(log_p):.2g}",
        alt=f"A row of candidates for each of {len(path)} steps; lines lead from the token taken to the next row.",
        badge=Badge.LIVE,
        figure=drawn_tree(steps, taken),
        table={
            "step": [i + 1 for i, offered in enumerate(roads) for _ in offered],
            "token": [text for offered in steps for text, _ in offered],
            "id": [id for offered in roads for id, _ in offered],
            "probability": [p for offered in roads for _, p in offered],
            "taken": [str(id == path[i].id) for i, offered in enumerate(roads) for id, _ in offered],
        },
        shown={
            "id": np.concatenate(offers),
            "probability": np.array([p for offered in roads for _, p in offered]),
            "taken": np.array(taken),
        },
        oracle=Oracle(
            f"{reading(loaded)}; then its own filters: the likeliest tokens of "
            "every step, and the one that is taken or that torch.multinomial draws.",
            lambda: _again(loaded, request, offers, taken, turned, logit_tolerance(loaded)),
            {"id": 0.0, "probability": rewritten(loaded, probability_tolerance(loaded)), "taken": 0.0},
        ),
        code=_code(loaded, request, path, kept),
        numbers={
            "text": [choice.id for choice in path],
            "probabilities": [choice.probability for choice in path],
        },
        atol=probability_tolerance(loaded),
    )


def _again(
    loaded: Loaded,
    request: Request,
    offers: Sequence[Sequence[int]],
    taken: Sequence[int],
    turned: int | None,
    apart: float,
) -> dict[str, Any]:
    """The token of step `turned` is the reader's own choice; what follows it is drawn with the seed anew."""
    seen, text = request.ids, [offered[i] for offered, i in zip(offers, taken, strict=True)]
    rows = written_again(loaded, seen, text)
    parts = [(0, len(text))] if turned is None else [(0, turned), (turned + 1, len(text))]
    own = list(text)
    for start, end in parts:
        before, new = [*seen, *text[:start]], text[start:end]
        own[start:end] = chosen(rows[start:], before, new, request.filters, request.seed, apart)
    found: dict[str, Any] = {"id": [], "probability": [], "taken": []}
    for i, (offered, id) in enumerate(zip(offers, own, strict=True)):
        p = probabilities(rows[i], [*seen, *text[:i]], request.filters)
        count = min(ROADS, int((p > 0).sum()))
        ids = at_ranks(list(offered), p.log(), apart)[:count].tolist()
        if id not in ids:
            ids = [*ids[:-1], id]
        found["id"] += ids
        found["probability"] += p[ids].tolist()
        found["taken"].append(ids.index(id))
    return found


def _after(loaded: Loaded, kept: tuple[Choice, ...], rest: Request) -> tuple[Choice, ...]:
    return () if kept[-1].end or not rest.n else written(loaded, rest)


def _roads(choice: Choice) -> list[tuple[int, float]]:
    """The most probable candidates; a token drawn from further down stands last."""
    roads = list(choice.alternatives[:ROADS])
    if choice.id not in [id for id, _ in roads]:
        roads = [*roads[: ROADS - 1], (choice.id, choice.probability)]
    return roads


def _code(loaded: Loaded, request: Request, path: tuple[Choice, ...], kept: tuple[Choice, ...]) -> str:
    kind = "greedy" if request.seed is None else "seeded"
    seed = "" if request.seed is None else f"torch.manual_seed({request.seed})"
    given = [c.id for c in kept]
    rest = len(path) - len(kept)
    writes = f"{seed}\n{_generate(kind, loaded, request, rest)}" if rest else ""
    return script(
        loaded,
        request.ids,
        f"prompt = ids.shape[1]\nids = torch.cat([ids, torch.tensor([{given}], dtype=torch.long)], dim=1)",
        writes,
        filter_lines(request.filters),
        """
        with torch.no_grad():
            logits = model(ids[:, :-1]).logits[0, prompt - 1 :].double()
        for i in range(len(logits)):
            for name, processor in filters:
                logits[i] = processor(ids[:, : prompt + i], logits[i : i + 1])[0]
        new = ids[0, prompt:]
        p = logits.softmax(-1).gather(1, new[:, None])[:, 0]
        result = {"text": new, "probabilities": p}
        """,
    )


def _generate(kind: str, loaded: Loaded, request: Request, n: int) -> str:
    return f"with torch.no_grad():\n    ids = {call(kind, loaded, (request,), str(n))}"

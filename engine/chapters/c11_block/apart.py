"""Take a part out and look at what is left: the next token, and a short text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import kl_div

from engine import figures
from engine.chapters.c11_block.by_hand import apply_by_hand, script_lines
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.generating import call
from engine.evidence.oracles.greedy import greedy_again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.passes import logits_of
from engine.evidence.rounding import logit_tolerance, probability_tolerance, rewritten, same_pass
from engine.evidence.script import preamble
from engine.figures.sampling import texts as drawn_texts
from engine.model.cache import ByteLRU
from engine.model.capturing import token
from engine.model.generation import generate
from engine.model.interventions import Intervention, NoCausalMask
from engine.model.loaded import Loaded
from engine.model.precisions import precision
from engine.model.trace import Trace
from engine.ops.sampling import kl_divergence, softmax, top
from engine.tokens.text import shorten

SHOWN = 6


def apart(
    loaded: Loaded, intact: Trace, changed: Trace, removed: str, interventions: Sequence[Intervention]
) -> Card:
    """The next-token distribution of the intact and of the changed model, and the KL divergence between them."""
    before, after = softmax(intact.logits[-1]), softmax(changed.logits[-1])
    tops = [[int(i) for i in top(trace.logits[-1], SHOWN)] for trace in (intact, changed)]
    ids = list(dict.fromkeys([*tops[0], *tops[1]]))
    names = [shorten(token(loaded, i).display, 14) for i in ids]
    kl = float(kl_divergence(intact.logits[-1], changed.logits[-1]))
    best = token(loaded, int(after.argmax())).display
    near, prompt = same_pass(intact.logits[-1], changed.logits[-1]), intact.ids
    return Card(
        key="apart",
        title=f"Without {removed} the favourite is “{best}”, at {after.max():.1%}; KL {kl:.3g} nats"
        if interventions
        else f"The intact model's favourite is “{best}”, at {after.max():.1%}: take something out",
        alt="Probabilities of the favourite next tokens, intact and changed.",
        badge=Badge.LIVE,
        figure=figures.grouped_bars(
            names,
            {"intact": before[ids], "changed": after[ids]},
            colors={"intact": "logits", "changed": "gradient"},
            probability=True,
            value_name="probability",
        ),
        table={
            "token": [token(loaded, i).display for i in ids],
            "id": ids,
            "intact": before[ids].tolist(),
            "changed": after[ids].tolist(),
        },
        shown={"id": ids, "intact": before[ids], "changed": after[ids], "KL": kl},
        oracle=Oracle(
            "A second pass of the model, and one of a private copy whose modules were replaced by hand instead of "
            "hooked; softmax, favourites and the divergence by torch from the logits that transformers returns.",
            lambda: _apart_again(loaded, prompt, interventions, tops, near),
            {"id": 0.0, "intact": same_pass(before), "changed": same_pass(after), "KL": near},
        ),
        code=preamble(loaded, prompt) + _APART.format(lines=script_lines(loaded, interventions), shown=SHOWN),
    )


def _apart_again(
    loaded: Loaded,
    ids: Sequence[int],
    interventions: Sequence[Intervention],
    tops: Sequence[Sequence[int]],
    near: float,
) -> dict[str, Any]:
    models = (loaded.model, apply_by_hand(loaded, interventions))
    rows = [torch.tensor(logits_of(model, ids)[-1]).double() for model in models]
    firsts = [at_ranks(given, row, near).tolist() for given, row in zip(tops, rows, strict=True)]
    shown = list(dict.fromkeys(firsts[0] + firsts[1]))
    intact, changed = (row.log_softmax(-1) for row in rows)
    kl = kl_div(changed, intact, log_target=True, reduction="sum")
    return {"id": shown, "intact": intact[shown].exp(), "changed": changed[shown].exp(), "KL": kl}


_APART = """
def distribution():
    return model(ids, use_cache=False).logits[0, -1].double().log_softmax(-1)


def favourites(log_p):
    return log_p.sort(descending=True, stable=True).indices[:{shown}].tolist()


with torch.no_grad():
    intact = distribution()
{lines}    changed = distribution()
shown = list(dict.fromkeys(favourites(intact) + favourites(changed)))
result = {{
    "id": shown,
    "intact": intact[shown].exp(),
    "changed": changed[shown].exp(),
    "KL": (intact.exp() * (intact - changed)).sum(),
}}
"""


def _parting(same: int, interventions: Sequence[Intervention]) -> str:
    """Where two texts part, as a title."""
    if not interventions:
        return "What the intact model writes from here, twice: take something out"
    if not same:
        return "The two texts differ from the first written token on"
    return f"The two texts agree for {same} token{'s' * (same != 1)}"


@dataclass(frozen=True)
class Word:
    """One written token and the probability it had."""

    id: int
    probability: float


class Text(tuple[Word, ...]):
    """Written tokens, as `ByteLRU` keeps them."""

    @property
    def nbytes(self) -> int:
        return 64 * len(self)


_texts: ByteLRU[Text] = ByteLRU(limit=1_000_000)


def _written(
    loaded: Loaded, ids: tuple[int, ...], length: int, interventions: tuple[Intervention, ...]
) -> Text:
    """A greedy continuation, written once for all readers who ask for it."""
    key = (loaded.name, loaded.revision, loaded.precision, ids, length, interventions)

    def write() -> Text:
        steps = generate(loaded, ids, length, interventions=interventions)
        return Text(Word(step.id, step.probability) for step in steps)

    return _texts.get(key, write)


def told(
    loaded: Loaded, trace: Trace, removed: str, interventions: Sequence[Intervention], length: int = 24
) -> Card:
    """A short greedy continuation by the intact and by the changed model."""
    plain = _written(loaded, trace.ids, length, ())
    changed = _written(loaded, trace.ids, length, tuple(interventions))
    shorter = min(len(plain), len(changed))
    same = next((i for i in range(shorter) if plain[i].id != changed[i].id), shorter)
    rows = {"intact": plain, f"without {removed}" if interventions else "intact again": changed}
    prompt, given = trace.ids, [[step.id for step in steps] for steps in (plain, changed)]
    words = {name: [token(loaded, step.id).display for step in steps] for name, steps in rows.items()}
    return Card(
        key="told",
        title=_parting(same, interventions),
        alt="; ".join(f"{name}: {''.join(tokens)}" for name, tokens in words.items()),
        badge=Badge.LIVE,
        figure=drawn_texts(
            [
                (name, [(text, step.probability) for text, step in zip(words[name], steps, strict=True)])
                for name, steps in rows.items()
            ]
        ),
        table={
            "model": [name for name, steps in rows.items() for _ in steps],
            "token": [text for tokens in words.values() for text in tokens],
            "id": [step.id for steps in rows.values() for step in steps],
            "probability": [step.probability for steps in rows.values() for step in steps],
        },
        shown={
            name: values
            for row, steps in (("intact", plain), ("changed", changed))
            for name, values in (
                (row, [step.id for step in steps]),
                (f"{row}: probability", [step.probability for step in steps]),
            )
        },
        oracle=Oracle(
            "Every token chosen anew as the most probable one, from the logits that transformers returns: by "
            "the model, and by a private copy whose modules were replaced by hand instead of hooked.",
            lambda: _told_again(loaded, prompt, interventions, given, length),
            {
                "intact": 0.0,
                "changed": 0.0,
                "intact: probability": _allowed(loaded, plain),
                "changed: probability": _allowed(loaded, changed),
            },
        ),
        code=preamble(loaded, prompt)
        + _TOLD.format(
            call=call("greedy", loaded, (), str(len(plain))),
            lines=script_lines(loaded, interventions),
            count=len(changed),
        ),
        note="Greedy: the most probable token at every step. Number and bar under each token: its probability.",
    )


def _allowed(loaded: Loaded, steps: Text) -> float:
    largest = max(step.probability for step in steps)
    return rewritten(loaded, min(probability_tolerance(loaded), 2 * logit_tolerance(loaded) * largest))


def _told_again(
    loaded: Loaded,
    prompt: Sequence[int],
    interventions: Sequence[Intervention],
    given: Sequence[Sequence[int]],
    length: int,
) -> dict[str, Any]:
    models = {"intact": loaded.model, "changed": apply_by_hand(loaded, interventions)}
    causal = not any(isinstance(item, NoCausalMask) for item in interventions)
    found: dict[str, Any] = {}
    for (name, model), ids in zip(models.items(), given, strict=True):
        cached = name == "intact" or not interventions  # as `generate` does it
        whole = cached or (causal and not precision(loaded.precision).together)
        new, chances = greedy_again(loaded, model, prompt, ids, length, whole=whole)
        found |= {name: new, f"{name}: probability": chances}
    return found


_TOLD = """
def chances(rows, new):
    return rows.double().softmax(-1).gather(1, new[:, None])[:, 0]


prompt = ids.shape[1]
with torch.no_grad():
    text = {call}
    intact = text[0, prompt:]
    p = chances(model(text[:, :-1], use_cache=False).logits[0, prompt - 1 :], intact)
{lines}    text, rows = ids, []
    for _ in range({count}):
        rows.append(model(text, use_cache=False).logits[0, -1])
        text = torch.cat([text, rows[-1].argmax()[None, None]], dim=1)
    changed = text[0, prompt:]
result = {{
    "intact": intact,
    "intact: probability": p,
    "changed": changed,
    "changed: probability": chances(torch.stack(rows), changed),
}}
"""

"""The most probable token at every step beside tokens drawn with a seed."""

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from engine import ReaderError
from engine.cards.sampling.common import difference, display, returned_logits, script, settings, tolerance
from engine.cards.sampling.writing import Choice, Request, written
from engine.evidence.card import Badge, Card, Proof
from engine.figures.sampling import texts as drawn_texts
from engine.model.generation import end_of_text
from engine.model.loading import Loaded


def name(request: Request) -> str:
    """What a text is called in the figure."""
    return "greedy" if request.seed is None else f"seed {request.seed}"


def texts(loaded: Loaded, requests: tuple[Request, ...], pieces: tuple[tuple[Choice, ...], ...] = ()) -> Card:
    """Texts of several requests after one prompt; `pieces` are beginnings of them, where the reader stopped."""
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

    def prove() -> Proof:
        gaps = []
        for request, choices in zip(requests, whole, strict=True):
            ids = [*request.ids, *(c.id for c in choices)]
            rows = returned_logits(loaded, ids[:-1])[len(request.ids) - 1 :]
            theirs = cross_entropy(
                torch.tensor(rows), torch.tensor(ids[len(request.ids) :]), reduction="none"
            )
            gaps.append(difference([c.surprisal for c in choices], theirs))
        return Proof(
            "Every token's surprisal, taken one step at a time from a KV cache, against one pass over the whole text.",
            max(gaps),
            tolerance(loaded),
        )

    labelled = list(zip(requests, whole, means, strict=True))
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
        prove=prove,
        code=_code(loaded, requests, [len(choices) for choices in whole]),
        numbers={
            **{name(r): [c.id for c in choices] for r, choices, _ in labelled},
            "nats per token": means,
        },
        atol=tolerance(loaded),
        note="Number and bar under each token: its probability in the model's own distribution, before any filter.",
    )


def _code(loaded: Loaded, requests: tuple[Request, ...], lengths: list[int]) -> str:
    parts = [
        f"""
        texts = {{{", ".join(f"{name(r)!r}: ({r.seed}, {n})" for r, n in zip(requests, lengths, strict=True))}}}
        result = {{"nats per token": []}}
        for name, (seed, n) in texts.items():
            with torch.no_grad():
                if seed is None:
                    text = {call("greedy", loaded, requests, "n")}
                else:
                    torch.manual_seed(seed)
                    text = {call("seeded", loaded, requests, "n")}
                logits = model(text[:, :-1]).logits[0, ids.shape[1] - 1 :].float()
            new = text[0, ids.shape[1] :]
            result[name] = new
            result["nats per token"].append(torch.nn.functional.cross_entropy(logits, new))
        """
    ]
    return script(loaded, requests[0].ids, *parts)


def call(kind: str, loaded: Loaded, requests: tuple[Request, ...], n: str, ids: str = "ids") -> str:
    """Source of a call of `model.generate` that says every setting, so that no generation_config.json decides."""
    neutral: dict[str, float | None] = {
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": None,
    }
    seeded = next((r for r in requests if r.seed is not None), None)
    options = neutral | dict(settings(seeded.filters) if seeded is not None else {})
    if kind == "greedy":
        options = {"repetition_penalty": 1.0}
    said = "".join(f", {key}={value!r}" for key, value in options.items())
    ends = sorted(end_of_text(loaded))
    return (
        f"model.generate({ids}, attention_mask=torch.ones_like({ids}), max_new_tokens={n}, "
        f"do_sample={kind == 'seeded'}, eos_token_id={ends}{said})"
    )

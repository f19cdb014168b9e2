"""A private copy of the model learns one text, with each optimizer: losses, surprisals, and what it then writes."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import ReaderError
from engine.cards.sampling.common import difference, display, script
from engine.cards.sampling.surprisal import prompt as before
from engine.evidence.card import Badge, Card, Proof
from engine.figures import grouped_bars, lines
from engine.model.loading import Loaded
from engine.ops.finetuning import (
    RATES,
    Report,
    Tuned,
    greedy,
    optimizers_for,
    split_for_muon,
    surprisals,
    tune,
)
from engine.ops.optimizers import CALLS, ByHand
from engine.tokens.text import shorten

WRITTEN, OPENING, SHOWN = 16, 3, 14
CHECKED = 2
LOOSE = 0.05
"""Nats between two trainings of some dozens of steps whose fp32 sums run in another order; Muon rounds to bfloat16."""


def tuned(
    loaded: Loaded, ids: Sequence[int], names: Sequence[str], factor: float, steps: int, report: Report
) -> list[Tuned]:
    """One training for each optimizer, all from the loaded weights. Slow."""
    found = []
    for i, name in enumerate(names):
        told = _told(report, i, len(names))
        rate = RATES[name] * factor
        found.append(tune(loaded, ids, name, rate, steps, min(OPENING, len(ids)), WRITTEN, told))
    return found


def _told(report: Report, i: int, count: int) -> Report:
    return lambda share, text: report((i + share) / count, text)


def curves(loaded: Loaded, ids: Sequence[int], runs: Sequence[Tuned]) -> Card:
    """The loss of the text while it is learned, one line for each optimizer."""
    steps = len(runs[0].losses) - 1
    ends = {run.optimizer: run.losses[-1] for run in runs if np.isfinite(run.losses[-1])}
    best = min(ends, key=lambda name: ends[name]) if ends else None
    series = {_named(run): run.losses for run in runs}

    def prove() -> Proof:
        gaps = [difference(run.losses[: CHECKED + 1], _by_hand(loaded, ids, run)) for run in runs]
        return Proof(
            f"The losses of the first {CHECKED} steps against the papers' formulas written out, on gradients of the "
            f"loss that transformers returns.",
            max(gaps),
            LOOSE,
        )

    return Card(
        key="tune-losses",
        title=f"In {steps} steps the text's loss goes from {runs[0].losses[0]:.2f} to {ends[best]:.3f} nats, "
        f"with {best}"
        if best
        else "Every training diverged",
        alt=f"A line for each of {', '.join(series)}: the loss of the text after every step.",
        badge=Badge.LIVE,
        figure=lines(np.arange(steps + 1), series, x_name="step", y_name="mean surprisal (nats)", zero=True,
                     markers=False),
        table={"step": list(range(steps + 1)), **{name: values.tolist() for name, values in series.items()}},
        prove=prove,
        code=_code(loaded, ids, runs),
        numbers={"losses": [run.losses.tolist() for run in runs]},
        atol=LOOSE,
        note="Learning rates: " + ", ".join(f"{run.optimizer} {run.rate:.3g}" for run in runs) + ".",
    )  # fmt: skip


def changed(loaded: Loaded, ids: Sequence[int], run: Tuned) -> Card:
    """The surprisal of the text's tokens before and after training with one optimizer."""
    old = surprisals(loaded.model, ids)
    names = [display(loaded, id) for id in ids[1:]]
    kept = min(len(names), SHOWN)

    def prove() -> Proof:
        model = _trained_by_transformers(loaded, ids, run)
        return Proof(
            "The surprisals after training against those of another private copy, trained on the loss that "
            "transformers returns.",
            difference(run.nats, surprisals(model, ids)),
            LOOSE,
        )

    return Card(
        key="tune-surprisal",
        title=f"With {run.optimizer} the mean surprisal goes from {old.mean():.2f} to {run.nats.mean():.2f} nats",
        alt="Bars for each token of the text: its surprisal before and after training.",
        badge=Badge.LIVE,
        figure=grouped_bars(
            [f"{i + 1} {name}" for i, name in enumerate(names[:kept])],
            {"before": old[:kept], "after": run.nats[:kept]},
            colors={"before": "token", "after": "gradient"}, value_name="surprisal (nats)", label_name="token",
        ),
        table={"token": names, "before (nats)": old.tolist(), "after (nats)": run.nats.tolist()},
        prove=prove,
        code=_code(loaded, ids, [run], "nats"),
        numbers={"nats": [run.nats.tolist()]},
        atol=LOOSE,
        note=f"The first {kept} of {len(names)} tokens." if kept < len(names) else "",
    )  # fmt: skip


def writing(loaded: Loaded, ids: Sequence[int], runs: Sequence[Tuned]) -> Card:
    """What the model and its trained copies write after the first tokens of the text, greedily."""
    opening = tuple(ids[: min(OPENING, len(ids))])
    old = greedy(loaded.model, opening, WRITTEN)
    rows = {"before": old} | {_named(run): run.text for run in runs}
    start = "".join(display(loaded, id) for id in opening)

    def prove() -> Proof:
        theirs: Any = loaded.model.generate(
            torch.tensor([opening], device=loaded.model.device), do_sample=False, max_new_tokens=WRITTEN
        )
        written = theirs[0, len(opening) :].tolist()
        return Proof(
            "The text before training against transformers' own generate: the number of different tokens.",
            float(sum(a != b for a, b in zip(old, written, strict=False))),
            0.0,
        )

    return Card(
        key="tune-writing",
        title=f"What the copies write after “{shorten(start, 40)}”",
        alt="A table: the continuation before training and after it, for each optimizer.",
        badge=Badge.LIVE,
        figure=None,
        table={
            "model": list(rows),
            "continuation": ["".join(display(loaded, id) for id in text) for text in rows.values()],
            "tokens of your text": [_agreeing(text, ids[len(opening) :]) for text in rows.values()],
        },
        prove=prove,
        code=_code(loaded, ids, [runs[0]], "text"),
        numbers={"text": [list(runs[0].text)]},
        atol=0.5,
        note=f"Greedy. The last column counts how many tokens of your text come back before the first other one. "
        f"The script trains {runs[0].optimizer}.",
    )


def _named(run: Tuned) -> str:
    return run.optimizer if np.isfinite(run.losses[-1]) else f"{run.optimizer} (diverges)"


def _agreeing(written: Sequence[int], text: Sequence[int]) -> int:
    same = [a == b for a, b in zip(written, text, strict=False)]
    return same.index(False) if False in same else len(same)


def _by_hand(loaded: Loaded, ids: Sequence[int], run: Tuned) -> list[float]:
    """Losses of the first steps with `ByHand` in place of torch.optim."""
    model = copy.deepcopy(loaded.model).requires_grad_(True)
    parts = [(list(model.parameters()), ByHand(run.optimizer, run.rate))]
    if run.optimizer == "Muon":
        matrices, rest = split_for_muon(model)
        parts = [(matrices, ByHand("Muon", run.rate)), (rest, ByHand("AdamW", run.rate / 20))]
    batch = torch.tensor([list(ids)], device=model.device)
    losses = []
    for _ in range(CHECKED + 1):
        model.zero_grad()
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        losses.append(float(loss.detach()))
        loss.backward()
        with torch.no_grad():
            for params, rule in parts:
                new = rule.step(
                    params, [p.grad if p.grad is not None else torch.zeros_like(p) for p in params]
                )
                for parameter, value in zip(params, new, strict=True):
                    parameter.copy_(value)
    return losses[: len(run.losses)]


def _trained_by_transformers(loaded: Loaded, ids: Sequence[int], run: Tuned) -> Any:
    model = copy.deepcopy(loaded.model).requires_grad_(True)
    chosen = optimizers_for(model, run.optimizer, run.rate)
    batch = torch.tensor([list(ids)], device=model.device)
    for _ in range(len(run.losses) - 1):
        model.zero_grad()
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        for optimizer in chosen:
            optimizer.step()
    return model


def _code(loaded: Loaded, ids: Sequence[int], runs: Sequence[Tuned], wanted: str = "losses") -> str:
    """A script that trains with each optimizer from the checkpoint's weights and keeps `wanted`."""
    if not runs:
        raise ReaderError("Choose at least one optimizer.")
    trainings = ",\n".join(f"    lambda: [{_calls(run)}]" for run in runs)
    opening = min(OPENING, len(ids))
    return script(
        loaded,
        ids,
        """
        ends = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
        ends |= {id(p) for p in model.get_output_embeddings().parameters()}
        every = list(model.parameters())
        matrices = [p for p in every if p.ndim == 2 and id(p) not in ends]  # for Muon
        rest = [p for p in every if p.ndim != 2 or id(p) in ends]
        trained = [p.detach().clone() for p in every]
        """,
        f"trainings = [\n{trainings},\n]",
        f"""
        result = {{"{wanted}": []}}
        for make in trainings:
            with torch.no_grad():
                for p, w in zip(every, trained):
                    p.copy_(w)
            optimizers, losses = make(), []
            for step in range({len(runs[0].losses)}):
                loss = model(ids, labels=ids, use_cache=False).loss
                losses.append(float(loss.detach()))
                if step == {len(runs[0].losses) - 1}:
                    break
                model.zero_grad()
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
            with torch.no_grad():
                logits = model(ids, use_cache=False).logits[0, :-1].double()
                nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
                text = ids[:, :{opening}]
                for _ in range({WRITTEN}):
                    text = torch.cat([text, model(text, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
            found = {{"losses": losses, "nats": nats, "text": text[0, {opening}:].tolist()}}
            result["{wanted}"].append(found["{wanted}"])
        """,
    )


def _calls(run: Tuned) -> str:
    if run.optimizer != "Muon":
        return CALLS[run.optimizer].format(params="every", rate=run.rate)
    muon = CALLS["Muon"].format(params="matrices", rate=run.rate)
    return f"{muon}, {CALLS['AdamW'].format(params='rest', rate=run.rate / 20)}"


__all__ = ["RATES", "before", "changed", "curves", "tuned", "writing"]

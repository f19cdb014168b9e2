"""A private copy of the model learns one text, with each optimizer: losses, surprisals, and what it then writes."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engine import ReaderError
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.rounding import largest
from engine.evidence.script import script
from engine.figures import grouped_bars, lines
from engine.model.capturing import display
from engine.model.loaded import Loaded
from engine.model.one_text import (
    RATES,
    Report,
    Trained,
    greedy,
    optimizers_for,
    split_for_muon,
    surprisals,
    train,
)
from engine.ops.optimizers import CALLS, ByHand
from engine.tokens.text import shorten

WRITTEN, OPENING, SHOWN = 16, 3, 14
CHECKED = 2
LOOSE = 0.005
"""Nats between two trainings of some dozens of steps whose fp32 sums run in another order, as an accelerator's may; and
between two ways to Muon's first steps, which are rounded to bfloat16."""
CLOSE = 3e-6
"""As a part of the largest loss, where sums run in one order; Adam and AdamW are several times further apart."""


def trained(
    loaded: Loaded, ids: Sequence[int], names: Sequence[str], factor: float, steps: int, report: Report
) -> list[Trained]:
    """One training for each optimizer, all from the loaded weights. Slow."""
    found = []
    for i, name in enumerate(names):
        told = _told(report, i, len(names))
        rate = RATES[name] * factor
        found.append(train(loaded, ids, name, rate, steps, min(OPENING, len(ids)), WRITTEN, told))
    return found


def _told(report: Report, i: int, count: int) -> Report:
    return lambda share, text: report((i + share) / count, text)


def curves(loaded: Loaded, ids: Sequence[int], runs: Sequence[Trained]) -> Card:
    """The loss of the text while it is learned, one line for each optimizer."""
    steps = len(runs[0].losses) - 1
    ends = {run.optimizer: run.losses[-1] for run in runs if np.isfinite(run.losses[-1])}
    series = {_named(run): run.losses for run in runs}

    return Card(
        key="tune-losses",
        title=_ended(steps, float(runs[0].losses[0]), ends) if ends else "Every training diverged",
        alt=f"A line for each of {', '.join(series)}: the loss of the text after every step.",
        badge=Badge.LIVE,
        figure=lines(np.arange(steps + 1), series, x_name="step", y_name="mean surprisal (nats)", log_y=True,
                     markers=False),
        table={"step": list(range(steps + 1)), **{name: values.tolist() for name, values in series.items()}},
        shown=series,
        oracle=Oracle(
            f"Every loss against another private copy's, trained on the loss that transformers returns; the first "
            f"{CHECKED} steps by the papers' formulas written out, the others by torch.optim.",
            lambda: {
                name: [*_by_hand(loaded, ids, run), *_again(loaded, ids, run)[1][CHECKED + 1 :]]
                for name, run in zip(series, runs, strict=True)
            },
            {name: _allowed(loaded, run) for name, run in zip(series, runs, strict=True)},
        ),
        code=_code(loaded, ids, runs),
        numbers={"losses": [run.losses.tolist() for run in runs]},
        atol=LOOSE,
        note="Learning rates: " + ", ".join(f"{run.optimizer} {run.rate:.3g}" for run in runs) + ".",
    )  # fmt: skip


def _ended(steps: int, start: float, ends: Mapping[str, float]) -> str:
    """The lowest loss and whose it is; those that the proof cannot tell from it are named too."""
    best = min(ends, key=lambda name: ends[name])
    near = [name for name, end in ends.items() if name != best and end - ends[best] <= LOOSE]
    also = f"; {' and '.join(near)} end{'s' if len(near) == 1 else ''} within {LOOSE:g} of it" if near else ""
    return (
        f"In {steps} steps the text's loss goes from {start:.2f} to {ends[best]:.3f} nats with {best}{also}"
    )


def changed(loaded: Loaded, ids: Sequence[int], run: Trained) -> Card:
    """The surprisal of the text's tokens before and after training with one optimizer."""
    old = surprisals(loaded.model, ids)
    names = [display(loaded, id) for id in ids[1:]]
    kept = min(len(names), SHOWN)

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
        shown={"before": old, "after": run.nats},
        oracle=Oracle(
            "The surprisals before training from transformers' logits, after it from another private copy that was "
            "trained on the loss that transformers returns.",
            lambda: {
                "before": _nats(loaded.model, ids),
                "after": _nats(_again(loaded, ids, run)[0], ids),
            },
            CLOSE if _in_order(loaded) else LOOSE,
        ),
        code=_code(loaded, ids, [run], "nats"),
        numbers={"nats": [run.nats.tolist()]},
        atol=LOOSE,
        note=f"The first {kept} of {len(names)} tokens." if kept < len(names) else "",
    )  # fmt: skip


def writing(loaded: Loaded, ids: Sequence[int], runs: Sequence[Trained]) -> Card:
    """What the model and its trained copies write after the first tokens of the text, greedily."""
    opening = tuple(ids[: min(OPENING, len(ids))])
    old = greedy(loaded.model, opening, WRITTEN)
    rows = {"before": old} | {_named(run): run.text for run in runs}
    start = "".join(display(loaded, id) for id in opening)

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
        shown=rows,
        oracle=Oracle(
            "Every text against transformers' own generate: by the model, and by other private copies trained on the "
            "loss that transformers returns.",
            lambda: {
                "before": _continued(loaded.model, opening),
                **{_named(run): _continued(_again(loaded, ids, run)[0], opening) for run in runs},
            },
        ),
        code=_code(loaded, ids, [runs[0]], "text"),
        numbers={"text": [list(runs[0].text)]},
        atol=0.5,
        note=f"Greedy. The last column counts how many tokens of your text come back before the first other one. "
        f"The script trains {runs[0].optimizer}.",
    )


def _in_order(loaded: Loaded) -> bool:
    """Whether sums are added up in the same order each time."""
    return bool(loaded.model.device.type == "cpu")


def _allowed(loaded: Loaded, run: Trained) -> float:
    """How far a loss of a training may lie from its twin's, in nats."""
    if run.optimizer == "Muon":
        return LOOSE * max(1.0, run.rate / RATES["Muon"] / 5)
    return CLOSE * max(1.0, largest(run.losses)) if _in_order(loaded) else LOOSE


def _named(run: Trained) -> str:
    return run.optimizer if np.isfinite(run.losses[-1]) else f"{run.optimizer} (diverges)"


def _agreeing(written: Sequence[int], text: Sequence[int]) -> int:
    same = [a == b for a, b in zip(written, text, strict=False)]
    return same.index(False) if False in same else len(same)


def _by_hand(loaded: Loaded, ids: Sequence[int], run: Trained) -> list[float]:
    """Losses of the first steps with `ByHand` in place of torch.optim."""
    model = copy.deepcopy(loaded.model).requires_grad_(True)
    parts = [(list(model.parameters()), ByHand(run.optimizer, run.rate))]
    if run.optimizer == "Muon":
        matrices, rest = split_for_muon(model)
        parts = [(matrices, ByHand("Muon", run.rate, _in_bfloat16)), (rest, ByHand("AdamW", run.rate / 20))]
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


def _in_bfloat16(values: torch.Tensor) -> torch.Tensor:
    """As torch.optim.Muon rounds them."""
    return values.bfloat16().float()


def _again(loaded: Loaded, ids: Sequence[int], run: Trained) -> tuple[Any, list[float]]:
    """Another private copy after the same training, by the loss that transformers returns, and its losses."""
    model = copy.deepcopy(loaded.model).requires_grad_(True)
    chosen = optimizers_for(model, run.optimizer, run.rate)
    batch = torch.tensor([list(ids)], device=model.device)
    losses = []
    for step in range(len(run.losses)):
        model.zero_grad()
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        losses.append(float(loss.detach()))
        if step + 1 < len(run.losses):
            loss.backward()
            for optimizer in chosen:
                optimizer.step()
    return model, losses


@torch.no_grad()
def _nats(model: Any, ids: Sequence[int]) -> list[float]:
    """Surprisal of every token but the first, by torch's cross-entropy."""
    batch = torch.tensor([list(ids)], device=model.device)
    logits = model(batch, use_cache=False).logits[0, :-1].double()
    nats: list[float] = torch.nn.functional.cross_entropy(logits, batch[0, 1:], reduction="none").tolist()
    return nats


@torch.no_grad()
def _continued(model: Any, opening: Sequence[int]) -> list[int]:
    """What transformers' own greedy generate writes, past any end token; nothing where the logits are no numbers."""
    batch = torch.tensor([list(opening)], device=model.device)
    if not bool(torch.isfinite(model(batch, use_cache=False).logits).all()):
        return []
    whole = model.generate(
        batch,
        attention_mask=torch.ones_like(batch),
        do_sample=False,
        max_new_tokens=WRITTEN,
        eos_token_id=None,
    )
    written: list[int] = whole[0, len(opening) :].tolist()
    return written


def _code(loaded: Loaded, ids: Sequence[int], runs: Sequence[Trained], wanted: str = "losses") -> str:
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


def _calls(run: Trained) -> str:
    if run.optimizer != "Muon":
        return CALLS[run.optimizer].format(params="every", rate=run.rate)
    muon = CALLS["Muon"].format(params="matrices", rate=run.rate)
    return f"{muon}, {CALLS['AdamW'].format(params='rest', rate=run.rate / 20)}"


__all__ = ["RATES", "changed", "curves", "trained", "writing"]

"""The recorded runs of post-training: their curves, and what each version did on held-out requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine import ReaderError
from engine.chapters.c13_post_training.family import COLORS, Family
from engine.evidence.card import Badge, Card
from engine.evidence.recorded import recording, source
from engine.figures import grouped_bars
from engine.figures.training import curves
from engine.training.recording import Recording

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

SFT, DPO, MEASURED = "sft-llama", "dpo-llama", "post-training"

PARTS = {
    "words": "words used",
    "ends": "ends properly",
    "length": "length kept",
    "fresh": "no repetition",
    "score": "score",
}
"""Columns of the measurements → what they are called."""

REQUESTS = (
    "Write one sentence about the king.",
    "Write one sentence about the sea.",
    "Write two sentences about the house and the garden.",
)
"""What is offered where no held-out requests were recorded."""


@dataclass(frozen=True)
class Quantity:
    """Something that DPO's log measures: columns of its tables by what they are called, and the axis."""

    series: Mapping[str, tuple[str, str]]
    axis: str


QUANTITIES = {
    "ranking": Quantity(
        {"training pairs": ("train", "train_accuracy"), "held-out pairs": ("log", "accuracy")},
        "share of pairs with a positive margin",
    ),
    "margin": Quantity(
        {"training pairs": ("train", "train_margin"), "held-out pairs": ("log", "margin")}, "mean margin (nats)"
    ),
    "loss": Quantity(
        {"training pairs": ("train", "loss"), "held-out pairs": ("log", "held_out_loss")}, "loss (nats)"
    ),
    "log-probabilities": Quantity(
        {"chosen": ("log", "chosen_moved"), "rejected": ("log", "rejected_moved")},
        "mean ln π − ln π_ref (nats)",
    ),
}  # fmt: skip
_PAINT = {
    "training pairs": "token",
    "held-out pairs": "key",
    "chosen": "value",
    "rejected": "gradient",
}


def sft() -> Card:
    """Loss on answers, in training and held out, and on plain prose."""
    run = recording(SFT)
    answers, prose = _curve(run, "log", "held_out_loss"), _curve(run, "log", "prose_loss")
    fell, cost = (values[-1] - values[0] for _, values in (answers, prose))
    return Card(
        key="sft-run",
        title=f"Fine-tuning: {_move(answers)} nats per token on held-out answers, {_move(prose)} on plain prose",
        alt=f"Curves over updates: the loss on held-out answers changes by {fell:+.3f}, on prose by {cost:+.3f} nats.",
        badge=Badge.RECORDED,
        figure=curves(
            {
                "training batches": _curve(run, "train", "loss"),
                "held-out answers": answers,
                "held-out prose": prose,
            },
            colors={"training batches": "token", "held-out answers": "query", "held-out prose": "value"},
            log=False,
            y_name="loss (nats per token)",
        ),
        table={
            "updates": answers[0].tolist(),
            "held-out answers": answers[1].tolist(),
            "held-out prose": prose[1].tolist(),
        },
        source=source(run),
        note="Answers: only tokens that carry loss count. Prose: held-out books without a template; what "
        "rises there is what tuning cost.",
    )


def dpo(quantity: str) -> Card:
    """One quantity of the preference tuning over its updates."""
    run = recording(DPO)
    chosen = QUANTITIES[quantity]
    series = {name: _curve(run, *where) for name, where in chosen.series.items()}
    log = [name for name, (table, _) in chosen.series.items() if table == "log"]
    return Card(
        key="dpo-run",
        title=f"Preference tuning, {quantity}: " + ", ".join(f"{name} {_move(series[name])}" for name in log),
        alt=f"Curves over updates of {chosen.axis}: "
        + "; ".join(f"{name} {_move(values)}" for name, values in series.items())
        + ".",
        badge=Badge.RECORDED,
        figure=curves(series, colors=_PAINT, log=False, y_name=chosen.axis),
        table={"updates": series[log[0]][0].tolist(), **{name: series[name][1].tolist() for name in log}},
        source=source(run),
        note=_about(run),
    )


def _about(run: Recording) -> str:
    return (
        f"{run.settings['pairs']:,} pairs, β = {run.settings['beta']:g}. Each pair: two answers of the SFT version to "
        "one request, ranked by the rule."
    )


def _curve(run: Recording, table: str, column: str) -> Curve:
    return run.column(table, "step"), run.column(table, column)


def _move(curve: Curve) -> str:
    """The first and the last value of a curve."""
    values = curve[1]
    return f"{values[0]:.2f} → {values[-1]:.2f}".replace("-", "−")


def kinds() -> list[str]:
    """Kinds of requests that were measured, "all" first."""
    return list(dict.fromkeys(str(row["kind"]) for row in recording(MEASURED).table("measured")))


def measured(kind: str) -> Card:
    """What share of the answers of each version keeps each part of the rule."""
    run = recording(MEASURED)
    rows = {str(row["version"]): row for row in run.table("measured") if row["kind"] == kind}
    if not rows:
        raise ReaderError("Nothing was measured for requests of this kind.")
    parts = [part for part in PARTS if all(row[part] is not None for row in rows.values())]
    values = {name: [float(row[part] or 0) for part in parts] for name, row in rows.items()}
    first = next(iter(rows.values()))
    return Card(
        key="measured",
        title="Score of the rule on held-out requests: "
        + ", ".join(f"{name} {row['score']:.2f}" for name, row in rows.items()),
        alt="Bars for "
        + "; ".join(
            f"{PARTS[part]}: " + ", ".join(f"{name} {values[name][i]:.0%}" for name in rows)
            for i, part in enumerate(parts)
        ),
        badge=Badge.RECORDED,
        figure=grouped_bars(
            [PARTS[part] for part in parts],
            values,
            colors={name: COLORS[name] for name in values},
            probability=True,
            value_name="mean over answers",
        ).update_layout(height=400),
        table={
            "version": list(rows),
            **{PARTS[part]: [float(row[part] or 0) for row in rows.values()] for part in parts},
            "standard error of the score": [row["score_error"] for row in rows.values()],
            "tokens in an answer": [row["tokens"] for row in rows.values()],
            "bits per character of held-out prose": [row["bits_per_character"] for row in rows.values()],
        },
        source=source(run),
        note=f"{first['requests']} held-out requests, {first['answers']} answers of each version, temperature "
        f"{run.settings['temperature']:g}. Held-out prose in bits per character: "
        + ", ".join(f"{name} {row['bits_per_character']:.3f}" for name, row in rows.items())
        + ".",
    )


def requests(family: Family) -> list[str]:
    """Held-out requests to pick from; a few plain ones where none were recorded for this family."""
    return [str(row["request"]) for row in _rows(family, MEASURED, "requests")] or list(REQUESTS)


def simple(offered: Sequence[str]) -> str:
    """The first request for a single sentence, whose answers are the easiest to compare; else the first of all."""
    return next((request for request in offered if request.startswith("Write one sentence")), offered[0])


def pairs(family: Family) -> list[tuple[str, str, str]]:
    """Recorded (request, chosen, rejected) of held-out pairs, or one written for this page."""
    rows = _rows(family, DPO, "pairs")
    found = [(str(row["request"]), str(row["chosen"]), str(row["rejected"])) for row in rows]
    return found or [(REQUESTS[0], "The king rode home through the wood.", "The king the king the king the")]


def beta(family: Family) -> float:
    """The beta of the recorded run; 0.1, a usual choice, for a family without one."""
    try:
        return float(recording(DPO).settings["beta"]) if family.recorded else 0.1
    except ReaderError:
        return 0.1


def _rows(family: Family, name: str, table: str) -> tuple[Mapping[str, object], ...]:
    if not family.recorded:
        return ()
    try:
        return recording(name).table(table)
    except (ReaderError, KeyError):
        return ()

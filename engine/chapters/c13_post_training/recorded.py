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
from engine.tokens.text import plural
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
    ranking = quantity == "ranking"
    series = {
        name: _with_ties(run, *where) if ranking else _curve(run, *where)
        for name, where in chosen.series.items()
    }
    log = [name for name, (table, _) in chosen.series.items() if table == "log"]
    sure = _error(run, float(series[log[0]][1][-1])) if ranking else ""
    return Card(
        key="dpo-run",
        title=f"Preference tuning, {quantity}: "
        + ", ".join(f"{name} {_move(series[name])}" for name in log)
        + sure,
        alt=f"Curves over updates of {chosen.axis}: "
        + "; ".join(f"{name} {_move(values)}" for name, values in series.items())
        + ".",
        badge=Badge.RECORDED,
        figure=curves(
            series,
            colors=_PAINT,
            levels={"chance": CHANCE} if ranking else None,
            log=False,
            y_name=chosen.axis,
        ),
        table={"updates": series[log[0]][0].tolist(), **{name: series[name][1].tolist() for name in log}},
        source=source(run),
        note=_about(run) + (" A margin of 0 counts as half a pair." if ranking else ""),
    )


CHANCE = 0.5
"""The share of pairs that are ranked right by tossing a coin."""


def _with_ties(run: Recording, table: str, column: str) -> Curve:
    """Shares of pairs with a positive margin; where every margin is 0, as before the first update, each is half."""
    steps, shares = _curve(run, table, column)
    _, margins = _curve(run, table, "train_margin" if table == "train" else "margin")
    return steps, np.where((margins == 0) & (shares == 0), CHANCE, shares)


def _error(run: Recording, share: float) -> str:
    """The standard error of a share of held-out pairs, as the end of a title; empty where they were not counted."""
    pairs = run.settings.get("held_out_pairs")
    return f" (±{(share * (1 - share) / pairs) ** 0.5:.2f}, {pairs} pairs)" if pairs else ""


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


def about_origin(family: Family) -> str:
    """What was trained to make the bundled versions, and where their answers come from. Markdown; else empty."""
    if not family.recorded:
        return ""
    rank = recording(SFT).settings["rank"]
    return (
        f"Both tuned versions were made with **LoRA**: the base's weights stay as they are, and beside each linear "
        f"layer a product of two small matrices of rank {rank} is trained and added to it on loading. (The embeddings "
        "of the three marks of the chat template are trained too.) Their answers are sentences of books, and each "
        "request was made from its answer; that is why they sound like fiction."
    )


def about_length() -> str:
    """How long the two trainings were, by their recordings. Markdown."""
    fine, preferred = (
        f"{run.settings['steps']:,} updates in {plural(round(run.seconds / 60), 'minute')}"
        for run in (recording(SFT), recording(DPO))
    )
    return f"Fine-tuning made {fine}, preference tuning {preferred}; chapter 12 has both beside pre-training."


def about_reward() -> str:
    """What the rule's score gained from preference tuning, and at the price of which part. Markdown."""
    rows = {
        str(row["version"]): row for row in recording(MEASURED).table("measured") if row["kind"] == kinds()[0]
    }
    before, after = ({part: float(rows[name][part] or 0) for part in PARTS} for name in ("SFT", "DPO"))
    moved = {part: after[part] - before[part] for part in PARTS if part != "score"}
    most, least = max(moved, key=lambda part: moved[part]), min(moved, key=lambda part: moved[part])
    gain = f"From SFT to DPO the score goes from {before['score']:.2f} to {after['score']:.2f}"
    if moved[least] >= 0:
        return f"{gain}, and no part of it falls."
    return (
        f"{gain}: “{PARTS[most]}” goes from {before[most]:.0%} to {after[most]:.0%}, while “{PARTS[least]}” falls from "
        f"{before[least]:.0%} to {after[least]:.0%}. The tuning found that the one pays more than the other costs. "
        "When a score rises and what it was meant to measure does not, this is called *reward hacking*."
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

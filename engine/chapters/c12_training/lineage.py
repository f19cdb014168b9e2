"""How a bundled checkpoint came to be: its recorded trainings one after the other, and where a record is missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.chapters.c12_training.recordings import (
    ANOTHER,
    FURTHER,
    RUNS,
    began_trained,
    millions,
    mix_step,
    place_of,
    tokens_at,
)
from engine.chapters.c12_training.story import held_out
from engine.evidence.card import Badge, Card, Recorded
from engine.evidence.recorded import recording
from engine.figures.stages import Leg, chained
from engine.training.recording import Recording, recording_names
from engine.training.snapshots import snapshots

TUNINGS = ("sft-llama", "dpo-llama")
"""Recordings of the trainings after pre-training, in their order."""

SAME = 5e-4
"""Held-out losses of one model, measured twice, agree so far: the text is cut and rounded alike."""

OWN, BESIDE = "its own training", "another run"

UNKNOWN = "no record"


@dataclass(frozen=True)
class Stage:
    """A recorded training: its number in the figure, and the held-out loss of prose before it and after it."""

    number: int
    run: Recording
    own: bool
    before: float
    after: float


def recorded_stages(checkpoint: str) -> tuple[Stage | None, ...]:
    """The recorded trainings of a bundled checkpoint in order, None where one or more between them are not recorded.

    A stage begins with random weights, or where the stage before it ended; else something is missing.
    """
    there = recording_names()
    names = [name for name in (RUNS[checkpoint], FURTHER[checkpoint]) if name in there]
    return tuple(_chain([recording(name) for name in names], checkpoint))


def _chain(runs: list[Recording], checkpoint: str) -> Iterator[Stage | None]:
    last: float | None = None
    for i, run in enumerate(runs):
        _, losses = held_out(run, "held_out_loss")
        begins = last is not None and abs(losses[0] - last) < SAME
        if not begins and (began_trained(run) or last is not None):
            yield None
        last = float(losses[-1])
        kept = snapshots(run.name)
        own = not kept or place_of(kept, checkpoint) != ANOTHER
        yield Stage(i + 1, run, own, float(losses[0]), last)


def whole(checkpoint: str) -> Card:
    """The held-out loss through all recorded trainings of a bundled checkpoint, over the tokens they read."""
    stages = recorded_stages(checkpoint)
    there = [stage for stage in stages if stage is not None]
    tokens = sum(_tokens(stage.run) for stage in there)
    missing = sum(stage is None for stage in stages)
    first, last = there[0], there[-1]
    count = f"{len(there)} recorded stages" if len(there) > 1 else "one recorded stage"
    return Card(
        key="whole",
        title=f"{checkpoint}: {first.before:.2f} → {last.after:.2f} nats per token in {count} and "
        f"{millions(tokens)} tokens, with {_gaps(missing)}"
        + ("" if first.own else f"; stage {first.number} is {BESIDE}, not {checkpoint}'s own"),
        alt="A curve of the held-out loss over the tokens read, stage after stage: "
        + ", ".join(
            UNKNOWN if stage is None else f"stage {stage.number} from {stage.before:.2f} to {stage.after:.2f}"
            for stage in stages
        )
        + ".",
        badge=Badge.RECORDED,
        figure=chained(
            [None if stage is None else _leg(stage) for stage in stages],
            colors={OWN: "query", BESIDE: "value"},
            kept_name="kept as a snapshot",
            y_name="held-out loss (nats per token), logarithmic",
        ),
        table=_points(there),
        source=_sources([stage.run for stage in there]),
        note="Grey: trainings of which no recording is here; how wide they are drawn says nothing.",
    )


def _gaps(count: int) -> str:
    return {0: "nothing missing", 1: "one gap"}.get(count, f"{count} gaps")


def _leg(stage: Stage) -> Leg:
    run = stage.run
    steps, losses = held_out(run, "held_out_loss")
    kept = snapshots(run.name)
    return Leg(
        f"stage {stage.number}",
        OWN if stage.own else BESIDE,
        np.array([tokens_at(run, int(step)) for step in steps], np.float64),
        losses,
        (np.array([one.tokens for one in kept], np.float64), np.array([one.loss for one in kept])),
    )


def _tokens(run: Recording) -> int:
    return tokens_at(run, _updates(run))


def _updates(run: Recording) -> int:
    """How many updates were made: the last step that was measured."""
    return int(held_out(run, "held_out_loss")[0][-1])


def _points(stages: list[Stage]) -> dict[str, list[Any]]:
    rows = [
        (stage.number, step, tokens_at(stage.run, int(step)), loss)
        for stage in stages
        for step, loss in zip(*held_out(stage.run, "held_out_loss"), strict=True)
    ]
    names = ("stage", "updates", "tokens", "held-out loss (nats per token)")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _sources(runs: list[Recording]) -> Recorded:
    """Several runs as one: their scripts, their days and their machines."""
    scripts = dict.fromkeys(run.command.removeprefix("python -m ").split()[0] for run in runs)
    days = sorted({run.date for run in runs})
    return Recorded(
        script=f"{' and '.join(scripts)} ({', '.join(run.name for run in runs)})",
        date=" and ".join(filter(None, (", ".join(days[:-1]), days[-1]))),
        hardware="; ".join(dict.fromkeys(run.hardware for run in runs)),
    )


COLUMNS = ("stage", "training", "updates", "tokens", "minutes", "highest rate", "loss", "learns from")


def pipeline(checkpoint: str) -> Card:
    """A row for every recorded training of a bundled checkpoint, those that tuned it included."""
    stages = recorded_stages(checkpoint)
    tunings = _tunings(checkpoint)
    rows = [_missing() if stage is None else _row(stage) for stage in stages]
    rows += [_tuned(run, f"{len(stages) - stages.count(None) + i + 1}") for i, run in enumerate(tunings)]
    trained = sum(stage.run.seconds for stage in stages if stage is not None and stage.own)
    return Card(
        key="pipeline",
        title=_compared(checkpoint, trained, sum(run.seconds for run in tunings)),
        alt="A table of the recorded trainings: "
        + "; ".join(f"stage {row[0]}, {row[1]}, loss {row[-2]}" for row in rows)
        + ".",
        badge=Badge.RECORDED,
        figure=None,
        table={name: [str(row[i]) for row in rows] for i, name in enumerate(COLUMNS)},
        source=_sources([*(stage.run for stage in stages if stage is not None), *tunings]),
        note="Loss: nats per token on books that were held out, the same for every stage. The rate falls to zero "
        "at the end of each stage. Minutes by the clock, on a machine that other work may have used as well."
        + (
            f" Stage {stages[0].number} is another run of the same recipe."
            if stages[0] and not stages[0].own
            else ""
        ),
    )


def _compared(checkpoint: str, trained: float, tuned: float) -> str:
    said = f"{checkpoint}: {trained / 60:,.0f} recorded minutes of its own pre-training"
    return f"{said}, {tuned / 60:,.0f} of post-training" if tuned else f"{said}, and no post-training"


def _tunings(checkpoint: str) -> list[Recording]:
    """The recorded trainings that began with a bundled checkpoint, in order."""
    there = [recording(name) for name in TUNINGS if name in recording_names()]
    return [run for run in there if _argument(run, "--base") == checkpoint]


def _argument(run: Recording, name: str) -> str:
    words = run.command.split()
    return words[words.index(name) + 1] if name in words else ""


def _row(stage: Stage) -> tuple[object, ...]:
    run = stage.run
    kind = "pre-training" if stage.own else f"pre-training ({BESIDE})"
    minutes, loss = f"{run.seconds / 60:,.0f}", f"{stage.before:.2f} → {stage.after:.2f}"
    numbers = (f"{_updates(run):,}", millions(_tokens(run)), minutes, _rate(run))
    return f"{stage.number}", kind, *numbers, loss, _texts(run)


def _rate(run: Recording) -> str:
    """The highest learning rate among the updates that were noted down."""
    return f"{run.column('train', 'lr').max():.3g}"


def _missing() -> tuple[object, ...]:
    return "–", UNKNOWN, *["?"] * (len(COLUMNS) - 2)


def _texts(run: Recording) -> str:
    """What a pre-training read: its groups of books, and what repeats among the windows."""
    begin, end = run.settings["mix"], run.settings["mix_at_end"]
    groups = ", ".join(f"{name} {_percent(begin[name], end[name])}" for name in begin)
    mixed = mix_step(run)
    if mixed is None:
        return f"books: {groups}"
    repeats = run.settings["repeats"]
    share = sum(
        value for name, value in repeats.items() if name.endswith("_share")
    )  # of windows, each of one kind
    since = f"from update {mixed:,} on, " if mixed else ""
    return f"books: {groups}; {since}{share:.0%} of the windows repeat something"


def _percent(begin: float, end: float) -> str:
    return f"{begin:.0%}" if begin == end else f"{begin:.0%} → {end:.0%}"


def _tuned(run: Recording, number: str) -> tuple[object, ...]:
    plan = run.settings
    pairs = plan.get("pairs")
    kind = "preferences (DPO)" if pairs else "fine-tuning (SFT)"
    what = f"{pairs:,} pairs of answers" if pairs else f"{plan['examples']:,} requests with answers"
    tokens = f"about {millions(plan['steps'] * plan['batch_tokens'])}"
    prose = run.column("log", "prose_loss")
    numbers = (f"{plan['steps']:,}", tokens, f"{run.seconds / 60:,.0f}", _rate(run))
    return number, kind, *numbers, f"{prose[0]:.2f} → {prose[-1]:.2f}", what


def about_lineage(checkpoint: str) -> str:
    """Where the record of a bundled checkpoint begins, where it ends and what is missing in it. Markdown."""
    stages = recorded_stages(checkpoint)
    there = [stage for stage in stages if stage is not None]
    parts = [_beginning(checkpoint, there[0])]
    if None in stages:
        parts.append(_told_missing(checkpoint, stages))
    return f"{' '.join(parts)} {_ending(checkpoint, there[-1])}"


def _beginning(checkpoint: str, first: Stage) -> str:
    loss = f"{first.before:.2f} nats per token"
    if began_trained(first.run):
        return (
            f"The record of **{checkpoint}** begins with a model that was trained already, at a loss of {loss}: no "
            "recording of its first training, from random weights, is here."
        )
    if first.own:
        return f"The record of **{checkpoint}** begins with random weights, at a loss of {loss}."
    return (
        f"No recording of the first training of **{checkpoint}** itself is here. In its place stands another run of "
        f"the same recipe, which began with random weights, at a loss of {loss}; {checkpoint} did not come from it."
    )


def _told_missing(checkpoint: str, stages: tuple[Stage | None, ...]) -> str:
    """Between which losses nothing is known, as a sentence with the place where more is said."""
    card = f"`engine/assets/{checkpoint}/README.md`"
    jumps = [
        f"before stage {b.number} the loss goes from {a.after:.2f} to {b.before:.2f}"
        for a, gap, b in zip(stages, stages[1:], stages[2:], strict=False)
        if a is not None and gap is None and b is not None and a.own
    ]
    across = f" Across the gap {' and '.join(jumps)}." if jumps else ""
    return f"No recordings of the grey parts are here; what is known of them is in {card}.{across}"


def _ending(checkpoint: str, last: Stage) -> str:
    return (
        f"Stage {last.number} ends with the weights of **{checkpoint}** as it is bundled, "
        f"at a loss of {last.after:.2f}."
    )

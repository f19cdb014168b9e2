"""The recorded run from random weights: loss, text, expectations and heads, all at one step."""

from dataclasses import dataclass

import numpy as np

from engine.chapters.c12_training.recordings import (
    FURTHER,
    SCORES,
    UNITS,
    began_trained,
    grids,
    level,
    millions,
    mix_step,
    repeated,
    row_at,
    stories,
    tokens_at,
)
from engine.evidence.card import Badge, Card
from engine.evidence.recorded import recording, source
from engine.figures.heads import score_panels
from engine.figures.training import curves, expected_tokens
from engine.tokens.text import LINE_BREAK, SPACE, display
from engine.training.recording import Recording

GUESSES = {
    "uniform": "uniform guess",
    "unigram": "token frequencies",
    "bigram": "pairs of tokens",
}
"""References of the recording → their names in the figure."""


@dataclass(frozen=True)
class Sample:
    """A text that a snapshot wrote: one line, control characters spelled out; it still needs its sink's escaper."""

    prompt: str
    text: str
    about: str


def loss(name: str, step: int, unit: str) -> Card:
    """Loss on the training batches and on held-out text over updates, with what counting alone would reach."""
    run = recording(name)
    column = UNITS[unit]
    here = row_at(run, "snapshots", step)
    held = held_out(run, column)
    series = {"held-out text": held}
    if column == "held_out_loss":
        series = {"training batches": (run.column("train", "step"), run.column("train", "loss"))} | series
    per = "loss" if column == "held_out_loss" else column
    further = began_trained(run)
    guesses = {"bigram": GUESSES["bigram"]} if further else GUESSES
    levels = {f"{text}: {level(run, key, per):.2f}": level(run, key, per) for key, text in guesses.items()}
    return Card(
        key="loss",
        title=f"After {step:,} updates, {millions(tokens_at(run, step))} tokens: {here[column]:.2f} {unit} on held-out "
        f"text, {_compared(here['held_out_loss'], run)}",
        alt=f"The held-out loss falls from {held[1][0]:.2f} to {held[1][-1]:.2f} {unit}; dotted lines mark "
        + ", ".join(levels)
        + "; a vertical line marks the chosen update.",
        badge=Badge.RECORDED,
        figure=curves(
            series,
            colors={"training batches": "token", "held-out text": "query"},
            levels=levels,
            at=step,
            log=not further,
            y_name=f"loss ({unit})",
        ),
        table={"updates": held[0].tolist(), f"held-out loss ({unit})": held[1].tolist()},
        source=source(run),
        note="Dotted: the held-out cross-entropy of "
        + ("guessing from" if further else "three ways to guess without reading further back than")
        + " one token, counted on the training text. Update 0 is the model before this run's first step.",
    )


def held_out(run: Recording, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Every held-out loss there is, during the run or afterwards on a snapshot; each step once, in order."""
    values = dict(zip(run.column("measured", "step"), run.column("measured", column), strict=True))
    values |= dict(zip(run.column("snapshots", "step"), run.column("snapshots", column), strict=True))
    known = sorted((step, value) for step, value in values.items() if np.isfinite(value))
    return np.array([step for step, _ in known]), np.array([value for _, value in known])


def _compared(value: float, run: Recording) -> str:
    """Where a loss stands beside the references."""
    if value < level(run, "bigram"):
        return "better than pairs of tokens allow"
    if value < level(run, "unigram"):
        return "between frequencies and pairs"
    if value < level(run, "uniform"):
        return "between a uniform guess and frequencies"
    return "no better than a uniform guess"


def told(name: str) -> str:
    """The story in numbers of the recording: where the run began and when it passed each reference. Markdown."""
    run = recording(name)
    steps, losses = held_out(run, "held_out_loss")
    vocab = run.settings["shape"]["vocab"]
    passed = {key: _first(steps, losses, level(run, key)) for key in ("unigram", "bigram")}
    frequencies, pairs = (_when(run, passed[key]) for key in ("unigram", "bigram"))
    return f"""
    Before its first update, with random weights, the model's loss is {losses[0]:.2f} nats per token; a uniform guess
    among {vocab:,} tokens costs $\\ln {vocab}$ = {level(run, "uniform"):.2f}. Guessing by the frequency of tokens costs
    {level(run, "unigram"):.2f}, and the model did better {frequencies}. Guessing from pairs of neighbouring tokens
    costs {level(run, "bigram"):.2f}; it did better {pairs}. What it gains below that line must come from further
    back, or from patterns that a table of pairs cannot store.

    Its last recorded loss is {losses[-1]:.2f}, after {int(steps[-1]):,} updates of
    {tokens_at(run, 1):,} tokens each. {_afterwards(run)}

    {_going_further()}
    """


def _going_further() -> str:
    last = [checkpoint for checkpoint, name in FURTHER.items() if name in stories().values()]
    if not last:
        return ""
    return "Under **Run**, the *last stages* show what further training on more text did to the bundled checkpoints."


def last_stage(name: str) -> str:
    """What the recorded last stage of a bundled checkpoint did, a paragraph of markdown; empty for other runs."""
    checkpoint = {recorded: bundled for bundled, recorded in FURTHER.items()}.get(name)
    if checkpoint is None:
        return ""
    run = recording(name)
    steps, losses = held_out(run, "held_out_loss")
    tokens = millions(tokens_at(run, int(steps[-1])))
    paragraph = (
        f"The last stage of the bundled **{checkpoint}** read {tokens} tokens more and "
        f"took its held-out loss from {losses[0]:.2f} to {losses[-1]:.2f} nats per token"
        + ("." if mix_step(run) is None else f", while {repeated(run)}.")
    )
    if losses.max() > losses[0] + 0.01:
        peak = int(steps[losses.argmax()])
        before = run.column("train", "step") <= peak
        rate = run.column("train", "lr")[before][-1] / run.settings["lr"]
        paragraph += (
            f" On the way it had risen to {losses.max():.2f} (update {peak:,}, the learning rate at "
            f"{rate:.0%} of its highest)."
        )
    return paragraph


def _first(steps: np.ndarray, losses: np.ndarray, mark: float) -> int | None:
    below = np.flatnonzero(losses < mark)
    return int(steps[below[0]]) if below.size else None


def _when(run: Recording, step: int | None) -> str:
    if step is None:
        return "at no step of this recording"
    return f"by update {step:,} ({millions(tokens_at(run, step))} tokens)"


def _afterwards(run: Recording) -> str:
    """What changed on the way, from the plan."""
    changes = []
    mixed, decay = mix_step(run), run.settings.get("decay_start")
    if mixed is not None:
        changes.append(f"From update {mixed:,} on, some windows repeat themselves (next beat).")
    if decay is not None:
        changes.append(
            f"From update {decay:,} on, the learning rate falls to zero over {run.settings['decay_steps']:,} updates."
            + _other_texts(run)
        )
    return " ".join(changes)


def _other_texts(run: Recording) -> str:
    """How the mix of texts moves while the learning rate falls, as a sentence; empty where it stays."""
    begin, end = run.settings.get("mix", {}), run.settings.get("mix_at_end", {})
    moved = [f"{name} {begin[name]:.0%} → {end[name]:.0%}" for name in begin if begin[name] != end.get(name)]
    if not moved:
        return ""
    return (
        f" Meanwhile the mix of its texts moves as well ({', '.join(moved)}), so the last fall of the loss is not the "
        "learning rate's alone."
    )


def sample(name: str, step: int) -> Sample:
    """What the snapshot of a step wrote after the recording's prompt."""
    run = recording(name)
    row = row_at(run, "samples", step)
    return Sample(
        prompt=_line(row["prompt"]),
        text=_line(row["text"]),
        about=f"Recorded after {step:,} updates: a continuation drawn at temperature {row['temperature']:g} "
        f"with seed {row['seed']}.",
    )


def _line(text: str) -> str:
    return " ".join(display(word) for word in text.split())


def expected(name: str, step: int) -> Card:
    """The likeliest next tokens after some prompts, as a snapshot saw them."""
    run = recording(name)
    rows = [row for row in run.table("candidates") if row["step"] == step]
    prompts = list(dict.fromkeys(str(row["prompt"]) for row in rows))
    tokens = [[display(str(r["token"])) for r in rows if r["prompt"] == prompt] for prompt in prompts]
    probabilities = [
        [float(r["probability"] or 0) for r in rows if r["prompt"] == prompt] for prompt in prompts
    ]
    first = {texts[0] for texts in tokens}
    return Card(
        key="expected",
        title=f"After {len(prompts)} prompts, {len(first)} different favourite{'s' if len(first) > 1 else ''}: "
        + ", ".join(f"“{text}”" for text in sorted(first)),
        alt=f"A grid of {len(prompts)} prompts and their five likeliest next tokens after {step:,} updates; darker "
        "cells are more probable.",
        badge=Badge.RECORDED,
        figure=expected_tokens(tokens, probabilities, prompts),
        table={
            "prompt": [str(row["prompt"]) for row in rows],
            "rank": [row["rank"] for row in rows],
            "token": [display(str(row["token"])) for row in rows],
            "probability": [row["probability"] for row in rows],
        },
        source=source(run),
        note=f"A space is written {SPACE}, a line break {LINE_BREAK}. The table has the whole prompts.",
    )


def heads_at(name: str, step: int) -> Card:
    """Scores of every head at one step."""
    run = recording(name)
    scored = {kind: grids(run, column) for kind, column in SCORES.items()}
    at = next(iter(scored.values()))[0].index(step)
    shown = {kind: values[at] for kind, (_, values) in scored.items()}
    layer, head = np.indices(next(iter(shown.values())).shape)
    return Card(
        key="heads-at",
        title=f"After {step:,} updates: "
        + ", ".join(f"{kind} {_best(values)}" for kind, values in shown.items()),
        alt="Two heat maps of layers and heads, darker where a head attends more to the place of its kind.",
        badge=Badge.RECORDED,
        figure=score_panels(shown),
        table={"layer": layer.ravel().tolist(), "head": head.ravel().tolist()}
        | {kind: values.ravel().tolist() for kind, values in shown.items()},
        source=source(run),
        note="Measured on random tokens that occur twice. The induction score is the mean attention from the second "
        "half to the token after the first occurrence, the other one that from every position to the one before.",
    )


def _best(values: np.ndarray) -> str:
    layer, head = np.unravel_index(int(values.argmax()), values.shape)
    return f"{values[layer, head]:.2f} (L{layer} H{head})"

"""The last beat of chapter 12: the losses of a tiny model in training, and what it writes."""

import math
from collections.abc import Sequence

import numpy as np

from engine.cards.training_live import evidence
from engine.cards.training_live import figure as figures
from engine.cards.training_live.code import repeated, script
from engine.evidence.card import Badge, Card, Proof
from engine.ops.tiny_training import (
    BATCH,
    CONTEXT,
    LAYERS,
    LEAST,
    MOST,
    RATES,
    TEMPERATURE,
    Mark,
    Settings,
    Snapshot,
    Training,
)
from engine.tokens.passages import passage, sample

SHOWN = 5
"""Samples in the figure; the table has all."""

TEXTS = {"A ship": sample(), "A mill": passage()}
"""The texts on offer, by the names in the control."""

_SAME = 1e-4
"""Nats, or a share of the step: one fp32 pass against another with its sums in another order."""

_STRETCH = 1e-5
"""Of a cumulated probability, for the same reason."""


def cards(training: Training) -> list[Card]:
    """Both cards of a training as it stands."""
    snapshot = training.snapshot
    return [losses(snapshot), texts(snapshot)]


def losses(snapshot: Snapshot) -> Card:
    """The loss of every batch, that of the part it never sees, and what two kinds of guessing cost."""
    corpus, marks = snapshot.corpus, snapshot.marks
    levels = [
        (f"ln {len(corpus.chars)} = {corpus.uniform:.2f}", corpus.uniform),
        (f"unigram entropy {corpus.unigram:.2f}", corpus.unigram),
    ]
    first = [mark for mark in marks if mark.step <= repeated(snapshot)]
    return Card(
        key="tiny-losses",
        title=_title(snapshot),
        alt=f"The loss over {snapshot.steps} steps: of the batches, and of the part of the text that is never seen, "
        f"with lines at ln(vocab) and at the entropy of the character frequencies.",
        badge=Badge.LIVE,
        figure=figures.losses(
            snapshot.losses, [mark.step for mark in marks], [mark.held_out for mark in marks], levels
        ),
        table=_table(snapshot),
        prove=lambda: _proof(snapshot),
        code=script(snapshot, "losses held_out"),
        numbers={
            "losses": snapshot.losses[: repeated(snapshot)].tolist(),
            "held_out": [mark.held_out for mark in first],
        },
        note=_note(snapshot),
    )


def texts(snapshot: Snapshot) -> Card:
    """What the model wrote at some steps, always with the same random numbers."""
    marks, corpus = snapshot.marks, snapshot.corpus
    shown = chosen(marks)
    first = [mark for mark in marks if mark.step <= repeated(snapshot)]

    def prove() -> Proof:
        return Proof(
            "The last sample against the kept weights: how far any draw lies outside the stretch of cumulated "
            "probability of its character, all characters in one batch through transformers.",
            evidence.outside(snapshot),
            _STRETCH,
        )

    return Card(
        key="tiny-texts",
        title=_written(snapshot),
        alt="Samples of the model, one below another, by the number of steps after which each was written.",
        badge=Badge.LIVE,
        figure=figures.texts(
            [f"step {mark.step:,}" for mark in shown], [corpus.decode(mark.written) for mark in shown]
        ),
        table={
            "steps": [mark.step for mark in marks],
            "held-out loss (nats)": [mark.held_out for mark in marks],
            "sample": [corpus.decode(mark.written) for mark in marks],
        },
        prove=prove,
        code=script(snapshot, "texts"),
        numbers={"texts": [corpus.decode(mark.written) for mark in first]},
        note=f"Each begins after the first character of the text and draws with the same seed, "
        f"{snapshot.settings.seed}, at temperature {TEMPERATURE}. ⏎ is a line break.",
    )


def chosen(marks: Sequence[Mark]) -> list[Mark]:
    """At most SHOWN marks: the first, the last, and some between whose steps grow by about equal factors."""
    last = marks[-1].step
    wanted = [0, *np.geomspace(min(marks[1].step, last), last, SHOWN - 1)] if last else [0]
    steps = np.array([mark.step for mark in marks])
    nearest = {int(np.abs(steps - at).argmin()) for at in wanted}
    return [marks[i] for i in sorted(nearest)]


def perplexity(loss: float) -> float:
    """e to the loss; infinite where that is too large for a number."""
    return math.exp(loss) if loss < 700 else math.inf


def _title(snapshot: Snapshot) -> str:
    chars = len(snapshot.corpus.chars)
    if not snapshot.steps:
        return (
            f"Untrained, it loses {snapshot.marks[0].held_out:.2f} nats per character; guessing among all {chars} "
            f"alike costs ln {chars} = {snapshot.corpus.uniform:.2f}"
        )
    loss = float(snapshot.losses[-1])
    if snapshot.diverged:
        return f"At step {snapshot.steps:,} the loss is no number any more: the learning rate is too high"
    return (
        f"After {counted(snapshot.steps)}: {loss:.2f} nats, perplexity {perplexity(loss):.1f} among {chars} "
        f"characters"
    )


def counted(steps: int) -> str:
    return f"{steps:,} step" + "s" * (steps != 1)


def _written(snapshot: Snapshot) -> str:
    last = snapshot.marks[-1].step
    return f"From noise to what it writes after {counted(last)}" if last else "Untrained, it writes noise"


def _note(snapshot: Snapshot) -> str:
    read = snapshot.steps * BATCH * CONTEXT
    facts = [
        f"{snapshot.parameters:,} parameters",
        f"{len(snapshot.corpus.train):,} characters to learn from",
    ]
    if snapshot.steps:
        facts.append(f"{read / len(snapshot.corpus.train):.1f} epochs")
        facts.append(f"{read / snapshot.seconds:,.0f} characters (tokens) per second")
    best = min(snapshot.marks, key=lambda mark: mark.held_out)
    turned = snapshot.marks[-1].held_out > best.held_out + 0.02
    ending = (
        f" On the part it never sees it was best at step {best.step:,}, with {best.held_out:.2f} nats; since then it "
        f"learns the text by heart."
    )
    return "; ".join(facts) + "." + (ending if turned else "")


def _table(snapshot: Snapshot) -> dict[str, list[float]]:
    count = max(snapshot.steps, snapshot.marks[-1].step + 1)
    padded = np.full((2, count), np.nan)
    padded[0, : snapshot.steps] = snapshot.losses
    for mark in snapshot.marks:
        padded[1, mark.step] = mark.held_out
    return {
        "steps taken": list(range(count)),
        "loss of the batch (nats)": padded[0].tolist(),
        "held-out loss (nats)": padded[1].tolist(),
    }


def _proof(snapshot: Snapshot) -> Proof:
    unseen = abs(evidence.held_out(snapshot) - snapshot.marks[-1].held_out)
    if not snapshot.steps or snapshot.diverged:
        return Proof(
            "The loss on the unseen part against torch's cross_entropy of the logits that transformers returns.",
            unseen,
            _SAME,
        )
    loss, formula = evidence.last_step(snapshot)
    return Proof(
        "From the kept weights: the last batch's loss and the unseen part's by torch's cross_entropy of transformers' "
        "logits (nats), and the step taken on that batch by AdamW's formula in float64 (share of its length). The "
        "largest difference counts.",
        max(unseen, abs(loss - snapshot.losses[-1]), evidence.step_error(snapshot, formula)),
        _SAME,
    )


__all__ = [
    "BATCH",
    "CONTEXT",
    "LAYERS",
    "LEAST",
    "MOST",
    "RATES",
    "TEXTS",
    "Settings",
    "Snapshot",
    "Training",
    "cards",
    "losses",
    "texts",
]

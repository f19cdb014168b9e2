"""The last beat of chapter 12: the losses of a tiny model in training, and what it writes."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.chapters.c12_training.live_run import figure as figures
from engine.chapters.c12_training.live_run.code import repeated, script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.tiny import BY_HAND, trained_again
from engine.evidence.rounding import EXACT
from engine.tokens.passages import passage, sample
from engine.training.tiny_training import (
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

SHOWN = 5
"""Samples in the figure; the table has all."""

TEXTS = {"A ship": sample(), "A mill": passage()}
"""The texts on offer, by the names in the control."""

_SAME = 1e-4
"""Nats: the same training in the same order of sums; its first steps in float64 against float32."""


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
        shown={
            "losses": _finite(snapshot.losses),
            "measured after": [mark.step for mark in marks],
            "held out": _finite([mark.held_out for mark in marks]),
            "levels": [level for _, level in levels],
        },
        oracle=_losses_oracle(snapshot),
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
        shown={
            "held out": _finite([mark.held_out for mark in marks]),
            **{f"step {mark.step}": _codes(corpus.decode(mark.written)) for mark in marks},
        },
        oracle=_texts_oracle(snapshot),
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
            f"Untrained, its loss is {snapshot.marks[0].held_out:.2f} nats per character; a uniform guess among "
            f"{chars} costs ln {chars} = {snapshot.corpus.uniform:.2f}"
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


def _losses_oracle(snapshot: Snapshot) -> Oracle:
    settings, steps = snapshot.settings, snapshot.steps
    if not steps:
        claim = "The loss on the unseen part against torch's cross_entropy of the logits of another model, "
    else:
        claim = (
            f"Every loss against torch's cross_entropy of another model's logits, trained again on the same batches: "
            f"the first {min(steps, BY_HAND)} steps by AdamW's formula in float64, the others by torch.optim; "
        )
    claim += "the levels against the characters counted."

    def compute() -> dict[str, Any]:
        again = trained_again(settings, steps)
        count = sum(step <= steps for step in again.marks)
        return {
            "losses": _finite(again.losses[:steps]),
            "measured after": again.marks[:count],
            "held out": _finite(again.held_out[:count]),
            "levels": _levels(settings.text),
        }

    return Oracle(claim, compute, {"losses": _SAME, "measured after": 0, "held out": _SAME, "levels": EXACT})


def _texts_oracle(snapshot: Snapshot) -> Oracle:
    settings, steps = snapshot.settings, snapshot.steps
    marked = [mark.step for mark in snapshot.marks]

    def compute() -> dict[str, Any]:
        again = trained_again(settings, steps)
        count = sum(step <= steps for step in again.marks)
        texts = zip(again.marks[:count], again.written, strict=False)
        return {
            "held out": _finite(again.held_out[:count]),
            **{f"step {step}": _codes(again.chars[i] for i in written) for step, written in texts},
        }

    return Oracle(
        "Every character of every sample against those that another model, trained again on the same batches by "
        "torch.optim, draws with the same random numbers.",
        compute,
        {"held out": _SAME} | {f"step {step}": 0 for step in marked},
    )


def _codes(text: Iterable[str]) -> list[int]:
    """Characters as the numbers that Unicode gives them."""
    return [ord(char) for char in text]


def _finite(losses: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of the losses that are numbers; a training that has none any more is over."""
    values = np.asarray(losses, np.float64)
    return values[np.isfinite(values)]


def _levels(text: str) -> list[float]:
    """ln of the number of characters, and the entropy of their frequencies in the part that is learned from."""
    learned = text[: len(text) - max(len(text) // 10, CONTEXT)]
    shares = [count / len(learned) for count in Counter(learned).values()]
    return [math.log(len(set(text))), -math.fsum(share * math.log(share) for share in shares)]


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

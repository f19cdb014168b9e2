"""Grokking as recorded: modular addition, several seeds."""

import numpy as np

from engine import ReaderError
from engine.chapters.c12_training.recordings import Floats
from engine.evidence.card import Badge, Card
from engine.evidence.recorded import recording, source
from engine.figures.training import curves, two_panels

RECORDING = "grokking"
GENERALISED = 0.99
"""Validation accuracy from which a seed counts as having generalised, as in the recording's summary."""


def grokking_seeds() -> list[int]:
    """The recorded seeds."""
    return [int(seed) for seed in recording(RECORDING).column("summary", "seed")]


def grokking_steps() -> list[int]:
    """The logged updates of a run; all seeds have the same."""
    return [int(step) for step in recording(RECORDING).column("runs", "step", {"seed": grokking_seeds()[0]})]


def grokked(seed: int, until: int) -> Card:
    """Both accuracies and the weight norm of one seed, up to an update; the axes have room for the whole run."""
    run = recording(RECORDING)
    if seed not in grokking_seeds():
        raise ReaderError(f"There is no recorded run of seed {seed}.")
    steps, train, validation, norm = (
        run.column("runs", name, {"seed": seed})
        for name in ("step", "train_accuracy", "validation_accuracy", "weight_norm")
    )
    so_far = steps <= until
    end = int(so_far.sum()) - 1
    x = steps[so_far]
    return Card(
        key="grokking",
        title=f"Seed {seed}, {int(x[-1]):,} updates: {train[end]:.0%} of the training sums right, "
        f"{validation[end]:.0%} of the others; weight norm {norm[end]:.1f}",
        alt="Accuracy on the sums that were trained on and on the others above, the norm of the weights below, over "
        "updates.",
        badge=Badge.RECORDED,
        figure=two_panels(
            {"training sums": (x, train[so_far]), "other sums": (x, validation[so_far])},
            {"weight norm": (x, norm[so_far])},
            colors={"training sums": "token", "other sums": "value", "weight norm": "key"},
            names=("accuracy", "weight norm"),
            ranges=((-0.03, 1.05), (0, 1.06 * float(norm.max()))),
            end=float(steps[-1]),
            height=400,
        ),
        table={
            "updates": x.tolist(),
            "training accuracy": train[so_far].tolist(),
            "validation accuracy": validation[so_far].tolist(),
            "weight norm": norm[so_far].tolist(),
        },
        source=source(run),
    )


def spread(until: int) -> Card:
    """Validation accuracy of all seeds beside each other."""
    run = recording(RECORDING)
    columns = {seed: _validation(seed) for seed in grokking_seeds()}
    steps = np.array(grokking_steps(), dtype=np.float64)
    so_far = steps <= until
    ends = {seed: float(values[so_far][-1]) for seed, values in columns.items()}
    paint = ("value", "query", "mlp", "gradient", "embedding", "attention", "logits", "token")
    names = {seed: f"seed {seed}" for seed in columns}
    return Card(
        key="spread",
        title=f"By update {int(steps[so_far][-1]):,}: "
        + ", ".join(f"{names[seed]} {value:.0%}" for seed, value in ends.items())
        + " of the sums that were not trained on",
        alt="Validation accuracy of every seed over updates.",
        badge=Badge.RECORDED,
        figure=curves(
            {names[seed]: (steps[so_far], values[so_far]) for seed, values in columns.items()},
            colors={names[seed]: paint[i % len(paint)] for i, seed in enumerate(columns)},
            log=False,
            y_name="accuracy on the other sums",
            height=280,
        )
        .update_yaxes(range=[-0.03, 1.05])
        .update_xaxes(range=[-0.01 * steps[-1], 1.02 * steps[-1]]),
        table={"updates": steps[so_far].tolist()}
        | {names[s]: v[so_far].tolist() for s, v in columns.items()},
        source=source(run),
        note="The same script and the same number of updates; only the seed differs.",
    )


def _validation(seed: int) -> Floats:
    return recording(RECORDING).column("runs", "validation_accuracy", {"seed": seed})


def about_grokking(power: str, nanda: str) -> str:
    """What was trained, and how it ended, from the recording. `power` and `nanda` are links. Markdown."""
    run = recording(RECORDING)
    plan = run.settings
    p, shown = plan["prime"], plan["train_share"]
    return f"""
    A one-layer transformer learns $a + b \\bmod {p}$. It is trained on {shown:.0%} of the {p * p:,} sums,
    all of them at every update, and tested on the others. Weight decay ({plan["weight_decay"]:g}) pulls its weights
    towards zero all the time.
    *Grokking* is what can happen then: the model knows the shown sums by heart early, and gets the others right much
    later ({power}; this set-up follows {nanda}).

    {_outcome()} A late rise is not certain, and a flat curve says nothing about what comes after its end.
    """


def _outcome() -> str:
    """How many seeds generalised, and when, in sentences."""
    run = recording(RECORDING)
    last = grokking_steps()[-1]
    seeds = grokking_seeds()
    late = run.column("summary", "validation_99_step")
    done = {seed: step for seed, step in zip(seeds, late, strict=True) if np.isfinite(step)}
    early = run.column("summary", "train_perfect_step")
    heart = early[np.isfinite(early)]
    sentences = []
    if heart.size:
        known = (
            f"All {len(seeds)} seeds" if heart.size == len(seeds) else f"Of {len(seeds)} seeds, {heart.size}"
        )
        sentences.append(f"{known} knew every shown sum by update {int(heart.max()):,}.")
    if done:
        got = ", ".join(f"seed {seed} (by update {int(step):,})" for seed, step in done.items())
        only = "Only " if len(done) < len(seeds) else ""
        sentence = f"{only}{got} got {GENERALISED:.0%} of the other sums right."
        sentences.append(sentence[0].upper() + sentence[1:])
    rest = {seed: _validation(seed)[-1] for seed in seeds if seed not in done}
    if rest:
        ends = [f"{value:.0%} (seed {seed})" for seed, value in rest.items()]
        listed = ends[0] if len(ends) == 1 else f"{', '.join(ends[:-1])} and {ends[-1]}"
        whose = "the others" if done else "the seeds"
        sentences.append(f"After {last:,} updates {whose} stood at {listed}.")
    return " ".join(sentences)

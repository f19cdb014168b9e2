"""How induction heads come about: scores and the cost of repeated tokens along a recorded run."""

import numpy as np

from engine.chapters.c12_training.recordings import RUNS, SCORES, Floats, called, grids, mix_step
from engine.evidence.card import Badge, Card
from engine.evidence.recorded import recording, source
from engine.figures import heatmap
from engine.figures.training import two_panels


def birth(checkpoint: str, log: bool) -> Card:
    """The best head's scores above, the cost of both halves of repeated random tokens below."""
    run = recording(RUNS[checkpoint])
    steps = run.column("measured", "step")
    scores = {
        "induction score": run.column("measured", "induction_score"),
        "previous-token score": run.column("measured", "previous_token_score"),
    }
    costs = {
        "first half": run.column("measured", "first_half_loss"),
        "second half": run.column("measured", "second_half_loss"),
    }
    begin, top = mix_step(run), 1.06 * max(float(values.max()) for values in costs.values())
    return Card(
        key="birth",
        title=f"{called(checkpoint)}: {_rise(steps, scores['induction score'])}; the second half costs "
        f"{costs['second half'][-1]:.1f} nats per token at the end, the first {costs['first half'][-1]:.1f}",
        alt="Two panels over the updates of a run: the best induction and previous-token scores, and the loss on both "
        "halves of repeated random tokens.",
        badge=Badge.RECORDED,
        figure=two_panels(
            {name: (steps, values) for name, values in scores.items()},
            {name: (steps, values) for name, values in costs.items()},
            colors={
                "induction score": "key",
                "previous-token score": "query",
                "first half": "token",
                "second half": "logits",
            },
            names=("best head's score", "nats per token"),
            ranges=((0, 1), (0, top)),
            at=begin,
            log=log,
        ),
        table={"updates": steps.tolist()} | {name: v.tolist() for name, v in (scores | costs).items()},
        source=source(run),
        note=("" if begin is None else f"The vertical line: update {begin:,}, from which on windows repeat. ")
        + "Each score is that of the best head at that update, which need not be the same one throughout. "
        + _beside_a_guess(
            float(costs["first half"][-1]),
            float(costs["second half"][-1]),
            float(np.log(run.settings["shape"]["vocab"])),
        ),
    )


def _beside_a_guess(first: float, second: float, uniform: float) -> str:
    """What both halves cost at the end beside a uniform guess, and why the first may cost more, in sentences."""
    said = f"A uniform guess costs {uniform:.2f} nats per token."
    if first > uniform:
        said += (
            " The first half costs more than that: a model that expects text is confidently wrong about random "
            "tokens."
        )
    if second > uniform:
        said += " Even the second half costs more than a uniform guess at the end."
    return said


INDUCTION_HEAD = 0.3
"""A score from which the prose calls a head an induction head; one that spreads its attention is near 0."""


def _rise(steps: Floats, scores: Floats) -> str:
    """Between which updates the score passed a quarter and three quarters of its last value."""
    last = float(scores[-1])
    if last < INDUCTION_HEAD:
        return f"the best induction score ends at {last:.2f}, so there is no induction head"
    peak = int(scores.argmax())
    fell = (
        f"; it was highest, {scores[peak]:.2f}, at {int(steps[peak]):,}" if scores[peak] > 1.1 * last else ""
    )
    quarter, most = (int(steps[np.flatnonzero(scores >= share * last)[0]]) for share in (0.25, 0.75))
    return (
        f"the best induction score ends at {last:.2f}, and most of the rise happens between updates {quarter:,} and "
        f"{most:,}{fell}"
    )


def heads_through(checkpoint: str, kind: str) -> Card:
    """One row for each head, one column for each evaluated snapshot."""
    run = recording(RUNS[checkpoint])
    steps, values = grids(run, SCORES[kind])
    layers, heads = values.shape[1:]
    names = [f"L{layer} H{head}" for layer in range(layers) for head in range(heads)]
    flat = values.reshape(len(steps), -1).T  # head, step
    best = int(flat[:, -1].argmax())
    before, after = (int((column > INDUCTION_HEAD).sum()) for column in (flat[:, 0], flat[:, -1]))
    return Card(
        key="heads-through",
        title=f"{called(checkpoint)}, {kind}: {names[best]} scores {flat[best, -1]:.2f} at the end; "
        f"of {len(names)} heads, {after} score{'s' if after == 1 else ''} more than {INDUCTION_HEAD}, "
        f"and {before} did at the start",
        alt=f"A heat map of {len(names)} heads down and {len(steps)} snapshots across; darker cells are higher {kind} "
        "scores.",
        badge=Badge.RECORDED,
        figure=heatmap(
            flat,
            names,
            [f"{step:,}" for step in steps],
            concept="attention",
            zero_one=True,
            row_name="head",
            column_name="updates",
            value_name=f"{kind} score",
            outline_row=best,
            height=470,
        ).update_yaxes(tickvals=list(range(0, len(names), heads)), ticktext=names[::heads]),
        table={"head": names} | {f"after {step:,}": flat[:, i].tolist() for i, step in enumerate(steps)},
        source=source(run),
        note="Scores lie between 0 and 1. The frame is around the head that scores best at the end.",
    )

"""The filters between the logits and the draw, in transformers' order, and what each does to the probability mass."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from engine.cards.sampling.common import (
    EXACT,
    FORWARD,
    difference,
    display,
    filter_lines,
    inside,
    processors,
    quoted,
    script,
    settings,
    tolerance,
)
from engine.evidence.card import Badge, Card, Proof
from engine.figures.sampling import Segment, flow
from engine.model.loading import Loaded
from engine.model.trace import Trace
from engine.ops.sampling import Filters, Float, Stage, entropy, softmax, stages, top
from engine.tokens.text import label

NAMED = 5
"""Tokens that get a segment of their own: this many favourites of the model and of the last filter."""


def filters(loaded: Loaded, trace: Trace, position: int, chosen: Filters) -> Card:
    """The distribution after `position` on its way through the five filters, and what is left to draw from."""
    row = trace.logits[inside(trace, position)]
    seen = trace.ids[: position + 1]
    done = stages(row, seen, chosen)
    final = done[-1].probabilities
    removed = [_removed(before, after) for before, after in pairwise(done)]
    left = [int(stage.kept.sum()) for stage in done]
    first = int(top(done[-1].logits, 1)[0])
    shown = _named(done)
    rows = [_row(loaded, done, i, shown, chosen) for i in range(len(done))]
    rows.append(
        ("<b>drawn from</b>", _segments(loaded, final, shown, done[-1].kept), _rest(final, shown), 0.0)
    )
    active = [stage for stage in done[1:] if stage.active]
    before = softmax(row)

    def prove() -> Proof:
        theirs = _theirs(row, seen, chosen)
        ours = [done[0].probabilities, *(stage.probabilities for stage in active)]
        return Proof(
            "All probabilities after every filter against transformers' own LogitsProcessor classes in float64.",
            max(difference(a, b) for a, b in zip(ours, theirs, strict=True)),
            EXACT,
        )

    return Card(
        key="filters",
        title=(
            f"{left[-1]:,} of {left[0]:,} tokens are left; "
            f"{quoted(display(loaded, first))} goes from {before[first]:.1%} to {final[first]:.1%}"
        ),
        alt=(
            "A bar of all probability for each filter in turn, with the mass that it removes hatched: "
            + ", ".join(f"{s.name} {r:.1%}" for s, r in zip(done[1:], removed, strict=True))
            + "."
        ),
        badge=Badge.LIVE,
        figure=flow(rows),
        table={
            "filter": [stage.name for stage in done],
            "setting": [_setting(stage.name, chosen) or "off" for stage in done],
            "tokens left": left,
            "mass removed": [0.0, *removed],
            "mass moved": [0.0, *(_moved(a, b) for a, b in pairwise(done))],
            "largest probability": [float(stage.probabilities.max()) for stage in done],
            "entropy (nats)": [entropy(stage.probabilities) for stage in done],
        },
        prove=prove,
        code=script(loaded, seen, FORWARD, filter_lines(chosen), _CODE),
        numbers={
            "left": [left[0], *(n for stage, n in zip(done[1:], left[1:], strict=True) if stage.active)],
            "removed": [0.0, *(r for stage, r in zip(done[1:], removed, strict=True) if stage.active)],
            "entropy": entropy(final),
        },
        atol=tolerance(loaded),
        note=(
            "Hatched: what a filter throws away. The kept part is scaled up to 100 % again before the next filter "
            "looks at it. Mass moved, in the table, is the total variation distance."
        ),
    )


_CODE = """
    scores = logits[-1:]
    result = {"left": [scores.shape[-1]], "removed": [0.0]}
    for name, processor in filters:
        before = scores.softmax(-1)
        scores = processor(ids, scores)
        gone = torch.isinf(scores)
        result["left"].append(int((~gone).sum()))
        result["removed"].append(float(before[gone].sum()))
    p = scores.softmax(-1)
    result["entropy"] = -torch.special.xlogy(p, p).sum()
"""


def _theirs(row: object, seen: tuple[int, ...], chosen: Filters) -> list[Float]:
    """Probabilities before the first and after every filter of transformers', each of shape vocab."""
    ids = torch.tensor([list(seen)])
    scores = torch.tensor(np.asarray(row), dtype=torch.float64)[None]
    passed = [scores.softmax(-1)[0].numpy()]
    for processor in processors(chosen):
        scores = processor(ids, scores)
        passed.append(scores.softmax(-1)[0].numpy())
    return passed


def _removed(before: Stage, after: Stage) -> float:
    """Mass, in the distribution that enters a filter, of the tokens that it removes."""
    return float(before.probabilities[before.kept & ~after.kept].sum())


def _moved(before: Stage, after: Stage) -> float:
    return float(np.abs(before.probabilities - after.probabilities).sum() / 2)


def _named(done: tuple[Stage, ...]) -> list[int]:
    """Tokens with a segment of their own, the model's favourites first."""
    chosen = {int(i) for stage in (done[0], done[-1]) for i in top(stage.logits, NAMED)}
    return sorted(chosen, key=lambda i: (-done[0].logits[i], i))


def _row(
    loaded: Loaded, done: tuple[Stage, ...], i: int, shown: list[int], chosen: Filters
) -> tuple[str, list[Segment], float, float]:
    """One bar. A filter that cuts is drawn on what entered it, one that reshapes on what left it."""
    stage = done[i]
    cuts = stage.name in ("top-k", "top-p", "min-p")
    mass = done[i - 1].probabilities if cuts else stage.probabilities
    gone = float(mass[~stage.kept].sum()) if cuts else 0.0
    kept = np.where(stage.kept, mass, 0.0)
    return _label(stage, chosen, gone), _segments(loaded, kept, shown, stage.kept), _rest(kept, shown), gone


def _segments(loaded: Loaded, mass: Float, shown: list[int], kept: NDArray[np.bool_]) -> list[Segment]:
    return [(display(loaded, i), float(mass[i]) if kept[i] else 0.0) for i in shown]


def _rest(mass: Float, shown: list[int]) -> float:
    return max(0.0, float(mass.sum() - mass[shown].sum()))


def _label(stage: Stage, chosen: Filters, gone: float) -> str:
    if stage.name == "logits":
        return f"softmax of logits<br><sub>{stage.kept.sum():,} tokens</sub>"
    if not stage.active:
        return f"{label(stage.name)}<br><sub>off</sub>"
    effect = f", −{gone:.1%}" if stage.name in ("top-k", "top-p", "min-p") else ""
    return (
        f"{label(stage.name)} {_setting(stage.name, chosen)}<br><sub>{stage.kept.sum():,} left{effect}</sub>"
    )


def _setting(name: str, chosen: Filters) -> str:
    value = settings(chosen).get(name.replace(" ", "_").replace("-", "_"))
    return "" if value is None else f"{value:g}"

"""The filters between the logits and the draw, in transformers' order, and what each does to the probability mass."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.chapters.c05_sampling.warpers import FORWARD, filter_lines
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.generating import settings
from engine.evidence.oracles.filtering import logits_again, passed
from engine.evidence.rounding import same_pass
from engine.evidence.script import script
from engine.figures.sampling import Segment, flow
from engine.model.capturing import display
from engine.model.loaded import Loaded
from engine.model.trace import Trace, inside
from engine.ops.sampling import Filters, Float, Stage, entropy, softmax, stages, top
from engine.tokens.text import label, quoted

FILTERS = ("repetition penalty", "temperature", "top-k", "top-p", "min-p")
CUTTING = FILTERS[2:]

NAMED = 5
"""Tokens that get a segment of their own: this many favourites of the model and of the last filter."""


SURE = 1.0
"""Nats of entropy under which a distribution has hardly anything to cut or to draw from."""


def entropies(trace: Trace) -> Float:
    """Entropy in nats of the next-token distribution after every token, seq; 0 where logits are not finite."""
    rows = [row if np.isfinite(row).all() else np.zeros(1) for row in trace.logits]
    return np.array([float(entropy(softmax(row))) for row in rows])


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
    before = softmax(row)

    ids = trace.ids
    numbers = {
        "named": np.array(shown),
        "mass": np.array([[mass for _, mass in segments] for _, segments, _, _ in rows]),  # bar, named
        "others": np.array([rest for _, _, rest, _ in rows]),
        "removed": np.array([gone for _, _, _, gone in rows]),
        "left": np.array(left),
        "moved": np.array([0.0, *(_moved(a, b) for a, b in pairwise(done))]),
        "largest": np.array([float(stage.probabilities.max()) for stage in done]),
        "entropy": np.array([entropy(stage.probabilities) for stage in done]),
    }

    return Card(
        key="filters",
        title=(
            f"{left[-1]:,} of {left[0]:,} tokens {'is' if left[-1] == 1 else 'are'} left; "
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
            "mass moved": numbers["moved"].tolist(),
            "largest probability": numbers["largest"].tolist(),
            "entropy (nats)": numbers["entropy"].tolist(),
        },
        shown=numbers,
        oracle=Oracle(
            "Every mass from the logits that transformers returns for the same ids, through transformers' own "
            "LogitsProcessor classes in float64.",
            lambda: _again(loaded, ids, position, chosen),
            {"named": 0.0, "left": 0.0, "entropy": same_pass(numbers["entropy"])}
            | dict.fromkeys(("mass", "others", "removed", "moved", "largest"), same_pass()),
        ),
        code=script(loaded, trace.ids, FORWARD, filter_lines(chosen), _CODE.format(position=position)),
        numbers={
            "left": [left[0], *(n for stage, n in zip(done[1:], left[1:], strict=True) if stage.active)],
            "removed": [0.0, *(r for stage, r in zip(done[1:], removed, strict=True) if stage.active)],
            "entropy": entropy(final),
        },
        atol=same_pass(numbers["entropy"]),
        note=(
            "Hatched: what a filter throws away. The kept part is scaled up to 100 % again before the next filter "
            "looks at it. Mass moved, in the table, is the total variation distance."
        ),
    )


_CODE = """
    seen, scores = ids[:, : {position} + 1], logits[{position}][None]
    result = {{"left": [scores.shape[-1]], "removed": [0.0]}}
    for name, processor in filters:
        before = scores.softmax(-1)
        scores = processor(seen, scores)
        gone = torch.isinf(scores)
        result["left"].append(int((~gone).sum()))
        result["removed"].append(float(before[gone].sum()))
    p = scores.softmax(-1)
    result["entropy"] = -torch.special.xlogy(p, p).sum()
"""


def _again(loaded: Loaded, ids: Sequence[int], position: int, chosen: Filters) -> dict[str, Any]:
    done = passed(logits_again(loaded, ids)[position], ids[: position + 1], chosen)
    logits, last = done["logits"], list(done.values())[-1]
    named = {int(i) for row in (logits, last) for i in row.sort(descending=True, stable=True).indices[:NAMED]}
    shown = sorted(named, key=lambda i: (-float(logits[i]), i))
    stages, row = list[torch.Tensor](), logits
    for name in ("logits", *FILTERS):
        row = done.get(name, row)
        stages.append(row)
    p = [row.softmax(-1) for row in stages]
    bars, gone = [p[0]], [0.0]
    for i, name in enumerate(FILTERS, 1):
        cuts = name in CUTTING
        bars.append(torch.where(torch.isinf(stages[i]), 0.0, p[i - 1]) if cuts else p[i])
        gone.append(float(p[i - 1][torch.isinf(stages[i])].sum()) if cuts else 0.0)
    bars.append(p[-1])
    mass = torch.stack(bars)
    return {
        "named": shown,
        "mass": mass[:, shown],
        "others": mass.index_fill(1, torch.tensor(shown), 0.0).sum(1),
        "removed": [*gone, 0.0],
        "left": [int(torch.isfinite(row).sum()) for row in stages],
        "moved": [0.0, *((a - b).abs().sum() / 2 for a, b in pairwise(p))],
        "largest": [row.max() for row in p],
        "entropy": [torch.special.entr(row).sum() for row in p],
    }


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
    cuts = stage.name in CUTTING
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
    effect = f", −{gone:.1%}" if stage.name in CUTTING else ""
    return (
        f"{label(stage.name)} {_setting(stage.name, chosen)}<br><sub>{stage.kept.sum():,} left{effect}</sub>"
    )


def _setting(name: str, chosen: Filters) -> str:
    value = settings(chosen).get(name.replace(" ", "_").replace("-", "_"))
    return "" if value is None else f"{value:g}"

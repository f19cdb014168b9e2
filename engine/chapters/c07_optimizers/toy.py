"""Optimizers on made-up surfaces: where they go, when they diverge, and what a schedule is for."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import isclose
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from plotly.graph_objects import Figure
from torch import Tensor

from engine import ReaderError
from engine.chapters.c07_optimizers.best import EQUAL, TRIED, best_rates
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.descent import ends_of, next_points
from engine.evidence.oracles.surfaces import noisy_losses
from engine.evidence.oracles.surfaces import rates as rates_again
from engine.evidence.oracles.surfaces import turned as turned_again
from engine.evidence.rounding import EXACT, largest
from engine.figures import lines
from engine.figures.learning import contours
from engine.ops.optimizers import (
    FAR,
    SCHEDULES,
    SURFACES,
    VECTOR,
    Floats,
    Path,
    descend,
    grid,
    rates_of,
    turned,
)

RUNS = 64
TINY = 1e-16
"""Nothing smaller has a place on a logarithmic axis."""
STEPS = (
    "by its paper's formula from the points before it, with derivatives worked out on paper and the rate that the "
    "schedule's formula gives; heights by the surface's formula in numpy."
)
WIDE = 1e3
"""Farther than any window reaches."""
CLOSE = EXACT * WIDE
FLAT, STEEP = 1.0, 25.0
"""The curvatures of the ravine, along and across."""


def surface(
    name: str,
    start: tuple[float, float],
    optimizers: Sequence[str],
    rate: float | None,
    steps: int,
    schedule: str,
    degrees: float | None = None,
) -> list[Card]:
    """The paths of some optimizers over a surface's contours, and the loss along them.

    rate     None: each walks with that of `TRIED` with which it ends lowest
    degrees  by how much the surface is turned about the origin
    """
    chosen = [one for one in VECTOR if one in optimizers]
    if not chosen or name not in SURFACES or schedule not in SCHEDULES:
        raise ReaderError("Choose at least one optimizer.")
    ground = SURFACES[name] if degrees is None else turned(SURFACES[name], degrees)
    angle = degrees or 0.0
    best_each = rate is None
    rates = (
        best_rates(ground, start, chosen, steps, schedule) if rate is None else dict.fromkeys(chosen, rate)
    )
    paths = {one: descend(ground.function, start, one, rates[one], steps, schedule) for one in chosen}
    x, y, heights = grid(ground)
    legend = {one: f"{one}, rate {rates[one]:g}" if best_each else one for one in chosen}
    shown = {_name(legend[one], path): path.points for one, path in paths.items()}
    drawn = contours(x, y, heights, shown, lowest=ground.lowest, log=ground.log, value_name="f")
    ends = {one: path.losses[-1] for one, path in paths.items() if path.diverged is None}
    best = min(ends, key=lambda one: ends[one]) if ends else None
    title = f"After {steps} steps {best} is lowest, at {ends[best]:.3g}" if best else "Every path diverges"
    title += ", each at its best rate" if best and best_each else ""
    lost = [one for one, path in paths.items() if path.diverged is not None]
    walked = {f"{one}, {what}": array for one, path in paths.items() for what, array in _finite(path).items()}

    def again() -> dict[str, Any]:
        plans = {one: rates_again(schedule, used, steps) for one, used in rates.items()}
        found = _walked_again(name, angle, start, walked, plans)
        return {what: _bent(array, walked[what]) for what, array in found.items()}

    shown_paths = {what: _bent(array, array) for what, array in walked.items()}
    surface_shown: dict[str, Any] = {"heights": heights, "rates": list(rates.values()), **shown_paths}
    return [
        Card(
            key="surface",
            title=title + (f"; {', '.join(lost)} diverged" if best and lost else ""),
            alt=f"Contours of {ground.formula} with the paths of {', '.join(chosen)} from one start.",
            badge=Badge.TOY,
            figure=drawn,
            table=_table(paths),
            shown=surface_shown,
            oracle=Oracle(
                f"Heights by the formula in numpy; each step of a path {STEPS}"
                + (" The best rates by torch.optim with all that were tried." if best_each else ""),
                lambda: (
                    {
                        "heights": turned_again(name, angle)[0](*np.meshgrid(x, y)),
                        "rates": _best_again(name, angle, start, chosen, steps, schedule)
                        if rate is None
                        else [rate] * len(chosen),
                    }
                    | again()
                ),
                {"heights": EXACT * largest(heights), "rates": 0.0} | dict.fromkeys(shown_paths, CLOSE),
            ),
            note=f"{ground.formula}. Gradients by autograd, steps by torch.optim. A path that leaves the window has "
            f"left the figure, not the table.",
        ),
        Card(
            key="surface-loss",
            title="How the height falls, step by step",
            alt="A line for each optimizer: the height above the lowest point of the window at every step.",
            badge=Badge.TOY,
            figure=_losses(paths, steps, float(heights.min()) if ground.lowest is None else 0.0),
            table=_table(paths),
            shown=shown_paths,
            oracle=Oracle(f"Each step of a path {STEPS}", again, CLOSE),
        ),
    ]


def _best_again(
    name: str, degrees: float, start: tuple[float, float], names: Sequence[str], steps: int, schedule: str
) -> list[float]:
    found = []
    for one in names:
        reached = heights_again(name, degrees, start, one, steps, schedule)
        found.append(
            min(
                r
                for r, end in zip(TRIED, reached, strict=True)
                if end <= reached.min() + EQUAL * abs(reached.min())
            )
        )
    return found


def heights_again(
    name: str, degrees: ArrayLike, starts: ArrayLike, optimizer: str, steps: int, schedule: str
) -> Floats:
    """Where torch.optim ends with each of the rates that are tried, as heights; infinite where it is lost.

    For one angle and start, or for several of both (angle); shape rate, or (rate, angle).
    """
    heights, slopes = turned_again(name, degrees)
    ends = ends_of(optimizer, starts, TRIED, rates_again(schedule, 1.0, steps), slopes)
    with np.errstate(over="ignore", invalid="ignore"):
        reached = heights(*np.moveaxis(ends, -1, 0))
    known: Floats = np.nan_to_num(reached, nan=np.inf, posinf=np.inf)
    return known


def _finite(path: Path) -> dict[str, Floats]:
    """The part of a path that can be drawn."""
    kept = np.isfinite(path.losses) & np.isfinite(path.points).all(-1)
    return {"points": path.points[kept], "heights": path.losses[kept]}


def _bent(values: Floats, like: Floats) -> Floats:
    """Far numbers of a path that diverges as on a logarithmic axis: beside its end, its beginning would be nothing."""
    return np.arcsinh(values) if largest(like) > WIDE else values


def _walked_again(
    name: str,
    degrees: float,
    start: tuple[float, float],
    walked: Mapping[str, Floats],
    plans: Mapping[str, list[float]],
) -> dict[str, Any]:
    heights, slopes = turned_again(name, degrees)
    found = {}
    for one, plan in plans.items():
        points = walked[f"{one}, points"]
        found[f"{one}, points"] = next_points(
            one, start, plan[: len(points) - 1], points, lambda place: slopes(*place)
        )
        found[f"{one}, heights"] = heights(*points.T)
    return found


def _name(name: str, path: Path) -> str:
    return name if path.diverged is None else f"{name} (diverges)"


def _losses(paths: Mapping[str, Path], steps: int, base: float) -> Figure:
    series = {_name(one, path): _padded(path.losses - base, steps + 1) for one, path in paths.items()}
    return lines(np.arange(steps + 1), series, x_name="step", y_name="height", log_y=True, height=280)


def _padded(values: Floats, length: int) -> Floats:
    """NaN after the end and where a logarithm has no place for the value."""
    full = np.full(length, np.nan)
    kept = values[:length]
    full[: len(kept)] = np.where(np.isfinite(kept) & (kept > TINY), kept, np.nan)
    return full


def _table(paths: Mapping[str, Path]) -> dict[str, list[object]]:
    rows = [(one, i, *point, loss) for one, path in paths.items()
            for i, (point, loss) in enumerate(zip(path.points, path.losses, strict=True))]  # fmt: skip
    names = ("optimizer", "step", "x", "y", "f")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _parabola(curvature: float, z: Tensor) -> Tensor:
    return curvature * z[0] ** 2 / 2


def curvature(rate: float, steps: int = 40) -> Card:
    """Gradient descent along and across the ravine: every step multiplies the distance by 1 − rate · curvature."""
    along, across = (descend(partial(_parabola, c), [1.0], "SGD", rate, steps) for c in (FLAT, STEEP))
    factors = {"along": 1 - rate * FLAT, "across": 1 - rate * STEEP}
    title = (
        f"Each step multiplies the distance by {_number(factors['along'])} along and by "
        f"{_number(factors['across'])} across: {_fate(factors['across'])}"
    )
    series = {
        f"along, curvature {FLAT:g}": _padded(np.abs(along.points[:, 0]), steps + 1),
        f"across, curvature {STEEP:g}": _padded(np.abs(across.points[:, 0]), steps + 1),
    }
    shown = {name: values[np.isfinite(values)] for name, values in series.items()}
    return Card(
        key="curvature",
        title=title,
        alt=f"Two lines on a logarithmic axis: the distance from the minimum over {steps} steps.",
        badge=Badge.TOY,
        figure=lines(
            np.arange(steps + 1), series, x_name="step", y_name="distance from the minimum", log_y=True
        ),
        table={"step": list(range(steps + 1)), **{name: values.tolist() for name, values in series.items()}},
        shown=shown | {"factors": list(factors.values())},
        oracle=Oracle(
            "The distances as powers of 1 − rate · curvature.",
            lambda: _powers(rate, steps),
            {name: EXACT * max(1.0, largest(values)) for name, values in shown.items()} | {"factors": EXACT},
        ),
        note=f"The steep direction tolerates a rate below 2 / {STEEP:g} = {2 / STEEP:g}, the fastest for it alone is "
        f"1 / {STEEP:g} = {1 / STEEP:g}. A line ends where the path is further away than a million.",
    )


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _fate(factor: float) -> str:
    """What becomes of a distance that every step multiplies by this."""
    if isclose(abs(factor), 1):
        return "it swings for ever"
    return "it converges" if abs(factor) < 1 else "it diverges"


def _powers(rate: float, steps: int) -> dict[str, Any]:
    """Distances down to where a logarithm has no place for them, and up to the first that is too far away."""
    factors = [1 - rate * FLAT, 1 - rate * STEEP]
    found: dict[str, Any] = {"factors": factors}
    for name, factor in zip(("along", "across"), factors, strict=True):
        distances = [abs(factor) ** i for i in range(steps + 1)]
        kept = [d for i, d in enumerate(distances) if d > TINY and (i == 0 or distances[i - 1] < FAR)]
        found[f"{name}, curvature {FLAT if name == 'along' else STEEP:g}"] = kept
    return found


def noisy(rate: float, noise: float, steps: int, seed: int) -> list[Card]:
    """The learning rates of all schedules, and the loss of SGD on the ravine with noise on every derivative."""
    ground = SURFACES["ravine"]
    plans = {name: rates_of(name, rate, steps) for name in SCHEDULES}
    starts = np.tile(
        ground.start, (RUNS, 1)
    )  # SGD moves every row by its own gradient: RUNS runs in one tensor
    runs = {
        name: descend(lambda z: ground.function(z).sum(), starts, "SGD", rate, steps, name, noise, seed)
        for name in SCHEDULES
    }
    mean = {name: _padded(run.losses / RUNS, steps + 1) for name, run in runs.items()}
    shown = {name: _drawn(values) for name, values in mean.items()}
    return [
        Card(
            key="schedules",
            title="Five plans for the learning rate",
            alt="A line for each schedule: its learning rate at every step.",
            badge=Badge.TOY,
            figure=lines(np.arange(steps), plans, x_name="step", y_name="learning rate", zero=True,
                         markers=False, height=280),
            table={"step": list(range(steps)), **{name: values.tolist() for name, values in plans.items()}},
            shown=plans,
            oracle=Oracle(
                "Every rate by its schedule's formula, written out.",
                lambda: {name: rates_again(name, rate, steps) for name in plans},
                EXACT,
            ),
            note="Made by torch.optim.lr_scheduler.",
        ),
        Card(
            key="noisy",
            title=_lowest(steps, noise, {name: float(run.losses[-1]) / RUNS for name, run in runs.items()}),
            alt="A line for each schedule: the mean loss of many noisy runs at every step, on a logarithmic axis.",
            badge=Badge.TOY,
            figure=lines(np.arange(steps + 1), mean, x_name="step", y_name=f"loss, mean of {RUNS} runs", log_y=True,
                         markers=False, height=300),
            table={"step": list(range(steps + 1)), **{name: values.tolist() for name, values in mean.items()}},
            shown=shown,
            oracle=Oracle(
                "Every mean from the recursion w ← w − rate · (gradient + noise) in numpy, with the derivatives of the "
                "ravine worked out on paper, the schedules' formulas, and noise drawn again from the seed.",
                lambda: {
                    name: _drawn(noisy_losses(ground.start, RUNS, rates_again(name, rate, steps), noise, seed))
                    for name in shown
                },
                {name: EXACT * max(1.0, largest(values)) for name, values in shown.items()},
            ),
            note=f"SGD on {ground.formula}, with noise of standard deviation {noise:g} on every derivative.",
        ),
    ]  # fmt: skip


def _lowest(steps: int, noise: float, ends: Mapping[str, float]) -> str:
    """Which schedule ends lowest, in words; below `TINY` there is no order any more."""
    first, second = sorted(ends, key=lambda name: ends[name])[:2]
    start = f"After {steps} {'noisy steps' if noise else 'steps without noise'}"
    gone = [f"“{name}”" for name, end in ends.items() if end <= TINY]
    if gone:
        return f"{start} {' and '.join(gone)} {'has' if len(gone) == 1 else 'have'} a loss below {TINY:g}"
    other = second if first == "constant" else "constant"
    return f"{start} “{first}” is lowest, at {ends[first]:.3g}; “{other}” is at {ends[other]:.3g}"


def _drawn(values: Floats) -> Floats:
    """Those that have a place on a logarithmic axis."""
    return values[np.isfinite(values) & (values > TINY)]

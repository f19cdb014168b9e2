"""Optimizers on made-up surfaces: where they go, when they diverge, and what a schedule is for."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from plotly.graph_objects import Figure
from torch import Tensor

from engine import ReaderError
from engine.evidence.card import Badge, Card
from engine.figures import lines
from engine.figures.learning import contours
from engine.ops.optimizers import SCHEDULES, SURFACES, VECTOR, Floats, Path, descend, grid, rates_of

RUNS = 64
FLAT, STEEP = 1.0, 25.0
"""The curvatures of the ravine, along and across."""


def surface(
    name: str, start: tuple[float, float], optimizers: Sequence[str], rate: float, steps: int, schedule: str
) -> list[Card]:
    """The paths of some optimizers over a surface's contours, and the loss along them."""
    chosen = [one for one in VECTOR if one in optimizers]
    if not chosen or name not in SURFACES or schedule not in SCHEDULES:
        raise ReaderError("Choose at least one optimizer.")
    ground = SURFACES[name]
    paths = {one: descend(ground.function, start, one, rate, steps, schedule) for one in chosen}
    x, y, heights = grid(ground)
    shown = {_name(one, path): path.points for one, path in paths.items()}
    drawn = contours(x, y, heights, shown, lowest=ground.lowest, log=ground.log, value_name="f")
    ends = {one: path.losses[-1] for one, path in paths.items() if path.diverged is None}
    best = min(ends, key=lambda one: ends[one]) if ends else None
    title = f"After {steps} steps {best} is lowest, at {ends[best]:.3g}" if best else "Every path diverges"
    lost = [one for one, path in paths.items() if path.diverged is not None]
    return [
        Card(
            key="surface",
            title=title + (f"; {', '.join(lost)} diverged" if best and lost else ""),
            alt=f"Contours of {ground.formula} with the paths of {', '.join(chosen)} from one start.",
            badge=Badge.TOY,
            figure=drawn,
            table=_table(paths),
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
        ),
    ]


def _name(name: str, path: Path) -> str:
    return name if path.diverged is None else f"{name} (diverges)"


def _losses(paths: Mapping[str, Path], steps: int, base: float) -> Figure:
    series = {_name(one, path): _padded(path.losses - base, steps + 1) for one, path in paths.items()}
    return lines(np.arange(steps + 1), series, x_name="step", y_name="height", log_y=True, height=280)


def _padded(values: Floats, length: int) -> Floats:
    """NaN after the end and where a logarithm has no place for the value."""
    full = np.full(length, np.nan)
    kept = values[:length]
    full[: len(kept)] = np.where(np.isfinite(kept) & (kept > 1e-16), kept, np.nan)
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
    apart = abs(factors["across"]) > 1
    end = f"×{factors['across']:.3g} across"
    title = (
        f"Each step takes ×{factors['along']:.3g} along and {end}: it {'diverges' if apart else 'converges'}"
    )
    series = {
        f"along, curvature {FLAT:g}": _padded(np.abs(along.points[:, 0]), steps + 1),
        f"across, curvature {STEEP:g}": _padded(np.abs(across.points[:, 0]), steps + 1),
    }
    return Card(
        key="curvature",
        title=title,
        alt=f"Two lines on a logarithmic axis: the distance from the minimum over {steps} steps.",
        badge=Badge.TOY,
        figure=lines(
            np.arange(steps + 1), series, x_name="step", y_name="distance from the minimum", log_y=True
        ),
        table={"step": list(range(steps + 1)), **{name: values.tolist() for name, values in series.items()}},
        note=f"The steep direction tolerates a rate below 2 / {STEEP:g} = {2 / STEEP:g}, the fastest for it alone is "
        f"1 / {STEEP:g} = {1 / STEEP:g}. A line ends where the path is further away than a million.",
    )


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
    last = {name: float(values[-1]) for name, values in mean.items()}
    best = min(last, key=lambda name: last[name] if np.isfinite(last[name]) else np.inf)
    return [
        Card(
            key="schedules",
            title="Five plans for the learning rate",
            alt="A line for each schedule: its learning rate at every step.",
            badge=Badge.TOY,
            figure=lines(np.arange(steps), plans, x_name="step", y_name="learning rate", zero=True,
                         markers=False, height=280),
            table={"step": list(range(steps)), **{name: values.tolist() for name, values in plans.items()}},
            note="Made by torch.optim.lr_scheduler.",
        ),
        Card(
            key="noisy",
            title=f"After {steps} noisy steps “{best}” is lowest, at {last[best]:.3g}; constant stays at "
            f"{last['constant']:.3g}",
            alt="A line for each schedule: the mean loss of many noisy runs at every step, on a logarithmic axis.",
            badge=Badge.TOY,
            figure=lines(np.arange(steps + 1), mean, x_name="step", y_name=f"loss, mean of {RUNS} runs", log_y=True,
                         markers=False, height=300),
            table={"step": list(range(steps + 1)), **{name: values.tolist() for name, values in mean.items()}},
            note=f"SGD on {ground.formula}, with noise of standard deviation {noise:g} on every derivative.",
        ),
    ]  # fmt: skip

"""Muon needs a matrix: a small linear regression whose inputs are strong in some directions and weak in others."""

from typing import Any

import numpy as np
import torch

from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.regression import Regression
from engine.evidence.oracles.surfaces import rates as rates_again
from engine.evidence.rounding import EXACT, largest
from engine.figures import lines
from engine.ops.optimizers import Floats, Path, descend, matrix_problem

SIZE = 12
MATRIX_RATES = {"SGD": 6.0, "Momentum": 2.0, "Adam": 0.2, "Muon": 0.4}
"""Learning rates of about equal care for this problem; the reader multiplies them all."""
PLAN = "linear to zero"
MUON = 0.01
"""As a part of a step and in powers of ten of a loss: how far one rounding of a bfloat16 may lead."""
TINY = 1e-16
"""A smaller loss is as good as none: what it is, rounding decides."""


def matrix(condition: float, factor: float, steps: int, seed: int) -> list[Card]:
    """Losses of four optimizers on the regression, and the singular values of their first steps."""
    paths = _walked(condition, factor, steps, seed)
    losses = {name: _padded(path.losses, steps + 1) for name, path in paths.items()}
    ends = {name: values[-1] for name, values in losses.items() if np.isfinite(values[-1])}
    best = min(ends, key=lambda name: ends[name]) if ends else "none"
    steps_taken = {name: torch.tensor(path.points[1] - path.points[0]) for name, path in paths.items()}
    spectra = {name: torch.linalg.svdvals(step).numpy() for name, step in steps_taken.items()}
    scaled = {name: values / values[0] for name, values in spectra.items()}
    drawn = {name: _log10(path.losses) for name, path in paths.items()}
    return [
        Card(
            key="muon-steps",
            title=f"Muon's weakest direction gets {scaled['Muon'][-1]:.0%} of the strongest one's step, SGD's "
            f"{scaled['SGD'][-1]:.2%}",
            alt="A line for each optimizer: the singular values of its first step, as a share of the largest.",
            badge=Badge.TOY,
            figure=lines(np.arange(1, SIZE + 1), scaled, x_name="singular value number",
                         y_name="share of the largest", zero=True, height=300),
            table={"number": list(range(1, SIZE + 1)), **{k: v.tolist() for k, v in spectra.items()}},
            shown=spectra | {f"{name}: share": values for name, values in scaled.items()},
            oracle=Oracle(
                "Singular values by numpy of a step by each optimizer's formula from a gradient worked out on paper; "
                "Muon's is rounded to bfloat16 after every product, as torch.optim computes it.",
                lambda: _first_steps(condition, factor, steps, seed),
                {
                    **{name: _rounding(name) * largest(values) for name, values in spectra.items()},
                    **{f"{name}: share": _rounding(name) for name in spectra},
                },
            ),
            note="The first step of SGD, with or without momentum, is the gradient itself times the rate.",
        ),
        Card(
            key="muon-loss",
            title=f"After {steps} steps {best} is lowest" + (f", at {ends[best]:.3g}" if ends else ""),
            alt="A line for each optimizer: the loss at every step, on a logarithmic axis.",
            badge=Badge.TOY,
            figure=lines(np.arange(steps + 1), losses, x_name="step", y_name="loss", log_y=True, markers=False,
                         height=300),
            table={"step": list(range(steps + 1)), **{k: v.tolist() for k, v in losses.items()}},
            shown=drawn,
            oracle=Oracle(
                "Every loss (its logarithm, as the axis has it) by its formula in numpy, where a step by the "
                "optimizer's formula leads from the points before it, with derivatives worked out on paper; Muon's "
                "step is rounded to bfloat16 after every product, as torch.optim computes it.",
                lambda: _losses_again(condition, factor, steps, seed),
                {name: max(1e-6, _rounding(name)) for name in drawn},
            ),
            note="Learning rates: "
            + ", ".join(f"{name} {rate * factor:.3g}" for name, rate in MATRIX_RATES.items())
            + ", each falling linearly to zero.",
        ),
    ]  # fmt: skip


def _walked(condition: float, factor: float, steps: int, seed: int) -> dict[str, Path]:
    start, loss = matrix_problem(SIZE, condition, seed)
    return {
        name: descend(loss, start.numpy(), name, rate * factor, steps, PLAN)
        for name, rate in MATRIX_RATES.items()
    }


def _rounding(name: str) -> float:
    return MUON if name == "Muon" else EXACT


def _log10(losses: Floats) -> Floats:
    """Of those that can be drawn, the tiny ones taken as one."""
    result: Floats = np.log10(np.maximum(losses[np.isfinite(losses)], TINY))
    return result


def _first_steps(condition: float, factor: float, steps: int, seed: int) -> dict[str, Any]:
    problem, found = Regression(SIZE, condition, seed), dict[str, Any]()
    for name, rate in MATRIX_RATES.items():
        first = rates_again(PLAN, rate * factor, steps)[:1]
        step = problem.next_points(name, first, np.zeros((2, SIZE, SIZE)))[1]
        values = np.linalg.svd(step, compute_uv=False)
        found |= {name: values, f"{name}: share": values / values[0]}
    return found


def _losses_again(condition: float, factor: float, steps: int, seed: int) -> dict[str, Any]:
    """The points between which the formulas step are walked again, not kept."""
    problem, found = Regression(SIZE, condition, seed), dict[str, Any]()
    for name, path in _walked(condition, factor, steps, seed).items():
        plan = rates_again(PLAN, MATRIX_RATES[name] * factor, steps)[: len(path.points) - 1]
        points = problem.next_points(name, plan, path.points)
        found[name] = _log10(np.array([problem.loss(point) for point in points]))
    return found


def _padded(values: Floats, length: int) -> Floats:
    full = np.full(length, np.nan)
    full[: len(values)] = np.where(np.isfinite(values), values, np.nan)
    return full

"""Muon needs a matrix: a small linear regression whose inputs are strong in some directions and weak in others."""

import numpy as np
import torch

from engine.evidence.card import Badge, Card
from engine.figures import lines
from engine.ops.optimizers import Floats, descend, matrix_problem

SIZE = 12
MATRIX_RATES = {"SGD": 6.0, "Momentum": 2.0, "Adam": 0.2, "Muon": 0.4}
"""Learning rates of about equal care for this problem; the reader multiplies them all."""


def matrix(condition: float, factor: float, steps: int, seed: int) -> list[Card]:
    """Losses of four optimizers on the regression, and the singular values of their first steps."""
    start, loss = matrix_problem(SIZE, condition, seed)
    paths = {
        name: descend(loss, start.numpy(), name, rate * factor, steps, "linear to zero")
        for name, rate in MATRIX_RATES.items()
    }
    losses = {name: _padded(path.losses, steps + 1) for name, path in paths.items()}
    ends = {name: values[-1] for name, values in losses.items() if np.isfinite(values[-1])}
    best = min(ends, key=lambda name: ends[name]) if ends else "none"
    steps_taken = {name: torch.tensor(path.points[1] - path.points[0]) for name, path in paths.items()}
    spectra = {name: torch.linalg.svdvals(step).numpy() for name, step in steps_taken.items()}
    scaled = {name: values / values[0] for name, values in spectra.items()}
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
            note="Learning rates: "
            + ", ".join(f"{name} {rate * factor:.3g}" for name, rate in MATRIX_RATES.items())
            + ", each falling linearly to zero.",
        ),
    ]  # fmt: skip


def _padded(values: Floats, length: int) -> Floats:
    full = np.full(length, np.nan)
    full[: len(values)] = np.where(np.isfinite(values), values, np.nan)
    return full

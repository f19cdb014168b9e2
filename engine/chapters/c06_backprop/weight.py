"""One weight of the model: its derivative by autograd and by moving it a little both ways."""

from collections.abc import Sequence
from textwrap import indent
from typing import Any

import numpy as np
import torch

from engine import ReaderError
from engine.chapters.c06_backprop.loss_example import code, target_name
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.derivatives import FINE, WeightMoved
from engine.evidence.rounding import EXACT
from engine.figures.learning import tangent
from engine.model.gradients import ExactLoss, Example, loss_of, skeleton, weights
from engine.model.loaded import Loaded

MATRICES = {
    "qkv": "query, key, value",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "attention output",
    "gate_proj": "MLP gate",
    "up_proj": "MLP up",
    "down_proj": "MLP down",
}
POINTS = 17


def matrices(loaded: Loaded) -> dict[str, str]:
    """The matrices that every block has: adapter name -> name for a reader."""
    return {name: title for name, title in MATRICES.items() if loaded.adapter.has(name)}


def shape(loaded: Loaded, layer: int, matrix: str) -> tuple[int, ...]:
    """The shape of a matrix as the checkpoint stores it."""
    return tuple(_tensor(loaded, layer, matrix).shape)


def steepest(loaded: Loaded, asked: Example, layer: int, matrix: str) -> tuple[int, int]:
    """Row and column of the weight of a matrix whose derivative is the largest, of either sign."""
    tensor, module = _tensor(loaded, layer, matrix), skeleton(loaded)
    name = next(n for n, p in loaded.model.named_parameters() if p is tensor)
    at = weights(module)
    leaf = at[name].requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(module, at, asked), leaf)
    row, column = divmod(int(gradient.abs().argmax()), gradient.shape[1])
    return row, column


def _tensor(loaded: Loaded, layer: int, matrix: str) -> torch.Tensor:
    if matrix not in matrices(loaded):
        raise ReaderError("This model has no such matrix.")
    return loaded.part(matrix, layer).get_parameter("weight")


def weight(
    loaded: Loaded, asked: Example, layer: int, matrix: str, index: Sequence[int], step: float, reach: float
) -> Card:
    """The loss while one weight moves by up to `reach` times the matrix's typical weight, and its slope in the middle.

    step  how far the central difference goes to either side
    Raises ReaderError for a weight that the matrix does not have.
    """
    tensor = _tensor(loaded, layer, matrix)
    row, column = (int(i) for i in index)
    if not (0 <= row < tensor.shape[0] and 0 <= column < tensor.shape[1]):
        raise ReaderError(
            f"This matrix has {tensor.shape[0]} rows and {tensor.shape[1]} columns, counted from 0."
        )
    name = next(n for n, p in loaded.model.named_parameters() if p is tensor)
    exact = ExactLoss(loaded, asked)
    direction = exact.unit(name, (row, column))
    here, typical = float(tensor[row, column]), float(tensor.double().square().mean().sqrt())
    slope = exact.derivative(name, (row, column))
    sides = [exact.moved(direction, amount) for amount in (-step, step)]
    chord = (sides[1] - sides[0]) / (2 * step)
    offsets = np.linspace(-reach, reach, POINTS) * typical
    curve = exact.curve(name, (row, column), offsets.tolist())
    middle = float(curve[POINTS // 2])
    place = f"{name}[{row}, {column}]"

    def again() -> dict[str, Any]:
        moved = WeightMoved(loaded, asked, name, (row, column))
        low, high = moved.losses([-step, step])
        places = np.linspace(-reach, reach, POINTS) * moved.typical
        return {
            "weight": moved.value + places,
            "losses": moved.losses(places.tolist()),
            "slope": moved.slope(),
            "sides": [low, high],
            "chord": (high - low) / (2 * step),
        }

    return Card(
        key="weight",
        title=f"Autograd says {slope + 0.0:.6g}, the central difference {chord + 0.0:.6g}",
        alt=f"The loss as a curve while {place} changes, with a straight line of slope {slope:.4g} through its middle.",
        badge=Badge.LIVE,
        figure=tangent(
            here + offsets, curve, slope, (here, middle), ([here - step, here + step], sides),
            x_name="value of the weight", y_name="loss (nats)",
        ),
        table={
            "quantity": ["weight", "loss", "loss at weight − step", "loss at weight + step", "step",
                         "derivative by central difference", "derivative by autograd", "difference"],
            "value": [here, middle, *sides, step, chord, slope, chord - slope],
        },
        shown={
            "weight": here + offsets,
            "losses": curve,
            "slope": slope,
            "sides": sides,
            "chord": chord,
        },
        oracle=Oracle(
            f"Every loss from a private float64 copy in which the weight is overwritten; the derivative against a "
            f"central difference with step {FINE:g} there, without a backward pass.",
            again,
            {
                "weight": EXACT * typical * max(1.0, reach),
                "losses": EXACT,
                "slope": EXACT + 1e-4 * abs(slope),
                "sides": EXACT,
                "chord": _rounded(middle, step),
            },
        ),
        code=code(
            loaded,
            asked,
            f"""
            model.double()
            {indent(loaded.adapter.exact_lines, " " * 12).strip()}
            weight = model.get_parameter({name!r})
            loss().backward()
            slope = float(weight.grad[{row}, {column}])
            matrix = weight.detach()  # the same numbers
            here, typical = float(matrix[{row}, {column}]), float(matrix.square().mean().sqrt())

            @torch.no_grad()
            def at(value):
                matrix[{row}, {column}] = value
                return float(loss())

            values = [here + typical * share for share in {np.linspace(-reach, reach, POINTS).tolist()}]
            sides = [at(here - {step!r}), at(here + {step!r})]
            result = {{
                "weight": values,
                "losses": [at(value) for value in values],
                "slope": slope,
                "sides": sides,
                "chord": (sides[1] - sides[0]) / (2 * {step!r}),
            }}
            """,
        ),
        note=f"Both in float64, on a private copy, for the loss of {target_name(loaded, asked)}. The two differ by "
        f"{abs(chord - slope):.1e}; {place} is {here:.4g}, and a typical one of this matrix ±{typical:.3g}."
        + ("" if len(asked.ids) > 1 else " With one token there is one key, whose weight is 1 whatever its score: the "
           "loss does not depend on query and key."),
    )  # fmt: skip


def _rounded(loss: float, step: float) -> float:
    """What a central difference may be off: two losses are rounded, and their difference is divided by the step."""
    return EXACT + 1e-14 * max(1.0, loss) / step

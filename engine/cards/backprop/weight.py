"""One weight of the model: its derivative by autograd and by moving it a little both ways."""

from collections.abc import Sequence

import numpy as np
import torch

from engine import ReaderError
from engine.cards.backprop.common import code, target_name, trained_copy
from engine.evidence.card import Badge, Card, Proof
from engine.figures.learning import tangent
from engine.model.loading import Loaded
from engine.ops.gradients import ExactLoss, Example

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
POINTS = 9
FINE = 1e-5
"""A step at which neither curvature nor rounding shows in float64."""


def matrices(loaded: Loaded) -> dict[str, str]:
    """The matrices that every block has: adapter name -> name for a reader."""
    return {name: title for name, title in MATRICES.items() if name in loaded.adapter.layer}


def shape(loaded: Loaded, layer: int, matrix: str) -> tuple[int, ...]:
    """The shape of a matrix as the checkpoint stores it."""
    return tuple(_tensor(loaded, layer, matrix).shape)


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

    def prove() -> Proof:
        model, own = trained_copy(loaded, asked)
        own.backward()
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        fine = exact.slope(direction, FINE)
        theirs = float(gradient[row, column])
        return Proof(
            f"The derivative against .backward() of transformers' own loss on a private fp32 copy, and against a "
            f"central difference with step {FINE:g} in float64.",
            max(abs(slope - theirs), abs(slope - fine)),
            _tolerance(slope),
        )

    return Card(
        key="weight",
        title=f"Autograd says {slope:.6g}, the central difference {chord:.6g}",
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
        prove=prove,
        code=code(
            loaded,
            asked,
            f"""
            model.double()
            model.set_attn_implementation("sdpa")  # the eager one computes its softmax in float32
            for norm in [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]:  # and so do these
                norm.forward = lambda x, m=norm: torch.nn.functional.rms_norm(
                    x, m.weight.shape, m.weight, m.variance_epsilon)
            weight = model.get_parameter({name!r})
            loss().backward()
            autograd = float(weight.grad[{row}, {column}])
            sides = []
            with torch.no_grad():
                for amount in (-{step!r}, 2 * {step!r}):
                    weight[{row}, {column}] += amount
                    sides.append(float(loss()))
            result = {{"autograd": autograd, "difference": (sides[1] - sides[0]) / (2 * {step!r})}}
            """,
        ),
        numbers={"autograd": slope, "difference": chord},
        atol=max(_tolerance(slope), 1e-14 * middle / step),  # a loss is rounded, and divided by the step
        note=f"Both in float64, on a private copy, for the loss of {target_name(loaded, asked)}. The two differ by "
        f"{abs(chord - slope):.1e}; {place} is {here:.4g}, and a typical one of this matrix ±{typical:.3g}.",
    )  # fmt: skip


def _tolerance(slope: float) -> float:
    """fp32 against float64: a thousandth of the derivative, at least 1e-5 nats per unit."""
    return max(1e-5, 1e-3 * abs(slope))

"""A neuron with two inputs and made-up numbers: the weighted sum and five non-linearities."""

import numpy as np

from engine import ReaderError
from engine.evidence.card import Badge, Card
from engine.figures.axes import short
from engine.figures.neurons import bend
from engine.ops import neurons as ops

REACH = 6.0
"""The curves are drawn over −6 … 6, and further where the point lies outside."""


def toy_neuron(x: tuple[float, float], weights: tuple[float, float], bias: float, activation: str) -> Card:
    """act(w₁x₁ + w₂x₂ + b) as a point on the curve of the activation. Raises ReaderError for an unknown one."""
    if activation not in ops.ACTIVATIONS:
        raise ReaderError(f"Choose one of {', '.join(ops.ACTIVATIONS)}.")
    z = float(ops.weighted_sum(x, weights, bias))
    values = {name: float(ops.FUNCTIONS[name](z)) for name in ops.ACTIVATIONS}
    reach = max(REACH, 1.1 * abs(z))
    places = np.linspace(-reach, reach, 241)
    products = [w * v for w, v in zip(weights, x, strict=True)]
    out = values[activation]
    return Card(
        key="toy-neuron",
        title=f"The sum is {short(z)}, and {activation} passes on {short(out)}",
        alt=f"The curve of {activation} with a point at {short(z)}, {short(out)}; the other activations are faint.",
        badge=Badge.TOY,
        figure=bend(
            places,
            {name: ops.FUNCTIONS[name](places) for name in ops.ACTIVATIONS},
            activation,
            (z, out),
            x_name="weighted sum z = w₁x₁ + w₂x₂ + b",
            y_name="output",
        ),
        table={
            "quantity": ["w₁ · x₁", "w₂ · x₂", "b", "z", *(f"{name}(z)" for name in values)],
            "value": [*products, bias, z, *values.values()],
        },
        note=f"z = {_term(weights[0], x[0])} + {_term(weights[1], x[1])} + {_signed(bias)} = {short(z)}. "
        f"{activation}(z) = {ops.FORMULAS[activation]} = {short(out)}.",
    )


def _term(weight: float, value: float) -> str:
    return f"{_signed(weight)} · {_signed(value)}"


def _signed(value: float) -> str:
    return f"({value:g})" if value < 0 else f"{value:g}"

"""A neuron with two inputs and made-up numbers: the weighted sum and a non-linearity."""

from typing import Any

import numpy as np
import torch

from engine import ReaderError
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.bending import bent, linear
from engine.evidence.rounding import EXACT
from engine.figures.axes import short
from engine.figures.neurons import bend
from engine.ops import neurons as ops

REACH = 3.0
"""The curves are drawn over −3 … 3, and further where the point lies outside."""

DRAWN = ("ReLU", "GELU", "SiLU")
"""The curves that are always drawn, so that their small differences are seen; the chosen one is, too."""


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
    names = drawn(activation)
    curves = {name: ops.FUNCTIONS[name](places) for name in names}
    return Card(
        key="toy-neuron",
        title=f"The sum is {short(z)}, and {activation} passes on {short(out)}",
        alt=f"The curve of {activation} with a point at {short(z)}, {short(out)}; the other activations are faint.",
        badge=Badge.TOY,
        figure=bend(
            places,
            curves,
            activation,
            (z, out),
            x_name="weighted sum z = w₁x₁ + w₂x₂ + b",
            y_name="output",
        ),
        table={
            "quantity": ["w₁ · x₁", "w₂ · x₂", "b", "z", *(f"{name}(z)" for name in values)],
            "value": [*products, bias, z, *values.values()],
        },
        shown={
            "products": products,
            "z": z,
            "places": places,
            **{f"{name}(z)": value for name, value in values.items()},
            **curves,
        },
        oracle=Oracle(
            "The sum by torch.nn.Linear, and every point of the curves by torch's own non-linearities.",
            lambda: _again(x, weights, bias, names),
            EXACT * max(1.0, reach),
        ),
        note=f"z = {_term(weights[0], x[0])} + {_term(weights[1], x[1])} + {_signed(bias)} = {short(z)}. "
        f"{activation}(z) = {ops.FORMULAS[activation]} = {short(out)}.",
    )


def drawn(activation: str) -> tuple[str, ...]:
    """The names of the curves in the figure."""
    return tuple(dict.fromkeys((*DRAWN, activation)))


def _again(
    x: tuple[float, float], weights: tuple[float, float], bias: float, names: tuple[str, ...]
) -> dict[str, Any]:
    parts = torch.tensor(x, dtype=torch.float64) * torch.tensor(weights, dtype=torch.float64)
    z = linear([[w] for w in weights], [bias])(torch.tensor(x, dtype=torch.float64))[0]
    reach = max(REACH, 1.1 * abs(float(z)))
    places = torch.linspace(-reach, reach, 241, dtype=torch.float64)
    curves = bent(places)
    return {
        "products": parts,
        "z": z,
        "places": places,
        **{f"{name}(z)": value for name, value in bent(z).items()},
        **{name: curves[name] for name in names},
    }


def _term(weight: float, value: float) -> str:
    return f"{_signed(weight)} · {_signed(value)}"


def _signed(value: float) -> str:
    return f"({value:g})" if value < 0 else f"{value:g}"

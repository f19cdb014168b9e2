"""A network of 2 → 3 → 2 units with made-up weights."""

from typing import Any

import numpy as np
import torch

from engine import ReaderError
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import bending
from engine.evidence.rounding import EXACT, largest
from engine.figures.network import network
from engine.ops import neurons as ops

FIRST = ((1.0, -0.6, 0.4), (0.5, 0.9, -1.4))
SECOND = ((0.8, -0.5), (-0.7, 1.1), (0.6, 0.3))
BIASES = ((0.0, 0.4, 0.2), (0.1, -0.1))
NAMES = ("x", "h", "y")

Edge = tuple[int, int, int]

EDGES: dict[str, Edge] = {
    f"{NAMES[part]}{i + 1} → {NAMES[part + 1]}{j + 1}": (part, i, j)
    for part, weights in enumerate((FIRST, SECOND))
    for i in range(len(weights))
    for j in range(len(weights[0]))
}
"""Every connection by a name for a reader, as (matrix, row, column)."""


def default_weight(edge: str) -> float:
    """The weight of a connection before anybody moves it."""
    part, i, j = EDGES[edge]
    return (FIRST, SECOND)[part][i][j]


def toy_network(x: tuple[float, float], edge: str, weight: float, activation: str) -> Card:
    """Two inputs through three hidden units to two outputs; one connection is marked and has the given weight.

    Raises ReaderError for a connection or an activation that is not there.
    """
    if edge not in EDGES or activation not in ops.ACTIVATIONS:
        raise ReaderError("Choose one of the network's connections and one of the activations.")
    matrices = [np.array(FIRST), np.array(SECOND)]
    part, i, j = EDGES[edge]
    matrices[part][i, j] = weight
    sums, hidden, out = ops.two_layers(x, matrices[0], BIASES[0], matrices[1], BIASES[1], activation)
    source = (np.array(x), hidden)[part][i]
    layers = (np.array(x), hidden, out)
    units = [(NAMES[depth], k, float(v)) for depth, layer in enumerate(layers) for k, v in enumerate(layer)]
    return Card(
        key="toy-network",
        title=f"{edge} adds {source:.2f} · {weight:.2f} = {source * weight:.2f} to a sum of "
        f"{(sums, out)[part][j]:.2f} in all; the outputs are {out[0]:.2f} and {out[1]:.2f}",
        alt=f"Two inputs, three hidden units and two outputs joined by lines; the connection {edge} is marked, and so "
        "is its cell in the matrix.",
        badge=Badge.TOY,
        figure=network(layers, matrices, BIASES, NAMES, EDGES[edge]),
        table={
            "quantity": [
                *(f"{name}{k + 1}" for name, k, _ in units),
                *(f"sum into h{k + 1}" for k in range(3)),
                *EDGES,
            ],
            "value": [
                *(v for _, _, v in units),
                *sums.tolist(),
                *(float(matrices[p][a, b]) for p, a, b in EDGES.values()),
            ],
        },
        shown={
            "x": x,
            "sums": sums,
            "h": hidden,
            "y": out,
            "W₁": matrices[0],
            "b₁": BIASES[0],
            "W₂": matrices[1],
            "b₂": BIASES[1],
            "what the connection adds": source * weight,
        },
        oracle=Oracle(
            "The same network by torch.nn.Linear and torch's own non-linearity; what the connection adds as the "
            "change of the sum that it leads to when it is cut.",
            lambda: _again(x, edge, weight, activation),
            EXACT * max(1.0, abs(weight), largest(out)),
        ),
        note=f"h = {activation}(x·W₁ + b₁), y = h·W₂ + b₂. Row: where a connection comes from; column: where it goes. "
        "Orange weights are positive, blue ones negative; numbers are rounded to two decimals.",
    )


def _again(x: tuple[float, float], edge: str, weight: float, activation: str) -> dict[str, Any]:
    """The network as modules; `edge` names two units, such as “x2 → h3”."""
    start, end = edge.split(" → ")
    part, i, j = NAMES.index(start[0]), int(start[1:]) - 1, int(end[1:]) - 1

    def made(value: float) -> tuple[list[torch.nn.Linear], list[torch.Tensor]]:
        modules = [bending.linear(w, b) for w, b in zip((FIRST, SECOND), BIASES, strict=True)]
        modules[part].weight[j, i] = value
        return modules, bending.layers(x, modules[0], activation, modules[1])

    (first, second), (sums, hidden, out) = made(weight)
    _, cut = made(0.0)
    return {
        "x": x,
        "sums": sums,
        "h": hidden,
        "y": out,
        "W₁": first.weight.T,
        "b₁": first.bias,
        "W₂": second.weight.T,
        "b₂": second.bias,
        "what the connection adds": (sums - cut[0], out - cut[2])[part][j],
    }

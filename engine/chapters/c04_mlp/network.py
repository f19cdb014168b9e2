"""A network of 2 → 3 → 2 units with made-up weights."""

import numpy as np

from engine import ReaderError
from engine.evidence.card import Badge, Card
from engine.figures.axes import short
from engine.figures.network import network
from engine.ops import neurons as ops

FIRST = ((1.0, -0.6, 0.4), (0.5, 0.9, -1.2))
SECOND = ((0.8, -0.5), (-0.7, 1.1), (0.6, 0.3))
BIASES = ((0.0, 0.1, 0.2), (0.1, -0.1))
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
        title=f"{edge}: {short(float(source))} · {weight:g} = {short(float(source * weight))} "
        f"joins {short(float((sums, out)[part][j]))}; the outputs are {short(out[0])} and {short(out[1])}",
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
        note=f"h = {activation}(x·W₁ + b₁), y = h·W₂ + b₂. Row: where a connection comes from; column: where it goes. "
        "Orange weights are positive, blue ones negative; numbers in the cells are rounded.",
    )

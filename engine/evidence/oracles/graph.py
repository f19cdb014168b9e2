"""The toy neuron's graph once more, by torch.autograd."""

from collections.abc import Callable, Mapping

import torch

Tensor = torch.Tensor

OPERATIONS: dict[str, tuple[tuple[str, ...], Callable[..., Tensor]]] = {
    "u": (("w", "x"), torch.mul),
    "z": (("u", "b"), torch.add),
    "h": (("z",), torch.tanh),
    "y": (("x", "h"), torch.add),
    "L": (("y", "t"), lambda y, t: (y - t) ** 2),
}
"""Node -> what it is made from, and how."""


def graph_values(given: Mapping[str, float]) -> dict[str, float]:
    """The value of every node, the given ones too."""
    return {name: float(node.detach()) for name, node in _built(given, len(OPERATIONS)).items()}


def local_derivatives(given: Mapping[str, float]) -> dict[str, list[float]]:
    """Of every computed node with respect to each of its inputs, which are cut off from what they were made from."""
    values, found = graph_values(given), {}
    for name, (inputs, operation) in OPERATIONS.items():
        leaves = [_leaf(values[one]) for one in inputs]
        found[name] = [float(slope) for slope in torch.autograd.grad(operation(*leaves), leaves)]
    return found


def arrived(given: Mapping[str, float], sent: int) -> dict[str, float]:
    """dL / d node while only the last `sent` computed nodes pass gradients on; nodes that none reaches are absent."""
    nodes = _built(given, sent)
    slopes = torch.autograd.grad(nodes["L"], list(nodes.values()), allow_unused=True)
    return {name: float(slope) for name, slope in zip(nodes, slopes, strict=True) if slope is not None}


def _built(given: Mapping[str, float], sent: int) -> dict[str, Tensor]:
    """All nodes; the computed ones but the last `sent` are leaves, from which nothing flows on."""
    nodes = {name: _leaf(value) for name, value in given.items()}
    for i, (name, (inputs, operation)) in enumerate(OPERATIONS.items()):
        made = operation(*(nodes[one] for one in inputs))
        nodes[name] = made if i >= len(OPERATIONS) - sent else _leaf(float(made.detach()))
    return nodes


def _leaf(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)

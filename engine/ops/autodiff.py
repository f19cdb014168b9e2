"""Reverse-mode differentiation, small enough to be watched: every value knows its local derivatives.

The chain rule as in Griewank & Walther, "Evaluating Derivatives" (2nd edition, 2008), chapter 3.
"""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """One value of a graph.

    inputs   names of the nodes it was made from; empty for a leaf
    local    its derivative with respect to each input, in their order
    formula  how it was made, such as "w · x"
    rules    each local derivative as a formula, such as "x"
    """

    name: str
    value: float
    inputs: tuple[str, ...] = ()
    local: tuple[float, ...] = ()
    formula: str = ""
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flow:
    """A node hands its gradient on: for each of its inputs upstream · local = sent, which adds up to `total` there."""

    node: str
    upstream: float
    inputs: tuple[str, ...]
    local: tuple[float, ...]
    sent: tuple[float, ...]
    total: tuple[float, ...]


@dataclass
class Tape:
    """Values in the order in which they were computed, each with its local derivatives."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def leaf(self, name: str, value: float) -> str:
        self.nodes[name] = Node(name, value)
        return name

    def times(self, name: str, a: str, b: str) -> str:
        x, y = self[a], self[b]
        return self._put(name, x * y, (a, b), (y, x), f"{a} · {b}", (b, a))

    def plus(self, name: str, a: str, b: str) -> str:
        return self._put(name, self[a] + self[b], (a, b), (1.0, 1.0), f"{a} + {b}", ("1", "1"))

    def tanh(self, name: str, a: str) -> str:
        value = math.tanh(self[a])
        return self._put(name, value, (a,), (1 - value * value,), f"tanh({a})", (f"1 − {name}²",))

    def squared_difference(self, name: str, a: str, b: str) -> str:
        gap = self[a] - self[b]
        rules = (f"2({a} − {b})", f"−2({a} − {b})")
        return self._put(name, gap * gap, (a, b), (2 * gap, -2 * gap), f"({a} − {b})²", rules)

    def __getitem__(self, name: str) -> float:
        return self.nodes[name].value

    def _put(
        self,
        name: str,
        value: float,
        inputs: tuple[str, ...],
        local: tuple[float, ...],
        formula: str,
        rules: tuple[str, ...],
    ) -> str:
        self.nodes[name] = Node(name, value, inputs, local, formula, rules)
        return name


def backward(tape: Tape, output: str) -> list[Flow]:
    """The chain rule from `output` to the leaves, one `Flow` for each computed node, last computed first.

    A node hands on only when all that use it have handed theirs to it: the reverse of the order of computation.
    """
    total = dict.fromkeys(tape.nodes, 0.0) | {output: 1.0}
    flows = []
    for node in reversed([node for node in tape.nodes.values() if node.inputs]):
        sent = tuple(total[node.name] * local for local in node.local)
        for name, amount in zip(node.inputs, sent, strict=True):
            total[name] += amount
        after = tuple(total[name] for name in node.inputs)
        flows.append(Flow(node.name, total[node.name], node.inputs, node.local, sent, after))
    return flows


def gradients(tape: Tape, flows: list[Flow], output: str) -> dict[str, float]:
    """What has arrived at each node after some flows; nodes that nothing has reached are absent."""
    arrived = {output: 1.0}
    for flow in flows:
        arrived |= dict(zip(flow.inputs, flow.total, strict=True))
    return arrived


def residual_neuron(x: float, w: float, b: float, t: float) -> Tape:
    """A neuron beside a residual path, and the squared distance of the sum from a target t.

    u = w·x, z = u + b, h = tanh(z), y = x + h, L = (y − t)².
    """
    tape = Tape()
    for name, value in (("x", x), ("w", w), ("b", b), ("t", t)):
        tape.leaf(name, value)
    tape.times("u", "w", "x")
    tape.plus("z", "u", "b")
    tape.tanh("h", "z")
    tape.plus("y", "x", "h")
    tape.squared_difference("L", "y", "t")
    return tape

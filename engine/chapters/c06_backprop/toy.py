"""A small graph with every local derivative, forwards and then backwards, one operation at a time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import graph
from engine.evidence.rounding import EXACT
from engine.figures.learning import GraphEdge, GraphNode, brief, computation_graph
from engine.ops.autodiff import Flow, Node, Tape, backward, gradients, residual_neuron

PLACES = {
    "w": (0.0, 3.0), "x": (0.0, 1.1), "u": (1.0, 2.2), "b": (1.0, 3.7), "z": (2.0, 3.0), "h": (3.0, 3.0),
    "y": (4.0, 1.9), "t": (4.0, 0.4), "L": (5.0, 1.1),
}  # fmt: skip
FORWARD = 5
STEPS = 2 * FORWARD
"""Operations forwards, and as many backwards."""


def toy(x: float, w: float, b: float, t: float, step: int) -> Card:
    """The graph of L = (x + tanh(w·x + b) − t)² after some steps: 0 … 5 forwards, 6 … 10 backwards."""
    tape = residual_neuron(x, w, b, t)
    made = [node for node in tape.nodes.values() if node.inputs]
    flows = backward(tape, "L")[: max(0, step - FORWARD)]
    known = {node.name for node in tape.nodes.values() if not node.inputs} | {n.name for n in made[:step]}
    arrived = gradients(tape, flows, "L") if step >= FORWARD else {}
    current = flows[-1] if flows else None
    strong = current.node if current else (made[step - 1].name if 0 < step <= FORWARD else "")
    names = list(tape.nodes)
    return Card(
        key="toy-graph",
        title=_title(tape, made, current, step),
        alt="A graph from x, w, b and t to the loss L, with values, local derivatives and gradients so far: "
        + ", ".join(f"{name} = {brief(tape[name])}" for name in names if name in known),
        badge=Badge.TOY,
        figure=computation_graph(
            [_drawn(tape.nodes[name], name in known, arrived, strong) for name in names],
            [
                GraphEdge(start, node.name, local if node.name in known else math.nan, _passes(current, node))
                for node in made
                for start, local in zip(node.inputs, node.local, strict=True)
            ],
        ),
        table={
            "node": names,
            "made from": [tape.nodes[name].formula or "given" for name in names],
            "value": [tape[name] if name in known else math.nan for name in names],
            "∂L/∂node so far": [arrived.get(name, math.nan) for name in names],
            "local derivatives": [_locals(tape.nodes[name]) for name in names],
        },
        shown={
            "values": [tape[name] for name in names if name in known],
            "local derivatives": [local for node in made if node.name in known for local in node.local],
            "gradients so far": [arrived[name] for name in names if name in arrived],
            "sent": current.sent if current else (),
        },
        oracle=Oracle(
            "Values and local derivatives by torch.autograd, one operation at a time; the gradients by autograd "
            "through the graph in which only the nodes that have sent theirs let any through.",
            lambda: _again({"x": x, "w": w, "b": b, "t": t}, names, step),
            EXACT,
        ),
        note=_note(tape, made, current, step),
    )


def _again(given: Mapping[str, float], names: Sequence[str], step: int) -> dict[str, Any]:
    values, local = graph.graph_values(given), graph.local_derivatives(given)
    done = [name for name in names if name not in given][:step]
    sent = max(0, step - FORWARD)
    reached = graph.arrived(given, sent) if step >= FORWARD else {}
    before = graph.arrived(given, sent - 1) if sent else {}
    inputs = graph.OPERATIONS[done[-sent]][0] if sent else ()
    return {
        "values": [values[name] for name in names if name in given or name in done],
        "local derivatives": [slope for name in done for slope in local[name]],
        "gradients so far": [reached[name] for name in names if name in reached],
        "sent": [reached[name] - before.get(name, 0.0) for name in inputs],
    }


def _drawn(node: Node, known: bool, arrived: dict[str, float], strong: str) -> GraphNode:
    value = node.value if known else math.nan
    hover = f"{node.name} = {node.formula or 'given'}"
    return GraphNode(
        node.name, PLACES[node.name], value, arrived.get(node.name, math.nan), hover, node.name == strong
    )


def _passes(current: Flow | None, node: Node) -> bool:
    return current is not None and current.node == node.name


def _locals(node: Node) -> str:
    pairs = zip(node.inputs, node.rules, node.local, strict=True)
    return ", ".join(f"∂{node.name}/∂{name} = {rule} = {brief(value)}" for name, rule, value in pairs)


def _title(tape: Tape, made: list[Node], current: Flow | None, step: int) -> str:
    if current is not None:
        pairs = zip(current.inputs, current.local, current.sent, strict=True)
        sent = ", ".join(
            f"{_factor(current.upstream)} · {_factor(local)} = {brief(amount)} to {name}"
            for name, local, amount in pairs
        )
        return f"Backward {step - FORWARD} of {FORWARD}: {current.node} sends {sent}"
    if step == 0:
        return "Four numbers are given; nothing is computed yet"
    node = made[step - 1]
    return f"Forward {step} of {FORWARD}: {node.name} = {node.formula} = {brief(node.value)}"


def _factor(value: float) -> str:
    return f"({brief(value)})" if value < 0 else brief(value)


def _note(tape: Tape, made: list[Node], current: Flow | None, step: int) -> str:
    if current is None:
        shown = made[step - 1] if step else None
        return f"Local derivatives: {_locals(shown)}." if shown else "Move the step to begin."
    sums = [
        f"∂L/∂{name} = {brief(total - sent)} + {_factor(sent)} = {brief(total)}: two paths leave {name}, and their "
        f"gradients add up"
        for name, sent, total in zip(current.inputs, current.sent, current.total, strict=True)
        if total != sent
    ]
    return f"{_locals(tape.nodes[current.node])}. " + "".join(f"{text}. " for text in sums)

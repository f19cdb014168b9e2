"""The MLP of one block at one token, matrix by matrix."""

import numpy as np

from engine.cards.attention.evidence import gap
from engine.cards.attention.weights import matrix
from engine.cards.neurons.evidence import matrix_lines, watched
from engine.cards.neurons.neuron import Neuron, act, activation_name
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.rounding import tolerance
from engine.figures.axes import short
from engine.figures.network import Panel, stages
from engine.model.loading import Loaded, weight_bytes
from engine.model.trace import Array, Trace
from engine.ops import neurons as ops
from engine.ops.parts import Part, block_parts, total

DRAWN = (40, 160)
"""At most so many rows and columns of a matrix are drawn."""


def mlp_pass(loaded: Loaded, trace: Trace, layer: int, position: int) -> Card:
    """d_model → d_ff → d_model at one token: vectors and matrices in the order in which they are multiplied."""
    one = Neuron(loaded, trace, layer, 0)
    x, spec = one.entering[one.position(position)], loaded.spec
    weights = {
        name: matrix(loaded.part(name, layer), loaded.half) for name in (*one.projections, "down_proj")
    }
    sums = {name: ops.weighted_sum(x, *weights[name]) for name in one.projections}
    acts, out = trace.mlp_act[layer, position], trace.mlp_out[layer, position]
    part = _mlp(loaded, layer)
    atol = _allowed(loaded, weights, x, sums, acts)
    return Card(
        key="pass",
        title=f"{spec.d_model} numbers become {spec.d_ff:,} and {spec.d_model} again: "
        f"{part.count:,} trained numbers, {spec.n_layer * part.count / total(loaded):.0%} of the model in its "
        f"{spec.n_layer} MLPs",
        alt=f"The token's vector of {spec.d_model} numbers, the matrices of MLP {layer}, the {spec.d_ff} activations, "
        f"and the {spec.d_model} numbers that are added to the residual stream.",
        badge=Badge.LIVE,
        figure=stages(_rows(one, x, weights, sums, acts, out)),
        table=_table(loaded, layer, part, x, sums, acts, out),
        prove=lambda: _prove(loaded, weights, sums, acts, out, part, layer, atol),
        code=watched(loaded, trace.ids, layer, *one.projections, "down_proj", "mlp")
        + matrix_lines(loaded, "down_proj", "W_down")
        + _lines(one, position),
        numbers={
            "activations": acts,
            "out": out,
            "multiplied": acts.astype(np.float64) @ weights["down_proj"][0] + weights["down_proj"][1],
            "largest": short_list(sums[one.projections[0]]),
        },
        atol=atol,
        note=f"In memory at {loaded.precision}, this MLP's weights take {weight_bytes(loaded.part('mlp', layer)):,} "
        "bytes. Beside each name: its shape, and the end of its colour scale. Of a matrix, evenly spaced rows and "
        "columns are drawn; of a vector, every number.",
    )


def short_list(values: ops.Floats) -> list[float]:
    """The three of largest magnitude, as magnitudes."""
    return np.sort(np.abs(values))[::-1][:3].tolist()


def _mlp(loaded: Loaded, layer: int) -> Part:
    return next(part for part in block_parts(loaded, layer) if part.name == "mlp")


def _allowed(
    loaded: Loaded,
    weights: dict[str, tuple[Array, Array]],
    x: Array,
    sums: dict[str, ops.Floats],
    acts: Array,
) -> float:
    """One rounding of the longest possible product sum of each matrix, carried through act(gate) · up."""
    longest = {name: float(np.linalg.norm(w, axis=0).max()) for name, (w, _) in weights.items()}
    steepest = 1.13 * (1.0 + float(np.max([np.abs(v) for v in sums.values()])) if loaded.spec.gated else 1.0)
    into = max(longest[name] for name in sums) * float(np.linalg.norm(x)) * steepest
    return float(tolerance(loaded, [into, longest["down_proj"] * float(np.linalg.norm(acts))], steps=1))


_WORDS = {"gate_proj": ("W_gate", "gate"), "up_proj": ("W_up", "up"), "down_proj": ("W_down", "out")}


def _rows(
    one: Neuron,
    x: Array,
    weights: dict[str, tuple[Array, Array]],
    sums: dict[str, ops.Floats],
    acts: Array,
    out: Array,
) -> list[list[Panel]]:
    spec, name = one.loaded.spec, activation_name(one.loaded)
    narrow = (0.0, max(0.3, min(1.0, spec.d_model / spec.d_ff)))
    halves = [(0.0, 0.49), (0.51, 1.0)] if spec.gated else [(0.0, 1.0)]
    wide = f"{spec.d_model} × {spec.d_ff:,}"
    inner = f"{name}(gate) · up" if spec.gated else f"{name}(up)"
    return [
        [Panel(f"x, {spec.d_model}", x[None], narrow, "residual", "input, dimension %{x}")],
        [
            Panel(
                f"{_WORDS[p][0]}, {wide}",
                ops.sampled(weights[p][0], *DRAWN),
                across,
                "mlp",
                "drawn row %{y}, col. %{x}",
            )
            for p, across in zip(one.projections, halves, strict=True)
        ],
        [
            Panel(f"{_WORDS[p][1]}, {spec.d_ff:,}", sums[p][None], across, "mlp", "neuron %{x}")
            for p, across in zip(one.projections, halves, strict=True)
        ],
        [Panel(f"{inner}, {spec.d_ff:,}", acts[None], (0.0, 1.0), "mlp", "neuron %{x}")],
        [
            Panel(
                f"W_down, {spec.d_ff:,} × {spec.d_model}",
                ops.sampled(weights["down_proj"][0], *DRAWN),
                narrow,
                "mlp",
                "drawn row %{y}, col. %{x}",
            )
        ],
        [Panel(f"added to the stream, {spec.d_model}", out[None], narrow, "residual", "dimension %{x}")],
    ]


def _table(
    loaded: Loaded, layer: int, part: Part, x: Array, sums: dict[str, ops.Floats], acts: Array, out: Array
) -> dict[str, list[str]]:
    vectors: dict[str, ops.Floats | Array] = {
        "x": x,
        **{_WORDS[name][1]: values for name, values in sums.items()},
        "activations": acts,
        "out": out,
    }
    rows = [(w.name, " × ".join(map(str, w.shape)), f"{w.count:,}", "") for w in part.weights]
    rows += [(name, str(len(v)), "", short(float(np.linalg.norm(v)))) for name, v in vectors.items()]
    columns = ("matrix or vector", "shape in the checkpoint", "trained numbers", "length at this token")
    return {column: [row[i] for row in rows] for i, column in enumerate(columns)}


def _prove(
    loaded: Loaded,
    weights: dict[str, tuple[Array, Array]],
    sums: dict[str, ops.Floats],
    acts: Array,
    out: Array,
    part: Part,
    layer: int,
    atol: float,
) -> Proof:
    bent = (
        act(loaded, sums["gate_proj"]) * sums["up_proj"]
        if loaded.spec.gated
        else act(loaded, sums["up_proj"])
    )
    again = ops.weighted_sum(acts, *weights["down_proj"])
    module = loaded.part("mlp", layer)
    counted = sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in module.parameters())
    return Proof(
        "Activations bent here from the drawn sums, against those in the model; the drawn activations times W_down, "
        "against what the model's MLP returned; and the trained numbers, against the elements of its tensors.",
        max(gap(bent, acts), gap(again, out), abs(counted - part.count)),
        atol,
    )


def _lines(one: Neuron, position: int) -> str:
    return f"""
acts = took["down_proj"][{position}]  # d_ff
result = {{
    "activations": acts,
    "out": gave["mlp"][{position}],
    "multiplied": acts @ W_down + W_down_bias,
    "largest": gave[{one.projections[0]!r}][{position}].abs().topk(3).values,
}}
"""

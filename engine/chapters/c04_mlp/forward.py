"""The MLP of one block at one token, matrix by matrix."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.copies import hooked, matrix_lines, watched
from engine.evidence.oracles import mlp
from engine.evidence.rounding import same_pass, tolerance
from engine.figures.axes import short
from engine.figures.network import Panel, stages
from engine.model.loading import Loaded, weight_bytes
from engine.model.matrices import matrix
from engine.model.neuron import Neuron, activation_name
from engine.model.parts import Part, block_parts, total
from engine.model.trace import Array, Trace
from engine.ops import neurons as ops

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
    acts, out = trace.mlp_act[layer, position].copy(), _out(loaded, trace, layer)[position].copy()
    part, whole, ids = _mlp(loaded, layer), total(loaded), trace.ids
    drawn = {_WORDS[name][0]: ops.sampled(w, *DRAWN).copy() for name, (w, _) in weights.items()}
    return Card(
        key="pass",
        title=f"{spec.d_model} → {spec.d_ff:,} → {spec.d_model}: {part.count:,} trained numbers in this MLP; the "
        f"{spec.n_layer} MLPs together are {spec.n_layer * part.count / whole:.0%} of the model",
        alt=f"The token's vector of {spec.d_model} numbers, the matrices of MLP {layer}, the {spec.d_ff} activations, "
        f"and the {spec.d_model} numbers that leave the MLP.",
        badge=Badge.LIVE,
        figure=stages(_rows(one, x, drawn, sums, acts, out)),
        table=_table(loaded, layer, part, x, sums, acts, out),
        shown={
            "x": x.copy(),
            **drawn,
            **{_WORDS[name][1]: values for name, values in sums.items()},
            "activations": acts,
            "out": out,
            "trained numbers": [w.count for w in part.weights],
            "of the model": whole,
        },
        oracle=Oracle(
            "What enters and leaves the projections of a private copy of the model, caught by torch's forward hooks; "
            "the sums bent by transformers' own activation function, times the stored W_down; and the elements of all "
            "tensors, counted by torch.",
            lambda: _pass_again(loaded, ids, layer, position),
            {
                "x": tolerance(loaded, x),
                **{name: tolerance(loaded, w) if loaded.quantized else 0.0 for name, w in drawn.items()},
                **{_WORDS[name][1]: _allowed(loaded, weights[name][0], x) for name in sums},
                "activations": same_pass(acts),
                "out": _allowed(loaded, weights["down_proj"][0], acts),
                "trained numbers": 0.0,
                "of the model": 0.0,
            },
        ),
        code=watched(loaded, ids, layer, *one.projections, "down_proj", "mlp")
        + "".join(matrix_lines(loaded, name, _WORDS[name][0]) for name in weights)
        + _lines(one, position, _mlp_path(loaded, layer)),
        note=f"In memory at {loaded.precision}, this MLP's weights take {weight_bytes(loaded.part('mlp', layer)):,} "
        "bytes. Beside each name: its shape, and the end of its colour scale. Of a matrix, evenly spaced rows and "
        f"columns are drawn; of a vector, every number.{_transposed(part, spec.d_model, spec.d_ff)}",
    )


def _transposed(part: Part, d_model: int, d_ff: int) -> str:
    """A sentence for the table where the first matrix is stored with its outputs first."""
    if d_model == d_ff or part.weights[0].shape != (d_ff, d_model):
        return ""
    return f" The checkpoint stores each matrix with its outputs first, so in the table W_up is {d_ff:,} × {d_model}."


def _out(loaded: Loaded, trace: Trace, layer: int) -> Array:
    """What leaves the MLP, (seq, d_model): what is added to the stream, unless a norm stands in between."""
    if loaded.spec.norms == "behind":
        return hooked(loaded, trace.ids, layer, "mlp")["mlp"]
    result: Array = trace.mlp_out[layer]
    return result


def _mlp(loaded: Loaded, layer: int) -> Part:
    return next(part for part in block_parts(loaded, layer) if part.name == "mlp")


def _mlp_path(loaded: Loaded, layer: int) -> str:
    return loaded.path("mlp", layer)


def _allowed(loaded: Loaded, weight: Array, entering: Array) -> float:
    """Half a rounding of the longest possible product sum of a matrix."""
    longest = float(np.linalg.norm(weight, axis=0).max())
    return tolerance(loaded, longest * float(np.linalg.norm(entering)), steps=0.5)


_WORDS = {"gate_proj": ("W_gate", "gate"), "up_proj": ("W_up", "up"), "down_proj": ("W_down", "out")}


def _rows(
    one: Neuron,
    x: Array,
    drawn: dict[str, ops.Floats],
    sums: dict[str, ops.Floats],
    acts: Array,
    out: Array,
) -> list[list[Panel]]:
    spec, name = one.loaded.spec, activation_name(one.loaded)
    narrow = (0.0, max(0.3, min(1.0, spec.d_model / spec.d_ff)))
    halves = [(0.0, 0.49), (0.51, 1.0)] if spec.gated else [(0.0, 1.0)]
    wide = f"{spec.d_model} × {spec.d_ff:,}"
    inner = f"{name}(gate) · up" if spec.gated else f"{name}(up)"
    end = "given to the norm after the MLP" if spec.norms == "behind" else "added to the stream"
    return [
        [Panel(f"x, {spec.d_model}", x[None], narrow, "residual", "input, dimension %{x}")],
        [
            Panel(
                f"{_WORDS[p][0]}, {wide}",
                drawn[_WORDS[p][0]],
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
                drawn["W_down"],
                narrow,
                "mlp",
                "drawn row %{y}, col. %{x}",
            )
        ],
        [Panel(f"{end}, {spec.d_model}", out[None], narrow, "residual", "dimension %{x}")],
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


def _pass_again(loaded: Loaded, ids: Sequence[int], layer: int, position: int) -> dict[str, Any]:
    again = mlp.mlp_again(loaded, ids, layer)
    weights = {name: mlp.weights(loaded, name, layer) for name in (*again.sums, "down_proj")}
    acts, (down, bias) = again.activations[position], weights["down_proj"]
    return {
        "x": again.read[position],
        **{_WORDS[name][0]: _sampled(w) for name, (w, _) in weights.items()},
        **{_WORDS[name][1]: values[position] for name, values in again.sums.items()},
        "activations": acts,
        "out": acts @ down + bias,
        "trained numbers": [_trained(p) for p in loaded.part("mlp", layer).parameters()],
        "of the model": sum(_trained(p) for p in loaded.model.parameters()),
    }


def _sampled(matrix: torch.Tensor) -> torch.Tensor:
    rows, columns = (-(-size // most) for size, most in zip(matrix.shape, DRAWN, strict=True))
    return matrix[::rows, ::columns]


def _trained(p: torch.Tensor) -> int:
    return p.numel() * (2 if type(p).__name__ == "Params4bit" else 1)  # two 4-bit codes share a byte


def _lines(one: Neuron, position: int, place: str) -> str:
    shape = (one.loaded.spec.d_model, one.loaded.spec.d_ff)
    wide = [-(-size // most) for size, most in zip(shape, DRAWN, strict=True)]
    deep = [-(-size // most) for size, most in zip(shape[::-1], DRAWN, strict=True)]
    names = [_WORDS[name] for name in one.projections]
    drawn = "".join(f'    "{w}": {w}[:: {wide[0]}, :: {wide[1]}],\n' for w, _ in names)
    left = "".join(
        f'    "{word}": gave[{name!r}][{position}],\n'
        for name, (_, word) in zip(one.projections, names, strict=True)
    )
    return f"""
acts = took["down_proj"][{position}]  # d_ff


def trained(p):
    return p.numel() * (2 if type(p).__name__ == "Params4bit" else 1)  # two 4-bit codes share a byte


result = {{
    "x": took[{one.projections[0]!r}][{position}],
{drawn}    "W_down": W_down[:: {deep[0]}, :: {deep[1]}],
{left}    "activations": acts,
    "out": acts @ W_down + W_down_bias,
    "trained numbers": [trained(p) for p in model.get_submodule({place!r}).parameters()],
    "of the model": sum(trained(p) for p in model.parameters()),
}}
"""

"""From a token to one neuron's activation: weights × input, their sum, and the non-linearity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import ReaderError
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.copies import matrix_lines, watched
from engine.evidence.oracles import mlp
from engine.evidence.oracles.order import at_ranks
from engine.evidence.rounding import same_pass, tolerance
from engine.figures import waterfall
from engine.figures.axes import short
from engine.figures.neurons import bend
from engine.model.loaded import Loaded
from engine.model.neuron import Neuron, act, activation_name
from engine.model.trace import Trace
from engine.ops import neurons as ops

SHOWN = 9
"""Products printed one by one: with the rest, the bias and the sum, a figure that fits on a projector."""

BEYOND = 1.15
"""How far beyond the largest sum the curves are drawn, as a part of it."""

TITLES = {"gate_proj": "gate", "up_proj": "up"}
WORDS = {"pre-activation": "a pre-activation of", "gate": "a gate of", "up": "an up of"}


def allowed(one: Neuron, projection: str, position: int | slice = slice(None)) -> float:
    """How far two ways to the sums may differ: one rounding of |weights| · |input|, which no product sum exceeds."""
    return tolerance(one.loaded, _bounds(one, projection)[position], steps=1)


def _bounds(one: Neuron, projection: str) -> ops.Floats:
    """|weights| · |input| + |bias| at every token, seq."""
    weight, bias = one.weights(projection)
    return np.asarray(np.linalg.norm(weight) * np.linalg.norm(one.entering, axis=-1) + abs(bias), np.float64)


def contributions(
    loaded: Loaded, trace: Trace, layer: int, neuron: int, position: int, projection: str = "up_proj"
) -> Card:
    """The largest products weight × input of one neuron at one token, the rest, the bias: the pre-activation.

    `projection` is "up_proj", or "gate_proj" in a gated MLP. Raises ReaderError for what the model does not have.
    """
    one = Neuron(loaded, trace, layer, neuron)
    if projection not in one.projections:
        raise ReaderError("This MLP has no gate." if projection == "gate_proj" else "No such projection.")
    x, (weight, bias) = one.entering[one.position(position)], one.weights(projection)
    parts = x.astype(np.float64) * weight
    shown, rest = ops.largest(parts, SHOWN)
    others = len(parts) - len(shown)
    total = float(parts[shown].sum() + rest + bias)
    biased = bool(loaded.part(projection, layer).bias is not None)
    labels = [f"dimension {i}" for i in shown] + [f"the other {others}"] + (["bias"] if biased else [])
    values = [*parts[shown], rest, *([bias] if biased else [])]
    what = "pre-activation" if not loaded.spec.gated else TITLES[projection]
    ids = trace.ids
    apart = tolerance(loaded, parts[shown])
    return Card(
        key="sum",
        title=f"At {one.quoted(position)}, {len(parts)} products sum to {WORDS[what]} {short(total)}; "
        f"the {len(shown)} largest to {short(float(parts[shown].sum()))}, the other {others} to {short(rest)}"
        + (f", and the bias is {short(float(bias))}" if biased else ""),
        alt=f"A waterfall of the {len(shown)} largest products, the other {others} together"
        f"{', the bias' if biased else ''}, and their sum {short(total)}.",
        badge=Badge.LIVE,
        figure=waterfall(
            labels, values, total_name=what, value_name="weight × input, added from top to bottom"
        ),
        table={
            "part": [*labels, what],
            "weight": [*_blank(weight[shown]), *[""] * (len(values) - len(shown) + 1)],
            "input": [*_blank(x[shown]), *[""] * (len(values) - len(shown) + 1)],
            "product": [*map(float, values), total],
        },
        shown={
            "dimension": shown,
            "weight": weight[shown],
            "input": x[shown],
            "bars": np.array(values),
            "sum": total,
        },
        oracle=Oracle(
            f"Stored weights times what enters the {TITLES[projection]} projection of a private copy of the model, "
            "caught by torch's forward hook; the sum is what leaves that projection.",
            lambda: _sum_again(loaded, ids, layer, neuron, position, projection, shown.tolist(), apart),
            {
                "dimension": 0.0,
                "weight": tolerance(loaded, weight[shown]) if loaded.quantized else 0.0,
                "input": tolerance(loaded, x[shown]),
                "bars": max(apart, allowed(one, projection, position)),
                "sum": allowed(one, projection, position),
            },
        ),
        code=watched(loaded, ids, layer, projection)
        + matrix_lines(loaded, projection, "W")
        + f"""
x = took[{projection!r}][{position}]  # d_model, after the norm
w = W[:, {neuron}]
parts = w * x
shown = {shown.tolist()}  # the largest in magnitude
bars = [*parts[shown].tolist(), float(parts.sum() - parts[shown].sum()){_bias_line(neuron, biased)}]
result = {{
    "dimension": shown,
    "weight": w[shown],
    "input": x[shown],
    "bars": bars,
    "sum": gave[{projection!r}][{position}, {neuron}],
}}
""",
        note=_sum_note(one, projection, position, what),
    )


def _bias_line(neuron: int, biased: bool) -> str:
    return f", float(W_bias[{neuron}])" if biased else ""


def _sum_again(
    loaded: Loaded,
    ids: Sequence[int],
    layer: int,
    neuron: int,
    position: int,
    projection: str,
    given: list[int],
    apart: float,
) -> dict[str, Any]:
    again = mlp.mlp_again(loaded, ids, layer)
    matrix, bias = mlp.weights(loaded, projection, layer)
    x, weight = again.read[position], matrix[:, neuron]
    parts = x * weight
    first = at_ranks(given, parts.abs(), apart)
    others = torch.ones(len(parts), dtype=torch.bool).index_fill(0, torch.tensor(first), False)
    biased = loaded.part(projection, layer).bias is not None
    return {
        "dimension": first,
        "weight": weight[first],
        "input": x[first],
        "bars": [*parts[first], parts[others].sum(), *([bias[neuron]] if biased else [])],
        "sum": again.sums[projection][position, neuron],
    }


def _blank(values: np.ndarray) -> list[str]:
    """Numbers of a column that is empty further down, as text."""
    return [f"{value:.6g}" for value in values]


def _sum_note(one: Neuron, projection: str, position: int, what: str) -> str:
    norm = one.loaded.spec.norm
    after = f"after the model's own {norm} before MLP {one.layer}"
    if one.loaded.spec.norms == "behind":
        after = f"as MLP {one.layer} reads it"
    text = f"Input: the residual stream at this token, {after}."
    for other in one.projections:
        if other != projection:
            value = short(float(one.sums(other)[position]))
            text += f" The neuron's {TITLES[other]} at this token, by its other column of weights: {value}."
    return text


def activation(loaded: Loaded, trace: Trace, layer: int, neuron: int, position: int) -> Card:
    """The non-linearity with the neuron's real values on it: the focus token's marked, the other tokens' small.

    In a gated MLP the curve is act(gate), times this token's `up` where it is drawn strong.
    """
    one = Neuron(loaded, trace, layer, neuron)
    one.position(position)
    main = one.projections[0]
    z = one.sums(main)
    up = one.sums("up_proj") if loaded.spec.gated else np.ones_like(z)
    out = act(loaded, z) * up
    places = _places(z)
    curve = act(loaded, places)
    name, gated = activation_name(loaded), loaded.spec.gated
    chosen = f"{name}(gate) × up, up = {short(float(up[position]))}" if gated else name
    curves = {chosen: curve * up[position]} | ({f"{name}(gate)": curve} if gated else {})
    names = [f"{i} {token.display}" for i, token in enumerate(trace.tokens)]
    ids, main_name = trace.ids, "gate" if gated else "pre-activation"
    points = np.column_stack([places, *curves.values()])  # x, then y of each curve
    apart = allowed(one, main)
    return Card(
        key="activation",
        title=_activation_title(one, position, z, up, out),
        alt=f"The curve of {name} with the neuron's value at {one.quoted(position)} marked.",
        badge=Badge.LIVE,
        figure=bend(
            places,
            curves,
            chosen,
            (float(z[position]), float(out[position])),
            cloud=None if gated else (z, out, names),
            x_name=main_name,
            y_name="activation",
        ),
        table={
            "position": list(range(len(z))),
            "token": [token.display for token in trace.tokens],
            **({"gate": z.tolist(), "up": up.tolist()} if gated else {"pre-activation": z.tolist()}),
            "activation": out.tolist(),
        },
        shown={main_name: z, **({"up": up} if gated else {}), "activation": out, "curves": points},
        oracle=Oracle(
            "Sums that leave the neuron's own projections in a private copy of the model, caught by torch's forward "
            "hook; they and the curve bent by transformers' own activation function.",
            lambda: _activation_again(loaded, ids, layer, neuron, position, places, apart),
            {
                main_name: apart,
                "up": allowed(one, "up_proj"),
                "activation": _output_tolerance(one, z, up),
                "curves": same_pass(points)
                + (allowed(one, "up_proj", position) * float(np.abs(curve).max()) if gated else 0.0),
            },
        ),
        code=watched(loaded, ids, layer, *one.projections, "down_proj")
        + _activation_lines(one, position, places),
        note=_formula(loaded) + ("" if gated else " Small points: the same neuron at the other tokens."),
    )


def _activation_again(
    loaded: Loaded,
    ids: Sequence[int],
    layer: int,
    neuron: int,
    position: int,
    given: ops.Floats,
    apart: float,
) -> dict[str, Any]:
    """The curves are drawn at the `given` places where these reach as far as the sums ask for, but for `apart`."""
    again = mlp.mlp_again(loaded, ids, layer)
    sums = {name: values[:, neuron] for name, values in again.sums.items()}
    main = next(iter(sums.values()))
    reach = max(3.0, BEYOND * float(main.abs().max()))
    near = abs(reach - given[-1]) <= BEYOND * apart
    places = torch.tensor(given) if near else torch.linspace(-reach, reach, len(given), dtype=torch.float64)
    curve, out = mlp.bend(loaded, places), again.activations[:, neuron]
    if not loaded.spec.gated:
        return {"pre-activation": main, "activation": out, "curves": torch.stack([places, curve], 1)}
    up = sums["up_proj"]
    return {
        "gate": main,
        "up": up,
        "activation": out,
        "curves": torch.stack([places, curve * up[position], curve], 1),
    }


def _activation_lines(one: Neuron, position: int, places: ops.Floats) -> str:
    n, reach, name = one.index, float(places[-1]), one.loaded.spec.activation
    head = f"""
from transformers.activations import ACT2FN

x = torch.linspace({-reach}, {reach}, {len(places)}, dtype=torch.float64)
curve = ACT2FN[{name!r}](x)
"""
    if not one.loaded.spec.gated:
        return f"""{head}result = {{
    "pre-activation": gave["up_proj"][:, {n}],
    "activation": took["down_proj"][:, {n}],
    "curves": torch.stack([x, curve], 1),
}}
"""
    return f"""{head}up = gave["up_proj"][:, {n}]
result = {{
    "gate": gave["gate_proj"][:, {n}],
    "up": up,
    "activation": took["down_proj"][:, {n}],
    "curves": torch.stack([x, curve * up[{position}], curve], 1),
}}
"""


def _output_tolerance(one: Neuron, z: ops.Floats, up: ops.Floats) -> float:
    """Errors of the sums carried through the product act(z) · up; the slope of these functions is at most 1.13."""
    loaded = one.loaded
    carried = _bounds(one, one.projections[0]) * np.abs(up)
    if loaded.spec.gated:
        carried += _bounds(one, "up_proj") * np.abs(act(loaded, z))
    return max(tolerance(loaded, 1.13 * carried, steps=1), tolerance(loaded, one.activations))


def _places(z: ops.Floats) -> ops.Floats:
    finite = np.abs(z[np.isfinite(z)])
    reach = max(3.0, BEYOND * float(finite.max(initial=0)))
    return np.linspace(-reach, reach, 241)


def _formula(loaded: Loaded) -> str:
    name = activation_name(loaded)
    formula = (
        f"{name}(z) = {ops.FORMULAS[name]}" if name in ops.FORMULAS else f"{name} as transformers defines it"
    )
    said = f" (in the config: {loaded.spec.activation})."
    return (f"Activation = {name}(gate) × up. {formula}" if loaded.spec.gated else formula) + said


def _activation_title(one: Neuron, at: int, z: ops.Floats, up: ops.Floats, out: ops.Floats) -> str:
    name = activation_name(one.loaded)
    if one.loaded.spec.gated:
        return f"At {one.quoted(at)}: {name}({short(float(z[at]))}) × {short(float(up[at]))} = {short(float(out[at]))}"
    quiet = float((np.abs(out) < 0.1).mean())
    return (
        f"At {one.quoted(at)}: {name}({short(float(z[at]))}) = {short(float(out[at]))}; "
        f"at {quiet:.0%} of the prompt's tokens it is within 0.1 of zero"
    )

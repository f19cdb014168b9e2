"""From a token to one neuron's activation: weights × input, their sum, and the non-linearity."""

import numpy as np

from engine import ReaderError
from engine.cards.attention.evidence import gap
from engine.cards.neurons.evidence import hooked, matrix_lines, watched
from engine.cards.neurons.neuron import Neuron, act, activation_name, theirs
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.rounding import tolerance
from engine.figures import waterfall
from engine.figures.axes import short
from engine.figures.neurons import bend
from engine.model.loading import Loaded
from engine.model.trace import Trace
from engine.ops import neurons as ops

SHOWN = 9
"""Products printed one by one: with the rest, the bias and the sum, a figure that fits on a projector."""

TITLES = {"gate_proj": "gate", "up_proj": "up"}
WORDS = {"pre-activation": "a pre-activation of", "gate": "a gate of", "up": "an up of"}


def allowed(one: Neuron, projection: str, position: int) -> float:
    """How far two ways to the sum may differ: one rounding of |weights| · |input|, which no product sum exceeds."""
    weight, bias = one.weights(projection)
    bound = float(np.linalg.norm(weight) * np.linalg.norm(one.entering[position])) + abs(bias)
    return tolerance(one.loaded, bound, steps=1)


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
    atol = allowed(one, projection, position)
    return Card(
        key="sum",
        title=f"At {one.quoted(position)}, {len(parts)} products sum to {WORDS[what]} {short(total)}; "
        f"the largest {len(shown)} make {short(float(parts[shown].sum()))} of it",
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
        prove=lambda: Proof(
            f"The sum of the bars, against what leaves the {TITLES[projection]} projection of a private copy "
            "of the model, caught by a forward hook.",
            gap(total, hooked(loaded, trace.ids, layer, projection)[projection][position, neuron]),
            atol,
        ),
        code=watched(loaded, trace.ids, layer, projection)
        + matrix_lines(loaded, projection, "W")
        + f"""
x = took[{projection!r}][{position}]  # d_model, behind the norm
parts = W[:, {neuron}] * x
shown = {shown.tolist()}
result = {{
    "largest": parts[shown],
    "rest": parts.sum() - parts[shown].sum(),
    "sum": gave[{projection!r}][{position}, {neuron}],
}}
""",
        numbers={"largest": parts[shown], "rest": rest, "sum": total},
        atol=atol,
        note=_sum_note(one, projection, position, what),
    )


def _blank(values: np.ndarray) -> list[str]:
    """Numbers of a column that is empty further down, as text."""
    return [f"{value:.6g}" for value in values]


def _sum_note(one: Neuron, projection: str, position: int, what: str) -> str:
    norm = one.loaded.spec.norm
    text = f"Input: the residual stream at this token behind the model's own {norm} before MLP {one.layer}."
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
    atol = _output_tolerance(one, position, z[position], up[position])
    places = _places(z)
    curve = act(loaded, places)
    name = activation_name(loaded)
    gated = loaded.spec.gated
    chosen = f"{name}(gate) × up, up = {short(float(up[position]))}" if gated else name
    curves = {chosen: curve * up[position]} | ({f"{name}(gate)": curve} if gated else {})
    names = [f"{i} {token.display}" for i, token in enumerate(trace.tokens)]
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
            x_name="gate" if gated else "pre-activation",
            y_name="activation",
        ),
        table={
            "position": list(range(len(z))),
            "token": [token.display for token in trace.tokens],
            **({"gate": z.tolist(), "up": up.tolist()} if gated else {"pre-activation": z.tolist()}),
            "activation": out.tolist(),
        },
        prove=lambda: _activation_proof(one, position, out, places, curve, atol),
        code=watched(loaded, trace.ids, layer, *one.projections, "down_proj")
        + f"""
from transformers.activations import ACT2FN

z = torch.tensor({[float(place) for place in places[::20]]})
result = {{
    "pre-activations": [{", ".join(f"gave[{p!r}][{position}, {neuron}]" for p in one.projections)}],
    "activation": took["down_proj"][{position}, {neuron}],
    "curve": ACT2FN[{loaded.spec.activation!r}](z),
}}
""",
        numbers={
            "pre-activations": [float(one.sums(p)[position]) for p in one.projections],
            "activation": float(out[position]),
            "curve": curve[::20].tolist(),
        },
        atol=max(atol, *(allowed(one, p, position) for p in one.projections)),
        note=_formula(loaded) + ("" if gated else " Small points: the same neuron at the other tokens."),
    )


def _output_tolerance(one: Neuron, position: int, z: float, up: float) -> float:
    """Errors of the sums carried through the product act(z) · up; the slope of these functions is at most 1.13."""
    errors = [1.13 * allowed(one, p, position) for p in one.projections]
    size = [abs(up), abs(float(act(one.loaded, z))) + 1] if one.loaded.spec.gated else [1.0]
    product = sum(error * factor for error, factor in zip(errors, size, strict=True))
    return float(max(product, tolerance(one.loaded, one.activations[position])))


def _places(z: ops.Floats) -> ops.Floats:
    finite = np.abs(z[np.isfinite(z)])
    reach = max(3.0, 1.15 * float(finite.max(initial=0)))
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


def _activation_proof(
    one: Neuron, position: int, out: ops.Floats, places: ops.Floats, curve: ops.Floats, atol: float
) -> Proof:
    same = gap(out[position], one.activations[position])
    return Proof(
        "The marked value against the activation that entered the down projection in the model, and the curve against "
        "transformers' own activation function.",
        max(same, gap(curve, theirs(one.loaded, places))),
        atol,
    )

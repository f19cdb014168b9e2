"""A plain and a gated MLP side by side."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.cards.attention.evidence import gap
from engine.cards.neurons.evidence import hooked
from engine.cards.neurons.neuron import activation_name, checked_layer
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.rounding import tolerance
from engine.evidence.script import model_lines, preamble
from engine.figures import histogram
from engine.figures.axes import short
from engine.model.loading import Loaded
from engine.model.trace import Trace
from engine.ops import neurons as ops
from engine.ops.parts import block_parts

Side = tuple[Loaded, Trace]


def formula(loaded: Loaded) -> str:
    """What a neuron passes on."""
    name = activation_name(loaded)
    return f"{name}(gate) · up" if loaded.spec.gated else f"{name}(up)"


def two_mlps(sides: Sequence[Side], layer: int) -> list[Card]:
    """Activations of both models over one prompt in one layer, and a table of what their MLPs are made of."""
    acts = [trace.mlp_act[checked_layer(loaded, layer)] for loaded, trace in sides]
    return [_distributions(sides, acts, layer), _facts(sides, acts, layer)]


def _distributions(sides: Sequence[Side], acts: list[NDArray[np.float32]], layer: int) -> Card:
    names = [loaded.name for loaded, _ in sides]
    low, high = (float(np.quantile(np.concatenate([a.ravel() for a in acts]), q)) for q in (0.001, 0.999))
    ends = [(float(a.min()), float(a.max())) for a in acts]
    negative = [float((a < 0).mean()) for a in acts]
    outside = [float(((a < low) | (a > high)).mean()) for a in acts]
    atol = max(float(tolerance(loaded, a)) for (loaded, _), a in zip(sides, acts, strict=True))
    said = "; ".join(f"{n} from {short(a)} to {short(b)}" for n, (a, b) in zip(names, ends, strict=True))
    return Card(
        key="distributions",
        title=f"Activations in layer {layer}: {said}",
        alt="Histograms of the activations of both models over the prompt.",
        badge=Badge.LIVE,
        figure=histogram(
            {
                f"{loaded.name}, {'gated' if loaded.spec.gated else 'plain'}": a.ravel()
                for (loaded, _), a in zip(sides, acts, strict=True)
            },
            bins=61,
            span=(low, high),
            x_name="activation",
            y_name="share of the activations (log scale)",
            share=True,
            log_y=True,
        ).update_yaxes(dtick=1, tickformat="~%"),
        table={
            "model": names,
            "lowest": [a for a, _ in ends],
            "highest": [b for _, b in ends],
            "share below zero": negative,
        },
        prove=lambda: Proof(
            "Every activation of both, against what enters the down projections of private copies of the models.",
            max(
                gap(a, hooked(loaded, trace.ids, layer, "down_proj")["down_proj"])
                for (loaded, trace), a in zip(sides, acts, strict=True)
            ),
            atol,
        ),
        code=_code(sides, layer),
        numbers={"ends": ends, "negative": negative},
        atol=max(atol, 1e-3),
        note=f"Over your prompt’s tokens. Outside the drawn range: {', '.join(f'{o:.2%}' for o in outside)}.",
    )


def _code(sides: Sequence[Side], layer: int) -> str:
    (first, given), (second, other) = sides
    place = "{}.{}.{}".format
    places = [place(s.adapter.parts["blocks"], layer, s.adapter.layer["down_proj"]) for s in (first, second)]
    lines = model_lines(second, second.precision, "second")
    return (
        preamble(first, given.ids)
        + f"name = {second.source!r}\n"
        + "\n".join(lines)
        + f"""
runs = [(model, ids, {places[0]!r}), (second, torch.tensor([{list(other.ids)}]), {places[1]!r})]
result = {{"ends": [], "negative": []}}
for net, given, place in runs:
    acts = []
    net.get_submodule(place).register_forward_hook(lambda module, args, out, acts=acts: acts.append(args[0].float()))
    with torch.no_grad():
        net(given, use_cache=False)
    result["ends"].append([float(acts[0].min()), float(acts[0].max())])
    result["negative"].append(float((acts[0] < 0).double().mean()))
"""
    )


def _facts(sides: Sequence[Side], acts: list[NDArray[np.float32]], layer: int) -> Card:
    counts = [next(p for p in block_parts(loaded, layer) if p.name == "mlp").count for loaded, _ in sides]
    truth = [sum(p.numel() for p in loaded.part("mlp", layer).parameters()) for loaded, _ in sides]
    carriers = [float(ops.carriers(a).mean()) for a in acts]
    rows = {
        "activation": [formula(loaded) for loaded, _ in sides],
        "matrices": [str(3 if loaded.spec.gated else 2) for loaded, _ in sides],
        "biases": ["no" if loaded.part("up_proj", layer).bias is None else "yes" for loaded, _ in sides],
        "d_model": [str(loaded.spec.d_model) for loaded, _ in sides],
        "d_ff": [f"{loaded.spec.d_ff:,}" for loaded, _ in sides],
        "d_ff / d_model": [f"{loaded.spec.d_ff / loaded.spec.d_model:.2f}" for loaded, _ in sides],
        "trained numbers in one MLP": [f"{count:,}" for count in counts],
        f"neurons with 90 % of the mass, layer {layer}": [f"{c:.0f}" for c in carriers],
    }
    (first, _), (second, _) = sides
    return Card(
        key="two-mlps",
        title=f"{counts[0]:,} trained numbers in two matrices, {counts[1]:,} in three"
        if [s.spec.gated for s in (first, second)] == [False, True]
        else f"{counts[0]:,} and {counts[1]:,} trained numbers in one MLP",
        alt="A table of what the two MLPs are made of.",
        badge=Badge.LIVE,
        figure=None,
        table={"": list(rows), **{s[0].name: [row[i] for row in rows.values()] for i, s in enumerate(sides)}},
        prove=lambda: Proof(
            "The trained numbers, against the elements of the tensors of both MLPs.",
            gap(counts, truth),
            0.0,
        ),
        code=preamble(first)
        + f"""
second = AutoModelForCausalLM.from_pretrained({second.source!r})
places = [(model, {_mlp(first, layer)!r}), (second, {_mlp(second, layer)!r})]
result = {{"counts": [sum(p.numel() for p in net.get_submodule(place).parameters()) for net, place in places]}}
""",
        numbers={"counts": counts},
        atol=0,
        note="A gated MLP has a third matrix. Shazeer (2020, arXiv:2002.05202) made d_ff two thirds as wide, so that "
        "the number of parameters stays about the same.",
    )


def _mlp(loaded: Loaded, layer: int) -> str:
    return f"{loaded.adapter.parts['blocks']}.{layer}.{loaded.adapter.layer['mlp']}"

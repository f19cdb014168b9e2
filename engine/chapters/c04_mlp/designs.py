"""A plain and a gated MLP side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import mlp
from engine.evidence.rounding import counted, same_pass
from engine.evidence.script import model_lines, preamble
from engine.figures import histogram
from engine.figures.axes import short
from engine.model.loaded import Loaded
from engine.model.neuron import activation_name, checked_layer
from engine.model.parts import block_parts
from engine.model.trace import Trace
from engine.ops import neurons as ops

Side = tuple[Loaded, Trace]
Read = tuple[Loaded, tuple[int, ...]]

BINS = 61
SPAN = (0.001, 0.999)
"""Of all activations, the quantiles between which they are drawn."""


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
    low, high = (
        float(np.quantile(np.concatenate([a.ravel() for a in acts]).astype(np.float64), q)) for q in SPAN
    )
    ends = [(float(a.min()), float(a.max())) for a in acts]
    negative = [float((a < 0).mean()) for a in acts]
    outside = [float(((a < low) | (a > high)).mean()) for a in acts]
    drawn = figure_of(sides, acts, (low, high))
    bars = {f"bars {i}": np.column_stack([bar.x, bar.y]) for i, bar in enumerate(drawn.data)}
    read = [(loaded, trace.ids) for loaded, trace in sides]
    one = counted(max(a.size for a in acts))
    said = "; ".join(f"{n} from {short(a)} to {short(b)}" for n, (a, b) in zip(names, ends, strict=True))
    return Card(
        key="distributions",
        title=f"Activations in layer {layer}: {said}",
        alt="Histograms of the activations of both models over the prompt.",
        badge=Badge.LIVE,
        figure=drawn,
        table={
            "model": names,
            "lowest": [a for a, _ in ends],
            "highest": [b for _, b in ends],
            "share below zero": negative,
        },
        shown={**bars, "ends": ends, "negative": negative, "outside": outside},
        oracle=Oracle(
            "What leaves the projections of private copies of the models, bent by transformers' own activation "
            "function, and counted with torch.",
            lambda: _counted_again(read, layer),
            {
                **dict.fromkeys(bars, max(one, same_pass(low, high))),
                "ends": same_pass(ends),
                "negative": one,
                "outside": one,
            },
        ),
        code=_code(sides, layer),
        numbers={"ends": ends, "negative": negative},
        atol=max(1e-3, same_pass(ends)),
        note=f"Over your prompt’s tokens. Outside the drawn range: {', '.join(f'{o:.2%}' for o in outside)}.",
    )


def figure_of(sides: Sequence[Side], acts: Sequence[NDArray[np.float32]], span: tuple[float, float]) -> Any:
    """Histograms of the activations of both models."""
    return histogram(
        {
            f"{loaded.name}, {'gated' if loaded.spec.gated else 'plain'}": a.ravel()
            for (loaded, _), a in zip(sides, acts, strict=True)
        },
        bins=BINS,
        span=span,
        x_name="activation",
        y_name="share of the activations (log scale)",
        share=True,
        log_y=True,
    ).update_yaxes(dtick=1, tickformat="~%")


def _activations(read: Sequence[Read], layer: int) -> list[torch.Tensor]:
    """Of each model, (seq, d_ff), in a new run."""
    return [mlp.mlp_again(loaded, ids, layer).activations for loaded, ids in read]


def _counted_again(read: Sequence[Read], layer: int) -> dict[str, Any]:
    acts = [one.ravel() for one in _activations(read, layer)]
    ordered = torch.cat(acts).sort().values
    low, high = (_quantile(ordered, q) for q in SPAN)
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    inside = [one[(one >= low) & (one <= high)] for one in acts]
    shares = [
        torch.histc(kept, BINS, min=low, max=high) / len(one) for kept, one in zip(inside, acts, strict=True)
    ]
    return {
        **{f"bars {i}": torch.stack([middles, share], 1) for i, share in enumerate(shares)},
        "ends": [[one.min(), one.max()] for one in acts],
        "negative": [(one < 0).double().mean() for one in acts],
        "outside": [1 - len(kept) / len(one) for kept, one in zip(inside, acts, strict=True)],
    }


def _quantile(ordered: torch.Tensor, q: float) -> float:
    """Between two neighbours in proportion to how near the place is to each."""
    place = q * (len(ordered) - 1)
    low, part = int(place), place % 1
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + part * (ordered[high] - ordered[low]))


def _code(sides: Sequence[Side], layer: int) -> str:
    (first, given), (second, other) = sides
    places = [one.path("down_proj", layer) for one in (first, second)]
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
    read = [(loaded, trace.ids) for loaded, trace in sides]
    return Card(
        key="two-mlps",
        title=f"{counts[0]:,} trained numbers in two matrices, {counts[1]:,} in three"
        if [s.spec.gated for s in (first, second)] == [False, True]
        else f"{counts[0]:,} and {counts[1]:,} trained numbers in one MLP",
        alt="A table of what the two MLPs are made of.",
        badge=Badge.LIVE,
        figure=None,
        table={"": list(rows), **{s[0].name: [row[i] for row in rows.values()] for i, s in enumerate(sides)}},
        shown={
            "matrices": [3 if loaded.spec.gated else 2 for loaded, _ in sides],
            "biases": [loaded.part("up_proj", layer).bias is not None for loaded, _ in sides],
            "d_model": [loaded.spec.d_model for loaded, _ in sides],
            "d_ff": [loaded.spec.d_ff for loaded, _ in sides],
            "counts": counts,
            "neurons": carriers,
        },
        oracle=Oracle(
            "Matrices, widths, biases and trained numbers from what transformers’ configs say of both models; the "
            "neurons from what leaves the projections of private copies, bent by transformers' own function.",
            lambda: _facts_again(read, layer),
            dict.fromkeys(("matrices", "biases", "d_model", "d_ff", "counts"), 0.0)
            | {"neurons": same_pass(carriers)},
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


def _facts_again(read: Sequence[Read], layer: int) -> dict[str, Any]:
    made = [_configured(loaded.model.config) for loaded, _ in read]
    sizes = [
        [a.abs().sort(descending=True).values.cumsum(-1) for a in acts] for acts in _activations(read, layer)
    ]
    need = [[(mass < 0.9 * mass[-1]).sum() + 1 for mass in rows] for rows in sizes]
    return {
        "matrices": [matrices for matrices, *_ in made],
        "biases": [biased for _, biased, *_ in made],
        "d_model": [narrow for *_, narrow, _ in made],
        "d_ff": [wide for *_, wide in made],
        "counts": [
            matrices * narrow * wide + biased * ((matrices - 1) * wide + narrow)
            for matrices, biased, narrow, wide in made
        ],
        "neurons": [torch.stack(rows).double().mean() for rows in need],
    }


def _configured(config: Any) -> tuple[int, bool, int, int]:
    """Matrices of an MLP, whether they have biases, d_model and d_ff, by the config of a plain or of a gated one."""
    wide = getattr(config, "intermediate_size", None)
    if wide is None:
        return 2, True, config.hidden_size, config.n_inner or 4 * config.hidden_size
    return 3, config.mlp_bias, config.hidden_size, wide


def _mlp(loaded: Loaded, layer: int) -> str:
    return loaded.path("mlp", layer)

"""What the loaded model is made of, counted tensor by tensor."""

from collections.abc import Sequence

import numpy as np

from engine import figures
from engine.checkpoints.published import MODELS, sources
from engine.checkpoints.published import parts as published_parts
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.script import preamble
from engine.figures.block import diagram as drawn_diagram
from engine.model.loading import Loaded
from engine.ops.parts import Part, block_parts, model_parts, total

_COUNT = """
def trained(module):
    quantized = lambda p: 2 if type(p).__name__ == "Params4bit" else 1
    return sum(p.numel() * quantized(p) for p in module.parameters())
"""


def diagram(loaded: Loaded, layer: int, chosen: str) -> Card:
    """The block as boxes, and the weights of the chosen part with their shapes."""
    parts = {part.name: part for part in _in_order(loaded, layer)}
    part = parts.get(chosen) or parts["attention"]
    boxes = [(p.name, p.title, _inside(loaded, p)) for p in parts.values()]
    counted = sum(weight.count for weight in part.weights)
    module = _module_path(loaded, part.name, layer)
    return Card(
        key="diagram",
        title=f"{part.title}: {part.equation}, {counted:,} trained numbers"
        + (" (tied)" if part.tied else ""),
        alt=f"A diagram of the architecture with {part.title} marked; the table lists its weights.",
        badge=Badge.LIVE,
        figure=drawn_diagram(boxes, part.name, loaded.spec.n_layer, loaded.spec.parallel),
        table={
            "weight": [w.name for w in part.weights],
            "shape": [" × ".join(map(str, w.shape)) for w in part.weights],
            "trained numbers": [w.count for w in part.weights],
        },
        prove=lambda: Proof(
            f"Shapes of {part.title}, against the elements of its tensors as transformers counts them.",
            abs(counted - _numel(loaded, part, layer)),
            0,
        ),
        code=preamble(loaded)
        + _COUNT
        + f'\nresult = {{"count": trained(model.get_submodule({module!r}))}}\n',
        numbers={"count": counted},
        atol=0,
    )


def parameters(loaded: Loaded) -> Card:
    """Trained numbers by part, all blocks together; they sum to the model's own count."""
    rows = _totals(loaded)
    names, counts = list(rows), list(rows.values())
    whole = sum(counts)
    largest = max(rows, key=lambda name: rows[name])
    return Card(
        key="parameters",
        title=f"{whole:,} trained numbers, {rows[largest] / whole:.0%} of them in: {largest}",
        alt="Trained numbers by part of the model.",
        badge=Badge.LIVE,
        figure=figures.bars(
            names, [n / 1e6 for n in counts], colors=_colors(names), value_name="millions of trained numbers"
        ),
        table={"part": names, "trained numbers": counts, "share": [count / whole for count in counts]},
        prove=lambda: Proof(
            "The sum over all parts, against transformers' num_parameters().",
            abs(total(loaded) - loaded.model.num_parameters()),
            0,
        ),
        code=preamble(loaded) + '\nresult = {"total": model.num_parameters()}\n',
        numbers={"total": whole},
        atol=0,
    )


def two_designs(first: Loaded, second: Loaded) -> Card:
    """Two architectures side by side, choice by choice."""
    rows = {
        "architecture": lambda s: s.model_type,
        "positions": lambda s: (
            "learned vectors, added" if s.positions == "learned" else "RoPE, rotates q and k"
        ),
        "norm": lambda s: s.norm,
        "activation": lambda s: s.activation,
        "MLP": lambda s: "gated" if s.gated else "plain",
        "query heads": lambda s: str(s.n_head),
        "key/value heads": lambda s: str(s.n_kv_head),
        "d_head": lambda s: str(s.d_head),
        "d_model": lambda s: str(s.d_model),
        "d_ff": lambda s: str(s.d_ff),
        "layers": lambda s: str(s.n_layer),
        "attention and MLP": lambda s: "in parallel" if s.parallel else "one after the other",
        "unembedding": lambda s: "tied to the embedding" if s.tied else "a matrix of its own",
    }
    models = {first.name: first, second.name: second}
    table: dict[str, Sequence[str]] = {"choice": [*rows, "trained numbers"]}
    for name, loaded in models.items():
        table[name] = [*(read(loaded.spec) for read in rows.values()), f"{total(loaded):,}"]
    differ = sum(
        read(first.spec) != read(second.spec) for name, read in rows.items() if name != "architecture"
    )
    counts = {name: loaded.model.num_parameters() for name, loaded in models.items()}
    return Card(
        key="designs",
        title=f"{first.name} and {second.name} differ in {differ} of {len(rows) - 1} choices",
        alt="A table of the design choices of both checkpoints.",
        badge=Badge.LIVE,
        figure=None,
        table=table,
        prove=lambda: Proof(
            "Trained numbers counted part by part, against transformers' num_parameters(), for both.",
            max(abs(total(loaded) - counts[name]) for name, loaded in models.items()),
            0,
        ),
        code=preamble(first)
        + f"""
other = AutoModelForCausalLM.from_pretrained({second.source!r})
result = {{"counts": [model.num_parameters(), other.num_parameters()]}}
""",
        numbers={"counts": [total(first), total(second)]},
        atol=0,
    )


def scale(loaded: Loaded) -> Card:
    """Published models and the loaded one: where their trained numbers are."""
    kinds = ("embedding", "positions", "attention", "mlp", "norms", "unembedding")
    rows = {model.name: published_parts(model) for model in MODELS}
    rows = {loaded.name: _by_kind(loaded)} | rows
    origins = ["loaded now", *(model.source for model in MODELS)]
    totals = {name: sum(parts.values()) for name, parts in rows.items()}
    shares = {kind: [parts[kind] / totals[name] for name, parts in rows.items()] for kind in kinds}
    last = MODELS[-1].name
    vocabulary = np.add(shares["embedding"], shares["unembedding"])
    return Card(
        key="scale",
        title=f"The vocabulary is {vocabulary[0]:.0%} of {loaded.name}'s {totals[loaded.name] / 1e6:,.1f} million "
        f"trained numbers and {vocabulary[-1]:.0%} of {last}'s {totals[last] / 1e9:,.0f} billion",
        alt="Share of trained numbers by kind for the loaded model and six published ones.",
        badge=Badge.LIVE,
        figure=figures.heatmap(
            [[shares[kind][i] for kind in kinds] for i in range(len(rows))],
            [name.replace("Llama-3.1-", "Llama ") for name in rows],
            list(kinds),
            concept="mlp",
            zero_one=True,
            print_values=".0%",
            row_name="model",
            column_name="part",
            value_name="share of trained numbers",
        ),
        table={
            "model": list(rows),
            "trained numbers": list(totals.values()),
            **{kind: [parts[kind] for parts in rows.values()] for kind in kinds},
            "sizes from": origins,
        },
        prove=lambda: Proof(
            f"The kinds of {loaded.name} summed, against transformers' num_parameters().",
            abs(totals[loaded.name] - loaded.model.num_parameters()),
            0,
        ),
        code=preamble(loaded) + '\nresult = {"total": model.num_parameters()}\n',
        numbers={"total": totals[loaded.name]},
        atol=0,
        note=f"Sizes: {sources()}. "
        "The script counts the loaded model; "
        "the formula for the others is tested against it and against the makers' totals.",
    )


def _in_order(loaded: Loaded, layer: int) -> list[Part]:
    outside = model_parts(loaded)
    start = [part for part in outside if part.name in ("embedding", "positions")]
    return [*start, *block_parts(loaded, layer), *(part for part in outside if part not in start)]


def _inside(loaded: Loaded, part: Part) -> str:
    """The sizes written into a box."""
    s = loaded.spec
    return {
        "embedding": f"{s.vocab:,} × {s.d_model}",
        "positions": f"{s.context:,} × {s.d_model}",
        "attn_norm": f"{s.d_model}",
        "attention": f"{s.n_head} heads of {s.d_head}"
        + (f", {s.n_kv_head} for k and v" if s.n_kv_head != s.n_head else ""),
        "mlp_norm": f"{s.d_model}",
        "mlp": f"{s.d_model} → {s.d_ff:,} → {s.d_model}, {s.activation}" + (", gated" if s.gated else ""),
        "final_norm": f"{s.d_model}",
        "unembedding": f"{s.d_model} → {s.vocab:,}" + (", tied" if s.tied else ""),
    }[part.name]


def _module_path(loaded: Loaded, name: str, layer: int) -> str:
    if name in loaded.adapter.parts:
        return loaded.adapter.parts[name]
    return f"{loaded.adapter.parts['blocks']}.{layer}.{loaded.adapter.layer[name]}"


def _numel(loaded: Loaded, part: Part, layer: int) -> int:
    """Elements of a module's tensors; two 4-bit codes share a byte."""
    module = loaded.model.get_submodule(_module_path(loaded, part.name, layer))
    return sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in module.parameters())


def _totals(loaded: Loaded) -> dict[str, int]:
    rows = {part.title: part.count for part in model_parts(loaded)}
    for layer in range(loaded.spec.n_layer):
        for part in block_parts(loaded, layer):
            rows[part.title] = rows.get(part.title, 0) + part.count
    return {name: count for name, count in rows.items() if count}


def _by_kind(loaded: Loaded) -> dict[str, int]:
    kinds = dict.fromkeys(("embedding", "positions", "attention", "mlp", "norms", "unembedding"), 0)
    every = model_parts(loaded) + [
        part for layer in range(loaded.spec.n_layer) for part in block_parts(loaded, layer)
    ]
    for part in every:
        kinds["norms" if part.name.endswith("norm") else part.name] += part.count
    return kinds


def _colors(names: Sequence[str]) -> list[str]:
    concepts = {
        "Token": "embedding",
        "Position": "token",
        "Attention": "attention",
        "MLP": "mlp",
        "Unembedding": "logits",
    }
    return [concepts.get(name.split()[0], "residual") for name in names]

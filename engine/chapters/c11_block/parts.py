"""What the loaded model is made of, counted tensor by tensor."""

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from engine import figures
from engine.checkpoints.published import MODELS, sources
from engine.checkpoints.published import parts as published_parts
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.script import home_lines, place, preamble
from engine.figures.block import diagram as drawn_diagram
from engine.model.adapters import Spec
from engine.model.loaded import Loaded
from engine.model.matrices import matrix
from engine.model.parts import Part, block_parts, model_parts, total

_COUNT = """
def trained(p):
    return p.numel() * (2 if type(p).__name__ == "Params4bit" else 1)  # two 4-bit codes share a byte
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
        title=f"{_whose(loaded, part, layer)}: {equation(part)}; {counted:,} trained numbers"
        + (" (tied)" if part.tied else ""),
        alt=f"A diagram of the architecture with {part.title} marked; the table lists its weights.",
        badge=Badge.LIVE,
        figure=drawn_diagram(
            boxes,
            part.name,
            loaded.spec.n_layer,
            loaded.spec.parallel,
            [loaded.adapter.reads("attention"), loaded.adapter.reads("mlp")],
        ),
        table={
            "weight": [w.name for w in part.weights],
            "shape": [" × ".join(map(str, w.shape)) for w in part.weights],
            "trained numbers": [w.count for w in part.weights],
        },
        shown={"trained numbers": [w.count for w in part.weights]},
        oracle=Oracle(
            f"Shapes of {part.title}, tensor by tensor, against the elements of each in a model that transformers "
            "builds from the checkpoint's config alone, without its weights.",
            lambda: {"trained numbers": _built(loaded, module)},
        ),
        code=preamble(loaded)
        + _COUNT
        + f"""
result = {{"trained numbers": [trained(p) for p in model.get_submodule({module!r}).parameters()]}}
""",
        note=_beside(loaded, part),
    )


def _whose(loaded: Loaded, part: Part, layer: int) -> str:
    return f"{part.title}, block {layer}" if loaded.adapter.in_block(part.name) else part.title


def equation(part: Part) -> str:
    """What a part computes, in letters that every font has, with attention's mask and a norm's bias."""
    plain = re.sub(r"softmax\(q kᵀ([^)]*)\)", r"softmax(q·k\1 + mask)", part.equation).replace("ᵀ", "")
    return plain + (" + b" if part.name.endswith("norm") and _biased(part) else "")


def _biased(part: Part) -> bool:
    return any(weight.name.endswith("bias") for weight in part.weights)


def _beside(loaded: Loaded, part: Part) -> str:
    """What an equation leaves out, in sentences; empty where it is whole."""
    if part.name.endswith("norm"):
        below = "standard deviation once its mean is taken off" if loaded.spec.centred else "root mean square"
        learned = "a gain and b a bias, both learned" if _biased(part) else "a learned gain"
        return f"norm(x) is x divided by its {below}; g is {learned}."
    said = []
    if part.name == "attention":
        said.append(
            "q, k and v are n times W_Q, W_K and W_V; the mask is −∞ where a key comes after its query, else 0."
        )
        if loaded.spec.positions != "learned":
            said.append("Before the dot product q and k are rotated by their positions (RoPE).")
        if any("norm" in weight.name.rsplit(".", 2)[-2] for weight in part.weights):
            said.append("A norm on q and k, whose gain is counted here, comes first.")
    if part.name == "unembedding":
        said.append("W_U has a column for each token of the vocabulary.")
    if _biased(part):
        said.append("The biases are counted, and left out of the equation.")
    return " ".join(said)


def _built(loaded: Loaded, module: str) -> list[int]:
    """Elements of a module's tensors in a model without memory, built from the config."""
    config = copy.deepcopy(loaded.model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return [p.numel() for p in model.get_submodule(module).parameters()]


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
            _short(loaded, names),
            [n / 1e6 for n in counts],
            colors=_colors(names),
            value_name="millions of trained numbers",
        ),
        table={"part": names, "trained numbers": counts, "share": [count / whole for count in counts]},
        shown={"trained numbers": counts, "total": whole},
        oracle=Oracle(
            "Shapes summed by part, against the elements of the model's tensors sorted by their names; the total "
            "against transformers' num_parameters().",
            lambda: {
                "trained numbers": list(_by_title(loaded, names).values()),
                "total": loaded.model.num_parameters(),
            },
        ),
        code=preamble(loaded) + _COUNT + _BY_NAME.format(places=_places(loaded, names)),
    )


def _short(loaded: Loaded, titles: Sequence[str]) -> list[str]:
    """Names of parts, by their titles, that fit beside a bar."""
    every = [*model_parts(loaded), *block_parts(loaded, 0)]
    named = {part.title: part.name for part in every}
    norms = {
        "attn_norm": "norm" if loaded.spec.norms == "shared" else "attention norm",
        "mlp_norm": "MLP norm",
    }
    return [{**norms, "mlp": "MLP", "final_norm": "final norm"}.get(named[t], named[t]) for t in titles]


_PLACE = {"before": "", "behind": ", behind each sublayer", "shared": ", one for both sublayers"}


def unlike(loaded: Loaded) -> str:
    """The name of the bundled checkpoint whose design differs from that of a loaded one."""
    return "pocket-llama" if loaded.spec.positions == "learned" else "pocket-gpt2"


def two_designs(first: Loaded, second: Loaded) -> Card:
    """Two architectures side by side, choice by choice."""
    rows: dict[str, Callable[[Spec], str]] = {
        "architecture": lambda s: s.model_type,
        "positions": lambda s: (
            "learned vectors, added" if s.positions == "learned" else "RoPE, rotates q and k"
        ),
        "norm": lambda s: s.norm + _PLACE[s.norms],
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
    return Card(
        key="designs",
        title=f"{first.name} and {second.name} differ in {differ} of {len(rows) - 1} choices",
        alt="A table of the design choices of both checkpoints.",
        badge=Badge.LIVE,
        figure=None,
        table=table,
        shown={"counts": [total(first), total(second)], "sizes": _sizes(first) + _sizes(second)},
        oracle=Oracle(
            "Sizes and trained numbers of both, against the shapes of their weights and transformers' "
            "num_parameters().",
            lambda: {
                "counts": [loaded.model.num_parameters() for loaded in models.values()],
                "sizes": _measured(first) + _measured(second),
            },
        ),
        code=preamble(first)
        + "".join(f"{line}\n" for line in home_lines(second.source))
        + f"""
other = AutoModelForCausalLM.from_pretrained({place(second.source)})
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
        title=f"The vocabulary takes {_percent(vocabulary[0])} of {loaded.name}'s {totals[loaded.name] / 1e6:,.1f} "
        f"million trained numbers and {_percent(vocabulary[-1])} of {last}'s {totals[last] / 1e9:,.0f} billion",
        alt="Share of trained numbers by kind for the loaded model and six published ones.",
        badge=Badge.LIVE,
        figure=figures.heatmap(
            [[shares[kind][i] for kind in kinds] for i in range(len(rows))],
            [name.replace("Llama-3.1-", "Llama ") for name in rows],
            list(kinds),
            concept="mlp",
            zero_one=True,
            print_values=".1%",
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
        shown={"trained numbers": list(rows[loaded.name].values())},
        oracle=Oracle(
            f"The row of {loaded.name}, against the elements of its tensors sorted by their names. (The other rows are "
            "computed from published sizes, and no proof of this machine's covers them.)",
            lambda: {"trained numbers": list(_kinds_by_name(loaded, kinds).values())},
        ),
        code=preamble(loaded) + _COUNT + _BY_NAME.format(places=_kind_places(loaded, kinds)),
        numbers={"trained numbers": list(rows[loaded.name].values()), "total": totals[loaded.name]},
        note=f"LIVE is the row of {loaded.name} alone. The others are computed from published sizes: {sources()}.",
    )


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


_BY_NAME = """
places = {places}  # part -> the modules that it is
counts = dict.fromkeys(places, 0)
for name, p in model.named_parameters():
    part = next(part for part, modules in places.items() if any(name.startswith(m + ".") for m in modules))
    counts[part] += trained(p)
result = {{"trained numbers": list(counts.values()), "total": model.num_parameters()}}
"""


def _places(loaded: Loaded, titles: Sequence[str]) -> dict[str, list[str]]:
    """Title of a part -> the paths of the modules that it is, in all blocks."""
    named: dict[str, list[str]] = {title: [] for title in titles}
    for part in model_parts(loaded):
        if not part.tied:
            named[part.title].append(loaded.path(part.name))
    for layer in range(loaded.spec.n_layer):
        for part in block_parts(loaded, layer):
            named[part.title].append(loaded.path(part.name, layer))
    return named


def _by_title(loaded: Loaded, titles: Sequence[str]) -> dict[str, int]:
    """Elements of the tensors by the part whose module they are named after; a tensor of no part is an error."""
    return _counted(loaded, _places(loaded, titles))


def _counted(loaded: Loaded, places: dict[str, list[str]]) -> dict[str, int]:
    owner = {place: title for title, found in places.items() for place in found}
    counts = dict.fromkeys(places, 0)
    for name, count in _elements(loaded.model):
        counts[next(title for place, title in owner.items() if name.startswith(f"{place}."))] += count
    return counts


def _kind_places(loaded: Loaded, kinds: Sequence[str]) -> dict[str, list[str]]:
    """Kind of part -> the paths of the modules of that kind, in all blocks."""
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    for part in model_parts(loaded):
        if not part.tied:
            found[_kind(part)].append(loaded.path(part.name))
    for layer in range(loaded.spec.n_layer):
        for part in block_parts(loaded, layer):
            found[_kind(part)].append(loaded.path(part.name, layer))
    return found


def _kinds_by_name(loaded: Loaded, kinds: Sequence[str]) -> dict[str, int]:
    return _counted(loaded, _kind_places(loaded, kinds))


def _kind(part: Part) -> str:
    return "norms" if part.name.endswith("norm") else part.name


def _sizes(loaded: Loaded) -> list[int]:
    """The sizes in the table, from the config."""
    s = loaded.spec
    return [s.n_layer, s.n_head, s.n_kv_head * s.d_head, s.d_model, s.d_ff, s.vocab]


@torch.no_grad()
def _measured(loaded: Loaded) -> list[int]:
    """The same sizes from the model itself: its modules, the shapes of its weights, and the attention it returns."""
    embedding: Any = loaded.part("embedding").weight
    rows, width = embedding.shape
    down, _ = matrix(loaded.part("down_proj", 0), loaded.half)
    ids = torch.zeros((1, 2), dtype=torch.long, device=embedding.device)
    out = loaded.model(ids, output_attentions=True, use_cache=True)
    heads, cached = out.attentions[0].shape[1], out.cache.layers[0].values
    return [len(out.attentions), heads, cached.shape[1] * cached.shape[3], width, down.shape[0], rows]


def _elements(module: Any) -> list[tuple[str, int]]:
    """Name and trained numbers of each tensor; two 4-bit codes share a byte."""
    doubled = {name for name, p in module.named_parameters() if type(p).__name__ == "Params4bit"}
    return [(name, p.numel() * (1 + (name in doubled))) for name, p in module.named_parameters()]


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
    return loaded.path(name, layer if loaded.adapter.in_block(name) else None)


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
        kinds[_kind(part)] += part.count
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

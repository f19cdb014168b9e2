"""What large models weigh at each precision, by a sum that is checked on the loaded checkpoint's real tensors."""

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from transformers import LlamaConfig

from engine.chapters.c15_quantization.cost import linear_weights
from engine.chapters.c15_quantization.pair import Get, code
from engine.chapters.c15_quantization.weights import linears
from engine.checkpoints import published
from engine.checkpoints.published import Published
from engine.evidence import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import storage as again
from engine.figures.quantization import sizes
from engine.model.loaded import Loaded
from engine.model.precisions import FOUR_BIT, RECORDS, SIXTEEN_BIT, precision
from engine.ops import quantization as ops

LARGE = tuple(model for model in published.MODELS if model.name in ("Llama-3.1-8B", "Llama-3.1-70B"))


def rows() -> dict[str, ops.Storage]:
    """How weights are stored, each way once: the names of the precisions that store them so -> the bytes."""
    stored: dict[ops.Storage, list[str]] = {}
    for name, record in RECORDS.items():
        stored.setdefault(record.storage, []).append(name)
    return {" or ".join(names): storage for storage, names in stored.items()}


def counts(loaded: Loaded) -> ops.Counts:
    """The weights of a loaded checkpoint by what quantization does to them, at whatever precision it is."""
    layers = list(linears(loaded, loaded.model))
    tables = [
        loaded.part(name) for name in ("embedding", "unembedding", "positions") if loaded.adapter.has(name)
    ]
    embeddings = {id(t._parameters["weight"]) for t in tables}
    stored = {id(m._parameters["weight"]) for m in layers} | embeddings
    entries = {id(p): p.numel() for p in loaded.model.parameters()}  # a tied table is there once
    return ops.Counts(
        linear=linear_weights(loaded),
        rows=sum(_outputs(m) for m in layers),
        matrices=len(layers),
        embeddings=sum(entries[i] for i in embeddings),
        other=sum(count for i, count in entries.items() if i not in stored),
    )


def _outputs(module: Any) -> int:
    """Output rows of a linear layer; GPT-2's Conv1D calls them nf."""
    return int(getattr(module, "out_features", None) or module.nf)


def published_counts(model: Published) -> ops.Counts:
    """The same from published dimensions."""
    return ops.llama_counts(
        d_model=model.d_model,
        n_layer=model.n_layer,
        d_ff=model.d_ff,
        n_head=model.n_head,
        n_kv_head=model.n_kv_head,
        vocab=model.vocab,
        tied=model.tied,
    )


def scale(get: Get) -> Card:
    """Gigabytes of weights at every precision for the loaded checkpoint and for two published models."""
    loaded, stored = get(), rows()
    found = {loaded.name: counts(loaded)} | {model.name: published_counts(model) for model in LARGE}
    sums = {name: [ops.weight_bytes(c, storage) for storage in stored.values()] for name, c in found.items()}
    gigabytes = {name: [b / 1e9 for b in row] for name, row in sums.items()}
    biggest = LARGE[-1].name
    columns = list(stored.values())
    before, after = (
        gigabytes[biggest][columns.index(precision(name).storage)] for name in (SIXTEEN_BIT, FOUR_BIT)
    )
    return Card(
        key="scale",
        title=f"{biggest}: {before:.0f} GB of weights at 16 bits, {after:.0f} GB at 4 bits",
        alt="Dots on a logarithmic axis, gigabytes of weights: "
        + "; ".join(
            f"{name}: " + ", ".join(f"{at} {g:.3g}" for at, g in zip(stored, row, strict=True))
            for name, row in gigabytes.items()
        ),
        badge=Badge.LIVE,
        figure=sizes(list(stored), gigabytes, x_name="gigabytes of weights (10⁹ bytes), logarithmic"),
        table={"precision": list(stored)} | {f"{name}, bytes": row for name, row in sums.items()},
        shown=sums,
        oracle=Oracle(
            f"At {loaded.precision} the bytes of {loaded.name}'s real tensors, and everywhere else tensors laid out "
            "as they would be stored: in its own shapes, and in those of the modules that transformers builds from "
            "the large models' dimensions. (The dimensions themselves are published, and no proof covers them.)",
            lambda: _again(get()),
        ),
        code=code(
            script.preamble(loaded) + "from transformers import LlamaConfig\n",
            _CODE,
            models=_listed(),
            stored=_listed_storage(stored),
            loaded=loaded.name,
            blocks=loaded.path("blocks"),
        ),
        note="Weights only: no activations, no KV cache. Parameter counts from the published dimensions ("
        + "; ".join(sorted({model.source for model in LARGE}))
        + f"); the same sum over {loaded.name}'s own tensors is what Prove it compares with memory.",
    )


def _again(loaded: Loaded) -> dict[str, list[int]]:
    records = [precision(names.split(" or ")[0]) for names in rows()]
    own = again.shapes(loaded.model, loaded.path("blocks"))
    here = precision(loaded.precision).storage
    found = {
        loaded.name: [
            again.in_memory(loaded) if record.storage == here else again.laid_out(own, record)
            for record in records
        ]
    }
    for model in LARGE:
        built = again.published_shapes(config(model), "model.layers")
        found[model.name] = [again.laid_out(built, record) for record in records]
    return found


def config(model: Published) -> LlamaConfig:
    """A transformers config with a published model's dimensions."""
    return LlamaConfig(**_dimensions(model))  # type: ignore[arg-type]


def _dimensions(model: Published) -> dict[str, int | bool]:
    return {
        "hidden_size": model.d_model,
        "num_hidden_layers": model.n_layer,
        "intermediate_size": model.d_ff,
        "num_attention_heads": model.n_head,
        "num_key_value_heads": model.n_kv_head,
        "vocab_size": model.vocab,
        "tie_word_embeddings": model.tied,
    }


def _listed() -> str:
    return "{\n" + "".join(f"    {model.name!r}: {_dimensions(model)},\n" for model in LARGE) + "}"


def _listed_storage(stored: Mapping[str, ops.Storage]) -> str:
    return "{\n" + "".join(f"    {name!r}: {astuple(storage)},\n" for name, storage in stored.items()) + "}"


_CODE = """
    models = {models}
    # bytes: of a weight of a linear layer, of any other number, of a row's scale; the weights of a linear layer that
    # share a scale of 4 bytes (0: none do); bytes of a layer's code book
    stored = {stored}


    def build(dimensions):
        with torch.device("meta"):  # modules with shapes and without memory
            return AutoModelForCausalLM.from_config(LlamaConfig(**dimensions))


    def sizes(model, blocks):
        kinds = ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt")
        layers = [m for m in model.get_submodule(blocks).modules() if type(m).__name__ in kinds]
        shapes = [(m.nf, m.nx) if hasattr(m, "nf") else (m.out_features, m.in_features) for m in layers]
        linear, rows = sum(a * b for a, b in shapes), sum(a for a, _ in shapes)
        rest = sum(p.numel() for p in model.parameters()) - sum(m.weight.numel() for m in layers)
        return [
            linear * each + rest * other + rows * row + (4 * linear // block if block else 0) + len(layers) * book
            for each, other, row, block, book in stored.values()
        ]


    result = {{name: sizes(build(dimensions), "model.layers") for name, dimensions in models.items()}}
    result[{loaded!r}] = sizes(model, "{blocks}")
    print(result)
"""

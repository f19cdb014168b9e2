"""What a precision costs in memory: bytes summed from the real tensors."""

from typing import Any

import torch

from engine.chapters.c15_quantization.pair import Pair, code, head, repacked
from engine.evidence.card import Badge, Card, Oracle
from engine.figures.quantization import stacked
from engine.model.loaded import Loaded

KINDS = {
    "linear layers": "query",
    "their scales and code books": "quantization_error",
    "embeddings": "embedding",
    "norms, biases, buffers": "token",
}
"""Kinds of stored numbers, and their colours."""

_STATE = ("absmax", "code", "offset", "CB", "SCB")


def inventory(loaded: Loaded) -> dict[str, int]:
    """Bytes of every storage behind a model by kind; a storage that several tensors share counts once."""
    total = dict.fromkeys(KINDS, 0)
    seen: set[int] = set()
    for kind, tensor in _tensors(loaded):
        storage = tensor.untyped_storage()
        if tensor.numel() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total[kind] += storage.nbytes()
    return total


def _tensors(loaded: Loaded) -> list[tuple[str, torch.Tensor]]:
    """Every tensor that a model keeps, with its kind."""
    tables = {
        id(loaded.part(name))
        for name in ("embedding", "unembedding", "positions")
        if loaded.adapter.has(name)
    }
    found: list[tuple[str, torch.Tensor]] = []
    for module in loaded.model.modules():
        weight = module._parameters.get("weight")
        if weight is not None:
            found.append((_kind(weight, id(module) in tables), weight))
            found += [("their scales and code books", t) for t in _states(module, weight)]
    seen = {id(tensor) for _, tensor in found}
    rest = [*loaded.model.parameters(), *loaded.model.buffers()]
    return found + [("norms, biases, buffers", t) for t in rest if id(t) not in seen]


def _kind(weight: torch.Tensor, table: bool) -> str:
    if table:
        return "embeddings"
    return "linear layers" if weight.ndim == 2 else "norms, biases, buffers"


def _states(module: Any, weight: Any) -> list[torch.Tensor]:
    """Scales and code books that bitsandbytes keeps beside a quantized weight, and int8's own copy of the weight."""
    holders = (getattr(weight, "quant_state", None), getattr(module, "state", None), weight)
    given = [getattr(holder, name, None) for holder in holders for name in _STATE]
    return [tensor for tensor in given if isinstance(tensor, torch.Tensor)]


def size(pair: Pair) -> Card:
    """Megabytes of both precisions, by what is stored."""
    found = [inventory(side) for side in pair.sides]
    totals = [sum(kinds.values()) for kinds in found]
    names = pair.names
    parts = {kind: [kinds[kind] / 1e6 for kinds in found] for kind in KINDS}
    return Card(
        key="bytes",
        title=f"{names[1]} takes {totals[1] / 1e6:.1f} MB where {names[0]} takes {totals[0] / 1e6:.1f} MB: "
        f"{totals[1] / totals[0]:.0%}",
        alt=f"Stacked bars of megabytes at {names[0]} and {names[1]}: " + ", ".join(KINDS) + ".",
        badge=Badge.LIVE,
        figure=stacked(names, parts, colors=KINDS, x_name="megabytes (10⁶ bytes) in memory"),
        table={
            "kind": [*KINDS, "total"],
            f"bytes at {names[0]}": [*found[0].values(), totals[0]],
            f"bytes at {names[1]}": [*found[1].values(), totals[1]],
        },
        shown={
            name: [*kinds.values(), total]
            for name, kinds, total in zip(("reference", "other"), found, totals, strict=True)
        },
        oracle=Oracle(
            "Every kind against the shapes of the layers and the widths of the stored types; a scale for each block of "
            "64 weights (int8: for each output), and 16 floats of a code book for each layer; in bytes.",
            lambda: dict(zip(("reference", "other"), map(by_shape, pair.sides), strict=True)),
        ),
        code=code(head(pair), _BYTES),
        numbers={"reference": totals[0], "other": totals[1]},
        note=_size_note(pair.other, found[1]),
    )


def linear_weights(loaded: Loaded) -> int:
    """How many numbers the linear layers inside the blocks stand for, at any precision."""
    count = 0
    for module in loaded.part("blocks").modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.ndim == 2:
            state = getattr(weight, "quant_state", None)
            count += weight.numel() if state is None else int(torch.Size(state.shape).numel())
    return count


def _size_note(loaded: Loaded, kinds: dict[str, int]) -> str:
    stored = kinds["linear layers"] + kinds["their scales and code books"]
    each = 8 * stored / linear_weights(loaded)
    text = f"At {loaded.precision} a weight of a linear layer takes {each:.3f} bits, its scales included."
    if repacked(loaded):
        text += " For this CPU bitsandbytes has stored the scales in 16 bits; elsewhere it keeps them in 32."
    return text


def by_shape(loaded: Loaded) -> list[int]:
    """Bytes of each kind and of all, from shapes and the widths of types: nothing is asked of any storage.

    4 bits: two codes a byte, a scale for each block of 64 weights, and a code book of 16 floats for each layer.
    8 bits: a byte a weight and a 32-bit scale for each output (Dettmers et al. 2022, LLM.int8, section 3).
    """
    tables, linear, scales, rest = set[int](), 0, 0, 0
    for name in ("embedding", "unembedding", "positions"):
        if loaded.adapter.has(name):
            tables.add(id(loaded.part(name).weight))
    counted = set[int]()
    for module in loaded.model.modules():
        for name, p in module._parameters.items():
            if p is None or id(p) in counted:
                continue
            counted.add(id(p))
            if id(p) in tables or name != "weight" or _is_vector(p):
                rest += 0 if id(p) in tables else p.numel() * p.element_size()
                continue
            weights, codes = _linear_bytes(p)
            linear, scales = linear + weights, scales + codes
    embeddings = sum(p.numel() * p.element_size() for p in loaded.model.parameters() if id(p) in tables)
    rest += sum(b.numel() * b.element_size() for b in loaded.model.buffers())
    return [linear, scales, embeddings, rest, linear + scales + embeddings + rest]


def _is_vector(p: torch.Tensor) -> bool:
    state = getattr(p, "quant_state", None)
    return len(state.shape if state is not None else p.shape) < 2


def _linear_bytes(p: Any) -> tuple[int, int]:
    """Bytes of a matrix, and of the scales and code book that belong to it."""
    state = getattr(p, "quant_state", None)
    if state is not None:
        count = int(torch.Size(state.shape).numel())
        wide = 2 if getattr(state, "packing_format_for_cpu", False) else 4
        return count // 2, -(-count // 64) * wide + 16 * 4
    if not p.is_floating_point():
        return p.numel(), p.shape[0] * 4
    return p.numel() * p.element_size(), 0


_BYTES = """
    def weight_bytes(model):
        with torch.no_grad():
            model(ids.to(model.device))  # bitsandbytes may lay weights out anew in the first pass
        tensors = [*model.parameters(), *model.buffers()]
        for module in model.modules():
            weight = getattr(module, "weight", None)
            for holder in (getattr(weight, "quant_state", None), getattr(module, "state", None), weight):
                tensors += [getattr(holder, name, None) for name in ("absmax", "code", "CB", "SCB")]
        tensors = [t for t in tensors if isinstance(t, torch.Tensor) and t.numel()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(storages.values())


    result = {"reference": weight_bytes(reference), "other": weight_bytes(other)}
    print(result)
"""

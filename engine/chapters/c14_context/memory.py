"""How much the cache holds: on the loaded checkpoint, from its tensors, and at published sizes, by the formula."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine import figures
from engine.checkpoints.published import MODELS, cache_bytes, sources
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.script import preamble
from engine.figures.quantization import sizes
from engine.model import kv_cache
from engine.model.loaded import Loaded
from engine.model.trace import Trace


def held_bytes(loaded: Loaded, trace: Trace) -> Card:
    """Bytes of the cache after each of several prompt lengths, summed from its tensors, on the formula's line."""
    ids, spec = trace.ids, loaded.spec
    lengths = sorted({1, *(max(1, round(len(ids) * share)) for share in (0.25, 0.5, 0.75, 1.0))})
    held = [kv_cache.nbytes(kv_cache.prefill(loaded, ids[:n])) for n in lengths]
    width = torch.finfo(loaded.model.dtype).bits // 8
    formula = [cache_bytes(spec.n_layer, spec.n_kv_head, spec.d_head, n, width) for n in lengths]
    per_token = int(formula[0] / lengths[0])
    figure = figures.curve_with_points(
        lengths,
        np.array(formula) / 1024,
        lengths,
        np.array(held) / 1024,
        concept="key",
        point_concept="value",
        x_name="tokens in the cache",
        y_name="KiB",
    )
    return Card(
        key="bytes",
        title=f"Every token of context costs {per_token:,} bytes",
        alt=f"Measured cache sizes at {len(lengths)} lengths lie on the straight line of the formula.",
        badge=Badge.LIVE,
        figure=figure,
        table={"tokens": lengths, "bytes in the tensors": held, "bytes by the formula": formula},
        shown={"bytes in the tensors": held, "bytes by the formula": formula},
        oracle=Oracle(
            "Both, at every length, against the memory behind the cache's tensors, counted buffer by buffer.",
            lambda: {
                name: [_buffers(loaded, ids[:n]) for n in lengths]
                for name in ("bytes in the tensors", "bytes by the formula")
            },
        ),
        code=preamble(loaded, ids) + _BYTES.format(lengths=lengths),
        numbers={"bytes": held},
        note="Points: summed from the tensors of transformers' DynamicCache. Line: "
        "2 · layers · kv_heads · d_head · bytes per number · tokens.",
    )


_BYTES = """
from transformers import DynamicCache

def held(n):
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=ids[:, :n], cache=cache, use_cache=True)
    return sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))

result = {{"bytes": [held(n) for n in {lengths}]}}
"""


def _buffers(loaded: Loaded, ids: Sequence[int]) -> int:
    """Bytes of the raw buffers of keys and values after a prompt, as the allocator sees them."""
    pairs = kv_cache.tensors(kv_cache.prefill(loaded, ids))
    buffers = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for pair in pairs for t in pair}
    return sum(buffers.values())


if TYPE_CHECKING:
    pass

KINDS: dict[str, Callable[[int, int], int]] = {
    "every head its own (MHA)": lambda heads, kept: heads,
    "as published": lambda heads, kept: kept,
    "one for all heads (MQA)": lambda heads, kept: 1,
}
"""Ways to keep keys and values -> how many heads of them there are, of all query heads and of those published."""


@dataclass(frozen=True)
class Row:
    """One model's sizes, and how many tokens of context it is asked to keep."""

    name: str
    n_layer: int
    n_head: int
    n_kv_head: int
    d_head: int
    tokens: int
    source: str


def large_models(loaded: Loaded, tokens: int, bytes_per_number: int) -> Card:
    """The same formula on published sizes: as published, as if every head kept its own keys, as if all shared one.

    A model with a shorter context is asked to keep its whole context.
    """
    rows = _rows(loaded, tokens)
    gib = {
        label: [
            cache_bytes(r.n_layer, heads(r.n_head, r.n_kv_head), r.d_head, r.tokens, bytes_per_number) / 2**30
            for r in rows
        ]
        for label, heads in KINDS.items()
    }
    names = [r.name.replace("Llama-3.1-", "Llama ") for r in rows]
    largest, full = rows[-1].name, gib["as published"][-1]
    spared = gib["every head its own (MHA)"][-1] / full
    ids = list(range(8))
    width = torch.finfo(loaded.model.dtype).bits // 8
    one = int(cache_bytes(rows[0].n_layer, rows[0].n_kv_head, rows[0].d_head, 1, width))
    return Card(
        key="large",
        title=f"{largest} keeps {full:,.3g} GiB of keys and values for {rows[-1].tokens:,} tokens; without sharing it "
        f"would be {spared:.3g} times as much",
        alt="Gibibytes of cache per model for multi-head, published and multi-query attention.",
        badge=Badge.LIVE,
        figure=sizes(
            names, gib, x_name="GiB (2³⁰ bytes) of keys and values for one conversation, logarithmic"
        ),
        table={
            "model": names,
            "tokens": [r.tokens for r in rows],
            **{f"{k} (GiB)": v for k, v in gib.items()},
            "sizes from": [r.source for r in rows],
        },
        shown={**gib, "bytes": 8 * one},
        oracle=Oracle(
            f"Every dot against keys and values laid out by torch on the device without memory, layer by layer; the "
            f"formula on {loaded.name} against the tensors of a real cache of 8 tokens (bytes). (The other sizes are "
            "published, and no proof of this machine's covers them.)",
            lambda: (
                _laid_out(rows, bytes_per_number) | {"bytes": kv_cache.nbytes(kv_cache.prefill(loaded, ids))}
            ),
            {**dict.fromkeys(KINDS, 1e-12), "bytes": 0},
        ),
        code=preamble(loaded, ids) + _BYTES.format(lengths=[8]) + "result = {'bytes': result['bytes'][0]}\n",
        numbers={"bytes": 8 * one},
        note=_shorter(rows, tokens)
        + f"LIVE is the row of {loaded.name} alone. The others are the same formula on published sizes: {sources()}.",
    )


def _rows(loaded: Loaded, tokens: int) -> list[Row]:
    spec = loaded.spec
    here = Row(
        loaded.name,
        spec.n_layer,
        spec.n_head,
        spec.n_kv_head,
        spec.d_head,
        min(tokens, spec.context),
        "loaded now",
    )
    return [here] + [
        Row(m.name, m.n_layer, m.n_head, m.n_kv_head, m.d_head, min(tokens, m.context), m.source)
        for m in MODELS
    ]


def _shorter(rows: Sequence[Row], tokens: int) -> str:
    cut = [f"{row.name} {row.tokens:,}" for row in rows if row.tokens < tokens]
    return f"Shown with their whole context, which is shorter: {', '.join(cut)} tokens. " if cut else ""


def _laid_out(rows: Sequence[Row], bytes_per_number: int) -> dict[str, list[float]]:
    """Gibibytes of every kind and model, from the sizes of tensors that take no memory."""
    kind = {1: torch.int8, 2: torch.float16}[bytes_per_number]

    def held(row: Row, heads: int) -> float:
        layer = [
            torch.empty(1, heads, row.tokens, row.d_head, dtype=kind, device="meta") for _ in ("key", "value")
        ]
        return row.n_layer * sum(t.nbytes for t in layer) / 2**30

    kept = [[(r.n_head, r.n_kv_head, 1)[i] for r in rows] for i in range(len(KINDS))]
    return {
        label: [held(row, count) for row, count in zip(rows, heads, strict=True)]
        for label, heads in zip(KINDS, kept, strict=True)
    }

"""How much the cache holds: on the loaded checkpoint, from its tensors, and at published sizes, by the formula."""

from collections.abc import Sequence

import numpy as np
import torch

from engine import figures
from engine.checkpoints.published import MODELS, cache_bytes, sources
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.script import preamble
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


def large_models(loaded: Loaded, tokens: int, bytes_per_number: float) -> Card:
    """The same formula on published sizes: as published, as if every head kept its own keys, as if all shared one."""
    spec = loaded.spec
    rows: list[tuple[str, int, int, int, int, str]] = [
        (m.name, m.n_layer, m.n_head, m.n_kv_head, m.d_head, m.source) for m in MODELS
    ]
    rows.insert(0, (loaded.name, spec.n_layer, spec.n_head, spec.n_kv_head, spec.d_head, "loaded now"))
    gib = {
        label: [
            cache_bytes(n, pick(h, kv), d, tokens, bytes_per_number) / 2**30 for _, n, h, kv, d, _ in rows
        ]
        for label, pick in (
            ("every head its own (MHA)", lambda h, kv: h),
            ("as published", lambda h, kv: kv),
            ("one for all heads (MQA)", lambda h, kv: 1),
        )
    }
    names, largest = [row[0].replace("Llama-3.1-", "Llama ") for row in rows], rows[-1][0]
    ids = list(range(8))
    width = torch.finfo(loaded.model.dtype).bits // 8
    one = int(cache_bytes(spec.n_layer, spec.n_kv_head, spec.d_head, 1, width))
    return Card(
        key="large",
        title=f"{largest} keeps {gib['as published'][-1]:,.3g} GiB of keys and values for {tokens:,} tokens",
        alt="Gibibytes of cache per model for multi-head, published and multi-query attention.",
        badge=Badge.LIVE,
        figure=figures.grouped_bars(
            names,
            gib,
            colors={
                "every head its own (MHA)": "query",
                "as published": "key",
                "one for all heads (MQA)": "value",
            },
            value_name="GiB",
        ),
        table={
            "model": names,
            **{f"{k} (GiB)": v for k, v in gib.items()},
            "sizes from": [row[5] for row in rows],
        },
        shown={"bytes": 8 * one},
        oracle=Oracle(
            f"The formula on {loaded.name}, against the tensors of a real cache of 8 tokens (bytes). (The other rows "
            "are computed from published sizes, and no proof of this machine's covers them.)",
            lambda: {"bytes": kv_cache.nbytes(kv_cache.prefill(loaded, ids))},
        ),
        code=preamble(loaded, ids) + _BYTES.format(lengths=[8]) + "result = {'bytes': result['bytes'][0]}\n",
        note=f"LIVE is the row of {loaded.name} alone. The others are the same formula on published sizes: "
        f"{sources()}.",
    )

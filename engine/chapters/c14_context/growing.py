"""The cache as it grows: a column of keys and values for every token that was read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from engine.checkpoints.published import cache_bytes
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.rounding import pass_tolerance
from engine.evidence.script import preamble
from engine.figures import heatmap
from engine.model.loaded import Loaded
from engine.model.trace import Trace


def growing(loaded: Loaded, trace: Trace, count: int) -> Card:
    """Length of the cached keys, layer by token, after `count` tokens of the prompt; columns to come are hatched."""
    spec, ids = loaded.spec, trace.ids
    count = max(1, min(count, len(ids)))
    keys = np.linalg.norm(trace.k[:, :, :count].astype(np.float64), axis=-1).mean(axis=1)  # layer, seq
    drawn = np.full((len(keys), len(ids)), np.nan)
    drawn[:, :count] = keys
    held = int(cache_bytes(spec.n_layer, spec.n_kv_head, spec.d_head, count, _width(loaded)))
    names, layers = [t.display for t in trace.tokens], [f"layer {i}" for i in range(len(keys))]
    vectors = 2 * spec.n_layer * spec.n_kv_head
    return Card(
        key="growing",
        title=f"After {count} token{'s' * (count != 1)} the cache holds {held:,} bytes; the last, "
        f"“{names[count - 1]}”, has added {vectors:,} vectors",
        alt=f"A grid of {len(keys)} layers and {len(ids)} tokens: the first {count} columns are filled, the others are "
        "hatched.",
        badge=Badge.LIVE,
        figure=heatmap(
            drawn,
            layers,
            names,
            concept="key",
            limit=_largest(trace),
            masked=np.isnan(drawn),
            row_name="layer",
            column_name="token",
            value_name="length of the cached key, mean over heads",
            outline_column=count - 1,
            height=max(280, 150 + 11 * len(keys)),
        ),
        table={"token": names[:count]} | {name: row.tolist() for name, row in zip(layers, keys, strict=True)},
        shown={"key lengths": keys, "bytes": held},
        oracle=Oracle(
            "Every key from transformers' own cache, into which the tokens were fed one at a time, so that no column "
            "could change after its token; the bytes summed from that cache's tensors.",
            lambda: _again(loaded, ids[:count]),
            {"key lengths": pass_tolerance(loaded, keys, steps=4), "bytes": 0},
        ),
        code=preamble(loaded, ids[:count]) + _CODE,
        note=f"Each column is {spec.n_layer} layers × {spec.n_kv_head} heads of a key and a value with {spec.d_head} "
        "numbers. The colour is the key's length; values are kept in the same way and not drawn. Columns that are not "
        "written yet are hatched.",
    )


def _largest(trace: Trace) -> float:
    """The end of the colour scale, the same however many tokens are read."""
    return float(np.linalg.norm(trace.k, axis=-1).mean(axis=1).max())


def _width(loaded: Loaded) -> int:
    return torch.finfo(loaded.model.dtype).bits // 8


@torch.no_grad()
def _again(loaded: Loaded, ids: Sequence[int]) -> dict[str, Any]:
    cache = DynamicCache()  # no config: no layer forgets by itself
    for one in ids:
        loaded.model(input_ids=torch.tensor([[one]], device=loaded.model.device), cache=cache, use_cache=True)
    layers: list[Any] = list(cache.layers)
    lengths = [layer.keys[0].double().norm(dim=-1).mean(0) for layer in layers]
    return {
        "key lengths": torch.stack(lengths).cpu(),
        "bytes": sum(layer.keys.nbytes + layer.values.nbytes for layer in layers),
    }


_CODE = """
from transformers import DynamicCache

cache = DynamicCache()
with torch.no_grad():
    for i in range(ids.shape[1]):  # one token at a time
        model(input_ids=ids[:, i : i + 1], cache=cache, use_cache=True)
result = {
    "key lengths": torch.stack([layer.keys[0].double().norm(dim=-1).mean(0) for layer in cache.layers]),
    "bytes": sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers),
}
"""

"""The key/value cache of a loaded checkpoint: what it holds, what it saves, and what happens without parts of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from engine.model.loaded import Loaded
from engine.model.trace import Array
from engine.ops.timing import Timing, repeated

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Latency:
    """One decode step at a context of `context` tokens, with the cache and by reading everything again."""

    context: int
    cached: Timing
    uncached: Timing
    prefill: Timing


def _batch(loaded: Loaded, ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(ids)], device=loaded.model.device)


@torch.no_grad()
def prefill(loaded: Loaded, ids: Sequence[int]) -> DynamicCache:
    """Read a prompt once and keep its keys and values."""
    cache = DynamicCache(config=loaded.model.config)
    loaded.model(input_ids=_batch(loaded, ids), cache=cache, use_cache=True)
    return cache


def tensors(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(keys, values) of each layer, shapes (1, kv_head, seq, d_head)."""
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) for layer in layers]


def nbytes(cache: DynamicCache) -> int:
    """Bytes of every key and value tensor in the cache."""
    return sum(tensor.numel() * tensor.element_size() for pair in tensors(cache) for tensor in pair)


@torch.no_grad()
def decoded_logits(loaded: Loaded, ids: Sequence[int]) -> Array:
    """Logits at every position when tokens enter one by one through the cache; shape seq, vocab."""
    cache = DynamicCache(config=loaded.model.config)
    rows = [
        loaded.model(input_ids=_batch(loaded, [one]), cache=cache, use_cache=True).logits[0, -1]
        for one in ids
    ]
    array: Array = torch.stack(rows).to("cpu", torch.float32).numpy()
    return array


@torch.no_grad()
def latency(loaded: Loaded, ids: Sequence[int], repeats: int = 5) -> Latency:
    """Time the step that reads the last token of `ids`, with and without the tokens before it in a cache."""
    before, last = list(ids[:-1]), list(ids[-1:])
    model, everything = loaded.model, _batch(loaded, ids)
    cache = prefill(loaded, before)

    def with_cache() -> None:
        model(input_ids=_batch(loaded, last), cache=cache, use_cache=True)
        cache.crop(-1)  # forget it again

    return Latency(
        len(ids),
        repeated(with_cache, repeats),
        repeated(lambda: model(input_ids=everything, use_cache=False), repeats),
        repeated(lambda: prefill(loaded, before), repeats),
    )


def latencies(
    loaded: Loaded, ids: Sequence[int], lengths: Sequence[int], progress: Progress
) -> list[Latency]:
    """`latency` at several context lengths; the last tokens of `ids` are repeated where it is too short."""
    longest = max(lengths)
    text = (list(ids) * (longest // len(ids) + 1))[:longest]
    found = []
    for done, length in enumerate(lengths):
        progress(done / len(lengths), f"a context of {length} tokens")
        found.append(latency(loaded, text[:length]))
    return found


@torch.no_grad()
def masked_logits(loaded: Loaded, ids: Sequence[int], allowed: np.ndarray[Any, Any]) -> Array:
    """Logits when each query may attend to the keys that `allowed` (query, key) marks; positions stay as they are."""
    kind = loaded.model.dtype
    mask = torch.zeros(1, 1, *allowed.shape, dtype=kind)
    mask[0, 0][~torch.tensor(allowed)] = torch.finfo(kind).min
    logits = loaded.model(
        input_ids=_batch(loaded, ids), attention_mask=mask.to(loaded.model.device), use_cache=False
    ).logits[0]
    array: Array = logits.to("cpu", torch.float32).numpy()
    return array


def kept_keys(seq: int, window: int, first: int) -> np.ndarray[Any, Any]:
    """What a query still finds in the cache: the last `window` tokens, itself included, and the `first` ones.

    Shape query, key. StreamingLLM (Xiao et al. 2023) keeps a few first tokens as attention sinks.
    """
    query, key = np.arange(seq)[:, None], np.arange(seq)[None, :]
    return (key <= query) & ((query - key < window) | (key < first))


@torch.no_grad()
def evicting_logits(loaded: Loaded, ids: Sequence[int], window: int, first: int) -> Array:
    """Logits at every position when the cache itself loses what `kept_keys` does not allow; shape seq, vocab."""
    cache = DynamicCache()  # no config: no layer forgets by itself
    held: list[int] = []
    rows: list[torch.Tensor] = []
    for position, one in enumerate(ids):
        keep = [i for i, at in enumerate(held) if position - at < window or at < first]
        if len(keep) < len(held):
            layers: list[Any] = list(cache.layers)
            for layer in layers:
                layer.keys, layer.values = layer.keys[:, :, keep], layer.values[:, :, keep]
        held = [held[i] for i in keep] + [position]
        place = torch.tensor([[position]], device=loaded.model.device)
        out = loaded.model(input_ids=_batch(loaded, [one]), cache=cache, position_ids=place, use_cache=True)
        rows.append(out.logits[0, -1])
    array: Array = torch.stack(rows).to("cpu", torch.float32).numpy()
    return array


@torch.no_grad()
def remembered(
    loaded: Loaded, ids: Sequence[int], target: int, windows: Sequence[int], start: Sequence[int] = ()
) -> Array:
    """Probability of `target` as the next token when the model reads only the last `window` tokens; shape windows.

    `start` is what it reads before them each time: the start token of a model that was trained to see one.
    """
    found = []
    for window in windows:
        batch = _batch(loaded, [*start, *ids[-window:]])
        logits = loaded.model(input_ids=batch, use_cache=False).logits[0, -1]
        found.append(float(logits.float().softmax(-1)[target]))
    return np.array(found, dtype=np.float32)

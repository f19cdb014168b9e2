"""The model asked once more from outside, with nothing recorded on the way."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from engine.model.loaded import Loaded
from engine.model.precisions import precision


def returned_logits(loaded: Loaded, ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits (seq, vocab) that `transformers` returns for ids, with nothing recorded on the way."""
    return logits_of(loaded.model, ids)


@torch.no_grad()
def logits_of(model: Any, ids: Sequence[int]) -> NDArray[np.float32]:
    """The same of any transformers model, such as a private copy."""
    batch = torch.tensor([list(ids)], device=model.device)
    logits: NDArray[np.float32] = model(batch, use_cache=False).logits[0].to("cpu", torch.float32).numpy()
    return logits


def written_logits(
    loaded: Loaded, prompt: Sequence[int], text: Sequence[int], model: Any = None
) -> NDArray[np.float32]:
    """Logits (len(text), vocab) before each token of a text that was written after a prompt.

    By one pass over the whole. Where a token's numbers depend on what is read with it, as the text was written: the
    prompt at once, then one token after the other with transformers' own KV cache. `model`: another than the loaded
    one, such as a changed copy.
    """
    if not precision(loaded.precision).together:
        return logits_of(model or loaded.model, [*prompt, *text[:-1]])[len(prompt) - 1 :]
    return _one_by_one(model or loaded.model, prompt, text)


def reading(loaded: Loaded) -> str:
    """How `written_logits` reads a text, as the beginning of a sentence."""
    if precision(loaded.precision).together:
        return "transformers reads each text as it was written, token by token with its own KV cache"
    return "One pass of transformers over each whole text, without a KV cache"


@torch.no_grad()
def _one_by_one(model: Any, prompt: Sequence[int], text: Sequence[int]) -> NDArray[np.float32]:
    rows, cache = [], DynamicCache(config=model.config)
    for ids in (prompt, *([id] for id in text[:-1])):
        batch = torch.tensor([list(ids)], device=model.device)
        rows.append(model(batch, cache=cache, use_cache=True).logits[0, -1].to("cpu", torch.float32))
    logits: NDArray[np.float32] = torch.stack(rows).numpy()
    return logits
